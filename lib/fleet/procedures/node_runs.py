"""Runs over nodes: which nodes an operator asks for, the plan for them, the work and the way back."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from ClusterShell.NodeSet import NodeSet, NodeSetException

from fleet.adapters.hosts import probe
from fleet.adapters.hosts.probe import HostState
from fleet.adapters.hosts.remote import Remote
from fleet.adapters.k8s import nodes
from fleet.adapters.k8s.client import ApiError
from fleet.adapters.k8s.lock import ClusterLock
from fleet.adapters.k8s.nodes import ownership
from fleet.engine import advance, journal, planner
from fleet.engine.journal import Journal
from fleet.engine.model import Limits, Stage, Status, UnitState
from fleet.engine.protocols import Procedure
from fleet.errors import FleetError
from fleet.names import known_as
from fleet.procedures import inventory, plan, preflight
from fleet.procedures.cluster import Cluster
from fleet.procedures.findings import Finding, Level, note
from fleet.procedures.maintenance import Nothing, OverApi, Proposal, Steps, specs
from fleet.procedures.nodes import ABORT_NODES, NODES, Abort, NodeMaintenance, NodeProcedure, unit_of
from fleet.procedures.steps import silences_of
from fleet.text import count, verb


@dataclass(frozen=True, slots=True)
class Selection:
    """Which nodes an operator asks for, and how many at once.

    Attributes:
        query: a Cumin query; None for the cluster's workers.
        exclude: hosts or nodes to leave out, as a NodeSet.
        max_unavailable: overrides the configuration.
        max_failed: overrides the configuration.
        only_if_required: only hosts that ask for a reboot.
    """

    query: str | None = None
    exclude: str = ""
    max_unavailable: int | str | None = None
    max_failed: int | None = None
    only_if_required: bool = False


class NodeRuns(OverApi):
    """A kind of maintenance of nodes, and which of them.

    Args:
        procedure: what is done to each node.
        selection: which nodes a new run is about.
    """

    def __init__(self, procedure: NodeProcedure, selection: Selection) -> None:
        self._procedure = procedure
        self._selection = selection

    @property
    def name(self) -> str:
        """The cookbook's full name."""
        return self._procedure.name

    @property
    def keeps(self) -> Collection[str]:
        """None: every node says itself what was done to it."""
        return ()

    def propose(self, cluster: Cluster, state_dir: Path) -> Proposal | Nothing:
        """Find the nodes, and what stands in the way of their maintenance."""
        config, chosen = cluster.config, self._selection
        asked = cluster.remote.query(config.hosts.workers if chosen.query is None else chosen.query)
        known = cluster.nodes.snapshot()
        targets = inventory.match(asked, known, _nodeset(chosen.exclude), config.node_names)
        hosts, findings = dict(targets.hosts), list(targets.findings)
        if chosen.only_if_required:
            hosts, more = _reboot_required(cluster.remote, hosts)
            findings += more
        if not hosts and not any(finding.level is Level.STOP for finding in findings):
            return Nothing("no host asks for a reboot" if targets.hosts else "all hosts are excluded")
        workers = set(asked) if chosen.query is None else set(cluster.remote.query(config.hosts.workers))
        control_plane = set(cluster.remote.query(config.hosts.control_plane))
        findings += inventory.compare(hosts, known, workers, control_plane, config.node_names)
        limits = self._limits(cluster, workers)
        options = {**cluster.run.options, "hosts": hosts, "limits": asdict(limits)}
        cluster = replace(cluster, hosts=hosts, run=replace(cluster.run, options=options))
        return self._plan(cluster, limits, findings, state_dir)

    def steps(self, cluster: Cluster) -> Steps:
        """Return the steps of a node."""
        return {NODES: self._procedure.steps(cluster)}

    @contextmanager
    def work(self, cluster: Cluster, book: Journal, lock: ClusterLock) -> Iterator[Procedure]:
        """Yield the maintenance of the nodes in the journal."""
        units = [state.unit for state in book.states(NODES).values()]
        limits = Limits(**cluster.run.options["limits"])
        known = partial(journal.read_states, book.folder, NODES)
        yield NodeMaintenance(cluster, units, self._procedure.steps(cluster), limits, lock, known)

    def left_on(self, cluster: Cluster, state: UnitState) -> Sequence[str]:
        """Note on a node that it is given up, and return what is left on it."""
        name = state.unit.name
        left = []
        try:
            if nodes.give_up(cluster.api, name, cluster.run.id):
                left.append(f"its cordon (kubectl uncordon {name}; as long as it is there it counts as unavailable)")
        except ApiError as error:
            if error.status != 404:
                raise
            left.append("nothing in Kubernetes, which does not know it any more")
        try:
            silenced = name in silences_of(cluster)
        except FleetError:
            silenced = "silence" in state.facts  # Nobody can be asked now.
        if silenced:
            left.append("its silence, which expires by itself")
        return left

    def give_back(self, cluster: Cluster, book: Journal) -> Procedure:
        """Return what gives back the nodes that are in flight, by the journal or by what stands on them."""
        stage = Stage(NODES, (), specs(self._procedure.steps(cluster)))
        in_flight = [state for state in book.states(NODES).values() if _is_ours(cluster, state)]
        ordered = frozenset(
            state.unit.name
            for state in in_flight
            if advance.awaits_pivot(stage, state) and state.facts.get("ordered", True)
        )

        def known() -> dict[str, UnitState]:
            before = journal.read_states(book.folder, NODES)
            given_up = {name: state for name, state in before.items() if state.status is Status.GIVEN_UP}
            return {**journal.read_states(book.folder, ABORT_NODES), **given_up}

        accepted = {state.unit.name: state.accepted for state in in_flight}
        return Abort(self._procedure.act(cluster), in_flight, ordered, known, accepted)

    def _plan(self, cluster: Cluster, limits: Limits, findings: Sequence[Finding], state_dir: Path) -> Proposal:
        known = cluster.nodes.snapshot()
        label = cluster.config.domain_label
        degraded = {node.labels.get(label, "") for node in known.values() if not node.ready}
        units = planner.order((unit_of(known[name], label) for name in cluster.hosts), first=degraded)
        names = [step.spec.name for step in self._procedure.steps(cluster)]
        found = preflight.examine(cluster, units, limits, state_dir, names)
        shown = plan.NodePlan(
            title=plan.title(cluster.run),
            units=units,
            steps=names,
            limits=limits,
            evictions=found.evictions,
            findings=preflight.worst_first([*findings, *found.findings]),
            unit_seconds=plan.unit_seconds(state_dir, self.name, cluster.name, NODES),
        )
        states = [UnitState(unit, facts=found.facts.get(unit.name, {})) for unit in units]
        return Proposal(cluster, shown, {NODES: states})

    def _limits(self, cluster: Cluster, workers: Collection[str]) -> Limits:
        config, chosen = cluster.config, self._selection
        names = {known_as(host, config.node_names) for host in workers}
        workers_known = [node for node in cluster.nodes.snapshot().values() if node.name in names]
        amount = config.limits.max_unavailable if chosen.max_unavailable is None else chosen.max_unavailable
        try:
            most = planner.resolve(amount, len(workers_known))
        except ValueError as error:
            raise FleetError(f"max_unavailable: {error}") from error
        return Limits(
            max_unavailable=most,
            max_domains=config.limits.max_domains,
            max_failed=config.limits.max_failed if chosen.max_failed is None else chosen.max_failed,
            groups=planner.group_limits((unit_of(node, config.domain_label).group for node in workers_known), amount),
            blocked=config.deadlines.blocked,
        )


