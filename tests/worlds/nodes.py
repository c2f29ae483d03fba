"""A cluster's nodes in memory, for the real session, engine and steps: the API, hosts, routers and Alertmanager.

Time passes when something waits. What others do, and what breaks, happens meanwhile. The world itself watches over the
rules (:mod:`worlds.rules`), whatever the code says.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from fleet.adapters.alertmanager.silences import Silences
from fleet.adapters.k8s.lock import ClusterLock
from fleet.config.model import ClusterConfig, Config
from fleet.engine import journal
from fleet.engine.journal import RunInfo
from fleet.engine.model import Stage, Status, TargetState
from fleet.engine.protocols import Holder
from fleet.errors import FleetError
from fleet.procedures.nodes import NodeProcedure, Selection
from fleet.procedures.reboot_nodes import RebootNodes
from fleet.procedures.restart_calico import RestartCalico
from fleet.procedures.way_out import NOTHING, WayOut
from fleet.session import Request, Session
from fleet.steps.cluster import Cluster
from support.spicerack import Ann
from worlds import watches
from worlds.alertmanager import URLS, Alertmanagers
from worlds.components import App, Components
from worlds.kubernetes import Kubernetes
from worlds.machines import UNIT, Machine, Machines
from worlds.network import ASN, Routers
from worlds.rules import Rules
from worlds.timeline import AtOnce, Events, Killed, MortalJournal, Time, rule

NAMES = ("w1", "w2", "w3")
LONGEST = 4 * 3600.0
"""Seconds after which a session that has not ended never will: all waits have deadlines."""


def config(*, most: int = 2, max_failed: int = 0, releases: bool = False) -> ClusterConfig:
    """Return the cluster's configuration."""
    return ClusterConfig.model_validate(
        {
            "kubeconfig": "/etc/kubernetes/lab.config",
            "hosts": {"workers": "w[1-3]", "control_plane": "cp1"},
            "limits": {"max_unavailable": most, "max_failed": max_failed, "attempts": 2},
            "deadlines": {
                "blocked": "120s",
                "drain": "90s",
                "reboot": "200s",
                "restart": "60s",
                "puppet": "90s",
                "ready": "400s",
                "alerts": "120s",
                "bgp": "120s",
                "volumes": "60s",
                "daemons": "60s",
                "workloads": "60s",
            },
            "drain": {"failed": "release" if releases else "hold", "retry": "60s"},
            "lease": {"duration": "60s"},
            "bgp": {
                "routers": {"cr1": {}, "cr2": {}},
                "username": "fleet",
                "ssh_key": "/etc/fleet/key",
                "known_hosts": "/etc/fleet/known_hosts",
                "asn": ASN,
                "unit": UNIT,
            },
        }
    )


class Quiet(Console):
    """A console that shows nothing: to render is what takes long."""

    def print(self, *args: Any, **options: Any) -> None:
        """Print nothing."""


class Silent:
    """A view that shows nothing."""

    def show(self, stage: Stage, states: Mapping[str, TargetState], blocked: str) -> None:
        """Show nothing."""

    def tell(self, message: str, *, level: int = logging.INFO) -> None:
        """Tell nothing."""


class Telling(Silent):
    """A view that prints, with the world's time; for whoever looks into an example."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def tell(self, message: str, *, level: int = logging.INFO) -> None:
        print(f"{self._world.now - self._world.began:8.1f} {message}")


class Book(MortalJournal):
    """The journal of such a world, on a machine that does not lose its power."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._db.execute("PRAGMA synchronous=OFF")


