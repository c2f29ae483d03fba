"""A group of hosts without Kubernetes in memory, for the real session, engine and steps.

The world itself watches over the rules, at the moment when a host obeys an order, whatever the code says.
"""

import json
import shlex
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fleet.adapters.alertmanager.silences import Silences
from fleet.adapters.locks import GroupLock
from fleet.config.model import ClusterConfig, Config
from fleet.engine import journal
from fleet.engine.model import Status, TargetState
from fleet.engine.protocols import Holder
from fleet.errors import FleetError
from fleet.execution import Result
from fleet.procedures.roll_hosts import RebootHosts, RestartHosts, RollHosts, Selection
from fleet.procedures.way_out import NOTHING, WayOut
from fleet.session import Request, Session
from fleet.steps.scope import Group
from worlds.alertmanager import URLS, Alertmanagers, Kept
from worlds.locks import LockStore
from worlds.machines import Machine, Machines
from worlds.nodes import Book, Passing, Quiet, Silent
from worlds.timeline import AtOnce, Killed, Time, rule

ROWS = {"web1": "row-a", "web2": "row-a", "web3": "row-b", "web4": "row-b"}
BEFORE, AFTER = "test ! -e /run/busy", "curl localhost"
FRESH = 15.0
"""Seconds for which the failure of another host need not be known yet."""
LOCK = "/spicerack/locks/fleet/web"


@dataclass
class Web(Machine):
    """A host of the group.

    Attributes:
        is_busy: whether the command ``before`` fails.
        is_broken: whether the command ``after`` fails.
        breaks: whether it does so after the next act.
    """

    is_busy: bool = False
    is_broken: bool = False
    breaks: bool = False

    @property
    def serves(self) -> bool:
        """Whether it does what it is there for."""
        return self.is_up and not self.is_moving and not self.is_broken


class WebHosts(Machines):
    """The hosts, with the commands that a group has beside those of nodes.

    Attributes:
        left: those that are not in the group any more.
    """

    left: Collection[str] = ()

    def query(self, query: str) -> list[str]:
        """Return the hosts of a query: names with commas, or all."""
        return sorted(set(self.machines) - set(self.left)) if query == "A:web" else query.split(",")

    def _run(self, machine: Machine, command: str) -> Result:
        assert isinstance(machine, Web)
        if command == BEFORE:
            return Result(int(machine.is_busy), "a deployment is in progress" if machine.is_busy else "")
        if command.startswith("tset "):
            return Result(127, "bash: line 1: tset: command not found")
        if command == AFTER:
            return Result(0 if machine.serves else 7, "" if machine.serves else "connection refused")
        if command.startswith(("disable-puppet ", "enable-puppet ")):
            return self._switch_puppet(machine, command)
        return super()._run(machine, command)

    def _switch_puppet(self, machine: Machine, command: str) -> Result:
        verb, reason = _words(command)
        if verb == "disable-puppet" and machine.puppet is None:
            machine.puppet = reason
        if verb == "enable-puppet" and machine.puppet == reason:
            machine.puppet = None
        told = "" if machine.puppet is None else f"fleet-puppet-lock={json.dumps({'disabled_message': machine.puppet})}"
        return Result(0, f"fleet-puppet=installed\n{told}")


def _words(command: str) -> tuple[str, str]:
    """Return a wrapper of Puppet and the reason that it is given."""
    words = shlex.split(command.splitlines()[0])
    return words[0], words[1]


