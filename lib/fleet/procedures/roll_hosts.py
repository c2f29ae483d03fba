"""Rolling restarts and reboots of hosts without Kubernetes: a group of the configuration, or some of its hosts.

As with nodes, no more hosts are away at once than the limits allow, others' included, in one failure domain at a time.
"""

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from fleet.adapters.hosts import services
from fleet.adapters.hosts.services import ServiceState
from fleet.config.domains import read_domains
from fleet.engine import journal, plan, planner
from fleet.engine.capacity import Capacity
from fleet.engine.declaration import Act, Bracket, Stage, Step, Verdicts
from fleet.engine.executor import Execution, known_of
from fleet.engine.findings import Finding, Found
from fleet.engine.journal import Journal
from fleet.engine.model import Absent, Limits, Observation, Status, Target, TargetState, Verdict, done, pending
from fleet.engine.protocols import Lock
from fleet.engine.protocols import Procedure as Executable
from fleet.errors import FleetError
from fleet.procedures import group_preflight, preflight
from fleet.procedures.hosts import ABORT_PATIENCE, has_begun, left_on_host
from fleet.procedures.procedure import GroupProcedure, Nothing, Proposal
from fleet.steps import brackets, units
from fleet.steps.alerts import Alerts
from fleet.steps.at_most_once import AtMostOnce
from fleet.steps.base import each
from fleet.steps.look import Look
from fleet.steps.reboot import Puppet, RebootHost
from fleet.steps.scope import Group
from fleet.steps.serving import Away, HostWatch, Succeeds, away
from fleet.steps.units import Active, RestartUnit
from fleet.text import verb


@dataclass(frozen=True, slots=True)
class Selection:
    """Which hosts of a group an operator asks for, and how many at once; nothing stands for the configuration's word.

    Attributes:
        query: a Cumin query; None for all hosts of the group.
        exclude: hosts to leave out.
        max_unavailable: overrides the configuration.
        max_failed: overrides the configuration.
        before: overrides the configuration's command.
        after: overrides the configuration's command.
    """

    query: str | None = None
    exclude: tuple[str, ...] = ()
    max_unavailable: int | str | None = None
    max_failed: int | None = None
    before: str | None = None
    after: str | None = None


