"""Rolling maintenance of nodes: the steps and stages that all of it has, the view of the cluster, and the way back.

A maintenance is a few stages. *Prepare* marks the nodes that are still to be done with a soft taint, so that evicted
pods rather go where they can stay. *Nodes* takes each node through its steps. Two more remove what is left of the
run: its taints, and its silences except those of held nodes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fleet.adapters.k8s import nodes
from fleet.adapters.k8s.lock import ClusterLock
from fleet.adapters.k8s.nodes import Node
from fleet.engine.model import (
    Absent,
    Accepted,
    Limits,
    Observation,
    Retry,
    Stage,
    Status,
    StepSpec,
    Unit,
    UnitState,
    Verdict,
    When,
    done,
)
from fleet.engine.protocols import Effects
from fleet.errors import FleetError
from fleet.procedures import bgp, gates, steps
from fleet.procedures.cluster import Cluster
from fleet.procedures.drain import Drain
from fleet.procedures.maintenance import ABORT, Step, effects_of, proof_of, specs
from fleet.procedures.once import Once, Settled
from fleet.procedures.traces import EndSilences, Known, TaintPending, Untaint

NODES = "nodes"
"""The stage in which the nodes are done; its states in the journal are the run's substance."""
ABORT_NODES = f"{ABORT}nodes"
"""The stage in which nodes in flight are given back."""

_FAST = 0.2  # seconds between looks at what a watch keeps current
_SLOW = 1.0  # seconds between looks that ask a host or a service
_ABORT_DEADLINE = 60.0  # seconds: who aborts wants the nodes back now, or to know why not
_API_DEADLINE = 120.0  # seconds for one change at the API or at Alertmanager, outages of them included


def group_of(node: Node) -> str:
    """Return a node's taint group: the taints that keep pods off it, other than those that tell its condition."""
    taints = (
        f"{taint.key}={taint.value}:{taint.effect}"
        for taint in node.taints
        if taint.effect in ("NoSchedule", "NoExecute") and not taint.key.startswith("node.kubernetes.io/")
    )
    return ",".join(sorted(taints))


def unit_of(node: Node, domain_label: str) -> Unit:
    """Return a node as the engine sees it."""
    return Unit(node.name, node.labels.get(domain_label, ""), group_of(node))


def absent(all_nodes: Mapping[str, Node], domain_label: str) -> dict[str, Absent]:
    """Return the nodes that are unavailable, for whatever reason."""
    gone = {}
    for node in all_nodes.values():
        if node.ready and not node.unschedulable:
            continue
        unit = unit_of(node, domain_label)
        owner = nodes.ownership(node)
        # What a run keeps cordoned is under maintenance, as what this one holds is: it occupies its domain.
        kept = owner is not None and not owner.given_up
        why = "NotReady" if not node.ready else f"kept by run {owner.run}" if owner and kept else "cordoned"
        gone[node.name] = Absent(unit.domain, unit.group, not node.ready or kept, why)
    return gone


@dataclass(frozen=True, slots=True)
class NodeProcedure:
    """A kind of maintenance of nodes.

    Attributes:
        name: the cookbook's full name, such as ``sre.k8s.reboot-nodes``.
        steps: returns the steps of a node on a cluster; what they depend on beside the configuration stands in the
            run's options.
        act: makes the one among them that happens at most once.
    """

    name: str
    steps: Callable[[Cluster], Sequence[Step]]
    act: Callable[[Cluster], Once]


def closing_steps(cluster: Cluster, *, drained: bool = True) -> tuple[Step, ...]:
    """Return the steps with which a node is taken out of service.

    Args:
        cluster: the cluster.
        drained: whether its pods have to leave.
    """
    deadlines = cluster.config.deadlines
    drain = Step(StepSpec("drain", deadlines.drain, poll=_FAST, batch=False, releases=True), Drain(cluster))
    baseline, routes = (
        StepSpec(name, deadlines.bgp, joint=True, gate=True, acceptable=True) for name in ("bgp baseline", "bgp routes")
    )
    has_routers = cluster.config.bgp is not None
    wanted = cluster.config.gates
    pods = StepSpec("baseline", _API_DEADLINE, poll=_SLOW, gate=True)
    workloads = wanted.workloads and drained
    return (
        *((Step(baseline, bgp.Baseline(cluster, graceful=not drained)),) if has_routers else ()),
        *((Step(pods, gates.Baseline(cluster, workloads=workloads)),) if wanted.daemons or workloads else ()),
        Step(StepSpec("silence", _API_DEADLINE, poll=_SLOW), steps.SilenceNode(cluster)),
        Step(StepSpec("cordon", _API_DEADLINE, poll=_FAST, closes=True), steps.Cordon(cluster)),
        *((drain,) if drained else ()),
        *((Step(routes, bgp.Routes(cluster)),) if drained and has_routers else ()),
    )


