"""What keeps a cluster as it is wanted: kubelets, the scheduler, controllers of workloads and of budgets."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fleet.adapters.k8s.client import JSON
from fleet.adapters.k8s.nodes import PENDING_TAINT
from worlds.kubernetes import ATTACHMENTS, BUDGETS, NODES, PODS, Kubernetes, covers, is_ready, stamp
from worlds.machines import Machine
from worlds.timeline import Time

ZONE = "topology.kubernetes.io/zone"
_UNSEEN = 40.0  # seconds without a heartbeat after which a node counts as NotReady
_HEARTBEAT = 300.0


@dataclass(frozen=True)
class App:
    """A workload: a ReplicaSet with so many pods, and a budget over them; a DaemonSet where ``replicas`` is None.

    Its pods may have volumes, which are attached where they are.
    """

    name: str
    replicas: int | None
    min_available: int | None = None
    volumes: bool = False


class Components:
    """The components of a cluster over its machines.

    Args:
        time: the time.
        kubernetes: the API.
        machines: the machines, by node.
        apps: the workloads.
        grace: returns the seconds that a pod takes to end.
    """

    def __init__(
        self,
        time: Time,
        kubernetes: Kubernetes,
        machines: Mapping[str, Machine],
        apps: tuple[App, ...],
        grace: Callable[[], float] = lambda: 1.5,
    ) -> None:
        self._time, self._api, self._machines, self._apps, self._grace = time, kubernetes, machines, apps, grace
        self._kubelets: dict[str, int] = {}
        """The boot in which a node's kubelet runs; none while it does not."""
        self._is_due = False
        self.detaches = 1.0
        """Seconds until a volume is detached whose pod has gone."""
        self.breaks: set[str] = set()
        """Nodes on which no pod becomes Ready any more."""
        for app in apps:
            kind = "daemonsets" if app.replicas is None else "replicasets"
            metadata = {"namespace": "default", "name": app.name, "uid": f"app-{app.name}"}
            kubernetes.put(kind, {"metadata": metadata, "spec": {"replicas": app.replicas}, "status": {}})
            if app.min_available is not None:
                spec = {"minAvailable": app.min_available, "selector": {"matchLabels": {"app": app.name}}}
                kubernetes.put(
                    BUDGETS,
                    {"metadata": {"namespace": "default", "name": app.name}, "spec": spec, "status": {}},
                )
        for name in machines:
            self.register(name)
        self.reconcile()
        for pod in kubernetes.all(PODS):
            self._be_ready(pod["metadata"]["uid"])
        self._of_budgets()
        kubernetes.listeners.append(self._changed)

    def register(self, name: str) -> None:
        """Let a node join the cluster."""
        machine = self._machines[name]
        self._kubelets[name] = machine.number
        self._api.put(
            NODES,
            {
                "metadata": {"name": name, "labels": {ZONE: f"row-{'ab'[machine.index % 2]}"}, "annotations": {}},
                "spec": {},
                "status": {
                    "conditions": [self._condition(machine, "True")],
                    "nodeInfo": {"bootID": machine.boot_id},
                    "addresses": [{"type": "InternalIP", "address": f"10.0.0.{machine.index + 1}"}],
                    "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"},
                },
            },
        )
        self._time.at(_HEARTBEAT, lambda: self._beat(name, machine.number))

    # Kubelets.

    def kubelet_ends(self, node: str) -> None:
        """Let a node's kubelet end with its host."""
        self._kubelets.pop(node, None)
        self._time.at(_UNSEEN, lambda: self._unseen(node))

    def kubelet_begins(self, node: str) -> None:
        """Start a node's kubelet after a boot: all pods are started anew."""
        machine = self._machines[node]
        if not machine.is_up:
            return
        number = self._kubelets[node] = machine.number
        self._report(node, "False")
        for pod in self._of_node(node):
            if _is_deleted(pod):
                self._end_soon(pod)

        def ready() -> None:
            if self._kubelets.get(node) == number:
                self._report(node, "True")
                self._time.at(_HEARTBEAT, lambda: self._beat(node, number))

        def start() -> None:
            # Until now the API has shown them as they were.
            for pod in self._of_node(node) if self._kubelets.get(node) == number else ():
                self._set_ready(pod, ready=False)
                self._start(pod)

        self._time.at(2.0, ready)
        self._time.at(3.0, start)

    def _report(self, node: str, ready: str) -> None:
        machine = self._machines[node]
        status = {"conditions": [self._condition(machine, ready)], "nodeInfo": {"bootID": machine.boot_id}}
        self._api.patch(NODES, node, {"status": status})

    def _condition(self, machine: Machine, status: str) -> JSON:
        return {"type": "Ready", "status": status, "lastHeartbeatTime": stamp(self._time.now + machine.ahead)}

    def _beat(self, node: str, number: int) -> None:
        if self._kubelets.get(node) == number:
            self._report(node, "True")
            self._time.at(_HEARTBEAT, lambda: self._beat(node, number))

    def _unseen(self, node: str) -> None:
        if node not in self._kubelets and (found := self._api.find(NODES, node)) is not None:
            condition = {**found["status"]["conditions"][0], "status": "Unknown"}
            self._api.patch(NODES, node, {"status": {"conditions": [condition]}})
            for pod in self._of_node(node):
                self._set_ready(pod, ready=False)

    def _of_node(self, node: str) -> list[JSON]:
        return [pod for pod in self._api.all(PODS) if pod["spec"].get("nodeName") == node]

    def _start(self, pod: JSON, seconds: float = 0.6) -> None:
        uid = pod["metadata"]["uid"]
        self._time.at(seconds, lambda: self._be_ready(uid))

    def _be_ready(self, uid: str) -> None:
        found = next((pod for pod in self._api.all(PODS) if pod["metadata"]["uid"] == uid), None)
        node = "" if found is None else found["spec"].get("nodeName", "")
        if found is not None and node in self.breaks:
            self._start(found, 5.0)
        elif found is not None and node in self._kubelets:
            self._set_ready(found, ready=True)

    def _set_ready(self, pod: JSON, *, ready: bool) -> None:
        metadata = pod["metadata"]
        node = pod["spec"].get("nodeName", "")
        boot = self._kubelets.get(node)
        before = pod["status"].get("containerStatuses")
        containers = before if boot is None else [{"name": "main", "containerID": f"c://{metadata['uid']}-{boot}"}]
        status = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": containers or [],
        }
        now = self._api.find(PODS, metadata["name"], metadata["namespace"])
        if now is not None and now["metadata"]["uid"] == metadata["uid"] and now["status"] != status:
            self._api.patch(PODS, metadata["name"], {"status": status}, metadata["namespace"])

    def _end_soon(self, pod: JSON) -> None:
        def end() -> None:
            if pod["spec"].get("nodeName", "") in ("", *self._kubelets):
                self._api.end_pod(pod)

        self._time.at(self._grace(), end)

    # Controllers.

    def _changed(self, resource: str, before: JSON | None, after: JSON | None) -> None:
        if resource == PODS and after is not None and _is_deleted(after) and not _is_deleted(before):
            self._end_soon(after)
        if resource == PODS and after is None and before is not None and before["spec"].get("nodeName"):
            self._detach(before)
        if resource == NODES and after is None and before is not None:
            self._kubelets.pop(before["metadata"]["name"], None)
            for pod in self._of_node(before["metadata"]["name"]):
                self._api.remove(PODS, pod["metadata"]["name"], pod["metadata"]["namespace"])
        if resource in (NODES, PODS, BUDGETS) and not self._is_due:
            self._is_due = True
            self._time.at(0.2, self.reconcile)

    def _attach(self, pod: JSON) -> None:
        if any(app.volumes and app.name == pod["metadata"]["labels"]["app"] for app in self._apps):
            node, name = pod["spec"]["nodeName"], f"csi-{pod['metadata']['uid']}"
            spec = {"nodeName": node, "source": {"persistentVolumeName": f"pv-{pod['metadata']['labels']['app']}"}}
            self._api.put(ATTACHMENTS, {"metadata": {"name": name}, "spec": spec})

    def _detach(self, pod: JSON) -> None:
        name = f"csi-{pod['metadata']['uid']}"
        if self._api.find(ATTACHMENTS, name) is not None:
            self._time.at(self.detaches, lambda: self._api.remove(ATTACHMENTS, name))

    def reconcile(self) -> None:
        """Bring pods up where they are missing, schedule them, and count for the budgets."""
        self._is_due = False
        for app in self._apps:
            own = [pod for pod in self._api.all(PODS) if pod["metadata"]["labels"]["app"] == app.name]
            alive = [pod for pod in own if not _is_deleted(pod)]
            if app.replicas is not None:
                for _ in range(app.replicas - len(alive)):
                    self._create(app, "")
            else:
                # The next pod of a DaemonSet comes when the one before it has gone.
                there = {pod["spec"].get("nodeName") for pod in own}
                for node in self._api.all(NODES):
                    if node["metadata"]["name"] not in there:
                        self._create(app, node["metadata"]["name"])
        for pod in self._api.all(PODS):
            if not pod["spec"].get("nodeName") and not _is_deleted(pod):
                self._schedule(pod)
        self._of_budgets()

    def _create(self, app: App, node: str) -> None:
        kind = "DaemonSet" if app.replicas is None else "ReplicaSet"
        owner = {"kind": kind, "name": app.name, "uid": f"app-{app.name}", "controller": True}
        name = f"{app.name}-{self._api.number()}"
        metadata = {"namespace": "default", "name": name, "labels": {"app": app.name}, "ownerReferences": [owner]}
        spec = {"nodeName": node} if node else {}
        pod = self._api.put(PODS, {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}})
        if node in self._kubelets:
            self._start(pod)

    def _schedule(self, pod: JSON) -> None:
        pods = self._api.all(PODS)

        def cost(node: JSON) -> tuple[bool, int]:
            avoided = any(taint["key"] == PENDING_TAINT for taint in node["spec"].get("taints") or ())
            return avoided, sum(each["spec"].get("nodeName") == node["metadata"]["name"] for each in pods)

        fit = [node for node in self._api.all(NODES) if is_ready(node) and not node["spec"].get("unschedulable")]
        if fit:
            name = min(fit, key=cost)["metadata"]["name"]
            metadata = pod["metadata"]
            self._api.patch(PODS, metadata["name"], {"spec": {"nodeName": name}}, metadata["namespace"])
            self._attach({**pod, "spec": {"nodeName": name}})
            self._start(pod)

    def _of_budgets(self) -> None:
        for item in self._api.all("replicasets"):
            name = item["metadata"]["name"]
            own = [pod for pod in self._api.all(PODS) if pod["metadata"]["labels"]["app"] == name]
            ready = sum(is_ready(pod) and not _is_deleted(pod) for pod in own)
            if item["status"].get("readyReplicas") != ready:
                self._api.patch("replicasets", name, {"status": {"readyReplicas": ready}}, "default")
        for budget in self._api.all(BUDGETS):
            pods = [pod for pod in self._api.all(PODS) if covers(budget, pod)]
            healthy = sum(is_ready(pod) and not _is_deleted(pod) for pod in pods)
            desired = budget["spec"]["minAvailable"]
            status = {
                "disruptionsAllowed": max(0, healthy - desired),
                "currentHealthy": healthy,
                "desiredHealthy": desired,
                "expectedPods": math.ceil(sum(app.replicas or 0 for app in self._apps if _is_of(budget, app))),
            }
            if budget["status"] != status:
                self._api.patch(BUDGETS, budget["metadata"]["name"], {"status": status}, "default")


def _is_deleted(pod: JSON | None) -> bool:
    return pod is not None and "deletionTimestamp" in pod["metadata"]


def _is_of(budget: JSON, app: App) -> bool:
    return bool(budget["spec"]["selector"]["matchLabels"]["app"] == app.name)
