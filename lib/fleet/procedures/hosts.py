"""Rolling maintenance of hosts, one at a time: which hosts, the plan for them, and the stage that all share.

Each host is taken out of service only while all others can do without it. What a run takes away from a host (alerts,
Puppet, connections) stands in the journal before it is taken, and only that is given back.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fleet.engine import plan
from fleet.engine.declaration import Act, Bracket, Stage, Step, Verdicts
from fleet.engine.findings import Finding
from fleet.engine.model import Limits, Status, Target, TargetState, Verdict, done, pending
from fleet.errors import FleetError
from fleet.procedures import preflight
from fleet.procedures.procedure import ClusterProcedure, Proposal
from fleet.steps import brackets
from fleet.steps.alerts import Alerts
from fleet.steps.base import NodeStep, each
from fleet.steps.cluster import Cluster
from fleet.steps.look import Look
from fleet.steps.units import Active, Guard

ABORT_PATIENCE = 120.0
"""Seconds for each proof that a host is well, in an abort."""


class OthersHealthy(NodeStep):
    """All other hosts are well, so that they can do without this one."""

    name = "others"
    deadline = "blocked"
    gate = True

    def __init__(self, cluster: Cluster, guard: Guard) -> None:
        """Ask a guard."""
        super().__init__(cluster)
        self._guard = guard

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask the guard now."""

        def judge(state: TargetState) -> Verdict:
            problem = self._guard(self.cluster.hosts[state.target.name])
            return pending(problem) if problem else done()

        return each(targets, judge)


def stage_of(
    cluster: Cluster,
    key: str,
    order: Callable[[], Sequence[str]],
    *,
    guard: Guard,
    unit: str,
    act: Act,
    closing: Sequence[Bracket | Step] = (),
    proofs: Sequence[Bracket | Step],
    abort_proofs: Sequence[Step],
) -> Stage:
    """Return what all hosts go through, with what is peculiar to a procedure.

    Args:
        cluster: the cluster.
        key: the stage's name.
        order: returns the hosts in their order; it is asked when the stage's turn has come.
        guard: says why a host must not be taken out of service now.
        unit: the unit of systemd that is restarted.
        act: the restart.
        closing: what is taken away beside alerts and Puppet, and gates between.
        proofs: what has to be true again once the unit is active; the alerts come last.
        abort_proofs: what an abort asks of hosts that were, or may have been, restarted, once the unit is active.
    """
    active = Active(cluster, unit)
    return Stage(
        key,
        targets=lambda: [Target(name) for name in order()],
        before=[OthersHealthy(cluster, guard)],
        holding=[
            brackets.silenced(cluster, needs=lambda state: "silence" in state.facts),
            *brackets.puppet_off(cluster),
            *closing,
        ],
        act=act,
        proofs=[active, *proofs, Alerts(cluster)],
        limits=Limits(blocked=cluster.config.deadlines.blocked),
        renew=cluster.config.alerts.silence / 3,
        abort_proofs=[active, *abort_proofs],
        patience=ABORT_PATIENCE,
        concerns=act.touched,
        in_flight=has_begun,
    )


def has_begun(state: TargetState) -> bool:
    """Return whether a host that was sent back to waiting has something that is to be given back."""
    return state.status is Status.PENDING and bool(state.facts)


def left_on_host(state: TargetState) -> Sequence[str]:
    """Return what is left on a host, by what the run remembers of it."""
    left = {
        "puppet_off": "Puppet disabled (enable-puppet with its reason)",
        "pooled_at": "perhaps out of the load balancer",
        "silence": "its silence, which expires by itself",
    }
    return [what for fact, what in left.items() if state.facts.get(fact)]


class HostProcedure(ClusterProcedure):
    """Base of the procedures that take hosts out of service one at a time.

    Args:
        query: a Cumin query for the hosts of a new run; None for all that there are.
    """

    promise: str
    """What the plan says of what may be out of service at once."""

    def __init__(self, query: str | None = None) -> None:
        self._query = query

    @abstractmethod
    def all_hosts(self, cluster: Cluster) -> list[str]:
        """Return all hosts of the kind, those that a run leaves alone included."""

    @abstractmethod
    def checks(self, cluster: Cluster) -> Sequence[Callable[[], list[Finding]]]:
        """Return what the preflight looks at, beside what it looks at for all hosts."""

    def options(self, cluster: Cluster) -> dict[str, Any]:
        """Return the options of a new run, checked.

        Raises:
            FleetError: what was asked for is impossible.
        """
        return dict(cluster.run.options)

    def propose(self, cluster: Cluster, state_dir: Path) -> Proposal:
        """Find the hosts, and what stands in the way of their maintenance."""
        everyone = self.all_hosts(cluster)
        chosen = everyone if self._query is None else cluster.remote.query(self._query)
        if strange := sorted(set(chosen) - set(everyone)):
            raise FleetError(
                f"--hosts gives {', '.join(strange)}, which the configuration does not have: it has"
                f" {', '.join(everyone)}."
            )
        hosts = {host: host for host in chosen}
        options = {**self.options(cluster), "hosts": hosts}
        cluster = replace(cluster, hosts=hosts, run=replace(cluster.run, options=options))
        stages = self.stages(cluster)
        findings = self._examine(cluster, stages, state_dir)
        orders = {stage.key: [unit.name for unit in stage.targets()] for stage in stages}
        shown = plan.HostPlan(
            title=plan.title(cluster.run),
            stages=[(stage.key, orders[stage.key], [step.spec.name for step in stage.steps]) for stage in stages],
            promise=self.promise,
            findings=preflight.worst_first(findings),
            seconds=_seconds(state_dir, cluster, orders),
        )
        return Proposal(
            cluster, shown, {name: [TargetState(Target(u)) for u in order] for name, order in orders.items()}
        )

    def left_on(self, cluster: Cluster, state: TargetState) -> Sequence[str]:
        """Return what is left on a host, by what the run remembers of it."""
        if state.target.name not in cluster.hosts:
            raise FleetError(
                f"{state.target.name} is no host: what is done there is needed by all that comes after it."
            )
        return left_on_host(state)

    def _examine(self, cluster: Cluster, stages: Sequence[Stage], state_dir: Path) -> list[Finding]:
        look = Look(cluster)
        checks = [
            lambda: preflight.of_api(cluster.api, len(cluster.nodes.snapshot())),
            lambda: preflight.of_clock(cluster.api),
            lambda: preflight.of_runs(cluster, state_dir),
            lambda: preflight.of_held(cluster, state_dir),
            lambda: preflight.of_ssh(look.hosts()),
            lambda: preflight.of_alerts(cluster),
            *self.checks(cluster),
        ]
        steps = [step for stage in stages for step in stage.steps]
        return list(preflight.with_steps(checks, steps, look).findings)


def _seconds(state_dir: Path, cluster: Cluster, orders: Mapping[str, Sequence[str]]) -> float | None:
    """Return how long all stages took in earlier runs together; None if one of them is new."""
    total = 0.0
    for stage, order in orders.items():
        seconds = plan.target_seconds(state_dir, cluster.run.procedure, cluster.name, stage)
        if seconds is None:
            return None
        total += seconds * len(order)
    return total