def bgp_steps(cluster: Cluster) -> tuple[Step, ...]:
    """Return the gate at the routers, where the configuration has some."""
    spec = StepSpec("bgp", cluster.config.deadlines.bgp, joint=True, gate=True, acceptable=True)
    return (Step(spec, bgp.Proven(cluster)),) if cluster.config.bgp else ()


def ready_step(cluster: Cluster) -> Step:
    """Return the gate that waits for Kubernetes to see a node Ready."""
    spec = StepSpec("ready", cluster.config.deadlines.ready, poll=_FAST, gate=True, acceptable=True)
    return Step(spec, steps.Ready(cluster))


def volumes_step(cluster: Cluster) -> tuple[Step, ...]:
    """Return the gate that waits for a drained node's volumes, where it is wanted."""
    spec = StepSpec("volumes", cluster.config.deadlines.volumes, poll=_SLOW, gate=True, releases=True, acceptable=True)
    return (Step(spec, gates.VolumesDetached(cluster)),) if cluster.config.gates.volumes else ()


def daemons_step(cluster: Cluster) -> tuple[Step, ...]:
    """Return the gate that waits for the pods that stay on a node, where it is wanted."""
    spec = StepSpec("daemons", cluster.config.deadlines.daemons, poll=_SLOW, gate=True, acceptable=True)
    return (Step(spec, gates.DaemonsReady(cluster)),) if cluster.config.gates.daemons else ()


def workloads_step(cluster: Cluster) -> tuple[Step, ...]:
    """Return the gate that waits for the workloads whose pods had to leave, where it is wanted."""
    spec = StepSpec(
        "workloads", cluster.config.deadlines.workloads, poll=_SLOW, joint=True, gate=True, acceptable=True, bars=True
    )
    return (Step(spec, gates.WorkloadsBack(cluster)),) if cluster.config.gates.workloads else ()


def giving_steps(cluster: Cluster) -> tuple[Step, ...]:
    """Return the steps with which a node is given back."""
    return (
        Step(StepSpec("uncordon", _API_DEADLINE, poll=_FAST, gives_back=True), steps.Uncordon(cluster)),
        Step(StepSpec("unsilence", _API_DEADLINE, poll=_FAST, gives_back=True), steps.Unsilence(cluster)),
    )


def alerts_step(cluster: Cluster) -> Step:
    """Return the gate that waits for a node's alerts to clear."""
    spec = StepSpec("alerts", cluster.config.deadlines.alerts, poll=_SLOW, gate=True, acceptable=True)
    return Step(spec, steps.Alerts(cluster))


