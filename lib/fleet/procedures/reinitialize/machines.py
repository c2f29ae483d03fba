"""Stages 6 to 12, and back: Puppet, units that are stopped and started, and the files that name the etcd on hosts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from fleet.adapters.calico import config as calicoctl
from fleet.adapters.hosts import defaults, probe, puppet, services, textfile
from fleet.adapters.hosts.probe import HostState
from fleet.adapters.hosts.services import ServiceState
from fleet.adapters.hosts.textfile import TextFile
from fleet.engine.declaration import Tell, Verdicts
from fleet.engine.model import Kind, TargetState, Verdict, done, failed, pending, undone, unknown
from fleet.engine.protocols import Effects
from fleet.errors import FleetError
from fleet.execution import Result, Unreachable, failures
from fleet.procedures.reinitialize.world import Store, World
from fleet.steps.base import NodeStep, each
from fleet.steps.puppet import puppet_reason
from fleet.steps.units import reloads
from fleet.text import count

ABSENT = "absent"
"""The fact that a worker did not answer, and was left out."""
STOPPED = "stopped"
"""The fact which units of systemd the run has found active on a host, and stopped."""
QUIET = ("inactive", "failed")
"""The states of targets that do nothing."""


class Tolerant:
    """A step of hosts that goes on without workers that do not answer, as long as they are few enough."""

    def __init__(self, world: World, step: Effects) -> None:
        """Ask all hosts first."""
        self._world = world
        self._step = step

    def check(self, targets: Sequence[TargetState]) -> Mapping[str, Verdict]:
        """Check those that answer."""
        verdicts, there = self._sort(targets)
        return {**verdicts, **(self._step.check(there) if there else {})}

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Mapping[str, Verdict]:
        """Act on those that answer."""
        verdicts, there = self._sort(targets)
        return {**verdicts, **(self._step.apply(there, tell) if there else {})}

    def _sort(self, targets: Sequence[TargetState]) -> tuple[dict[str, Verdict], list[TargetState]]:
        world = self._world
        silent = absent(world, world.workers)
        verdicts, there = {}, []
        for state in targets:
            if state.target.name not in silent:
                there.append(state)
            elif len(silent) <= world.max_failed:
                verdicts[state.target.name] = done("it does not answer, and is left out", **{ABSENT: True})
            else:
                why = (
                    f"it does not answer: {silent[state.target.name]}; {count(world.max_failed, 'worker')} may be away"
                )
                verdicts[state.target.name] = unknown(why)
        return verdicts, there


def absent(world: World, hosts: Sequence[str]) -> dict[str, str]:
    """Return the hosts that do not answer over SSH, each with why."""
    answers = probe.probe(world.cluster.remote, hosts)
    return {host: answer.reason for host, answer in answers.items() if isinstance(answer, Unreachable)}


class Stopped(NodeStep):
    """No unit of the host runs that uses etcd."""

    def __init__(self, world: World) -> None:
        """Stop the units of a world."""
        super().__init__(world.cluster)
        self.world = world

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask systemd; which units were active is noted before they are stopped."""
        found = states_of(self.world, [state.target.name for state in targets])

        def judge(state: TargetState) -> Verdict:
            host = state.target.name
            if reason := silent(found[host]):
                return unknown(f"{host} does not answer: {reason}")
            # A masked one may run. One that is not there is called something else, and runs.
            on = [unit for unit, it in found[host].items() if isinstance(it, ServiceState) and it.load != "not-found"]
            if missing := [unit for unit in self.world.needed_units(host) if unit not in on]:
                return failed(f"{host} has no {', '.join(missing)}: correct control_plane.components or bgp.unit")
            running = [unit for unit in on if _state(found[host], unit).active not in QUIET]
            transitioning = [unit for unit in on if _state(found[host], unit).transitioning]
            stopped = [*state.facts.get(STOPPED, []), *(u for u in running if u not in state.facts.get(STOPPED, []))]
            if not running and not transitioning:
                return done(f"{count(stopped, 'unit')} stopped", **{STOPPED: stopped})
            names = ", ".join(dict.fromkeys([*running, *transitioning]))
            return Verdict(Kind.PENDING, f"running: {names}", {STOPPED: stopped}, undone=not transitioning)

        return each(targets, judge)

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:
        """Order their stop. The cluster's Lease goes with the API."""
        if self.world.lock:
            self.world.lock.suspend()
        orders = {state.target.name: state.facts.get(STOPPED, []) for state in targets}
        return of_results(services.order(self.cluster.remote, "stop", orders, reload=False), targets)


