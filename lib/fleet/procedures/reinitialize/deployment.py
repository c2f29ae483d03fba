"""Stages 8, 14 and 17 to 19, and back: an organisation's own commands, and the proof that they have done their work."""

import threading
from concurrent.futures import ThreadPoolExecutor

from fleet.adapters import commands
from fleet.adapters.k8s import workloads
from fleet.adapters.k8s.client import ApiError
from fleet.engine.model import TargetState, Verdict, done, failed, pending, undone
from fleet.procedures.reinitialize.data import Say, WorldStep, is_merged
from fleet.procedures.reinitialize.world import World
from fleet.text import count

RAN = "ran"
"""The fact that a command was successful in this run."""


class Merged(WorldStep):
    """The change of Puppet's code is merged."""

    def look(self, state: TargetState) -> Verdict:
        """Run the configured command."""
        # What takes its time to be seen is not merged again: undone would be ordered anew at each look.
        return done() if is_merged(self.world) else pending(f"{self.world.change} is not merged")

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Merge it, where a command is configured; otherwise the operator was asked for it."""
        return _change(self.world, self.world.config.puppet_change.merge, say)


class Reverted(WorldStep):
    """The change of Puppet's code is not merged, or reverted."""

    def look(self, state: TargetState) -> Verdict:
        """Run the configured command."""
        return pending(f"{self.world.change} is merged") if is_merged(self.world) else done()

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Revert it, where a command is configured; otherwise the operator was asked for it."""
        return _change(self.world, self.world.config.puppet_change.revert, say)


def _change(world: World, command: str | None, say: Say) -> Verdict:
    if command is None:
        return done()  # An operator has said that it is done: it is waited for.
    return _run(world, world.fill(command, change=world.change), "puppet-change.log", say)


def _run(world: World, command: str, log: str, say: Say) -> Verdict:
    """Run a command; whoever has repaired what it stumbled over lets it run again with --resume."""
    code = world.run(command, log, say)
    if code == 0:
        return done("", **{RAN: True})
    return failed(f"`{command}` ended with {code}; its output is in {world.place(log)}")


class Initialized(WorldStep):
    """The cluster is initialised: the command was successful, and the objects exist that it has to make."""

    def look(self, state: TargetState) -> Verdict:
        """Ask the API for the objects."""
        missing = [path for path in self.world.config.initialized if not self._there(path)]
        if not state.facts.get(RAN):
            return undone("not initialised yet")
        return pending(f"not there: {', '.join(missing[:5])}") if missing else done()

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Run the command."""
        return _run(self.world, self.world.fill(self.world.config.initialize), "initialize.log", say)

    def _there(self, path: str) -> bool:
        try:
            self.cluster.api.get(path)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True


class ComponentsDeployed(WorldStep):
    """The command for the cluster's own workloads was successful, and all of them are Ready."""

    def look(self, state: TargetState) -> Verdict:
        """Ask the API for what is not Ready."""
        if not state.facts.get(RAN):
            return undone("not deployed yet")
        left = workloads.unready(self.cluster.api, self.world.config.components.namespaces)
        return pending("; ".join(left[:5])) if left else done()

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Run the command."""
        return _run(self.world, self.world.fill(self.world.config.components.command), "components.log", say)


class Deployed(WorldStep):
    """The service is deployed."""

    def __init__(self, world: World, turn: threading.BoundedSemaphore) -> None:
        """Deploy services, as many at once as have a turn."""
        super().__init__(world)
        self._turn = turn

    def look(self, state: TargetState) -> Verdict:
        """Look whether the command was successful in this run."""
        return done() if state.facts.get(RAN) else undone("not deployed yet")

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Run the command."""
        name = state.target.name
        while not self._turn.acquire(timeout=1.0):
            if self.cluster.cancel.is_set():
                return pending("interrupted before its turn")
        try:
            command = self.world.fill(self.world.config.services.deploy, service=name)
            return _run(self.world, command, f"deploy-{name}.log", say)
        finally:
            self._turn.release()


class Answers(WorldStep):
    """The service answers."""

    def __init__(self, world: World, turn: threading.BoundedSemaphore) -> None:
        """Ask services, as many at once as have a turn."""
        super().__init__(world)
        self._turn = turn

    def look(self, state: TargetState) -> Verdict:
        """Run the configured check."""
        check, name = self.world.config.services.check, state.target.name
        if check is None:
            return done("no check is configured")
        log = f"check-{name}.log"
        with self._turn:
            code = self.world.run(self.world.fill(check, service=name), log)
        return done() if code == 0 else pending(f"its check fails ({code}), see {self.world.place(log)}")


class AllAnswer(WorldStep):
    """All services answer, asked once more."""

    def look(self, state: TargetState) -> Verdict:
        """Run the configured check for each."""
        config = self.world.config.services
        check = config.check
        if check is None:
            return done("no check is configured")

        def ask(name: str) -> int:
            return self.world.run(self.world.fill(check, service=name), f"check-{name}.log")

        with ThreadPoolExecutor(config.parallel) as pool:
            codes = dict(zip(config.names, pool.map(ask, config.names), strict=True))
        left = [name for name, code in codes.items() if code]
        return pending(f"do not answer: {', '.join(left)}") if left else done(count(codes, "service"))


class CommandsEnded(WorldStep):
    """No command of the run is left that has outlived it: it would continue with the API that it finds."""

    def look(self, state: TargetState) -> Verdict:
        """Look who writes to their files."""
        logs = [self.world.place(name) for name in ("initialize.log", "components.log")]
        logs += [self.world.place(f"deploy-{name}.log") for name in self.world.config.services.names]
        running = [log.stem for log in logs if commands.is_running(log)]
        return pending(f"still running: {', '.join(running)}") if running else done()