def _nodeset(text: str) -> list[str]:
    try:
        return list(NodeSet(text))
    except NodeSetException as error:
        raise FleetError(f"--exclude {text!r} is no list of hosts: {error}; write worker1,worker[3-5].") from error


def _is_ours(cluster: Cluster, state: UnitState) -> bool:
    """Say whether a run has a node in flight or held, by its journal or by what stands on the node."""
    if state.status is Status.GIVEN_UP:
        return False
    node = cluster.nodes.snapshot().get(state.unit.name)
    owner = ownership(node) if node else None
    return state.status in (Status.RUNNING, Status.HELD) or (owner is not None and owner.run == cluster.run.id)


def _reboot_required(remote: Remote, hosts: Mapping[str, str]) -> tuple[dict[str, str], list[Finding]]:
    answers = probe.probe(remote, list(hosts.values())) if hosts else {}
    needed, findings = {}, []
    for node, host in hosts.items():
        answer = answers[host]
        # One that does not answer stays in, for the preflight to name.
        if not isinstance(answer, HostState) or answer.reboot_required:
            needed[node] = host
    if len(needed) < len(hosts):
        well = len(hosts) - len(needed)
        findings.append(note(f"{well} of {count(hosts, 'host')} {verb(well, 'does', 'do')} not ask for a reboot."))
    return needed, findings
