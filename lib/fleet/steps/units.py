"""Units of systemd on the hosts of a run: their lives, their restart, and whether they are active."""

from collections.abc import Callable, Mapping, Sequence

from fleet.adapters.hosts import services
from fleet.adapters.hosts.services import ServiceState
from fleet.engine.declaration import Verdicts
from fleet.engine.findings import Finding, note, stop
from fleet.engine.model import TargetState, Verdict, done, failed, pending
from fleet.execution import Result, Unreachable
from fleet.steps.at_most_once import AtMostOnce, Incarnation
from fleet.steps.base import POLL, HostStep, each_host
from fleet.steps.scope import Scope

Guard = Callable[[str], str]
"""Says why a host must not be taken out of service now; nothing if all others can do without it."""


def current(scope: Scope, hosts: Sequence[str], unit: str) -> dict[str, Incarnation | Unreachable]:
    """Ask hosts for a unit's last start."""
    answers = services.state(scope.remote, hosts, unit)
    return {
        host: _start(unit, answer) if isinstance(answer, ServiceState) else answer for host, answer in answers.items()
    }


def _start(unit: str, service: ServiceState) -> Incarnation:
    # One that cannot be started again, such as where a condition fails, keeps the id of its last start.
    trouble, outdated = (f"{unit} {words}" if words else "" for words in (service.trouble(), service.outdated()))
    return Incarnation(
        service.invocation,
        service.boot_id,
        service.age,
        transitioning=service.transitioning,
        trouble=trouble,
        outdated=outdated,
    )


def reloads(scope: Scope) -> bool:
    """Say whether a run tells systemd to load units again whose files have changed."""
    return scope.config.systemd.daemon_reload == "reload"


def of_definition(scope: Scope, host: str, unit: str, service: ServiceState, todo: str) -> list[Finding]:
    """Find out whether a unit can be started anew, and what its start would run.

    Args:
        scope: the scope.
        host: the host, as Cumin knows it.
        unit: the unit of systemd.
        service: what systemd says about it.
        todo: what to do where there is no such unit.
    """
    if service.load == "not-found":
        return [stop(f"{host} has no {unit}.", todo)]
    if why := service.unusable():
        mend = f"systemctl unmask {unit}" if service.load == "masked" else f"See systemctl status {unit}"
        return [stop(f"{unit} on {host} {why}: it could not be started again.", f"{mend} there. {todo}")]
    if not service.stale:
        return []
    if reloads(scope):
        return [note(f"{unit} on {host} {service.outdated()}: the run does.")]
    mend = "Look at the change, and run it there; or set systemd.daemon_reload to reload."
    return [stop(f"{unit} on {host} {service.outdated()}.", mend)]


class Active(HostStep):
    """The unit is active, and runs the definition that is on disk."""

    name = "active"
    deadline = "restart"
    poll = POLL
    gate = True
    acceptable = True

    def __init__(self, scope: Scope, unit: str) -> None:
        """Look at a unit on the hosts of a scope."""
        super().__init__(scope)
        self._unit = unit

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask systemd on all hosts at once."""

        def judge(_state: TargetState, service: ServiceState) -> Verdict:
            if why := service.trouble():
                told = f"{self._unit} {why}"
                permanent = not service.transitioning and (service.active == "failed" or not service.loaded)
                return failed(f"{told}; see journalctl -u {self._unit} there") if permanent else pending(told)
            if why := service.outdated():
                todo = f"systemctl daemon-reload; systemctl restart {self._unit}"
                return failed(f"{self._unit} {why}: run there: {todo}")
            return done()

        answers = services.state(self.scope.remote, self.hosts(targets), self._unit)
        return each_host(self.scope, targets, answers, judge)


class RestartUnit(AtMostOnce):
    """The unit runs as another start than when this run first looked; never ordered while the others are not well."""

    name = "restart"
    deadline = "restart"
    poll = POLL

    fact = "invocation"
    messages = ("restarted", "not restarted yet")

    def __init__(self, scope: Scope, unit: str, guard: Guard, *, patient: bool) -> None:
        """Restart a unit, guarded up to the moment of the order.

        Args:
            scope: the scope.
            unit: the unit of systemd.
            guard: asked right before the order.
            patient: whether to wait until the others are well: the host is in service meanwhile.
        """
        super().__init__(scope)
        self._unit = unit
        self._guard = guard
        self._patient = patient

    @property
    def settles_within(self) -> float:
        """The seconds that a stop may take."""
        return self.timeout

    def current(self, hosts: Sequence[str]) -> Mapping[str, Incarnation | Unreachable]:
        """Ask hosts for the unit's last start."""
        return current(self.scope, hosts, self._unit)

    def order(self, ids: Mapping[str, str]) -> Mapping[str, Result]:
        """Order the restart."""
        return services.restart(self.scope.remote, self._unit, ids, reload=reloads(self.scope))

    def safe(self, state: TargetState) -> Verdict:
        """Ask the guard once more."""
        problem = self._guard(self.scope.hosts[state.target.name])
        if not problem:
            return done()
        return pending(f"not now: {problem}") if self._patient else failed(f"not restarted: {problem}")
