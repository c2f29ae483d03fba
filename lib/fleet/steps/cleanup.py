"""What a maintenance leaves beside its steps: the taint of nodes still to be done, and the silences of held ones."""

from collections.abc import Callable, Sequence

from fleet.adapters.alertmanager.silences import Silence
from fleet.adapters.k8s import nodes
from fleet.engine.declaration import Known, Tell, Verdicts
from fleet.engine.model import Status, TargetState, done, undone
from fleet.steps.base import HostStep, NodeStep
from fleet.steps.cluster import Cluster
from fleet.steps.cordon import has_taint
from fleet.steps.scope import Scope
from fleet.steps.silences import silence_node, silences_of
from fleet.text import count, verb


class TaintPending(NodeStep):
    """Every node that is still to be done carries this run's soft taint."""

    name = "taint"

    def __init__(self, cluster: Cluster, known: Known) -> None:
        """Look after the nodes of a run, less those that ``known`` says are done."""
        super().__init__(cluster)
        self._known = known

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look for nodes without the taint."""
        self.cluster.check_current()
        missing = [name for name in self._pending() if not _has_taint(self.cluster, name)]
        # Set once more if it goes: Kubernetes' own controllers write a node's taints whole, by a copy that may be old.
        verdict = undone(f"no taint on {', '.join(missing)}") if missing else done()
        return {state.target.name: verdict for state in targets}

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Set it."""
        cluster = self.cluster
        nodes.set_pending_taint(cluster.api, self._pending(), cluster.run.id, threads=cluster.threads)
        return {state.target.name: done() for state in targets}

    def _pending(self) -> list[str]:
        there = self.cluster.nodes.snapshot()
        return [
            name
            for name, state in self._known().items()
            if state.status not in (Status.DONE, Status.GIVEN_UP) and name in there
        ]


class Untaint(NodeStep):
    """No node carries this run's soft taint."""

    name = "untaint"

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look for the taint."""
        self.cluster.check_current()
        tainted = self._tainted()
        return {
            s.target.name: undone(f"{count(tainted, 'node')} {verb(tainted, 'has', 'have')} the taint")
            if tainted
            else done()
            for s in targets
        }

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Remove it."""
        cluster = self.cluster
        nodes.clear_pending_taint(cluster.api, self._tainted(), cluster.run.id, threads=cluster.threads)
        return {state.target.name: done() for state in targets}

    def _tainted(self) -> list[str]:
        return [name for name in self.cluster.nodes.snapshot() if _has_taint(self.cluster, name)]


class EndSilences(HostStep):
    """No silence of this run is left but those of held targets, which last until someone comes."""

    name = "end silences"

    def __init__(self, scope: Scope, known: Known, is_held: Callable[[TargetState], bool]) -> None:
        """Keep the silences of those among ``known`` that are held."""
        super().__init__(scope)
        self._known = known
        self._is_held = is_held

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look for silences to end and to extend."""
        stray, short, bare = self._find()
        what = f"{count(stray, 'silence')} to end, {len(short)} to extend, {len(bare)} to create"
        verdict = undone(what) if stray or short or bare else done()
        return {state.target.name: verdict for state in targets}

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """End them, extend them, and create those that somebody has removed."""
        stray, short, bare = self._find()
        for silence in stray:
            self.scope.silences.expire(silence.id)
        for silence in short:
            self.scope.silences.extend(silence.id, self.scope.config.alerts.held_silence)
        for name in bare:
            silence_node(self.scope, name, self.scope.config.alerts.held_silence)
        return {state.target.name: done() for state in targets}

    def _find(self) -> tuple[list[Silence], list[Silence], list[str]]:
        until = self.scope.clock.time() + self.scope.config.alerts.held_silence * 0.9
        known = self._known()
        held = {name for name, state in known.items() if self._is_held(state)}
        given_up = {name for name, state in known.items() if state.status is Status.GIVEN_UP}
        stray, short = [], []
        active = silences_of(self.scope)
        for name, silences in active.items():
            if name in given_up:
                continue  # They expire by themselves.
            if name not in held:
                stray += silences
            else:
                short += [silence for silence in silences if silence.ends_at < until]
        return stray, short, sorted(held - set(active))


def _has_taint(cluster: Cluster, name: str) -> bool:
    node = cluster.nodes.snapshot().get(name)
    return node is not None and has_taint(node, cluster.run.id)
