"""Gates that look one layer deeper than a node's own condition: pods that stay, volumes, and workloads elsewhere."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fleet.adapters.k8s import attached, owners, rights, staying
from fleet.adapters.k8s.client import JSON, ApiError
from fleet.adapters.k8s.daemons import all_daemonsets, existing_daemonsets
from fleet.adapters.k8s.owners import Standing, Workload
from fleet.adapters.k8s.pods import STAYING, PodClass, classify, parse_pod
from fleet.engine.declaration import Verdicts
from fleet.engine.model import TargetState, Verdict, done, pending
from fleet.steps.base import NodeStep, each
from fleet.steps.cluster import Cluster
from fleet.steps.ready import NEW_BOOT

DAEMONS = "daemons"
"""The name under which the pods are remembered that stay on a node and were Ready."""
WORKLOADS = "workloads"
"""The name under which the workloads are remembered whose pods leave, with how many of theirs were Ready."""


def _on(cluster: Cluster, node: str) -> list[JSON]:
    return cluster.api.list_all("/api/v1/pods", fieldSelector=f"spec.nodeName={node}")[0]


def staying_pods(cluster: Cluster, node: str) -> list[JSON]:
    """Return the pods of a node that a drain leaves there, finished ones aside.

    Raises:
        KubernetesError: the API could not be read.
    """
    found = _on(cluster, node)
    return _split(cluster, found, existing_daemonsets(cluster.api, map(parse_pod, found)))[0]


def _split(cluster: Cluster, pods: Sequence[JSON], existing: Collection[str]) -> tuple[list[JSON], list[JSON]]:
    """Return the pods that stay through a drain, and those that leave; finished ones do neither."""
    stay: list[JSON] = []
    leave: list[JSON] = []
    for item in pods:
        kind = classify(parse_pod(item), existing, cluster.config.drain.daemon_kinds)
        if kind is not PodClass.FINISHED:
            (stay if kind in STAYING else leave).append(item)
    return stay, leave


def with_containers_of_now(cluster: Cluster, state: TargetState) -> dict[str, Any]:
    """Return what has to be Ready again on a node, with the containers that run right before it is rebooted.

    Raises:
        KubernetesError: the API could not be read.
    """
    wanted = state.facts.get(DAEMONS)
    if not wanted:
        return {}
    return {DAEMONS: staying.renewed(wanted, map(staying.parse, _on(cluster, state.target.name)))}


class Baseline(NodeStep):
    """What has to be Ready again is remembered, before anything is taken from the node."""

    name = "baseline"
    gate = True

    @property
    def wanted(self) -> bool:
        """Whether anything of it is asked for later."""
        return self.cluster.config.gates.daemons or self._workloads

    def __init__(self, cluster: Cluster, *, workloads: bool) -> None:
        """Look at nodes of a cluster.

        Args:
            cluster: the cluster.
            workloads: whether the workloads are remembered as well whose pods will have to leave.
        """
        super().__init__(cluster)
        self._workloads = workloads and cluster.config.gates.workloads
        self._above: dict[Workload, Workload] = {}
        """What has made a ReplicaSet, or itself: that never changes."""

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Remember it once: what a resumed run has taken away already is no baseline."""
        new = [state.target.name for state in targets if DAEMONS not in state.facts]
        lists = self.cluster.threads.map(lambda name: _on(self.cluster, name), new, "baseline")
        pods = dict(zip(new, lists, strict=True))
        everything = [parse_pod(item) for found in lists for item in found]
        existing = all_daemonsets(self.cluster.api, everything).uids if new else frozenset()
        known: dict[Workload, JSON | None] = {}

        def judge(state: TargetState) -> Verdict:
            if state.target.name not in pods:
                return done()
            stay, leave = _split(self.cluster, pods[state.target.name], existing)
            ignored = self.cluster.config.gates.ignore
            facts: dict[str, Any] = {DAEMONS: staying.baseline(map(staying.parse, stay), ignored)}
            if self._workloads:
                facts[WORKLOADS] = self._ready(leave, known)
            return done(**facts)

        return each(targets, judge)

    def _ready(self, leaving: Sequence[JSON], known: dict[Workload, JSON | None]) -> dict[str, int]:
        """Return how many pods of each workload are Ready whose pods will have to leave."""
        ready = {}
        for workload in sorted(self._owners(leaving, known)):
            item = self._read(workload, known)
            standing = owners.standing(item) if item else None
            if standing and standing.ready:
                ready[str(workload)] = standing.ready
        return ready

    def _owners(self, pods: Sequence[JSON], known: dict[Workload, JSON | None]) -> set[Workload]:
        """Return the workloads of pods; that of a ReplicaSet which a Deployment has made is the Deployment."""
        found = set()
        for namespace, (kind, name) in {(p["metadata"]["namespace"], o) for p in pods if (o := owners.owner_of(p))}:
            workload = Workload(kind, namespace, name)
            if workload not in self._above and kind == "ReplicaSet" and (item := self._read(workload, known)):
                above = owners.owner_of(item)
                self._above[workload] = Workload(above[0], namespace, above[1]) if above else workload
            found.add(self._above.get(workload, workload))
        return found

    def _read(self, workload: Workload, known: dict[Workload, JSON | None]) -> JSON | None:
        """Return a workload, which is read once for all nodes."""
        if workload not in known:
            known[workload] = _read(self.cluster, workload)
        return known[workload]


