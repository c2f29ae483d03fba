"""The pods of this node: started, reported and terminated, as far as the API can tell.

Annotations of a pod choose how it behaves: ``fleet-lab/ready-seconds`` (how long from Running to Ready, default 1),
``fleet-lab/termination-seconds`` (how long it takes to terminate once told, at most its grace period, default 0) and
``fleet-lab/never-terminates``.
"""

import ipaddress
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from . import faults
from .api import TROUBLE, Api, ApiError, Json
from .faults import Faults
from .node import now

_START = 0.3
"""Seconds from a pod's arrival until its containers run."""

_RETRY = 1.0

Later = Callable[[float, Callable[[], None]], None]
"""Calls something after a number of seconds."""


class Pod:
    """A pod as this kubelet runs it."""

    def __init__(self, manifest: Json) -> None:
        self.manifest = manifest
        self.running = False
        self.ready = False
        self.starting = False
        self.terminating_since: float | None = None
        self.ended = False
        self.address = ""
        self.started_at = ""
        self.restarts = 0

    @property
    def uid(self) -> str:
        """The pod's identity: another pod of the same name has another one."""
        return str(self.manifest["metadata"]["uid"])

    @property
    def path(self) -> str:
        """Where the API has it."""
        metadata = self.manifest["metadata"]
        return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"

    def annotation(self, name: str) -> str | None:
        """Return one of the annotations that choose how the pod behaves."""
        value = (self.manifest["metadata"].get("annotations") or {}).get(f"fleet-lab/{name}")
        return None if value is None else str(value)

    def api_ready(self) -> bool:
        """Whether the API has the pod as Ready."""
        conditions = self.manifest.get("status", {}).get("conditions") or []
        return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


class Pods:
    """All pods of this node.

    Args:
        api: the API.
        settings: ``addresses`` of the host, ``pods_ipv4`` (where pods get their addresses from).
        active: the faults of this host.
        state: a folder that a reboot empties: it holds a file for every pod whose containers run.
        later: calls something after a while, in the same thread.
        clock: a monotonic clock.
    """

    def __init__(
        self, api: Api, settings: Json, active: Faults, state: Path, later: Later, clock: Callable[[], float]
    ) -> None:
        self._api = api
        self._host = str(settings["addresses"][0])
        self._network = ipaddress.ip_network(settings["pods_ipv4"])
        self._addresses = self._free_addresses()
        self._faults = active
        self._state = state
        self._later = later
        self._clock = clock
        self._pods: dict[str, Pod] = {}
        state.mkdir(parents=True, exist_ok=True)

    def _free_addresses(self) -> Iterator[str]:
        for number in itertools.cycle(range(2, self._network.num_addresses - 1)):
            address = str(self._network[number])
            if all(pod.address != address for pod in self._pods.values()):
                yield address

    def replace(self, manifests: Iterable[Json]) -> None:
        """Take over a complete list of the node's pods."""
        known = {manifest["metadata"]["uid"]: manifest for manifest in manifests}
        for uid in self._pods.keys() - known.keys():
            self._forget(uid)
        for manifest in known.values():
            self.update(manifest)

    def update(self, manifest: Json) -> None:
        """Take over a pod that is new or has changed."""
        uid = manifest["metadata"]["uid"]
        pod = self._pods.get(uid)
        if pod is None:
            pod = self._pods[uid] = Pod(manifest)
            self._recall(pod)
        pod.manifest = manifest
        self._act(pod)

    def remove(self, manifest: Json) -> None:
        """Forget a pod that is gone from the API."""
        self._forget(manifest["metadata"]["uid"])

    def resync(self) -> None:
        """Look at every pod again, as faults have changed."""
        for pod in list(self._pods.values()):
            self._act(pod)

    def _forget(self, uid: str) -> None:
        self._pods.pop(uid, None)
        (self._state / uid).unlink(missing_ok=True)

    def _recall(self, pod: Pod) -> None:
        """Find out from the API and from this boot's files whether the pod's containers run."""
        status = pod.manifest.get("status", {})
        containers = status.get("containerStatuses") or []
        pod.address = status.get("podIP") or ""
        pod.restarts = max((entry["restartCount"] for entry in containers), default=0)
        running = [entry["state"]["running"]["startedAt"] for entry in containers if "running" in entry["state"]]
        if running and (self._state / pod.uid).exists():
            pod.running, pod.ready, pod.started_at = True, pod.api_ready(), running[0]
            if not pod.ready:
                self._later(_START, lambda: self._become_ready(pod))
        elif running:
            pod.restarts += 1  # they ran before this boot

    def _act(self, pod: Pod) -> None:
        if faults.NOT_READY in self._faults or pod.ended:
            return
        metadata = pod.manifest["metadata"]
        if metadata.get("deletionTimestamp"):
            self._terminate(pod)
        elif pod.manifest.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            return
        elif not pod.running and not pod.starting:
            pod.starting = True
            self._later(_START, lambda: self._start(pod))
        elif pod.ready and not pod.api_ready():
            self._report(pod)  # the control plane took the node, and so its pods, for lost

    def _start(self, pod: Pod) -> None:
        pod.starting = False
        if pod.uid not in self._pods or pod.manifest["metadata"].get("deletionTimestamp"):
            return
        if not pod.address:
            host = pod.manifest["spec"].get("hostNetwork")
            pod.address = self._host if host else next(self._addresses)
        pod.started_at = now()
        pod.running = True
        (self._state / pod.uid).touch()
        self._report(pod)
        self._later(float(pod.annotation("ready-seconds") or 1), lambda: self._become_ready(pod))

    def _become_ready(self, pod: Pod) -> None:
        if pod.uid in self._pods and pod.running and not pod.manifest["metadata"].get("deletionTimestamp"):
            pod.ready = True
            self._report(pod)

    def _terminate(self, pod: Pod) -> None:
        if pod.terminating_since is None:
            pod.terminating_since = self._clock()
        rest = self._termination_seconds(pod) - (self._clock() - pod.terminating_since)
        if rest <= 0:
            self._end(pod)
        elif rest != float("inf"):
            self._later(rest, lambda: self._terminate_again(pod))

    def _terminate_again(self, pod: Pod) -> None:
        if pod.uid in self._pods:
            self._act(pod)

    def _termination_seconds(self, pod: Pod) -> float:
        if not pod.running:
            return 0.0
        if faults.NEVER_TERMINATES in self._faults or pod.annotation("never-terminates") is not None:
            return float("inf")
        if faults.SLOW_TERMINATION in self._faults:
            return self._faults.seconds(faults.SLOW_TERMINATION)
        grace = float(pod.manifest["metadata"].get("deletionGracePeriodSeconds") or 0)
        return min(float(pod.annotation("termination-seconds") or 0), grace)

    def _end(self, pod: Pod) -> None:
        """The containers have ended: say so, and delete the pod; a finalizer may keep it in the API."""
        try:
            if pod.running:
                pod.running = pod.ready = False
                self._patch(pod)
            body = {
                "kind": "DeleteOptions",
                "apiVersion": "v1",
                "gracePeriodSeconds": 0,
                "preconditions": {"uid": pod.uid},
            }
            self._api.request("DELETE", pod.path, body)
        except TROUBLE as error:
            if not _is_gone(error):
                print(f"{pod.path}: cannot be deleted: {error}", flush=True)
                self._later(_RETRY, lambda: self._terminate_again(pod))
                return
        pod.ended = True

    def _report(self, pod: Pod) -> None:
        if pod.uid not in self._pods:
            return
        try:
            self._patch(pod)
        except TROUBLE as error:
            if not _is_gone(error):
                print(f"{pod.path}: status cannot be written: {error}", flush=True)
                self._later(_RETRY, lambda: self._report(pod))

    def _patch(self, pod: Pod) -> None:
        body = {"metadata": {"uid": pod.uid}, "status": _status(pod, self._host)}
        self._api.patch(f"{pod.path}/status", body)


