"""Sessions of a re-initialisation: the real session, engine and stages in a world in memory."""

from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fleet.adapters.k8s.errors import ApiUnreachable
from fleet.config.model import ClusterConfig, Config
from fleet.engine import journal
from fleet.engine.journal import Journal
from fleet.engine.model import Status
from fleet.engine.report import LogView
from fleet.procedures.reinitialize.runs import Options, ReinitializeCluster
from fleet.session import Request, Session
from support.spicerack import Ann
from worlds.reinitialize import CONFIG, Client, World
from worlds.timeline import AtOnce, Events, Killed

RUN = "r1"
OPTIONS = Options("new", "change-1")
_REINITIALIZE = "fleet.procedures.reinitialize"


class Lock:
    """The cluster's Lease, which is a key of the etcd that the API serves."""

    KEY = "/registry/lease"
    lost = False
    is_suspended = False

    def __init__(self, api: Any, *args: Any, **options: Any) -> None:
        self._world = api._world

    def acquire(self, *, patient: bool = False) -> None:
        try:
            self._world.write(self._world.served(), self.KEY)
            self.is_suspended = False
        except ApiUnreachable:
            if not patient:
                raise
            self.is_suspended = True

    def suspend(self) -> None:
        self.is_suspended = True

    def problem(self) -> str:
        return ""

    def release(self) -> None:
        """Let it expire."""


class Book(Journal):
    """A journal whose process may be killed right before or after it writes."""

    world: World

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._db.execute("PRAGMA synchronous=OFF")  # The machine does not lose its power here.

    def record(self, stage: str, states: Any, *, step: str, kind: str) -> None:
        self.world.moment()
        super().record(stage, states, step=step, kind=kind)
        if kind == "start":
            self.world.began(stage, self._unfinished_before(stage))
        self.world.moment()

    def _unfinished_before(self, stage: str) -> list[str]:
        units = journal.read(self.folder).targets
        return [
            f"{other}/{state.target.name}"
            for other, states in units.items()
            if other[0].isdigit() and stage[0].isdigit() and int(other.split()[0]) < int(stage.split()[0])
            for state in states
            if state.status is not Status.DONE
        ]


class Edges:
    """What a session reaches such a world with."""

    journal = Book

    def __init__(self, world: World) -> None:
        self._world = world
        self.clock = world
        self.threads = AtOnce(world)
        self.events = Events(world)
        self.console = Console(file=world.said, width=200)
        self.follow = None

    def view(self) -> Any:
        return nullcontext(LogView())

    def remote(self) -> Any:
        return self._world

    def api(self, kubeconfig: Path) -> Any:
        return Client(self._world)

    def silences(self, config: Any) -> Any:
        return self._world

    def lock(self, cluster: Any, *args: Any) -> Any:
        return Lock(cluster.api)

    def start_lock(self, cluster: str) -> Any:
        return nullcontext()


class Play:
    """A run in a world: started, killed, resumed, aborted."""

    def __init__(
        self,
        world: World,
        folder: Path,
        *,
        config: ClusterConfig = CONFIG,
        options: Options = OPTIONS,
        dry_run: bool = False,
        unattended: bool = False,
        preflight: bool = False,
    ) -> None:
        self.world = world
        self.folder = folder
        self._config = Config(state_dir=folder, clusters={"lab": config})
        self._options = options
        self._unattended = unattended
        self._preflight = preflight
        self._spicerack = Ann(dry_run=dry_run)

    def start(self, *, kill: int = -1) -> int | None:
        """Start the run; return its exit code, nothing if the process was killed."""
        return self._session("start", kill)

    def resume(self, *, kill: int = -1) -> int | None:
        """Go on with the run, which is started anew if it was killed before there was one."""
        return self._session("resume" if self.exists else "start", kill)

    def abort(self, *, kill: int = -1) -> int | None:
        """Abort the run."""
        return self._session("abort", kill)

    @property
    def exists(self) -> bool:
        """Whether there is a run."""
        return (self.folder / RUN / "journal.db").exists()

    def is_done(self, stage: str) -> bool:
        """Return whether the run is through with a stage."""
        return all(state.status is Status.DONE for state in journal.read(self.folder / RUN).targets[stage])

    def held(self) -> dict[str, list[str]]:
        """Return the units that are held, by stage."""
        units = journal.read(self.folder / RUN).targets
        held = {stage: [s.target.name for s in states if s.status is Status.HELD] for stage, states in units.items()}
        return {stage: names for stage, names in held.items() if names}

    def _session(self, verb: str, kill: int) -> int | None:
        self.world.moments_left = kill
        self.world.typed.clear()
        with _in(self.world, preflight=self._preflight):
            runs = ReinitializeCluster(self._spicerack, self._options)
            edges: Any = Edges(self.world)
            session = Session(self._spicerack, self._config, runs, unattended=self._unattended, edges=edges)
            try:
                if verb == "start":
                    return session.start(Request("lab", "why", "T1"))
                return session.resume(RUN, None) if verb == "resume" else session.abort(RUN, None)
            except Killed:
                return None


@contextmanager
def _in(world: World, *, preflight: bool) -> Any:
    Book.world = world
    others = {
        "fleet.adapters.commands.run": world.organisation,
        "fleet.adapters.commands.ask": world.asked,
        "fleet.adapters.commands.is_running": lambda log: world.outliving,
        "fleet.adapters.k8s.workloads.unready": lambda api, namespaces: world.unready,
        "fleet.adapters.k8s.export.export": world.export,
        f"{_REINITIALIZE}.world.World.apiservers": lambda self: world,
        f"{_REINITIALIZE}.data.datastore": world.datastore,
        f"{_REINITIALIZE}.apiserver.Api": SimpleNamespace(
            from_kubeconfig=lambda path, server: Client(world, server.split("/")[2].split(":")[0])
        ),
        "fleet.adapters.k8s.lock.taken_by": lambda api, lease, **_: api.get("/api") and world.holder,
        **({} if preflight else {f"{_REINITIALIZE}.runs.preflight.checks": lambda *args: [list]}),
        f"{_REINITIALIZE}.runs.Discovery": lambda config, dry_run: SimpleNamespace(
            pooled=world.pooled_at, set=world.set_pooled
        ),
        f"{_REINITIALIZE}.runs.connect": lambda *args: world,
        f"{_REINITIALIZE}.silences.Silences.keep": lambda self: None,
        "fleet.session.sys": SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)),
        "fleet.session.ask_confirmation": lambda text: None,
        "fleet.session.ask_input": world.answer,
        "fleet.session.journal.new_run_id": lambda *args: RUN,
    }
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in others.items():
            patch.setattr(name, value)
        yield
