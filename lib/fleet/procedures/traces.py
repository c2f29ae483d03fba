"""What a maintenance leaves beside its steps: the taint of nodes still to be done, and the silences of held ones."""

from collections.abc import Callable, Mapping, Sequence

from fleet.adapters.alertmanager.silences import Silence
from fleet.adapters.k8s import nodes
from fleet.engine.model import Status, UnitState, Verdict, done, undone
from fleet.procedures import steps
from fleet.procedures.cluster import Cluster
from fleet.text import count, verb

Known = Callable[[], Mapping[str, UnitState]]
"""Reads the run's states of nodes from its journal, from any thread."""


class TaintPending:
    """Every node that is still to be done carries this run's soft taint."""

    def __init__(self, cluster: Cluster, names: Sequence[str], known: Known) -> None:
        """Look after the named nodes, less those that ``known`` says are done."""
        self._cluster = cluster
        self._names = names
        self._known = known

    def check(self, units: Sequence[UnitState]) -> Mapping[str, Verdict]:
        """Look for nodes without the taint."""
        self._cluster.check_current()
        missing = [name for name in self._pending() if not _has_taint(self._cluster, name)]
        # Set once more if it goes: Kubernetes' own controllers write a node's taints whole, by a copy that may be old.
        verdict = undone(f"no taint on {', '.join(missing)}") if missing else done()
        return {state.unit.name: verdict for state in units}

    def apply(self, units: Sequence[UnitState], tell: steps.Tell) -> Mapping[str, Verdict]:  # noqa: ARG002
        """Set it."""
        cluster = self._cluster
        nodes.set_pending_taint(cluster.api, self._pending(), cluster.run.id, threads=cluster.threads)
        return {state.unit.name: done() for state in units}

    def _pending(self) -> list[str]:
        known = self._known()
        finished = {name for name, state in known.items() if state.status in (Status.DONE, Status.GIVEN_UP)}
        there = self._cluster.nodes.snapshot()
        return [name for name in self._names if name not in finished and name in there]


class Untaint:
    """No node carries this run's soft taint."""

    def __init__(self, cluster: Cluster) -> None:
        """Look at all nodes of the cluster."""
        self._cluster = cluster

    def check(self, units: Sequence[UnitState]) -> Mapping[str, Verdict]:
        """Look for the taint."""
        self._cluster.check_current()
        tainted = self._tainted()
        return {
            s.unit.name: undone(f"{count(tainted, 'node')} {verb(tainted, 'has', 'have')} the taint")
            if tainted
            else done()
            for s in units
        }

    def apply(self, units: Sequence[UnitState], tell: steps.Tell) -> Mapping[str, Verdict]:  # noqa: ARG002
        """Remove it."""
        cluster = self._cluster
        nodes.clear_pending_taint(cluster.api, self._tainted(), cluster.run.id, threads=cluster.threads)
        return {state.unit.name: done() for state in units}

    def _tainted(self) -> list[str]:
        return [name for name in self._cluster.nodes.snapshot() if _has_taint(self._cluster, name)]


class EndSilences:
    """No silence of this run is left but those of held units, which last until someone comes."""

    def __init__(self, cluster: Cluster, known: Known, is_held: Callable[[UnitState], bool]) -> None:
        """Keep the silences of those among ``known`` that are held."""
        self._cluster = cluster
        self._known = known
        self._is_held = is_held

    def check(self, units: Sequence[UnitState]) -> Mapping[str, Verdict]:
        """Look for silences to end and to extend."""
        stray, short, bare = self._find()
        what = f"{count(stray, 'silence')} to end, {len(short)} to extend, {len(bare)} to create"
        verdict = undone(what) if stray or short or bare else done()
        return {state.unit.name: verdict for state in units}

    def apply(self, units: Sequence[UnitState], tell: steps.Tell) -> Mapping[str, Verdict]:  # noqa: ARG002
        """End them, extend them, and create those that somebody has removed."""
        stray, short, bare = self._find()
        for silence in stray:
            self._cluster.silences.expire(silence.id)
        for silence in short:
            self._cluster.silences.extend(silence.id, self._cluster.config.alerts.held_silence)
        for name in bare:
            steps.silence_node(self._cluster, name, self._cluster.config.alerts.held_silence)
        return {state.unit.name: done() for state in units}

    def _find(self) -> tuple[list[Silence], list[Silence], list[str]]:
        until = self._cluster.clock.time() + self._cluster.config.alerts.held_silence * 0.9
        known = self._known()
        held = {name for name, state in known.items() if self._is_held(state)}
        given_up = {name for name, state in known.items() if state.status is Status.GIVEN_UP}
        stray, short = [], []
        active = steps.silences_of(self._cluster)
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
    return node is not None and steps.has_taint(node, cluster.run.id)
