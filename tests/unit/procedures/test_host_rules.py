"""What must hold over whole runs, whatever breaks and wherever the process is killed, in the real engine and steps."""

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.engine.declaration import Stage
from fleet.engine.journal import Journal
from fleet.engine.model import Target, TargetState
from fleet.procedures import restart_control_plane
from fleet.procedures.hosts import HostProcedure
from fleet.steps.cluster import Cluster
from fleet.steps.control_plane_health import API, LED, ControlPlane
from worlds.hosts import Killed, World
from worlds.hosts_sessions import Lock, MortalJournal, carry_out

CONTROL_PLANE = ("cp1", "cp2", "cp3")


class Runs(HostProcedure):
    """Runs over the control plane of a world."""

    name = "sre.k8s.restart-control-plane"

    def __init__(self, plane: ControlPlane, components: Sequence[str]) -> None:
        super().__init__()
        self._plane, self._components = plane, components

    def all_hosts(self, cluster: Cluster) -> list[str]:
        return list(self._plane.hosts)

    def stages(self, cluster: Cluster) -> Sequence[Stage]:
        return restart_control_plane.stages_of(self._plane, self._components)

    def checks(self, cluster: Cluster) -> Any:
        return ()


@dataclass(frozen=True)
class Story:
    """What happens in a run.

    Attributes:
        hosts: the control plane.
        targets: the hosts of the run.
        components: what is restarted.
        left_out: whether the targets are out of the load balancer before.
        puppet: hosts on which somebody has disabled Puppet before.
        broken: hosts whose kube-apiserver does not come back.
        outages: when, where and for how long a kube-apiserver is not ready, all by itself.
        locks: when, and for how long, the lock cannot be renewed.
        kills: after how many moments each session is killed.
        delay: seconds that orders to restart are on their way.
        gives_up: whether the run is aborted at last, and not continued.
    """

    hosts: Sequence[str]
    targets: Sequence[str]
    components: Sequence[str]
    left_out: bool
    puppet: frozenset[str]
    broken: frozenset[str]
    outages: Sequence[tuple[float, str, float]]
    locks: Sequence[tuple[float, float]]
    kills: Sequence[int]
    delay: float
    gives_up: bool


@st.composite
def stories(draw: st.DrawFn) -> Story:
    hosts = CONTROL_PLANE[: draw(st.integers(2, 3))]
    left_out = draw(st.integers(0, 7)) == 0
    one = draw(st.sampled_from(hosts))
    begins, lasts = st.floats(0, 90), st.floats(0.5, 30)
    return Story(
        hosts=hosts,
        targets=[one] if left_out or draw(st.integers(0, 3)) == 0 else hosts,
        components=draw(st.sampled_from([(API,), (API, *LED), tuple(LED), LED[:1]])),
        left_out=left_out,
        puppet=draw(st.frozensets(st.sampled_from(hosts), max_size=1)),
        broken=draw(st.frozensets(st.sampled_from(hosts), max_size=1)),
        outages=draw(st.lists(st.tuples(begins, st.sampled_from(hosts), lasts), max_size=2)),
        locks=[(a, a + b) for a, b in draw(st.lists(st.tuples(begins, lasts), max_size=2))],
        kills=draw(st.lists(st.integers(1, 160), max_size=3)),
        delay=draw(st.sampled_from([0.2, 0.2, 4.0])),
        gives_up=draw(st.booleans()),
    )


class Player:
    """Plays a story."""

    def __init__(self, story: Story, folder: Path) -> None:
        self.story, self._folder = story, folder
        self.world = world = World(story.hosts, delay=story.delay)
        if story.left_out:
            world.pooled.pop(story.targets[0])
        for host in story.hosts:
            world.hosts[host].puppet = "by hand" if host in story.puppet else None
            world.hosts[host].comes_back = host not in story.broken
        self._quiet = False
        for begins, host, lasts in story.outages:
            world.at(begins, partial(self._outage, host, lasts))
        self._began = world.now
        self.cluster = world.cluster(story.targets)
        fake: Any = world
        self.plane = ControlPlane(self.cluster, story.hosts, apiservers=fake, balancer=fake)
        self.runs = Runs(self.plane, story.components)
        states = {
            stage.key: [TargetState(Target(host)) for host in story.targets] for stage in self.runs.stages(self.cluster)
        }
        Journal.create(folder, self.cluster.run, states).close()
        MortalJournal.world = world

    def _outage(self, host: str, lasts: float) -> None:
        if not self._quiet:
            self.world.hosts[host].ready = False
            self.world.at(lasts, partial(self._end_outage, host))

    def _end_outage(self, host: str) -> None:
        if not self._quiet:
            self.world.recover(host)

    def session(self, *, abort: bool = False, kill: int = -1) -> str:
        """Carry out a session; return what it left undone."""
        self.world.moments_left = kill
        troubles = [] if self._quiet else [(self._began + a, self._began + b) for a, b in self.story.locks]
        with closing(MortalJournal.open(self._folder, "r1")) as book:
            if abort:
                return carry_out(partial(self.runs.abort, self.cluster, book), book, self.world, self.cluster)
            lock: Any = Lock(self.world, *troubles)
            with self.runs.work(self.cluster, book, lock) as work:
                return carry_out(lambda: work, book, self.world, self.cluster)

    def repair(self) -> None:
        """Let an operator mend everything."""
        self._quiet = True
        for host, known in self.world.hosts.items():
            known.comes_back = True
            if not known.ready:
                self.world.recover(host)
        self.world.advance(5.0)

    def check_traces(self) -> None:
        """What the run took away is there again, and what was not there before is not."""
        world, story = self.world, self.story
        assert set(world.pooled) == set(story.hosts) - (set(story.targets) if story.left_out else set())
        assert {name for name, host in world.hosts.items() if host.puppet == "by hand"} == story.puppet
        assert all(host.puppet in (None, "by hand") for host in world.hosts.values())
        assert world.silenced == {}

    def check_restarts(self) -> None:
        """Nothing was restarted twice, or beside what was asked for."""
        assert all(count == 1 for count in self.world.restarts.values())
        wanted = {(host, component) for host in self.story.targets for component in self.story.components}
        assert set(self.world.restarts) <= wanted


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stories())
def test_rules_hold_in_every_story(story: Story) -> None:
    with TemporaryDirectory() as folder:
        player = Player(story, Path(folder))
        for kill in story.kills:
            with suppress(Killed):
                player.session(kill=kill)
            player.check_restarts()
        player.repair()
        if story.gives_up:
            assert player.session(abort=True) == ""
        else:
            assert player.session() == ""
            assert len(player.world.restarts) == len(story.targets) * len(story.components)
        player.check_restarts()
        player.check_traces()