class NodeMaintenance:
    """Takes nodes through steps, under limits.

    Args:
        cluster: the cluster.
        units: the nodes, in their order.
        node_steps: what each goes through.
        limits: how many at once.
        lock: the cluster's lock.
        known: the states of the nodes in the journal.
    """

    def __init__(
        self,
        cluster: Cluster,
        units: Sequence[Unit],
        node_steps: Sequence[Step],
        limits: Limits,
        lock: ClusterLock,
        known: Known,
    ) -> None:
        self._cluster = cluster
        self._lock = lock
        taint = Step(StepSpec("taint", _API_DEADLINE), TaintPending(cluster, [unit.name for unit in units], known))
        ending = _ending(cluster, known)
        self._steps = {"prepare": [taint], NODES: list(node_steps), **ending}
        renew = cluster.config.alerts.silence / 3
        self.stages = (
            Stage("prepare", (Unit("prepare"),), specs(self._steps["prepare"]), when=When.START),
            Stage(NODES, tuple(units), specs(node_steps), limits, renew=renew, retry=_retry(cluster)),
            *_stages(ending),
        )

    def effects(self, stage: str, step: str) -> Effects:
        """Return what a step does."""
        return effects_of(self._steps[stage], step)

    def observe(self) -> Observation:
        """Say which nodes are unavailable, and whether the run may start anything new."""
        blocked = self._lock.problem()
        try:
            self._cluster.check_current()
        except FleetError as error:
            blocked = blocked or str(error)
        gone = absent(self._cluster.nodes.snapshot(), self._cluster.config.domain_label)
        return Observation(gone, blocked, hopeless=self._lock.lost)

    def renew(self, stage: str, units: Sequence[UnitState]) -> Mapping[str, Verdict]:  # noqa: ARG002
        """Extend the silences of nodes in flight."""
        return steps.extend(self._cluster, units, self._cluster.config.alerts.silence)


class Abort:
    """Gives back the nodes that a run had in flight, as they were before; each only when it is proven to be well.

    Args:
        act: what happens at most once in the run.
        states: the nodes that were in flight or held.
        ordered: those among them for which the act was ordered and is not proven.
        known: the states of the nodes in the journal's stage of their abort, and of those that were given up.
        accepted: the proofs that operators have accepted, by node and step.
    """

    def __init__(
        self,
        act: Once,
        states: Sequence[UnitState],
        ordered: frozenset[str],
        known: Known,
        accepted: Mapping[str, Mapping[str, Accepted]],
    ) -> None:
        cluster = act.cluster
        proofs = (ready_step(cluster), *bgp_steps(cluster), *daemons_step(cluster))
        patience = _ABORT_DEADLINE + (cluster.config.bgp.stable if cluster.config.bgp else 0.0)
        settled = Settled(act, ordered)

        def is_closed(state: UnitState) -> bool:
            cluster.check_current()
            return steps.is_closed(cluster, state.unit.name)

        give_back = [
            Step(StepSpec("settle", Settled.GRACE + 5.0, gate=True), settled),
            *(proof_of(step, is_closed, patience) for step in proofs),
            *giving_steps(cluster),
        ]
        ending = _ending(cluster, known)
        self._steps = {ABORT_NODES: give_back, **ending}
        facts = {state.unit.name: state.facts for state in states}
        units = tuple(state.unit for state in states)
        self.stages = (
            Stage(ABORT_NODES, units, specs(give_back), when=When.START, facts=facts, accepted=accepted),
            *_stages(ending),
        )

    def effects(self, stage: str, step: str) -> Effects:
        """Return what a step does."""
        return effects_of(self._steps[stage], step)

    def observe(self) -> Observation:
        """Say that nothing is in the way: giving nodes back needs no room."""
        return Observation()

    def renew(self, stage: str, units: Sequence[UnitState]) -> Mapping[str, Verdict]:  # noqa: ARG002
        """Renew nothing: an abort takes a minute."""
        return {state.unit.name: done() for state in units}


def _retry(cluster: Cluster) -> Retry | None:
    """Return how nodes are tried again whose drain failed."""
    config = cluster.config
    if config.drain.failed == "hold":
        return None
    return Retry(config.limits.attempts, config.drain.retry, keeps=frozenset({"evicted", "alerts_before", bgp.DOWN}))


def _ending(cluster: Cluster, known: Known) -> dict[str, list[Step]]:
    """Return the stages that end a session, each on its own: one that fails does not keep the other from its work."""

    def is_held(state: UnitState) -> bool:
        return state.status is Status.HELD and steps.is_closed(cluster, state.unit.name)

    return {
        "untaint": [Step(StepSpec("untaint", _API_DEADLINE), Untaint(cluster))],
        "end silences": [Step(StepSpec("end silences", _API_DEADLINE), EndSilences(cluster, known, is_held))],
    }


def _stages(ending: Mapping[str, Sequence[Step]]) -> list[Stage]:
    return [Stage(name, (Unit(name),), specs(own), when=When.END) for name, own in ending.items()]