class Passing(Events):
    """The queue of a session that has to end, in any world that knows when it began."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._world = world

    def get(self, timeout: float = 0.0) -> Any:
        rule("the session never ends", holds=self._world.now < self._world.session_began + LONGEST)
        return super().get(timeout)


class World(Time):
    """A cluster with three workers in two rows, and what runs on it.

    Args:
        folder: where runs are kept.
        calico: whether calico-node is restarted; otherwise nodes are rebooted.
        most: how many nodes may be unavailable.
        max_failed: how many may be held.
        releases: whether nodes are released whose drain failed.
        lag: seconds that watches are late.
        tells: whether sessions print what they do.
    """

    def __init__(
        self,
        folder: Path,
        *,
        calico: bool = False,
        most: int = 2,
        max_failed: int = 0,
        releases: bool = False,
        lag: float = 0.2,
        tells: bool = False,
    ) -> None:
        super().__init__()
        self.folder, self.most, self.lag, self.tells = folder, most, lag, tells
        self.is_reboot = not calico
        self.procedure: type[NodeProcedure] = RestartCalico if calico else RebootNodes
        lab = config(most=most, max_failed=max_failed, releases=releases)
        self.config = Config(state_dir=folder, clusters={"lab": lab})
        self.began = self.session_began = self.now
        self.run, self.verb = "", ""
        self.options: Mapping[str, Any] = {}
        self.is_dead = False
        self.lost_after = 50.0
        self.held_silence = lab.alerts.held_silence
        self.kubernetes = Kubernetes(self)
        booted = self.now - 1e6
        known = {name: Machine(name, index, booted=booted, started=booted) for index, name in enumerate(NAMES)}
        self.rules = Rules(self)
        self.machines = Machines(self, known, self.moment, self.rules.ordered, self._down, self._up, self._restarted)
        self.grace = 0.5
        apps = (App("web", 3, 2), App("db", 2, 1, volumes=True), App("batch", 2), App("agent", None))
        self.components = Components(self, self.kubernetes, known, apps, lambda: self.grace)
        self.network = Routers(self, ("cr1", "cr2"), {name: f"10.0.0.{m.index + 1}" for name, m in known.items()})
        self.alertmanagers = Alertmanagers(self, self.moment, self.rules.silenced)
        self.kubernetes.listeners.append(self.rules.changed)
        self.kubernetes.by_us.append(self.rules.asked)
        self.advance(5.0)

    # The process.

    def moment(self) -> None:
        if self.is_dead:
            raise Killed
        try:
            super().moment()
        except Killed:
            self.is_dead = True
            raise

    def gate(self, method: str, path: str) -> None:
        """Let a request of the process pass, unless it is dead."""
        if method != "GET" and "selfsubjectaccessreviews" not in path:
            self.moment()
        elif self.is_dead:
            raise Killed

    # Hosts, and what depends on them.

    def _down(self, host: str) -> None:
        self.components.kubelet_ends(host)
        self.network.go_down(host)

    def _up(self, host: str) -> None:
        number = self.machines.machines[host].number

        def same() -> bool:
            machine = self.machines.machines[host]
            return machine.is_up and machine.number == number

        self.at(3.0, lambda: self.components.kubelet_begins(host) if same() else None)
        self.at(5.0, lambda: self.network.come_up(host) if same() else None)

    def _restarted(self, host: str, is_up: bool) -> None:
        if is_up:
            self.at(2.0, lambda: self.network.come_up(host))
        else:
            self.network.go_down(host)

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

    def cluster(self, *hosts: str) -> Cluster:
        """Return the cluster as a run over some hosts sees it, for tests of single steps."""
        self.is_dead, self.moments_left, self.run, self.verb = False, -1, "r1", "resume"
        edges = Edges(self)
        run = RunInfo("r1", self.procedure.name, "lab", "ann@here", "kernel", "T1", self.now, {})
        lab = self.config.cluster("lab")
        api = edges.api(lab.kubeconfig)
        return Cluster(
            name="lab",
            config=lab,
            api=api,
            nodes=edges.nodes(api, lambda: None),
            remote=edges.remote(),
            silences=edges.silences(lab.alerts),
            hosts={host: host for host in hosts},
            run=run,
            routers=edges.routers(lab.bgp),
            clock=self,
            threads=edges.threads,
            follow=edges.follow,
        )

    def states(self) -> dict[str, TargetState]:
        """Return the states of nodes, by the journal."""
        return {state.target.name: state for _, state in journal.read(self.folder / self.run).work}

    def held(self) -> dict[str, str]:
        """Return the held nodes, and why."""
        return {name: state.detail for name, state in self.states().items() if state.status is Status.HELD}

    def _session(self, verb: str, kill: int, *, dry_run: bool = False, way_out: WayOut = NOTHING) -> int | None:
        self.is_dead, self.moments_left, self.verb, self.session_began = False, kill, verb, self.now
        edges: Any = Edges(self)
        runs = self.procedure(Selection(max_unavailable=self.most))
        session = Session(Ann(dry_run=dry_run), self.config, runs, unattended=True, edges=edges)
        try:
            if verb == "start":
                return session.start(Request("lab", "kernel", "T1", self.options))
            again = session.resume if verb == "resume" else session.abort
            return again(self.run, None, way_out)
        except Killed:
            return None
        except FleetError as error:
            if self.tells:
                print(f"REFUSED: {error}")
            return 2
        finally:
            self.is_dead = True
            edges.threads.end()
            if not (self.folder / self.run / "journal.db").exists():
                self.run = ""  # Killed, or refused, before there was one.


class Edges:
    """What a session reaches such a world with."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.clock = world
        self.threads = AtOnce(world)
        self.events = Passing(world)
        self.console = Quiet(quiet=True)
        self.journal = Book
        self.follow = watches.Following(world, world.kubernetes, lag=world.lag)
        Book.world = world

    def view(self) -> AbstractContextManager[Silent]:
        return nullcontext(Telling(self._world) if self._world.tells else Silent())

    def remote(self) -> Machines:
        return self._world.machines

    def api(self, kubeconfig: Path) -> Any:
        return self._world.kubernetes.client(self._world.gate)

    def nodes(self, api: Any, on_change: Callable[[], None]) -> Any:
        api.list_all("/api/v1/nodes")
        return watches.nodes(self._world, self._world.kubernetes, lag=self._world.lag)

    def routers(self, config: Any) -> Routers:
        return self._world.network

    def silences(self, config: Any) -> Silences:
        world = self._world
        return Silences(URLS, transport=world.alertmanagers, clock=world, threads=self.threads)

    def lock(self, cluster: Cluster, holder: Holder, on_change: Callable[[], None]) -> ClusterLock:
        # Known to the world before anything is touched.
        self._world.run = holder.run
        return ClusterLock(
            cluster.api,
            cluster.config.lease,
            holder,
            on_change,
            clock=self._world,
            threads=self.threads,
            seen=cluster.lease_seen,
        )

    def start_lock(self, cluster: str) -> AbstractContextManager[None]:
        return nullcontext()