class PuppetIdle(NodeStep):
    """No run of Puppet is in progress: one that was started before Puppet was disabled goes on to its end."""

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look on all hosts at once."""
        found = puppet.running(self.cluster.remote, self.hosts(targets))

        def judge(state: TargetState) -> Verdict:
            runs = found[self.cluster.hosts[state.target.name]]
            if runs is None:
                return unknown("it does not answer")
            return pending("a run of Puppet is in progress") if runs else done()

        return each(targets, judge)


class Started(NodeStep):
    """The units run that the run has stopped on the host, of those that are named."""

    def __init__(self, world: World, stages: Sequence[str], units: Sequence[str]) -> None:
        """Start what the named stages have stopped."""
        super().__init__(world.cluster)
        self.world = world
        self._stages = stages
        self._units = units

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask systemd."""
        found = states_of(self.world, [state.target.name for state in targets])

        def judge(state: TargetState) -> Verdict:
            host = state.target.name
            if reason := silent(found[host]):
                return unknown(f"{host} does not answer: {reason}")
            wanted = {unit: _state(found[host], unit) for unit in self._wanted(host)}
            left = {u: it for u, it in wanted.items() if it.load != "not-found" and not it.up}
            if left:
                told = ", ".join(f"{unit} {it.trouble()}" for unit, it in left.items())
                return Verdict(Kind.PENDING, told, undone=any(not it.transitioning for it in left.values()))
            old = [f"{unit} {why}: restart it there" for unit, it in wanted.items() if (why := it.outdated())]
            return pending("; ".join(old)) if old else done()

        return each(targets, judge)

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:
        """Order their start."""
        orders = {state.target.name: self._wanted(state.target.name) for state in targets}
        reload = reloads(self.cluster)
        return of_results(services.order(self.cluster.remote, "start", orders, reload=reload), targets)

    def _wanted(self, host: str) -> list[str]:
        """Return what was stopped on a host; all that is named where others have stopped it (--from-stage)."""
        noted = [self.world.facts(stage).get(host, {}).get(STOPPED) for stage in self._stages]
        mine = [unit for unit in self._units if unit in self.world.units_of(host)]
        if all(names is None for names in noted):
            return mine
        return [unit for unit in mine if any(unit in (names or ()) for names in noted)]


_States = Mapping[str, ServiceState | Unreachable]


def states_of(world: World, hosts: Sequence[str]) -> dict[str, dict[str, ServiceState | Unreachable]]:
    """Ask hosts for the units that must not run while etcd is exchanged; one execution for each unit."""
    found: dict[str, dict[str, ServiceState | Unreachable]] = {host: {} for host in hosts}
    for unit in dict.fromkeys(unit for host in hosts for unit in world.units_of(host)):
        asked = [host for host in hosts if unit in world.units_of(host)]
        for host, answer in services.state(world.cluster.remote, asked, unit).items():
            found[host][unit] = answer
    return found


def silent(states: _States) -> str:
    """Return why a host does not answer; nothing if it does."""
    return next((state.reason for state in states.values() if isinstance(state, Unreachable)), "")


def _state(states: _States, unit: str) -> ServiceState:
    found = states[unit]
    if isinstance(found, Unreachable):
        raise FleetError(found.reason)
    return found


def of_results(results: Mapping[str, Result], targets: Sequence[TargetState]) -> Verdicts:
    """Return what came of an order to hosts: one that failed is given again."""
    refused = failures(results)
    names = [state.target.name for state in targets]
    return {name: pending(f"the order was not taken: {refused[name]}") if name in refused else done() for name in names}


class Configured(NodeStep):
    """Puppet is enabled, has run, and the host's files name the endpoints of one etcd and no others."""

    def __init__(self, world: World, store: Store) -> None:
        """Have hosts use an etcd."""
        super().__init__(world.cluster)
        self.world = world
        self._store = store

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Read the files, and Puppet's lock."""
        hosts = [state.target.name for state in targets]
        problems = endpoint_problems(self.world, hosts, self._store)
        answers = probe.probe(self.cluster.remote, hosts)
        reason = puppet_reason(self.cluster)

        def judge(state: TargetState) -> Verdict:
            host = state.target.name
            answer = answers[host]
            if not isinstance(answer, HostState):
                return unknown(f"{host} does not answer: {answer.reason}")
            if answer.puppet_disabled == reason:
                return undone("Puppet is disabled by this run")
            return undone(problems[host]) if problems[host] else done(f"uses {self._store.name}")

        return each(targets, judge)

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:
        """Enable Puppet where this run has disabled it, and run it."""
        hosts = [state.target.name for state in targets]
        for host, problem in endpoint_problems(self.world, hosts, self._store).items():
            if problem:
                tell(host, f"{problem}: running Puppet")
        timeout = self.cluster.config.deadlines.puppet
        reason = puppet_reason(self.cluster)
        results = puppet.run(self.cluster.remote, hosts, timeout=timeout, enable_reason=reason)
        return {host: failed(result.error) if result.error else done() for host, result in results.items()}


def endpoint_problems(world: World, hosts: Sequence[str], store: Store) -> dict[str, str]:
    """Say which files of hosts do not name the endpoints of an etcd; nothing for hosts whose files do."""
    wanted = set(store.config.endpoints)
    problems = dict.fromkeys(hosts, "")

    def compare(host: str, path: Path, found: set[str]) -> None:
        if found != wanted and not problems[host]:
            problems[host] = f"{path} names {named(world, found)}"

    def read(those: Sequence[str], path: Path, parse: Callable[[str], Iterable[str]]) -> None:
        for host, file in textfile.read(world.cluster.remote, those, path).items():
            if isinstance(file, TextFile):
                try:
                    compare(host, path, set(parse(file.text)))
                except FleetError as error:
                    problems[host] = problems[host] or f"{path}: {error}"
            else:
                problems[host] = problems[host] or f"{path} cannot be read: {file.reason}"

    planes = [host for host in hosts if host in world.control_plane]
    if planes:
        read(planes, world.config.apiserver_defaults, servers_of)
    read(hosts, world.config.calico.file, lambda text: calicoctl.parse(text).endpoints)
    return problems


def named(world: World, endpoints: Iterable[str]) -> str:
    """Return the name of the etcd that has these endpoints, or the endpoints."""
    found = set(endpoints)
    known = (store.name for store in (world.old, world.new) if set(store.config.endpoints) == found)
    return next(known, ",".join(sorted(found)) or "no etcd")


def servers_of(text: str) -> list[str]:
    """Return the etcd servers that a file of kube-apiserver's flags names."""
    return (defaults.flag(text, "etcd-servers") or "").split(",")
