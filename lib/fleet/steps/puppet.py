"""Puppet on the hosts of a run: disabled in the name of the run, and enabled again."""

from collections.abc import Mapping, Sequence

from fleet.adapters.hosts import probe, puppet
from fleet.adapters.hosts.probe import HostState
from fleet.engine.declaration import Known, Tell, Verdicts
from fleet.engine.findings import Finding, Found, ask, stop
from fleet.engine.model import Status, TargetState, Verdict, done, pending
from fleet.execution import Unreachable
from fleet.steps.base import HostStep, each_host
from fleet.steps.look import Look
from fleet.steps.scope import Scope


def puppet_reason(scope: Scope) -> str:
    """Return the reason with which a run disables Puppet: it tells its locks from others'."""
    task = f" - {scope.run.task}" if scope.run.task else ""
    return f"{scope.run.reason}{task} - run {scope.run.id} - {scope.run.operator}"


def no_puppet(host: str) -> Finding:
    """Return the finding that a host has no Puppet."""
    todo = "Install it: config/hosts/ has one; or set puppet.enabled to false."
    return stop(f"{host} has no {probe.PUPPET_COMMON}.", todo)


def of_puppet(answers: Mapping[str, HostState | Unreachable]) -> list[Finding]:
    """Return on which hosts Puppet cannot be disabled and enabled again."""
    findings = []
    for host, answer in answers.items():
        if not isinstance(answer, HostState):
            continue
        if not answer.puppet_installed:
            findings.append(no_puppet(host))
        elif answer.puppet_disabled is not None:
            what = f"Puppet is disabled on {host}: {answer.puppet_disabled!r}"
            findings.append(ask(what, "Somebody may be at work there. If you continue, it stays disabled."))
    return findings


class PuppetOff(HostStep):
    """Puppet is disabled, by this run or by somebody before it."""

    name = "puppet off"

    def preflight(self, look: Look) -> Found:
        """Look whether it is there, and enabled."""
        return Found(tuple(of_puppet(look.hosts())))

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look at Puppet's lock on all hosts at once."""
        reason = puppet_reason(self.scope)

        def judge(_state: TargetState, host: HostState) -> Verdict:
            if host.puppet_disabled is None:
                return pending("Puppet is enabled", puppet_off=True)
            if host.puppet_disabled == reason:
                return done(puppet_off=True)
            return done(f"was disabled before, and stays so: {host.puppet_disabled}", puppet_off=False)

        return each_host(self.scope, targets, probe.probe(self.scope.remote, self.hosts(targets)), judge)

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Disable it with the run's reason."""
        results = puppet.disable(self.scope.remote, self.hosts(targets), puppet_reason(self.scope))
        return _of_puppet(self.scope, results)


class PuppetOn(HostStep):
    """Puppet is not disabled by this run."""

    name = "puppet on"

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look at Puppet's lock on all hosts at once."""
        reason = puppet_reason(self.scope)

        def judge(_state: TargetState, host: HostState) -> Verdict:
            if host.puppet_disabled == reason:
                return pending("Puppet is disabled by this run")
            left = "" if host.puppet_disabled is None else f"left disabled, by others: {host.puppet_disabled}"
            return done(left, puppet_off=False)

        return each_host(self.scope, targets, probe.probe(self.scope.remote, self.hosts(targets)), judge)

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Enable it where the run's reason is in force."""
        results = puppet.enable(self.scope.remote, self.hosts(targets), puppet_reason(self.scope))
        return _of_puppet(self.scope, results)


def _of_puppet(scope: Scope, results: Mapping[str, puppet.PuppetResult]) -> Verdicts:
    names = scope.by_host(scope.hosts)
    return {
        names[host]: pending(f"Puppet: {result.error}") if result.error else done() for host, result in results.items()
    }


class EnablePuppet(HostStep):
    """Puppet is disabled by this run on no host but held ones."""

    name = "enable puppet"

    def __init__(self, scope: Scope, known: Known) -> None:
        """Look after the hosts that ``known`` has as disabled by this run."""
        super().__init__(scope)
        self._known = known
        self._on = PuppetOn(scope)

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look at the hosts that went back to waiting after Puppet was disabled there."""
        left = [state for state in self._left() if self._on.check([state])[state.target.name].kind != "done"]
        names = ", ".join(state.target.name for state in left)
        return {target.target.name: pending(f"Puppet is disabled on {names}") if left else done() for target in targets}

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:
        """Enable it there."""
        left = self._left()
        problems = [v.detail for v in self._on.apply(left, tell).values() if v.kind != "done"] if left else []
        return {state.target.name: pending("; ".join(problems)) if problems else done() for state in targets}

    def _left(self) -> list[TargetState]:
        return [
            state
            for state in self._known().values()
            if state.facts.get("puppet_off") and state.status not in (Status.HELD, Status.GIVEN_UP)
        ]
