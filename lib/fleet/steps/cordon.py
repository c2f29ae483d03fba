"""The cordon of a node, in the name of this run, and its end."""

from collections.abc import Sequence

from fleet.adapters.k8s import nodes, rights
from fleet.adapters.k8s.nodes import CordonOutcome, Node
from fleet.engine.declaration import Tell, Verdicts
from fleet.engine.model import TargetState, Verdict, done, failed, pending, undone
from fleet.steps.base import FAST, NodeStep, each
from fleet.steps.cluster import Cluster


class Cordon(NodeStep):
    """The node takes no new pods; the node itself says which run closed it and why."""

    name = "cordon"
    rights = rights.CLOSE_NODES
    poll = FAST
    takes_capacity = True

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look whether the node is cordoned and annotated by this run."""

        def judge(state: TargetState) -> Verdict:
            node = self.cluster.node(state.target.name)
            owner = nodes.ownership(node)
            if node.unschedulable and owner and owner.run == self.cluster.run.id:
                return done("was cordoned before" if owner.was_cordoned else "", was_cordoned=owner.was_cordoned)
            return pending("not cordoned by this run")

        return each(targets, judge)

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Cordon; a node that another run holds is left alone and held."""

        def cordon(state: TargetState) -> Verdict:
            outcome = nodes.cordon(self.cluster.api, state.target.name, self.cluster.owner)
            if outcome is CordonOutcome.OTHER_RUN:
                return failed(_other_run(self.cluster, state.target.name))
            return done()

        return each(targets, cordon)


def _other_run(cluster: Cluster, node: str) -> str:
    owner = nodes.ownership(cluster.node(node))
    run = owner.run if owner else "another run"
    return f"it is under the maintenance of run {run}; resume or abort that first"


UNCORDONED = "somebody has uncordoned it meanwhile; --resume cordons and drains it again"
"""Why a node that this run had closed is held."""


def is_closed(cluster: Cluster, name: str) -> bool:
    """Say whether a node is cordoned in the name of this run."""
    node = cluster.nodes.snapshot().get(name)
    owner = nodes.ownership(node) if node else None
    return node is not None and node.unschedulable and owner is not None and owner.run == cluster.run.id


def has_taint(node: Node, run: str) -> bool:
    """Say whether a node carries the soft taint of a run."""
    return any(taint.key == nodes.PENDING_TAINT and taint.value == run for taint in node.taints)


class Uncordon(NodeStep):
    """Nothing of this run is left on the node: it takes pods again, unless it was cordoned before."""

    name = "uncordon"
    poll = FAST
    gives_back = True

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look for this run's annotation and taint."""
        self.cluster.check_current()
        known = self.cluster.nodes.snapshot()

        def judge(state: TargetState) -> Verdict:
            node = known.get(state.target.name)
            if node is None:
                return done("Kubernetes does not know it any more")
            owner = nodes.ownership(node)
            if owner and owner.run == self.cluster.run.id:
                return pending("still marked by this run")
            if has_taint(node, self.cluster.run.id) and not state.released:
                # The cluster's own controllers write the whole list of taints, at times from what they read before.
                return undone("still has this run's taint")
            return done("left cordoned, as it was found" if node.unschedulable else "")

        return each(targets, judge)

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Remove the taint, then the cordon, each only if it is this run's."""
        # One that is tried again is still to be done: evicted pods rather go elsewhere.
        names = [state.target.name for state in targets if not state.released]
        nodes.clear_pending_taint(self.cluster.api, names, self.cluster.run.id, threads=self.cluster.threads)

        def uncordon(state: TargetState) -> Verdict:
            nodes.uncordon(self.cluster.api, state.target.name, self.cluster.run.id)
            return done()

        return each(targets, uncordon)
