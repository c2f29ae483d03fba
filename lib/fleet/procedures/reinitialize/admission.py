"""Stages 12 and 16, and back: admission plugins in kube-apiserver's file of flags, taken out and put back."""

import shlex
from pathlib import Path

from fleet.adapters.hosts import defaults, services, textfile
from fleet.adapters.hosts.textfile import Missing, TextFile
from fleet.engine.model import TargetState, Verdict, done, pending
from fleet.errors import FleetError
from fleet.execution import Unreachable
from fleet.procedures.reinitialize.data import Say, WorldStep
from fleet.procedures.reinitialize.machines import of_results
from fleet.procedures.reinitialize.world import World

PLUGINS = "plugins"
"""The fact which admission plugins the run has taken out."""
FLAG = "enable-admission-plugins"


class AdmissionOpen(WorldStep):
    """The configured admission plugins are not among kube-apiserver's flags; its file of flags is kept beside."""

    def look(self, state: TargetState) -> Verdict:
        """Read the file; which plugins are taken out is noted before."""
        file = read_defaults(self.world, state.target.name)
        out = [name for name in self.world.config.admission_plugins if name in plugins_of(file.text)]
        known = list(dict.fromkeys([*state.facts.get(PLUGINS, []), *out]))
        if not out:
            return done(f"without {', '.join(known)}" if known else "none of them is in force", **{PLUGINS: known})
        return pending(f"{', '.join(out)} in {self.world.config.apiserver_defaults}", **{PLUGINS: known})

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Take them out of the file."""
        path, backup = self.world.config.apiserver_defaults, backup_of(self.world)
        file = read_defaults(self.world, state.target.name)
        content = defaults.without_plugins(file.text, self.world.config.admission_plugins)
        textfile.replace(
            self.cluster.remote, state.target.name, path, before=file.sha256, content=content, backup=backup
        )
        say(f"{path} is changed; as it was: {backup}")
        return done()


class AdmissionBack(WorldStep):
    """The admission plugins that the run has taken out are among kube-apiserver's flags again."""

    def __init__(self, world: World, stage: str) -> None:
        """Bring back what the named stage has taken out."""
        super().__init__(world)
        self._stage = stage

    def look(self, state: TargetState) -> Verdict:
        """Read the file, which Puppet may have put right; then the copy of it is of no more use."""
        taken = taken_out(self.world, self._stage, state.target.name)
        if not taken:
            return done()
        backup = backup_of(self.world)
        file = read_defaults(self.world, state.target.name)
        missing = [name for name in taken if name not in plugins_of(file.text)]
        left = isinstance(read_file(self.world, state.target.name, backup), TextFile)
        if missing:
            return pending(f"{', '.join(missing)} not in {self.world.config.apiserver_defaults}")
        return pending(f"{backup} is there") if left else done()

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Restore the file to the byte where Puppet did not write it anew; remove the copy."""
        host, path, backup = state.target.name, self.world.config.apiserver_defaults, backup_of(self.world)
        taken = taken_out(self.world, self._stage, host)
        if set(taken) <= set(plugins_of(read_defaults(self.world, host).text)):
            command = f"rm -f -- {shlex.quote(str(backup))}"
            results = self.cluster.remote.run([host], command, timeout=services.ORDER_TIMEOUT, safe=False)
            return of_results(results, [state])[host]
        textfile.restore(self.cluster.remote, host, path, backup)
        say(f"{path} is restored")
        return done()


def taken_out(world: World, stage: str, host: str) -> list[str]:
    """Return the admission plugins that a stage has taken out on a host."""
    return list(world.facts(stage).get(host, {}).get(PLUGINS, []))


def backup_of(world: World) -> Path:
    """Return where the file of flags is kept as it was, on its host."""
    path = world.config.apiserver_defaults
    return path.with_name(f"{path.name}.{world.cluster.run.id}")


def read_file(world: World, host: str, path: Path) -> TextFile | Missing | Unreachable:
    """Read a file on a host."""
    return textfile.read(world.cluster.remote, [host], path)[host]


def read_defaults(world: World, host: str) -> TextFile:
    """Read the file of kube-apiserver's flags.

    Raises:
        FleetError: it cannot be read.
    """
    return read_text(world, host, world.config.apiserver_defaults)


def read_text(world: World, host: str, path: Path) -> TextFile:
    """Read a file on a host that has to be there.

    Raises:
        FleetError: it cannot be read.
    """
    found = read_file(world, host, path)
    if isinstance(found, TextFile):
        return found
    raise FleetError(f"{path} on {host} cannot be read: {found.reason}")


def plugins_of(text: str) -> list[str]:
    """Return the admission plugins that a file of flags enables beside the default ones."""
    return [name for name in (defaults.flag(text, FLAG) or "").split(",") if name]
