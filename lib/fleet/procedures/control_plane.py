"""Rolling restarts of the control plane: its steps beside those that all maintenance of hosts has.

A host's kube-apiserver is restarted when nobody needs it: out of the load balancer, its connections ended as far as
they do. Of kube-controller-manager and kube-scheduler the standbys go first. No host is touched before all others are
well.
"""

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fleet.config import COMPONENTS, ComponentConfig
from fleet.errors import FleetError
from fleet.hosts import services
from fleet.hosts.probe import TIMEOUT, Unreachable
from fleet.hosts.services import ServiceState
from fleet.k8s import leader, watchdog
from fleet.k8s.apiserver import Apiservers, Health
from fleet.k8s.leader import Election
from fleet.k8s.watchdog import Watchdog
from fleet.load_balancer.model import LoadBalancer
from fleet.maintenance import decide
from fleet.maintenance.journal import Journal
from fleet.maintenance.model import Phase, Stage, Status, StepSpec, UnitState, Verdict, done, failed, pending
from fleet.maintenance.planner import natural
from fleet.procedures import hosts
from fleet.procedures.cluster import Cluster
from fleet.procedures.hosts import API_DEADLINE, POLL, Guard, RestartUnit, Work
from fleet.procedures.maintenance import Step, specs
from fleet.procedures.steps import NodeStep, Tell, Verdicts, each, each_host
from fleet.procedures.traces import Known

logger = logging.getLogger(__name__)

API, *LED = COMPONENTS
"""kube-apiserver, and the components of which one instance leads."""
REPOOL = "repool"
"""The stage at the end of a session in which the load balancer is told of hosts that are left."""


@dataclass(frozen=True)
class ControlPlane:
    """A control plane as a run sees it.

    Attributes:
        cluster: the cluster.
        hosts: all control-plane hosts, those that the run leaves alone included.
        apiservers: their kube-apiservers, each by its own address.
        balancer: what is before them; None where its own health checks are all there is.
        watchdog: what watches the API's address meanwhile; None while nothing is touched.
        allow_outage: whether the only host may be restarted.
    """

    cluster: Cluster
    hosts: Sequence[str]
    apiservers: Apiservers
    balancer: LoadBalancer | None
    watchdog: Watchdog | None = None
    allow_outage: bool = False

    def component(self, name: str) -> ComponentConfig:
        """Return the configuration of a component."""
        return self.cluster.config.control_plane.components.get(name, ComponentConfig())

    def unit(self, name: str) -> str:
        """Return the unit of systemd of a component."""
        return self.component(name).unit or f"{name}.service"

    def problem(self, component: str, host: str) -> str:
        """Say why a host cannot be spared: all others have to be well, and to be used by the load balancer.

        Args:
            component: what is to be restarted on it.
            host: the host.

        Raises:
            FleetError: something cannot be asked, which is no better.
        """
        others = [other for other in self.hosts if other != host]
        if others:
            return next(filter(None, self.ailing(component, others).values()), "")
        if self.allow_outage:
            return ""
        return f"{host} is the only control-plane host, and nothing serves without it: see --allow-outage"

    def closed_problem(self, host: str) -> str:
        """Say why a host that was taken out of the load balancer cannot be restarted: as above, or it is back there.

        Raises:
            FleetError: something cannot be asked.
        """
        if self.balancer and not (server := self.balancer.states([host])[host]).out:
            return f"somebody has put {host} back into the load balancer meanwhile, or it was reloaded: {server.detail}"
        return self.problem(API, host)

    def ailing(self, component: str, those: Sequence[str], left_out: Collection[str] = ()) -> dict[str, str]:
        """Return what is wrong with each of some hosts; nothing for those that are well.

        Args:
            component: whose unit is to be active there.
            those: the hosts.
            left_out: those of them that the load balancer need not use.

        Raises:
            FleetError: something cannot be asked.
        """
        found = {host: _of_health(host, health) for host, health in self.apiservers.examine(those).items()}
        unit = self.unit(component)
        for host, service in services.state(self.cluster.remote, those, unit).items():
            found[host] = found[host] or _of_service(host, unit, service)
        if self.balancer:
            for host, server in self.balancer.states(those).items():
                if not server.up and host not in left_out:
                    unused = f"{host} gets no connections from the load balancer: {server.detail}"
                    found[host] = found[host] or unused
        if check := self.component(component).check:
            for host, problem in self.run_check(those, check).items():
                found[host] = found[host] or problem
        return found

    def run_check(self, those: Sequence[str], check: str) -> dict[str, str]:
        """Run a configured check on hosts, and return what is wrong by host; nothing if all is well."""
        results = self.cluster.remote.run(those, check, timeout=TIMEOUT, safe=True)
        return {
            host: "" if result.ok else f"the check on {host} fails: {result.output.strip() or 'it says nothing'}"
            for host, result in results.items()
        }