class DaemonsReady(NodeStep):
    """Every pod that stayed on the node and was Ready before is Ready again, with other containers after a reboot."""

    name = "daemons"
    deadline = "daemons"
    rights = rights.SEE_PODS
    gate = True
    acceptable = True

    @property
    def wanted(self) -> bool:
        """Whether it is asked for."""
        return self.cluster.config.gates.daemons

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """List the pods of each node."""

        def judge(state: TargetState) -> Verdict:
            wanted = state.facts.get(DAEMONS) or {}
            if not wanted:
                return done("nothing stays there that was Ready")
            # All of them: what had a pod there before is known, and what others are needs no further questions.
            pods = [staying.parse(item) for item in _on(self.cluster, state.target.name)]
            there = {pod.key for pod in pods}
            wanted = {key: ids for key, ids in wanted.items() if key in there or not self._is_gone(key)}
            lines = staying.missing(wanted, pods, restarted=NEW_BOOT in state.facts)
            return pending("; ".join(lines)) if lines else done()

        return each(targets, judge)

    def _is_gone(self, key: str) -> bool:
        """Return whether what had a pod on the node is a DaemonSet that does not exist any more."""
        kind, _, name = key.partition(" ")
        namespace, _, name = name.partition("/")
        if kind != "DaemonSet":
            return False
        try:
            self.cluster.api.get(f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}")
        except ApiError as error:
            if error.status == 404:
                return True
            raise
        return False


class VolumesDetached(NodeStep):
    """No volume is in use on the node, or attached to it, but those of pods that stay."""

    name = "volumes"
    deadline = "volumes"
    rights = rights.VOLUMES
    gate = True
    releases = True
    acceptable = True

    @property
    def wanted(self) -> bool:
        """Whether it is asked for."""
        return self.cluster.config.gates.volumes

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look at what the kubelet and the attach controller say."""
        return each(targets, lambda state: self.judge(state.target.name))

    def judge(self, node: str) -> Verdict:
        """Judge one node."""
        lines = attached.in_use(self.cluster.api, node, lambda: staying_pods(self.cluster, node))
        return pending("; ".join(lines[:5])) if lines else done()


class WorkloadsBack(NodeStep):
    """The workloads whose pods had to leave have as many Ready pods as before. No further node starts until then."""

    name = "workloads"
    deadline = "workloads"
    rights = rights.WORKLOADS
    poll_together = True
    gate = True
    acceptable = True
    bars = True

    @property
    def wanted(self) -> bool:
        """Whether it is asked for."""
        return self.cluster.config.gates.workloads

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Read each workload once, whatever number of nodes its pods had to leave."""
        wanted = {text for state in targets for text in self._baseline(state)}
        now: dict[str, Standing | None] = {}
        for text in sorted(wanted):
            item = _read(self.cluster, owners.parse(text))
            now[text] = None if item is None else owners.standing(item)

        def judge(state: TargetState) -> Verdict:
            lines = owners.missing(self._baseline(state), now)
            if not lines:
                return done()
            return pending("; ".join([*lines, *self._unplaced(lines)][:6]))

        return each(targets, judge)

    def _baseline(self, state: TargetState) -> Mapping[str, int]:
        return state.facts.get(WORKLOADS) or {}

    def _unplaced(self, lines: Sequence[str]) -> list[str]:
        """Return the pods in the workloads' namespaces that fit nowhere."""
        namespaces = dict.fromkeys(owners.parse(line.partition(":")[0]).namespace for line in lines)
        pods = [
            pod
            for namespace in namespaces
            for pod in self.cluster.api.list_all(
                f"/api/v1/namespaces/{namespace}/pods", fieldSelector="status.phase=Pending"
            )[0]
        ]
        return owners.unplaced(pods)


def _read(cluster: Cluster, workload: Workload) -> JSON | None:
    try:
        return cluster.api.get(workload.path)
    except ApiError as error:
        if error.status == 404:
            return None
        raise
