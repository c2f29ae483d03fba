"""The rules of a re-initialisation over whole runs: wherever they are killed, and whenever they are rolled back.

The world itself watches over those that hold at every moment (worlds.reinitialize), among them: the old etcd is not
written to after stage 7, a stage begins when all before it is done, only managed namespaces are deleted, and only after
the cluster's name was typed, Puppet is not enabled with the other etcd's code, apiservers serve one etcd.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.procedures.reinitialize.runs import Options
from fleet.session import DONE
from worlds.reinitialize import ALL_CALICO, BY_PEOPLE, CONFIG, MANAGED, SERVICES, World
from worlds.reinitialize_hosts import API, CALICO, CALICO_FILE, CONTROLLERS, DEFAULTS, PLUGIN, SCHEDULER, endpoint_of
from worlds.reinitialize_sessions import Play

RULES = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Story:
    """A cluster, and what happens to its run.

    Attributes:
        planes: how many control-plane hosts there are.
        workers: how many workers.
        out: services that are not pooled before.
        inactive: units on the last control-plane host that do not run before.
        puppet_starts: whether Puppet starts what does not run.
        people: whether people merge and revert the change.
        gone: the stages at whose begin a worker goes away, and comes back.
        killed: the stage in which the first session is killed, and after how many moments.
        kills: after how many moments each further session is killed.
    """

    planes: int
    workers: int
    out: frozenset[str]
    inactive: frozenset[str]
    puppet_starts: bool
    people: bool
    gone: tuple[int, int]
    killed: tuple[int, int]
    kills: Sequence[int]

    def world(self) -> World:
        """Return the world before the run."""
        world = World(self.planes, self.workers)
        world.puppet_starts = self.puppet_starts
        for service in self.out:
            world.pooled[service] = world.was_pooled[service] = False
        for unit in self.inactive:
            world.hosts[world.planes[-1]].services[unit].active = False
        world.at_begin(self.killed[0], partial(setattr, world, "moments_left", self.killed[1]))
        for stage, reachable in zip(self.gone, (False, True), strict=True) if self.workers else ():
            world.at_begin(stage, partial(setattr, world.hosts[world.workers[-1]], "reachable", reachable))
        return world

    def play(self, world: World, folder: str) -> Play:
        """Return the run, which a worker may be away from."""
        wish = Options("new", "change-1", max_failed=1)
        return Play(world, Path(folder), config=BY_PEOPLE if self.people else CONFIG, options=wish)

    def to_its_end(self, world: World, session: Callable[..., int | None]) -> None:
        """Let sessions be killed, all hosts come back, and the last one end well."""
        if any(session(kill=kill) == DONE for kill in self.kills):
            return
        if session() != DONE:
            assert self.workers, "only a worker that is away is a reason to end otherwise"
            world.hosts[world.workers[-1]].reachable = True
            assert session() == DONE


@st.composite
def stories(draw: st.DrawFn) -> Story:
    starts = draw(st.booleans())
    units = st.sampled_from([CONTROLLERS, SCHEDULER, CALICO])
    goes = draw(st.integers(0, 25))
    return Story(
        planes=draw(st.integers(1, 3)),
        workers=draw(st.integers(0, 2)),
        out=draw(st.frozensets(st.sampled_from(SERVICES))),
        inactive=frozenset() if starts else draw(st.frozensets(units)),
        puppet_starts=starts,
        people=draw(st.booleans()),
        gone=(goes, draw(st.integers(goes, 25))),
        killed=(draw(st.integers(0, 19)), draw(st.integers(1, 45))),
        kills=draw(st.lists(st.integers(1, 30) | st.integers(30, 300), max_size=3)),
    )


def active(world: World) -> dict[str, dict[str, bool]]:
    """Return which units run."""
    return {name: {unit: it.active for unit, it in host.services.items()} for name, host in world.hosts.items()}


def check_common(world: World, before: Mapping[str, Mapping[str, bool]]) -> None:
    """What is true after a run, whether it went forth or back."""
    assert active(world) == before, "what did not run before does not run now, and the other way round"
    assert world.pooled == world.was_pooled
    assert world.silenced == {}
    assert all(host.puppet is None for host in world.hosts.values())
    assert all(set(host.files) <= {DEFAULTS, CALICO_FILE} for host in world.hosts.values()), "no copy is left"
    for name, host in world.hosts.items():
        for path, text in host.files.items():
            assert text == world.file_of(path), f"{path} on {name} is as Puppet has it"


@RULES
@given(stories())
def test_a_run_that_is_killed_anywhere_comes_to_its_end(story: Story) -> None:
    world = story.world()
    before = active(world)
    with TemporaryDirectory() as folder:
        play = story.play(world, folder)
        if play.start() != DONE:
            story.to_its_end(world, play.resume)
    check_common(world, before)
    assert world.merged
    assert not any("fleet-r1" in key for key in world.new.keys), "no marker is left"
    for name, host in world.hosts.items():
        for unit, service in host.services.items():
            if service.active:
                assert endpoint_of(service.text) == world.new.endpoint, f"{unit} on {name} uses the new etcd"
    assert all(PLUGIN in world.hosts[name].services[API].text for name in world.planes)
    assert world.new.calico.peers == ALL_CALICO.peers
    assert all(world.command(f"check {service}") == 0 for service in SERVICES)
    assert not any(f"/registry/api/v1/namespaces/{name}" in world.old.keys for name in MANAGED)
    assert "/registry/api/v1/namespaces/others" in world.old.keys


@RULES
@given(stories())
def test_an_abort_restores_what_there_was(story: Story) -> None:
    world = story.world()
    before, keys = active(world), frozenset(world.old.keys)
    with TemporaryDirectory() as folder:
        play = story.play(world, folder)
        if play.start() == DONE or not play.exists:
            return
        begun = world.begun
        is_moved = play.is_done("19 verify")
        story.to_its_end(world, play.abort)
    if is_moved:
        assert all(world.serving(name) is world.new for name in world.planes), "the run is only closed"
        assert (world.pooled, world.silenced) == (world.was_pooled, {})
        return
    check_common(world, before)
    assert not world.merged
    assert world.old.keys - {"/registry/lease"} == keys
    for name, host in world.hosts.items():
        for unit, service in host.services.items():
            assert not service.active or endpoint_of(service.text) == world.old.endpoint, f"{unit} on {name}"
            assert begun >= 7 or service.number == 1, f"{unit} on {name} was not touched"
    if begun < 5:
        assert not world.deleted
        assert not world.ran["deploy"]
    if begun < 14:
        assert not [key for key in world.new.keys if key.startswith(("/registry/", "/calico/"))]