def _of_health(host: str, health: Health | Unreachable) -> str:
    if isinstance(health, Unreachable):
        return f"kube-apiserver on {host}: {health.reason}"
    return "" if health.ready else f"kube-apiserver on {host} is not ready: {', '.join(health.failing)}"


def _of_service(host: str, unit: str, service: ServiceState | Unreachable) -> str:
    if isinstance(service, Unreachable):
        return f"{host} does not answer: {service.reason}"
    return "" if service.active == "active" else f"{unit} on {host} is {service.active}"


class _Step(NodeStep):
    """Base of the steps that look at the control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        super().__init__(plane.cluster)
        self._plane = plane


class _BalancerStep(_Step):
    """Base of the steps that are about the load balancer."""

    def __init__(self, plane: ControlPlane, balancer: LoadBalancer) -> None:
        super().__init__(plane)
        self._balancer = balancer


class Depool(_BalancerStep):
    """The host gets no new connections from the load balancer."""

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Ask the load balancer; who sends connections here is noted before it is told otherwise."""
        states = self._balancer.states(self.hosts(units))

        def judge(state: UnitState) -> Verdict:
            server = states[self.cluster.hosts[state.unit.name]]
            at = state.facts.get("pooled_at", list(server.pooled_at))
            if server.out:
                return done(server.detail, pooled_at=at)
            # It may have been out before, and be back: then connections get their time again.
            return pending(server.detail, pooled_at=at, draining_since=None)

        return each(units, judge)

    def apply(self, units: Sequence[UnitState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Tell it, if the others are still well."""

        def depool(state: UnitState) -> Verdict:
            host = self.cluster.hosts[state.unit.name]
            if problem := self._plane.problem(API, host):
                return pending(f"not now: {problem}")
            self._balancer.depool(host, state.facts["pooled_at"])
            return done()

        return each(units, depool)


class Connections(_BalancerStep):
    """No connection is open through the load balancer any more, or those that are have had their time."""

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Count connections; watches stay until the apiserver ends them itself, as it does when it is stopped.

        Others that are not well meanwhile end it: nobody may serve while this host is out.
        """
        states = self._balancer.states(self.hosts(units))
        now = time.time()

        def judge(state: UnitState) -> Verdict:
            if problem := self._plane.problem(API, self.cluster.hosts[state.unit.name]):
                return failed(f"not gone on with: {problem}")
            open_ones = states[self.cluster.hosts[state.unit.name]].connections
            since = min(float(state.facts.get("draining_since") or now), now)
            if open_ones == 0:
                return done("none is left")
            counted = "it is not known how many" if open_ones is None else str(open_ones)
            if now - since >= self.cluster.config.control_plane.load_balancer.drain:
                return done(f"left for the apiserver to end: {counted}")
            return pending(f"still open: {counted}", draining_since=since)

        return each(units, judge)


class Pool(_BalancerStep):
    """The host gets connections from the load balancer again, unless it got none before the run."""

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Ask the load balancer whether it uses the host."""
        states = self._balancer.states(self.hosts(units))

        def judge(state: UnitState) -> Verdict:
            server = states[self.cluster.hosts[state.unit.name]]
            before = set(state.facts.get("pooled_at", ()))
            if not before:
                return done("left out of the load balancer, as it was found")
            return done(server.detail) if server.up and before <= set(server.pooled_at) else pending(server.detail)

        return each(units, judge)

    def apply(self, units: Sequence[UnitState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Tell it to those that were told to depool it."""

        def pool(state: UnitState) -> Verdict:
            self._balancer.pool(self.cluster.hosts[state.unit.name], state.facts["pooled_at"])
            return done()

        return each(units, pool)


class Watched(_BalancerStep):
    """The load balancer looks after the host's health by itself, as it did before the run."""

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Look whether it was told so."""
        return {s.unit.name: done() if s.facts.get("watched") else pending("not told yet") for s in units}

    def apply(self, units: Sequence[UnitState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Tell it."""

        def watch(state: UnitState) -> Verdict:
            if state.facts.get("pooled_at"):  # Otherwise its checks are as others want them.
                self._balancer.watch_again(self.cluster.hosts[state.unit.name])
            return done(watched=True)

        return each(units, watch)


class Serving(_Step):
    """The host's own kube-apiserver is ready, asked on its own address."""

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Ask /readyz."""
        found = self._plane.apiservers.examine(self.hosts(units))

        def judge(state: UnitState) -> Verdict:
            host = self.cluster.hosts[state.unit.name]
            problem = _of_health(host, found[host])
            return pending(problem) if problem else done()

        return each(units, judge)


class Calm(_Step):
    """For a while all apiservers have been well and used, and no request has failed."""

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Look at everything; whatever is wrong makes the while begin anew."""
        # Those that the run found out of the load balancer stay so.
        left_out = {self.cluster.hosts[s.unit.name] for s in units if not s.facts.get("pooled_at")}
        try:
            problems = list(filter(None, self._plane.ailing(API, self._plane.hosts, left_out).values()))
        except FleetError as error:
            problems = [str(error)]
        settle = self.cluster.config.control_plane.settle
        now = time.time()

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


class Elected(_Step):
    """The component runs on without ending, and has a leader that renews its Lease."""

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
            found = leader.judge(seen, before, time.time())
            facts = dict(found.facts)
            if found.election is not Election.SETTLED:
                return pending(found.detail, election=facts)
            if service.active != "active" or service.age < self.STEADY:
                return pending(f"{unit} is {service.active}, started {service.age:.0f} s ago", election=facts)
            return done(found.detail, election=facts)

        return each_host(self.cluster, units, services.state(self.cluster.remote, self.hosts(units), unit), judge)


class Checked(_Step):
    """The configured check of the component succeeds on the host."""

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


def works(plane: ControlPlane, components: Sequence[str]) -> list[Work]:
    """Return the stages of a run: one for each component."""
    return [_work(plane, component) for component in components]


def _work(plane: ControlPlane, component: str) -> Work:
    cluster, unit = plane.cluster, plane.unit(component)
    deadlines = cluster.config.deadlines
    guard: Guard = partial(plane.problem, component)
    closing, proofs, opening = _around(plane, component)
    last = plane.closed_problem if closing else guard
    act = RestartUnit(cluster, unit, last, patient=not closing)
    restart = hosts.restart_steps(cluster, act, unit)
    calm = Step(StepSpec("settle", deadlines.ready, poll=POLL, gate=True), Calm(plane))
    settle = (calm,) if component == API else ()
    before, after = hosts.before_steps(cluster, guard), hosts.after_steps(cluster)
    watched = (
        [Step(StepSpec("watched", API_DEADLINE), Watched(plane, plane.balancer))] if closing and plane.balancer else []
    )
    return Work(
        name=component,
        order=partial(_order, plane, component),
        steps=(*before, *closing, *restart, *proofs, *opening, *settle, hosts.alerts_step(cluster), *after),
        act=act,
        back=(*watched, *restart[1:], *proofs, *opening, *after),
    )


def _around(plane: ControlPlane, component: str) -> tuple[tuple[Step, ...], tuple[Step, ...], tuple[Step, ...]]:
    """Return what comes before a component's restart, what proves that it is well again, and what comes after that."""
    deadlines = plane.cluster.config.deadlines
    ready = StepSpec("ready", deadlines.ready, poll=POLL, gate=True)
    if component in LED:
        return (), (Step(StepSpec("leader", deadlines.ready, gate=True), Elected(plane, component)),), ()
    if check := plane.component(component).check:
        return (), (Step(ready, Checked(plane, check)),), ()
    serving = (Step(ready, Serving(plane)),)
    balancer = plane.balancer
    # The only host serves to the last: out of the load balancer nobody, the run included, could reach the API.
    if balancer is None or len(plane.hosts) == 1:
        return (), serving, ()
    drain = plane.cluster.config.control_plane.load_balancer.drain
    closing = (
        Step(StepSpec("depool", API_DEADLINE, poll=POLL, closes=True), Depool(plane, balancer)),
        Step(StepSpec("connections", drain + API_DEADLINE, poll=POLL, gate=True), Connections(plane, balancer)),
    )
    return closing, serving, (Step(StepSpec("pool", deadlines.ready, poll=POLL), Pool(plane, balancer)),)


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


class Forget(NodeStep):
    """The watchdog of this run has left nothing in the cluster, though the run may have been killed."""

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


class Repool(_BalancerStep):
    """Of hosts that a session leaves, those not restarted are in the load balancer again; it looks after the others.

    A host that runs what it ran before must not stay out: it may be the last one that serves.
    """

    def __init__(self, plane: ControlPlane, balancer: LoadBalancer, work: Work, known: Known) -> None:
        """Look after the hosts that ``known`` has as held, or sent back to waiting, in the stage of kube-apiserver."""
        super().__init__(plane, balancer)
        self._stage = Stage(work.name, (), specs(work.steps))
        self._known = known
        self._told: set[str] = set()
        self._back: list[str] = []

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Look for hosts of which the load balancer was not told yet."""
        left = ", ".join(sorted(state.unit.name for state in self._left()))
        return {state.unit.name: pending(f"for {left}") if left else done() for state in units}

    def apply(self, units: Sequence[UnitState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Tell it; whom it got back is noted for :func:`forget_put_back`."""
        for left in self._left():
            host = self.cluster.hosts[left.unit.name]
            if self._is_as_before(left):
                self._balancer.pool(host, left.facts["pooled_at"])
                self._back.append(left.unit.name)
                logger.warning("%s was not restarted, and is back in the load balancer.", host)
            else:
                self._balancer.watch_again(host)
            self._told.add(left.unit.name)
        return {state.unit.name: done(back=self._back) for state in units}

    def _is_as_before(self, state: UnitState) -> bool:
        """Say whether no restart of a host was ordered."""
        if state.status is Status.PENDING:
            return True
        return decide.before_pivot(self._stage, state) and not state.facts.get("unconfirmed")

    def _left(self) -> list[UnitState]:
        return [
            state
            for name, state in self._known().items()
            if state.status in (Status.HELD, Status.PENDING) and state.facts.get("pooled_at") and name not in self._told
        ]


def forget_put_back(book: Journal) -> None:
    """Forget that hosts were in the load balancer which an earlier session has put back: from then on others decide."""
    told = book.states(REPOOL)
    back = {name for state in told.values() for name in state.facts.get("back", ())}
    taken = ("pooled_at", "draining_since")
    states = {
        REPOOL: [replace(state, facts={}) for state in told.values()],
        API: [
            replace(state, facts={key: value for key, value in state.facts.items() if key not in taken})
            for name, state in book.states(API).items()
            if name in back
        ],
    }
    book.rewrite(states, book.info().options)