class RollHosts(GroupProcedure):
    """Base of the procedures that take hosts of a group out of service, a few at a time.

    Args:
        selection: which hosts a new run is about.
    """

    guess = plan.GUESS
    """Seconds for each host as long as no earlier run tells better."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection

    @abstractmethod
    def rounds(self, group: Group, room: "_Room") -> Mapping[str, Stage]:
        """Return what each host goes through, by what is shown in the plan.

        Args:
            group: the group.
            room: says why a host must not be taken out of service now.
        """

    def stages(self, group: Group) -> Sequence[Stage]:
        """Return the rounds, with the run's limits; their hosts stand in the journal."""
        return list(self.rounds(group, _Room(group)).values())

    def propose(self, group: Group, state_dir: Path) -> Proposal | Nothing:
        """Find the hosts, and what stands in the way of their maintenance."""
        config, chosen = group.config, self._selection
        everyone = group.remote.query(config.hosts)
        asked = everyone if chosen.query is None else group.remote.query(chosen.query)
        if strange := sorted(set(asked) - set(everyone)):
            raise FleetError(
                f"--query gives {', '.join(strange)}, which {verb(strange, 'is', 'are')} not in the group"
                f" {group.name}: its lock and limits are for {config.hosts}."
                + "".join(f"\n{what}: use {instead}." for what, instead in group_preflight.owners(group, strange))
            )
        if stray := sorted(set(chosen.exclude) - set(asked)):
            raise FleetError(f"--exclude names what the query does not give: {', '.join(stray)}.")
        hosts = {host: host for host in asked if host not in chosen.exclude}
        if not hosts:
            return Nothing("all hosts are excluded")
        options = {
            **group.run.options,
            "hosts": hosts,
            "everyone": everyone,
            "domains": {host: domain for host, domain in _domains(group).items() if host in everyone},
            "before": chosen.before or config.before,
            "after": chosen.after or config.after,
            "limits": asdict(self._limits(group, len(everyone))),
        }
        group = replace(group, hosts=hosts, run=replace(group.run, options=options))
        return self._plan(group, state_dir)

    def left_on(self, group: Group, state: TargetState) -> Sequence[str]:  # noqa: ARG002
        """Return what is left on a host, by what the run remembers of it."""
        return left_on_host(state)

    @contextmanager
    def work(self, group: Group, book: Journal, lock: Lock) -> Iterator[Executable]:
        """Yield the rounds, with a look at all hosts of the group again and again beside them."""
        # Those that left the group since the run was started must not keep it from its end.
        everyone = sorted({*group.remote.query(group.config.hosts), *group.hosts.values()})
        group = replace(group, run=replace(group.run, options={**group.run.options, "everyone": everyone}))
        stages = self.stages(group)
        states = partial(journal.read_states, book.folder)
        known = known_of(stages, states)

        def settled() -> frozenset[str]:
            return frozenset(name for name, state in known().items() if state.status is Status.DONE)

        def observe() -> Observation:
            return Observation(_absent(group, watch.away()), lock.problem() or watch.problem(), permanent=lock.lost)

        with HostWatch(partial(_away, group), settled, group.clock, group.threads) as watch:
            yield Execution(stages, states, observe)

    def _limits(self, group: Group, hosts: int) -> Limits:
        config, chosen = group.config, self._selection
        amount = config.limits.max_unavailable if chosen.max_unavailable is None else chosen.max_unavailable
        try:
            most = planner.resolve(amount, hosts)
        except ValueError as error:
            raise FleetError(f"max_unavailable: {error}") from error
        return Limits(
            max_unavailable=most,
            max_domains=config.limits.max_domains,
            max_failed=config.limits.max_failed if chosen.max_failed is None else chosen.max_failed,
            blocked=config.deadlines.blocked,
        )

    def _plan(self, group: Group, state_dir: Path) -> Proposal:
        gone = _away(group)
        absent = _absent(group, gone)
        targets = planner.order(
            (_target(group, host) for host in group.hosts), first={it.domain for it in absent.values()}
        )
        rounds = self.rounds(group, _Room(group))
        limits = _limits_of(group)
        look = Look(group)
        checks: list[Callable[[], list[Finding]]] = [
            lambda: group_preflight.of_lock(group),
            lambda: preflight.of_runs(group, state_dir),
            lambda: preflight.of_held(group, state_dir),
            lambda: preflight.of_ssh(look.hosts()),
            lambda: preflight.of_alerts(group),
            lambda: preflight.of_limits(targets, limits, absent),
            lambda: group_preflight.of_owners(group),
            lambda: group_preflight.of_away(group, gone, look.answering()),
            lambda: group_preflight.of_domains(group),
        ]
        found = preflight.with_steps(checks, [step for stage in rounds.values() for step in stage.steps], look)
        seconds = [plan.target_seconds(state_dir, self.name, group.name, stage.key) for stage in rounds.values()]
        known_seconds = [one for one in seconds if one is not None]
        shown = plan.RollingPlan(
            title=plan.title(group.run),
            targets=targets,
            rounds=[(who, [step.spec.name for step in stage.steps]) for who, stage in rounds.items()],
            limits=limits,
            columns=found.columns,
            findings=preflight.worst_first(found.findings),
            target_seconds=sum(known_seconds) / len(seconds) if len(known_seconds) == len(seconds) else None,
            what="host",
            guess=self.guess,
        )
        return Proposal(
            group, shown, {stage.key: [TargetState(target) for target in targets] for stage in rounds.values()}
        )


class RestartHosts(RollHosts):
    """Rolling restarts of units of systemd.

    Args:
        selection: which hosts a new run is about.
        restarted: the units of systemd, in the order of their restarts.
    """

    name = "sre.hosts.roll-restart"
    guess = 60.0

    def __init__(self, selection: Selection, restarted: Sequence[str] = ()) -> None:
        super().__init__(selection)
        self._restarted = restarted

    def propose(self, group: Group, state_dir: Path) -> Proposal | Nothing:
        """Find the hosts, and what stands in the way of the restarts."""
        if not self._restarted:
            raise FleetError("A new run needs --units: the units of systemd to restart, such as nginx.service.")
        options = {**group.run.options, "units": list(self._restarted)}
        return super().propose(replace(group, run=replace(group.run, options=options)), state_dir)

    def rounds(self, group: Group, room: "_Room") -> Mapping[str, Stage]:
        """Return a round for each unit of systemd."""
        restarted: Sequence[str] = group.run.options["units"]
        return {
            f"host, {unit}" if len(restarted) > 1 else "host": _stage(
                group,
                unit,
                taken=brackets.puppet_off(group),
                act=_Restart(group, unit, room),
                proofs=[Active(group, unit)],
            )
            for unit in restarted
        }


