"""The proofs that a control plane's component is well again, and the watchdog that a run has left behind."""

from collections.abc import Sequence

from fleet.adapters.hosts import services
from fleet.adapters.hosts.services import ServiceState
from fleet.adapters.k8s import leader, watchdog
from fleet.adapters.k8s.leader import Election
from fleet.engine.declaration import Tell, Verdicts
from fleet.engine.model import Phase, TargetState, Verdict, done, pending
from fleet.errors import FleetError
from fleet.steps.base import POLL, NodeStep, each, each_host
from fleet.steps.control_plane_health import API, ControlPlane, PlaneStep, of_health


class Serving(PlaneStep):
    """The host's own kube-apiserver is ready, asked on its own address."""

    name = "ready"
    deadline = "ready"
    poll = POLL
    gate = True

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask /readyz."""
        found = self._plane.apiservers.examine(self.hosts(targets))

        def judge(state: TargetState) -> Verdict:
            host = self.cluster.hosts[state.target.name]
            problem = of_health(host, found[host])
            return pending(problem) if problem else done()

        return each(targets, judge)


class Calm(PlaneStep):
    """For a while all apiservers have been well and used, and no request has failed."""

    name = "settle"
    deadline = "ready"
    poll = POLL
    gate = True

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look at everything; whatever is wrong makes the while begin anew."""
        # Those that the run found out of the load balancer stay so.
        left_out = {self.cluster.hosts[s.target.name] for s in targets if not s.facts.get("pooled_at")}
        try:
            problems = list(filter(None, self._plane.ailing(API, self._plane.hosts, left_out).values()))
        except FleetError as error:
            problems = [str(error)]
        settle = self.cluster.config.control_plane.settle
        now = self.cluster.clock.monotonic()

        def judge(state: TargetState) -> Verdict:
            if problems:
                return pending("; ".join(problems), calm_since=now)
            # What an earlier session has seen proves nothing now.
            begun = now if state.phase is Phase.CHECK else float(state.facts.get("calm_since", now))
            since = min(begun, now)
            calm = now - since
            if self._plane.watchdog:
                calm = min(calm, self._plane.watchdog.clean_for())
            return done() if calm >= settle else pending(f"for {settle - calm:.0f} s more", calm_since=since)

        return each(targets, judge)


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

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Read the Lease, and compare with the last reading; what was restarted need not be what leads."""
        seen = leader.read(self.cluster.api, self._component)
        unit = self._plane.unit(self._component)

        def judge(state: TargetState, service: ServiceState) -> Verdict:
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

        return each_host(self.cluster, targets, services.state(self.cluster.remote, self.hosts(targets), unit), judge)


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

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Run it on all hosts at once."""
        problems = self._plane.run_check(self.hosts(targets), self._check)

        def judge(state: TargetState) -> Verdict:
            problem = problems[self.cluster.hosts[state.target.name]]
            return pending(problem) if problem else done()

        return each(targets, judge)


class Forget(NodeStep):
    """The watchdog of this run has left nothing in the cluster, though the run may have been killed."""

    name = "forget watchdog"

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look for its ConfigMap."""
        left = watchdog.left_behind(self.cluster.api, self.cluster.config.lease.namespace, self.cluster.run.id)
        return {s.target.name: pending("its ConfigMap is there", uid=left) if left else done() for s in targets}

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Remove it."""

        def remove(state: TargetState) -> Verdict:
            watchdog.remove(self.cluster.api, self.cluster.config.lease.namespace, state.facts["uid"])
            return done()

        return each(targets, remove)
