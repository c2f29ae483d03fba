"""The step that drains a node, in passes."""

from collections.abc import Sequence
from dataclasses import replace

from fleet.adapters.k8s import drain, rights
from fleet.adapters.k8s.drain import NodeDrain
from fleet.engine.declaration import Tell, Verdicts
from fleet.engine.findings import Found, unread
from fleet.engine.model import Kind, Phase, TargetState, Verdict, done, failed, held, pending, undone
from fleet.errors import FleetError
from fleet.steps import drain_risks
from fleet.steps.base import FAST, NodeStep, each
from fleet.steps.cluster import Cluster
from fleet.steps.cordon import UNCORDONED
from fleet.steps.drain_risks import drain_policy
from fleet.steps.look import Look
from fleet.text import count

EVICTIONS = "pods to evict"
"""The heading in the plan."""


class Drain(NodeStep):
    """No pod is left on the node that a drain has to move. Each call is a pass, and takes seconds at most."""

    name = "drain"
    deadline = "drain"
    poll = FAST
    batch = False
    releases = True
    rights = (*rights.SEE_PODS, *rights.EVICT, *rights.PLACEMENT)

    def __init__(self, cluster: Cluster) -> None:
        """Drain by the cluster's policy."""
        super().__init__(cluster)
        self.policy = drain_policy(cluster.config.drain)
        self._drains: dict[str, NodeDrain] = {}

    def preflight(self, look: Look) -> Found:  # noqa: ARG002
        """Find what the drains would run into, and how many pods they evict."""
        cluster = self.cluster
        try:
            found = drain_risks.assess(cluster.api, cluster.nodes.snapshot(), list(cluster.hosts), self.policy)
        except FleetError as error:
            return Found((unread(error),), columns={EVICTIONS: {}})
        evictions = {node: str(number) for node, number in found.evictions.items()}
        return Found(tuple(drain_risks.of_risk(risk) for risk in found.risks), columns={EVICTIONS: evictions})

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look at the pods that are still there; a drain that begins lists them freshly and by node name."""

        def judge(state: TargetState) -> Verdict:
            name = state.target.name
            if state.phase is Phase.CHECK:
                self._end_stray(name)
                left = drain.pods_left(self.cluster.api, name, self.policy)
                return pending(f"{len(left)} to evict") if left else done()
            node = self.cluster.nodes.snapshot().get(name)
            if node is not None and not node.unschedulable:
                self._end(name)
                return held(UNCORDONED)
            return self._of(name, self._drain(name).look())

        return each(targets, judge)

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:
        """Evict the pods that may go now."""

        def one(state: TargetState) -> Verdict:
            name = state.target.name
            node = self.cluster.node(name)
            if not node.unschedulable:
                return held(UNCORDONED)
            result = self._drain(name).once(self.cluster.cancel)
            before = state.facts.get("evicted", [])
            evicted = [*before, *(pod for pod in map(str, result.evicted) if pod not in before)]
            if evicted and not before:
                tell(name, f"evicting: {count(len(result.remaining), 'pod')} still there")
            verdict = self._of(name, result)
            return replace(verdict if verdict.kind is Kind.FAILED else done(verdict.detail), facts={"evicted": evicted})

        return each(targets, one)

    def _drain(self, name: str) -> NodeDrain:
        if name not in self._drains:
            cluster = self.cluster
            self._drains[name] = NodeDrain(
                cluster.api, name, self.policy, follow=cluster.follow, threads=cluster.threads
            )
        return self._drains[name]

    def _end_stray(self, name: str) -> None:
        """End what is left of an earlier drain of this node, and of nodes that were given back since."""
        known = self.cluster.nodes.snapshot()
        for other in list(self._drains):
            if other == name or other not in known or not known[other].unschedulable:
                self._end(other)

    def _end(self, name: str) -> None:
        if node_drain := self._drains.pop(name, None):
            node_drain.close()

    def _of(self, name: str, result: drain.DrainResult) -> Verdict:
        match result.status:
            case drain.DrainStatus.DRAINED:
                self._end(name)
                return done(f"{len(result.evicted)} evicted")
            case drain.DrainStatus.FAILED:
                self._end(name)
                return failed(result.explain())
            case drain.DrainStatus.DUE:
                return undone(result.explain())
        return pending(result.explain() or "the last pods are going")