class RebootHosts(RollHosts):
    """Rolling reboots."""

    name = "sre.hosts.roll-reboot"

    def rounds(self, group: Group, room: "_Room") -> Mapping[str, Stage]:
        """Return the one round."""
        puppet = Puppet(group)
        proofs = [puppet] if puppet.wanted else []
        return {"host": _stage(group, "hosts", taken=(), act=_Reboot(group, room), proofs=proofs)}


def _stage(group: Group, key: str, *, taken: Sequence[Bracket], act: Act, proofs: Sequence[Step]) -> Stage:
    before, after = group.run.options["before"], group.run.options["after"]
    serves = [Succeeds(group, after, name="after", deadline="ready", acceptable=True)] if after else []
    return Stage(
        key,
        targets=list,  # They stand in the journal, each with its failure domain.
        before=[Succeeds(group, before, name="before", deadline="blocked", acceptable=False)] if before else (),
        holding=[brackets.silenced(group, needs=lambda state: "silence" in state.facts), *taken],
        act=act,
        proofs=[*proofs, *serves, Alerts(group)],
        limits=_limits_of(group),
        renew=group.config.alerts.silence / 3,
        abort_proofs=[*proofs, *serves],
        patience=ABORT_PATIENCE,
        concerns=act.touched,
        in_flight=has_begun,
    )


class _Room:
    """Says why a host must not be taken out of service now, by one look at all hosts for those that are to go at once.

    Args:
        group: the group.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._gone: Away = {}
        self._let: list[Target] = []
        self.lock = threading.Lock()

    def look(self) -> None:
        """Ask all hosts of the group."""
        self._gone, self._let = _away(self._group), []

    def __call__(self, host: str) -> str:
        """Return why not; empty if it may, and then it counts for those that are asked about after it."""
        group, others = self._group, {other: why for other, why in self._gone.items() if other != host}
        problem = Capacity(_limits_of(group), self._let, _absent(group, others)).problem(_target(group, host))
        if problem:
            return f"{problem} ({'; '.join(f'{other}: {why}' for other, why in others.items())})"
        self._let.append(_target(group, host))
        return ""


class _TakesRoom(AtMostOnce):
    """The act takes the host out of service: those that are to go at the same moment are counted together."""

    takes_capacity = True
    room: _Room

    def guarded(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look at all hosts once, and let as many go as there is room for."""
        with self.room.lock:
            self.room.look()
            return each(targets, self._safely)


class _Restart(_TakesRoom, RestartUnit):
    """The restart takes the host out of service for a moment."""

    def __init__(self, group: Group, unit: str, room: _Room) -> None:
        """Restart a unit where there is room for that."""
        super().__init__(group, unit, room, patient=True)
        self.room = room

    def preflight(self, look: Look) -> Found:
        """Look whether the unit can be started again, and what its start would run."""
        hosts = list(look.scope.hosts.values())
        findings: list[Finding] = []
        for host, answer in services.state(self.scope.remote, hosts, self._unit).items():
            if isinstance(answer, ServiceState):  # The look at SSH names the hosts that do not answer.
                todo = f"Correct --units, or --exclude {host}."
                findings += units.of_definition(self.scope, host, self._unit, answer, todo)
        return Found(tuple(findings))


class _Reboot(_TakesRoom, RebootHost):
    """The reboot takes the host out of service; never ordered while there is no room for that."""

    def __init__(self, group: Group, room: _Room) -> None:
        """Reboot hosts, guarded up to the moment of the order."""
        super().__init__(group)
        self.room = room

    def safe(self, state: TargetState) -> Verdict:
        """Ask the guard once more."""
        problem = self.room(self.scope.hosts[state.target.name])
        return pending(f"not now: {problem}") if problem else done()


def _limits_of(group: Group) -> Limits:
    return Limits(**group.run.options["limits"])


def _domains(group: Group) -> Mapping[str, str]:
    return read_domains(group.config.domains) if group.config.domains else {}


def _target(group: Group, host: str) -> Target:
    return Target(host, group.run.options["domains"].get(host, ""))


def _away(group: Group) -> Away:
    """Ask all hosts of the group, those that the run is not about as well."""
    return away(group.remote, group.run.options["everyone"], group.run.options["after"])


def _absent(group: Group, gone: Away) -> Mapping[str, Absent]:
    return {host: Absent(_target(group, host).domain, "", down=True, why=why) for host, why in gone.items()}