class World(Time):
    """Four hosts in two rows.

    Args:
        folder: where runs are kept, and the file of failure domains.
        restarts: whether units are restarted; otherwise hosts are rebooted.
        most: how many may be unavailable.
        max_failed: how many may be held.
        max_domains: how many rows may be worked on at once.
        units: what is restarted; to hosts these are one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        restarts: bool = True,
        most: int = 1,
        max_failed: int = 0,
        max_domains: int = 1,
        units: Sequence[str] = ("nginx.service",),
    ) -> None:
        super().__init__()
        self.max_domains, self.units = max_domains, units
        self.folder, self.restarts, self.most = folder, restarts, most
        domains = folder / "domains.yaml"
        domains.write_text("".join(f"{host}: {row}\n" for host, row in ROWS.items()), encoding="utf-8")
        wait = {"reboot": "200s", "puppet": "90s", "restart": "60s", "ready": "60s", "alerts": "60s", "blocked": "120s"}
        group = {
            "hosts": "A:web",
            "domains": str(domains),
            "before": BEFORE,
            "after": AFTER,
            "limits": {"max_unavailable": most, "max_failed": max_failed, "max_domains": max_domains},
            "deadlines": wait,
        }
        self.config = Config.model_validate({"state_dir": str(folder / "runs"), "groups": {"web": group}})
        self.clusters: dict[str, ClusterConfig] = {}
        self.selection = Selection()
        self.console: Console = Quiet(quiet=True)
        self.began = self.session_began = self.now
        self.run = ""
        self.is_dead = False
        booted = self.now - 1e6
        self.hosts = {name: Web(name, i, booted=booted, started=booted, ran=1.0) for i, name in enumerate(ROWS)}
        self.machines = WebHosts(
            self, dict(self.hosts), self.moment, self._ordered, self._down, self._up, self._restarted
        )
        self.alertmanagers = Alertmanagers(self, self.moment, self._silenced)
        self.locks: LockStore | None = LockStore(self)
        self.away_since: dict[str, float] = {}
        self.lock_lost: float | None = None
        self.on_act: Callable[[], None] = lambda: None

    # The process.

    def moment(self) -> None:
        if self.is_dead:
            raise Killed
        try:
            super().moment()
        except Killed:
            self.is_dead = True
            raise

    # What happens on hosts.

    def break_down(self, host: str, *, seconds: float | None) -> None:
        """Let a host serve no more, by itself; for ever if no time is given."""
        self.hosts[host].is_broken = True
        self._note(host)
        if seconds is not None:
            self.at(seconds, lambda: self.mend(host))

    def mend(self, host: str) -> None:
        """Let a host serve again."""
        self.hosts[host].is_broken = self.hosts[host].breaks = False
        self._note(host)

    def _note(self, host: str) -> None:
        if self.hosts[host].serves:
            self.away_since.pop(host, None)
        else:
            self.away_since.setdefault(host, self.now)

    def _down(self, host: str) -> None:
        self._note(host)

    def _up(self, host: str) -> None:
        self.hosts[host].is_broken |= self.hosts[host].breaks
        self._note(host)

    def _restarted(self, host: str, is_up: bool) -> None:
        if is_up:
            self._up(host)
        else:
            self._note(host)

    # Rules.

    def _ordered(self, host: str) -> None:
        """Judge the moment at which a host obeys."""
        self.on_act()
        others = {other for other in ROWS if other != host and not self.hosts[other].serves}
        known = {
            other
            for other in others
            if self.machines.acts[other] or self.now - self.away_since.get(other, self.now) > FRESH
        }
        rule(f"{host} is taken while {sorted(known)} do not serve", holds=len(known | {host}) <= self.most)
        rows = {ROWS[other] for other in {*known, host}}
        rule(f"{host} is taken while {sorted(known)} of another row do not serve", holds=len(rows) <= self.max_domains)
        rule(f"{host} is acted on twice", holds=self.machines.acts[host] < (len(self.units) if self.restarts else 1))
        rule(f"{host} is not silenced", holds=not self.alertmanagers.loud(host))
        if self.restarts:
            rule(f"Puppet is not disabled on {host}", holds=self.hosts[host].puppet is not None)
        if self.locks:
            kept = self.locks.keys.get(LOCK)
            if kept and kept.ends_at > self.now and json.loads(kept.value)["run"] != self.run:
                self.lock_lost = self.lock_lost or self.now
                rule("another run has the lock", holds=self.now - self.lock_lost < FRESH)

    def _silenced(self, silence: Kept, end: float) -> None:
        rule("a silence lasts longer than it needs", holds=end <= self.now + 4 * 3600.0 + 60.0)

    # Sessions.

    def start(self, *, kill: int = -1, dry_run: bool = False) -> int | None:
        """Start a run; return the exit code, None if the process was killed."""
        return self._session("start", kill, dry_run=dry_run)

    def resume(self, *, kill: int = -1, way_out: WayOut = NOTHING) -> int | None:
        """Resume the run, which is started anew if it was killed before there was one."""
        return self._session("resume" if self.run else "start", kill, way_out=way_out)

    def abort(self, *, kill: int = -1, way_out: WayOut = NOTHING) -> int | None:
        """Abort the run."""
        return self._session("abort", kill, way_out=way_out)

    def states(self) -> dict[str, TargetState]:
        """Return the states of hosts, by the journal."""
        return {state.target.name: state for _, state in journal.read(self.folder / "runs" / self.run).work}

    def held(self) -> dict[str, str]:
        """Return the held hosts, and why."""
        return {name: state.detail for name, state in self.states().items() if state.status is Status.HELD}

    def left(self) -> list[str]:
        """Return what a run that is over has left on hosts that are not held."""
        held = set(self.held()) if self.run else set()
        found = [f"silence of {silence.host}" for silence in self.alertmanagers.ours() if silence.host not in held]
        return found + [f"Puppet of {name}" for name, host in self.hosts.items() if host.puppet and name not in held]

    def procedure(self) -> RollHosts:
        """Return what is done."""
        return RestartHosts(self.selection, self.units) if self.restarts else RebootHosts(self.selection)

    def _session(self, verb: str, kill: int, *, dry_run: bool = False, way_out: WayOut = NOTHING) -> int | None:
        self.is_dead, self.moments_left, self.session_began = False, kill, self.now
        edges: Any = Edges(self)
        spicerack: Any = _Spicerack(dry_run=dry_run)
        config = self.config.model_copy(update={"clusters": self.clusters})
        session = Session(spicerack, config, self.procedure(), unattended=True, edges=edges)
        try:
            if verb == "start":
                return session.start(Request("web", "openssl", "T1"))
            again = session.resume if verb == "resume" else session.abort
            return again(self.run, None, way_out)
        except Killed:
            return None
        except FleetError as error:
            self.refusal = str(error)
            return 2
        finally:
            self.is_dead = True
            edges.threads.end()
            if not (self.folder / "runs" / self.run / "journal.db").exists():
                self.run = ""  # Killed, or refused, before there was one.

    refusal = ""
    """Why the last session was refused, if one was."""


@dataclass(frozen=True)
class _Spicerack:
    dry_run: bool
    username: str = "ann"
    current_hostname: str = "here"


class Edges:
    """What a session reaches such a world with."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.clock = world
        self.threads = AtOnce(world)
        self.events = Passing(world)
        self.console = world.console
        self.journal = Book
        Book.world = world

    def view(self) -> AbstractContextManager[Any]:
        """Return what shows nothing."""
        return nullcontext(Silent())

    def remote(self) -> WebHosts:
        """Return the hosts."""
        return self._world.machines

    def silences(self, config: Any) -> Silences:
        """Return the Alertmanagers."""
        world = self._world
        return Silences(URLS, transport=world.alertmanagers, clock=world, threads=self.threads)

    def lock_store(self) -> LockStore | None:
        """Return the etcd of locks."""
        return self._world.locks

    def group_lock(self, group: Group, holder: Holder, on_change: Callable[[], None]) -> GroupLock:
        """Return the lock."""
        world = self._world
        world.run = holder.run  # Known to the world before anything is touched.
        return GroupLock(
            world.locks, group.name, group.config.lock, holder, on_change, clock=world, threads=self.threads
        )

    def start_lock(self, name: str) -> AbstractContextManager[None]:
        """Return what keeps nobody apart: there is one process at a time."""
        return nullcontext()
