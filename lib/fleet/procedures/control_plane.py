"""Rolling restarts of the control plane: its steps beside those that all maintenance of hosts has.

A host's kube-apiserver is restarted when nobody needs it: out of the load balancer, its connections ended as far as
they do. Of kube-controller-manager and kube-scheduler the standbys go first. No host is touched before all others are
well.
"""

import logging
from collections.abc import Sequence
from functools import partial

from fleet.adapters.hosts import services
from fleet.adapters.hosts.services import ServiceState
from fleet.adapters.k8s import leader, watchdog
from fleet.adapters.k8s.leader import Election
from fleet.engine.declaration import Bracket, Stage, Step, Tell, Verdicts
from fleet.engine.model import Phase, UnitState, Verdict, done, pending
from fleet.engine.planner import natural
from fleet.errors import FleetError
from fleet.procedures import hosts
from fleet.procedures.balancing import Connections
from fleet.procedures.brackets import depooled
from fleet.procedures.plane import API, LED, ControlPlane, PlaneStep, of_health
from fleet.procedures.steps import POLL, NodeStep, each, each_host
from fleet.procedures.units import Guard, RestartUnit

logger = logging.getLogger(__name__)


class Serving(PlaneStep):
    """The host's own kube-apiserver is ready, asked on its own address."""

    name = "ready"
    deadline = "ready"
    poll = POLL
    gate = True

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Ask /readyz."""
        found = self._plane.apiservers.examine(self.hosts(units))

        def judge(state: UnitState) -> Verdict:
            host = self.cluster.hosts[state.unit.name]
            problem = of_health(host, found[host])
            return pending(problem) if problem else done()

        return each(units, judge)


class Calm(PlaneStep):
    """For a while all apiservers have been well and used, and no request has failed."""

    name = "settle"
    deadline = "ready"
    poll = POLL
    gate = True

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Look at everything; whatever is wrong makes the while begin anew."""
        # Those that the run found out of the load balancer stay so.
        left_out = {self.cluster.hosts[s.unit.name] for s in units if not s.facts.get("pooled_at")}
        try:
            problems = list(filter(None, self._plane.ailing(API, self._plane.hosts, left_out).values()))
        except FleetError as error:
            problems = [str(error)]
        settle = self.cluster.config.control_plane.settle
        now = self.cluster.clock.monotonic()

        def judge(state: UnitState) -> Verdict:
            if problems:
                return pending("; ".join(problems), calm_since=now)
            # What an earlier session has seen proves nothing now.
            begun = now if state.phase is Phase.CHECK else float(state.facts.get("calm_since", now))
            since = min(begun, now)
            calm = now - since
            if self._plane.watchdog:
                calm = min(calm, self._plane.watchdog.clean_for())
            return done() if calm >= settle else pending(f"for {settle - calm:.0f} s more", calm_since=since)

        return each(units, judge)


class Elected(PlaneStep):
    """The component runs on without ending, and has a leader that renews its Lease."""

    name = "leader"
    deadline = "ready"
    gate = True

    STEADY = 5.0
    """Seconds since its start: a wrong flag or certificate ends a component earlier, and systemd starts it again."""

    def __init__(self, plane: ControlPlane, component: str) -> None:
        """Look at a component and its Lease."""
        super().__init__(plane)
        self._component = component

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Read the Lease, and compare with the last reading; what was restarted need not be what leads."""
        seen = leader.read(self.cluster.api, self._component)
        unit = self._plane.unit(self._component)

        def judge(state: UnitState, service: ServiceState) -> Verdict:
            # What an earlier session has seen proves nothing now.
            before = None if state.phase is Phase.CHECK else state.facts.get("election")
            found = leader.judge(seen, before, self.cluster.clock.monotonic())
            facts = dict(found.facts)
            if found.election is not Election.SETTLED:
                return pending(found.detail, election=facts)
            if not service.up or service.age < self.STEADY:
                told = service.trouble() or "is active"
                return pending(f"{unit} {told}, started {service.age:.0f} s ago", election=facts)
            return done(found.detail, election=facts)

        return each_host(self.cluster, units, services.state(self.cluster.remote, self.hosts(units), unit), judge)


class Checked(PlaneStep):
    """The configured check of the component succeeds on the host."""

    name = "ready"
    deadline = "ready"
    poll = POLL
    gate = True

    def __init__(self, plane: ControlPlane, check: str) -> None:
        """Run a command of the configuration."""
        super().__init__(plane)
        self._check = check

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Run it on all hosts at once."""
        problems = self._plane.run_check(self.hosts(units), self._check)

        def judge(state: UnitState) -> Verdict:
            problem = problems[self.cluster.hosts[state.unit.name]]
            return pending(problem) if problem else done()

        return each(units, judge)


class Forget(NodeStep):
    """The watchdog of this run has left nothing in the cluster, though the run may have been killed."""

    name = "forget watchdog"

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Look for its ConfigMap."""
        left = watchdog.left_behind(self.cluster.api, self.cluster.config.lease.namespace, self.cluster.run.id)
        return {s.unit.name: pending("its ConfigMap is there", uid=left) if left else done() for s in units}

    def apply(self, units: Sequence[UnitState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Remove it."""

        def remove(state: UnitState) -> Verdict:
            watchdog.remove(self.cluster.api, self.cluster.config.lease.namespace, state.facts["uid"])
            return done()

        return each(units, remove)


def stages(plane: ControlPlane, components: Sequence[str]) -> list[Stage]:
    """Return the stages of a run: one for each component."""
    return [_stage(plane, component) for component in components]


def _stage(plane: ControlPlane, component: str) -> Stage:
    cluster, unit = plane.cluster, plane.unit(component)
    guard: Guard = partial(plane.problem, component)
    closing: list[Bracket | Step] = []
    proof, opening = _proof(plane, component), []
    # The only host serves to the last: out of the load balancer nobody, the run included, could reach the API.
    if component == API and plane.balancer and len(plane.hosts) > 1:
        opening = [depooled(plane, plane.balancer)]
        closing = [*opening, Connections(plane, plane.balancer)]
    last = plane.closed_problem if closing else guard
    return hosts.stage_of(
        cluster,
        component,
        partial(_order, plane, component),
        guard=guard,
        unit=unit,
        act=RestartUnit(cluster, unit, last, patient=not closing),
        closing=closing,
        proofs=[proof, *opening, *([Calm(plane)] if component == API else [])],
        abort_proofs=[proof],
    )


def _proof(plane: ControlPlane, component: str) -> Step:
    """Return what proves that a component is well again."""
    if component in LED:
        return Elected(plane, component)
    check = plane.component(component).check
    return Checked(plane, check) if check else Serving(plane)


def _order(plane: ControlPlane, component: str) -> list[str]:
    """Return the hosts of a run in their order: by name, the one that leads last."""
    ours = sorted(plane.cluster.hosts, key=natural)
    if component not in LED:
        return ours
    try:
        seen = leader.read(plane.cluster.api, component)
    except FleetError as error:
        logger.warning("It is not known who leads %s, so it is restarted in the order of names: %s", component, error)
        return ours
    return sorted(ours, key=lambda host: seen is not None and leader.same_host(seen.host, host))
