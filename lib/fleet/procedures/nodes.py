"""Rolling maintenance of nodes: which nodes an operator asks for, the plan for them, and the stage that all share.

Nodes that are still to be done have a soft taint, so that evicted pods rather go where they can stay. Each node is
silenced, cordoned and drained; and given back once it is proven to be well.
"""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ClusterShell.NodeSet import NodeSet, NodeSetException

from fleet.adapters.hosts import probe
from fleet.adapters.hosts.probe import HostState
from fleet.adapters.k8s import nodes
from fleet.adapters.k8s.client import ApiError
from fleet.adapters.k8s.nodes import ownership
from fleet.engine import plan, planner
from fleet.engine.declaration import Act, Bracket, Stage, Step
from fleet.engine.findings import Finding, Level, note
from fleet.engine.model import Limits, Observation, Retry, TargetState
from fleet.engine.protocols import Lock
from fleet.errors import FleetError
from fleet.execution import Runner
from fleet.names import known_as
from fleet.procedures import inventory, preflight
from fleet.procedures.availability import NODES, absent, unit_of
from fleet.procedures.procedure import ClusterProcedure, Nothing, Proposal
from fleet.steps import bgp, brackets, gates
from fleet.steps.alerts import Alerts
from fleet.steps.base import HostStep
from fleet.steps.cluster import Cluster
from fleet.steps.cordon import is_closed
from fleet.steps.ready import Ready
from fleet.steps.silences import silences_of
from fleet.text import count, verb

_ABORT_DEADLINE = 60.0
"""Seconds: who aborts wants the nodes back now, or to know why not."""


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


class NodeProcedure(ClusterProcedure):
    """Base of the procedures that take nodes out of service, a few at a time.

    Args:
        selection: which nodes a new run is about.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection

    @abstractmethod
    def stage(self, cluster: Cluster) -> Stage:
        """Return what each node goes through; see :func:`stage_of`."""

    def stages(self, cluster: Cluster) -> Sequence[Stage]:
        """Return the one stage, with the run's limits; its nodes stand in the journal."""
        return [replace(self.stage(cluster), limits=Limits(**cluster.run.options.get("limits", {})))]

    def observe(self, cluster: Cluster, lock: Lock) -> Observation:
        """Return which nodes are unavailable, and whether the run may start anything new."""
        blocked = lock.problem()
        try:
            cluster.check_current()
        except FleetError as error:
            blocked = blocked or str(error)
        gone = absent(cluster.nodes.snapshot(), cluster.config.domain_label)
        return Observation(gone, blocked, permanent=lock.lost)

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

    def left_on(self, cluster: Cluster, state: TargetState) -> Sequence[str]:
        """Note on a node that it is given up, and return what is left on it."""
        name = state.target.name
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

    def _plan(self, cluster: Cluster, limits: Limits, findings: Sequence[Finding], state_dir: Path) -> Proposal:
        known = cluster.nodes.snapshot()
        label = cluster.config.domain_label
        degraded = {node.labels.get(label, "") for node in known.values() if not node.ready}
        units = planner.order((unit_of(known[name], label) for name in cluster.hosts), first=degraded)
        steps = self.stage(cluster).steps
        found = preflight.examine(cluster, units, limits, state_dir, steps)
        shown = plan.RollingPlan(
            title=plan.title(cluster.run),
            targets=units,
            rounds=[("node", [step.spec.name for step in steps])],
            limits=limits,
            columns=found.columns,
            findings=preflight.worst_first([*findings, *found.findings]),
            target_seconds=plan.target_seconds(state_dir, self.name, cluster.name, NODES),
        )
        states = [TargetState(unit, facts=found.facts.get(unit.name, {})) for unit in units]
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


def stage_of(
    cluster: Cluster,
    *,
    drains: bool = True,
    empty: Sequence[HostStep] = (),
    act: Act,
    proofs: Sequence[HostStep],
) -> Stage:
    """Return what all nodes go through, with what is peculiar to a procedure.

    Args:
        cluster: the cluster.
        drains: whether pods have to leave.
        empty: gates that a drained node has to pass before the act.
        act: what happens at most once to each node.
        proofs: what has to be true again before pods may come back, in this order; the alerts come last.
    """
    config = cluster.config
    before = (bgp.Baseline(cluster, graceful=not drains), gates.Baseline(cluster, workloads=drains))
    leaving: list[Bracket | Step] = [brackets.drained(cluster), *_wanted((bgp.Routes(cluster), *empty))]
    after = (gates.WorkloadsBack(cluster),)
    return Stage(
        NODES,
        targets=list,
        before=_wanted(before),
        holding=[
            brackets.silenced(cluster, needs=lambda state: is_closed(cluster, state.target.name)),
            brackets.preferring_others(cluster),
            brackets.cordoned(cluster),
            *(leaving if drains else ()),
        ],
        act=act,
        proofs=[*_wanted(proofs), Alerts(cluster)],
        after=_wanted(after) if drains else (),
        retry=_retry(cluster),
        renew=config.alerts.silence / 3,
        abort_proofs=_wanted((Ready(cluster), bgp.Proven(cluster), gates.DaemonsReady(cluster))),
        patience=_ABORT_DEADLINE + (config.bgp.stable if config.bgp else 0.0),
        concerns=lambda state: _is_closed_now(cluster, state),
        in_flight=lambda state: _is_ours(cluster, state),
    )


def _wanted(those: Sequence[HostStep]) -> list[Step]:
    """Return the steps that the configuration wants."""
    return [step for step in those if step.wanted]


def _is_closed_now(cluster: Cluster, state: TargetState) -> bool:
    cluster.check_current()
    return is_closed(cluster, state.target.name)


def _is_ours(cluster: Cluster, state: TargetState) -> bool:
    """Return whether it stands on a node that this run has it."""
    node = cluster.nodes.snapshot().get(state.target.name)
    owner = ownership(node) if node else None
    return owner is not None and owner.run == cluster.run.id


def _retry(cluster: Cluster) -> Retry | None:
    """Return how nodes are tried again whose drain failed."""
    config = cluster.config
    if config.drain.failed == "hold":
        return None
    return Retry(config.limits.attempts, config.drain.retry, keeps=frozenset({"evicted", "alerts_before", bgp.DOWN}))


def _nodeset(text: str) -> list[str]:
    try:
        return list(NodeSet(text))
    except NodeSetException as error:
        raise FleetError(f"--exclude {text!r} is no list of hosts: {error}; write worker1,worker[3-5].") from error


def _reboot_required(remote: Runner, hosts: Mapping[str, str]) -> tuple[dict[str, str], list[Finding]]:
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