def _is_gone(error: BaseException) -> bool:
    """Whether the pod is gone, or another one has its name."""
    return isinstance(error, ApiError) and error.status in (404, 409)


def _status(pod: Pod, host: str) -> Json:
    terminated = {"exitCode": 0, "reason": "Completed", "finishedAt": now(), "startedAt": pod.started_at or now()}
    containers = []
    for container in pod.manifest["spec"]["containers"]:
        entry: Json = {
            "name": container["name"],
            "image": container["image"],
            "imageID": f"lab://{container['image']}",
            "containerID": f"lab://{pod.uid}/{container['name']}/{pod.restarts}",
            "ready": pod.ready,
            "started": pod.running,
            "restartCount": pod.restarts,
            "state": {"running": {"startedAt": pod.started_at}} if pod.running else {"terminated": terminated},
        }
        if pod.restarts:
            entry["lastState"] = {"terminated": {"exitCode": 255, "reason": "Unknown", "finishedAt": pod.started_at}}
        containers.append(entry)
    before = {entry["type"]: entry for entry in pod.manifest.get("status", {}).get("conditions") or []}
    conditions = []
    for kind, value in (("Initialized", True), ("ContainersReady", pod.ready), ("Ready", pod.ready)):
        old = before.get(kind, {})
        same = old.get("status") == str(value) and old.get("lastTransitionTime")
        condition: Json = {"type": kind, "status": str(value)}
        condition["lastTransitionTime"] = old["lastTransitionTime"] if same else now()
        conditions.append(condition)
    return {
        "phase": "Running",
        "hostIP": host,
        "podIP": pod.address,
        "podIPs": [{"ip": pod.address}],
        "startTime": pod.manifest.get("status", {}).get("startTime") or now(),
        "conditions": conditions,
        "containerStatuses": containers,
    }
