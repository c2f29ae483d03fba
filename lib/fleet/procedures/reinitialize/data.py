"""Stages 0 to 3: what is kept of the old cluster, Calico's data in the new etcd, silences."""

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fleet.adapters.calico import contents
from fleet.adapters.calico.contents import Contents
from fleet.adapters.calico.datastore import Datastore
from fleet.adapters.etcd import keys
from fleet.adapters.k8s import export
from fleet.config.matchers import parse_matcher
from fleet.engine.declaration import Tell, Verdicts
from fleet.engine.model import Kind, TargetState, Verdict, done, failed, pending, undone
from fleet.errors import FleetError
from fleet.procedures.reinitialize.world import World
from fleet.steps.base import NodeStep, each
from fleet.steps.silences import silence_comment, silences_about
from fleet.text import count, verb

EMPTY = "was_empty"
"""The fact that the new etcd was empty when the run came to it."""
CALICO, OBJECTS = "calico.json", "objects.jsonl"
"""Files in the run's folder."""
HOSTS, SERVICES = "hosts", "services"
"""The targets of the stage of silences: all hosts, and those of the configuration, numbered."""

Say = Callable[[str], None]


class WorldStep(NodeStep):
    """Base of the steps: they look at each target by itself, and act on it."""

    def __init__(self, world: World) -> None:
        """Work on a world."""
        super().__init__(world.cluster)
        self.world = world

    @abstractmethod
    def look(self, state: TargetState) -> Verdict:
        """Say whether the step's promise is true of a target."""

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Make it true of a target."""
        return done()

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look at each target."""
        return each(targets, self.look)

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:
        """Act on each target."""
        return each(targets, lambda state: self.act(state, partial(tell, state.target.name)))


class Exported(WorldStep):
    """What Calico keeps in the old etcd, and all objects outside managed namespaces, are in the run's folder."""

    def look(self, state: TargetState) -> Verdict:
        """Look for the files, which have their names only when they are whole."""
        missing = [name for name in (CALICO, OBJECTS) if not self.world.place(name).exists()]
        return (
            pending(f"{' and '.join(missing)} {verb(missing, 'is', 'are')} missing") if missing else done(state.detail)
        )

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Write them."""
        if not self.world.place(CALICO).exists():
            found = datastore(self.world, new=False).read()
            write_private(self.world.place(CALICO), contents.to_json(found))
            say(f"Calico: {count(found.peers, 'BGP peer')}, {count(found.pools, 'IP pool')}")
        exported = export.export(self.cluster.api, self.world.place(OBJECTS), without=self.world.managed)
        say(f"{count(exported.objects, 'object')} of {count(exported.kinds, 'kind')}")
        for problem in exported.problems:
            say(f"not in the export: {problem}")
        return done(f"not in the export: {'; '.join(exported.problems)}" if exported.problems else "")


class NotMerged(WorldStep):
    """The change of Puppet's code is there, and not merged."""

    def look(self, state: TargetState) -> Verdict:
        """Run the configured command."""
        if is_merged(self.world):
            return failed(f"the change {self.world.change} is merged already: hosts take it with their next Puppet run")
        return done(f"{self.world.change} is not merged")


def is_merged(world: World) -> bool:
    """Say whether the change of Puppet's code is merged.

    Raises:
        FleetError: the configured command does not know.
    """
    command = world.fill(world.config.puppet_change.merged, change=world.change)
    code = world.run(command, "puppet-change.log")
    if code not in (0, 1):
        raise FleetError(
            f"It is not known whether the change {world.change} is merged: `{command}` ended with {code}, see"
            f" {world.place('puppet-change.log')}."
        )
    return code == 0


class CalicoMoved(WorldStep):
    """The new etcd holds what Calico had in the old one, field by field, and a default profile where one is wanted."""

    def look(self, state: TargetState) -> Verdict:
        """Compare both."""
        # Noted before anything is written: what the run may delete again on the rollback.
        was_empty = bool(state.facts[EMPTY] if EMPTY in state.facts else is_empty(self.world))
        found = datastore(self.world, new=True).read()
        different = contents.differences(self._wanted(), found)
        if different:
            return Verdict(Kind.PENDING, "; ".join(different[:5]), {EMPTY: was_empty}, undone=True)
        return done(_counts(found), **{EMPTY: was_empty})

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Create what is missing in the new one."""
        wanted = self._wanted()
        say(_counts(wanted))
        datastore(self.world, new=True).write(wanted)
        return done()

    def _wanted(self) -> Contents:
        profiles = self.world.config.calico.profiles
        export = self.cluster.run.options.get("calico_export")
        if export:
            return contents.transfer(read_export(Path(str(export))), profiles)
        try:
            return contents.transfer(datastore(self.world, new=False).read(), profiles)
        except FleetError:
            if not self.world.place(CALICO).exists():
                raise
            # The old etcd may be what is broken.
            return contents.transfer(read_export(self.world.place(CALICO)), profiles)


def is_empty(world: World) -> bool:
    """Say whether the new etcd holds nothing but what an apiserver leaves beside its prefix.

    Raises:
        FleetError: it cannot be asked.
    """
    found = keys.some(world.cluster.remote, world.new.asked(world.cluster), world.new.config, 2)
    return found in ([], ["compact_rev_key"])


def _counts(found: Contents) -> str:
    return (
        f"AS {found.as_number}, {count(found.peers, 'BGP peer')}, {count(found.pools, 'IP pool')},"
        f" {count(found.profiles, 'profile')}"
    )


def read_export(path: Path) -> Contents:
    """Read Calico's data as stage 0 has kept it.

    Raises:
        FleetError: the file cannot be read.
    """
    try:
        return contents.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FleetError(f"{path} cannot be read: {error}") from error


def datastore(world: World, *, new: bool) -> Datastore:
    """Return Calico's data in the old or in the new etcd, through a control-plane host."""
    endpoints = (world.new if new else world.old).config.endpoints
    return Datastore(world.cluster.remote, world.first, world.config.calico, endpoints)


class Silenced(WorldStep):
    """Alerts are silenced, by silences of this run."""

    def look(self, state: TargetState) -> Verdict:
        """Look for this run's silences; one whose id was lost in a crash is found by its comment."""
        found = silences_about(self.cluster).get(state.target.name)
        if not found:
            return undone("not silenced")
        return undone(f"not silenced at {', '.join(found[0].lacking)}") if found[0].lacking else done()

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Create it."""
        silences = dict(self._matchers())
        hosts = self.world.hosts if state.target.name == HOSTS else []
        self.cluster.silences.create(
            hosts,
            comment=silence_comment(self.cluster, state.target.name),
            author=self.cluster.run.operator,
            duration=self.cluster.config.alerts.silence,
            matchers=[parse_matcher(text) for text in silences[state.target.name]],
        )
        return done()

    def _matchers(self) -> Sequence[tuple[str, Sequence[str]]]:
        configured = self.world.config.silences
        return [
            (HOSTS, self.cluster.config.alerts.matchers),
            *((f"{SERVICES} {number}", matchers) for number, matchers in enumerate(configured, 1)),
        ]


def silence_units(world: World) -> list[str]:
    """Return the targets of the stage of silences."""
    return [HOSTS, *(f"{SERVICES} {number}" for number, _ in enumerate(world.config.silences, 1))]


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:  # noqa: PTH123
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
