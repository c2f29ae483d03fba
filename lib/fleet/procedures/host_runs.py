"""Runs over hosts: which hosts an operator asks for, the plan for them, the work and the way back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from fleet.adapters.k8s import rights
from fleet.adapters.k8s.lock import ClusterLock
from fleet.engine import advance, journal
from fleet.engine.journal import Journal
from fleet.engine.model import Stage, Unit, UnitState
from fleet.engine.protocols import Procedure
from fleet.errors import FleetError
from fleet.procedures import plan, preflight
from fleet.procedures.cluster import Cluster
from fleet.procedures.findings import Finding
from fleet.procedures.hosts import GiveBack, Work
from fleet.procedures.maintenance import OverApi, Proposal, Step, Steps, specs


class HostRuns(OverApi, ABC):
    """Base of the kinds of maintenance that take hosts out of service one at a time.

    Args:
        query: a Cumin query for the hosts of a new run; None for all that there are.
    """

    name: ClassVar[str]
    """The cookbook's full name."""
    keeps: ClassVar[Collection[str]] = ("depool", "pool", "puppet on")
    """The steps that a run needs to its end: they give back what it may have taken."""
    promise: ClassVar[str]
    """What the plan says of what may be out of service at once."""

    def __init__(self, query: str | None = None) -> None:
        self._query = query

    @abstractmethod
    def all_hosts(self, cluster: Cluster) -> list[str]:
        """Return all hosts of the kind, those that a run leaves alone included."""

    @abstractmethod
    def works(self, cluster: Cluster) -> Sequence[Work]:
        """Return the stages of a run, by the run's options."""

    @abstractmethod
    def checks(self, cluster: Cluster) -> Sequence[Callable[[], list[Finding]]]:
        """Return what the preflight looks at, beside what it looks at for all hosts."""

    @abstractmethod
    def work(self, cluster: Cluster, book: Journal, lock: ClusterLock) -> AbstractContextManager[Procedure]:
        """Yield what a session carries out."""

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
        works = self.works(cluster)
        findings = self._examine(cluster, works, state_dir)
        orders = {work.name: list(work.order()) for work in works}
        shown = plan.HostPlan(
            title=plan.title(cluster.run),
            stages=[(work.name, orders[work.name], [step.spec.name for step in work.steps]) for work in works],
            promise=self.promise,
            findings=preflight.worst_first(findings),
            seconds=_seconds(state_dir, cluster, orders),
        )
        return Proposal(cluster, shown, {name: [UnitState(Unit(u)) for u in order] for name, order in orders.items()})

    def steps(self, cluster: Cluster) -> Steps:
        """Return the steps of each stage."""
        return {work.name: work.steps for work in self.works(cluster)}

    def left_on(self, cluster: Cluster, state: UnitState) -> Sequence[str]:
        """Return what is left on a host, by what the run remembers of it."""
        if state.unit.name not in cluster.hosts:
            raise FleetError(f"{state.unit.name} is no host: what is done there is needed by all that comes after it.")
        left = {
            "puppet_off": "Puppet disabled (enable-puppet with its reason)",
            "pooled_at": "perhaps out of the load balancer",
            "silence": "its silence, which expires by itself",
        }
        return [what for fact, what in left.items() if state.facts.get(fact)]

    def give_back(self, cluster: Cluster, book: Journal) -> Procedure:
        """Return what gives back the hosts that are in flight or held."""

        def ordered(work: Work) -> frozenset[str]:
            stage = Stage(work.name, (), specs(work.steps))
            return frozenset(
                name
                for name, state in book.states(work.name).items()
                if advance.awaits_pivot(stage, state) and state.facts.get("ordered", True)
            )

        states = partial(journal.read_states, book.folder)
        return GiveBack(cluster, self.works(cluster), states, ordered, self.tidying(cluster))

    def tidying(self, cluster: Cluster) -> Sequence[Step]:  # noqa: ARG002
        """Return what else is to be done when a run is aborted, each step a stage of its own."""
        return ()

    def _examine(self, cluster: Cluster, works: Sequence[Work], state_dir: Path) -> list[Finding]:
        names = {step.spec.name for work in works for step in work.steps}
        checks = [
            lambda: preflight.of_api(cluster.api, len(cluster.nodes.snapshot())),
            lambda: preflight.of_clock(cluster.api),
            lambda: preflight.of_runs(cluster, state_dir),
            lambda: preflight.of_held(cluster, state_dir),
            lambda: preflight.of_ssh(cluster, needs_puppet="puppet off" in names),
            lambda: preflight.of_alerts(cluster),
            lambda: preflight.of_rights(cluster, (*rights.of_lease(cluster.config.lease), *rights.FOLLOW_NODES)),
            *self.checks(cluster),
        ]
        return preflight.carry_out(checks, cluster.cancel, cluster.threads)


def _seconds(state_dir: Path, cluster: Cluster, orders: Mapping[str, Sequence[str]]) -> float | None:
    """Return how long all stages took in earlier runs together; None if one of them is new."""
    total = 0.0
    for stage, order in orders.items():
        seconds = plan.unit_seconds(state_dir, cluster.run.procedure, cluster.name, stage)
        if seconds is None:
            return None
        total += seconds * len(order)
    return total
