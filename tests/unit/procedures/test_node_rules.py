"""What must hold over whole runs over nodes, whatever breaks, whoever interferes and wherever the process is killed."""

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fleet.engine import journal
from fleet.procedures.way_out import NOTHING, WayOut
from worlds.nodes import World
from worlds.timeline import RuleBroken, rule
from worlds.troubles import TROUBLES, Trouble, heal, schedule, uncordon_what_no_run_owns

MEMORY = Path("/dev/shm")  # where there is such a folder, as a disk is what takes long
STORIES = int(os.environ.get("FLEET_STORIES", "450"))


@dataclass(frozen=True)
class Act:
    """A session of a run.

    Attributes:
        verb: ``resume`` or ``abort``; the first session starts the run.
        kill: after how many moments it is killed; negative for never.
        way_out: what an operator decides about the first node that is held: to give it up, or to accept a proof.
        pause: seconds after it, until the next one.
        troubles: what happens meanwhile.
    """

    verb: str
    kill: int
    way_out: str
    pause: float
    troubles: tuple[Trouble, ...]


@dataclass(frozen=True)
class Story:
    """What happens in a run, and how it ends once all that was wrong is mended."""

    calico: bool
    most: int
    max_failed: int
    releases: bool
    acts: tuple[Act, ...]
    end: str


TROUBLE = st.builds(
    Trouble,
    after=st.floats(0, 150).map(lambda seconds: round(seconds, 1)),
    what=st.sampled_from(sorted(TROUBLES)),
    node=st.integers(0, 2),
    lasts=st.sampled_from([5.0, 40.0, 150.0, 500.0]),
)
ACT = st.builds(
    Act,
    verb=st.sampled_from(["resume", "resume", "abort"]),
    kill=st.one_of(st.just(-1), st.integers(1, 40), st.integers(20, 400)),
    way_out=st.sampled_from(["", "", "", "give up", "accept"]),
    pause=st.sampled_from([0.0, 30.0, 1200.0]),
    troubles=st.lists(TROUBLE, max_size=3).map(tuple),
)
STORY = st.builds(
    Story,
    calico=st.booleans(),
    most=st.integers(1, 2),
    max_failed=st.integers(0, 1),
    releases=st.booleans(),
    acts=st.lists(ACT, min_size=1, max_size=3).map(tuple),
    end=st.sampled_from(["resume", "abort"]),
)


def play(story: Story, folder: Path, *, tells: bool = False) -> World:
    """Play a story to its end; the world itself judges what happens in it."""
    world = World(
        folder,
        calico=story.calico,
        most=story.most,
        max_failed=story.max_failed,
        releases=story.releases,
        tells=tells,
    )
    for number, act in enumerate(story.acts):
        for trouble in act.troubles:
            schedule(world, trouble)
        if _is_over(world):
            break
        verb = act.verb if number else "start"
        again = world.abort if verb == "abort" and world.run else world.resume
        code = again(kill=act.kill, way_out=_way_out(world, act.way_out))
        _forget_what_was_not_recorded(world)
        _judge(world, code)
        world.advance(act.pause)
    heal(world)
    for _ in range(4):
        if _is_over(world):
            break
        code = world.abort() if story.end == "abort" and world.run else world.resume()
        _judge(world, code)
        uncordon_what_no_run_owns(world)
        world.advance(400.0)
    rule(f"it never comes to its end: {world.held() if world.run else 'not even started'}", holds=_is_over(world))
    return world


def _way_out(world: World, what: str) -> WayOut:
    """Return what an operator decides about the first node that is held, and what its detail names."""
    held = world.held() if world.run else {}
    if not what or not held:
        return NOTHING
    name, why = next(iter(held.items()))
    gate = why.partition(":")[0]
    if what == "give up":
        world.rules.given_up.add(name)
        return WayOut(reason="it is broken", give_up=(name,))
    if gate not in ("ready", "bgp", "daemons", "alerts", "volumes"):
        return NOTHING
    world.rules.accepted.add((name, gate))
    return WayOut(reason="it is fine", accept=((name, gate),))


def _forget_what_was_not_recorded(world: World) -> None:
    """Take back decisions of an operator whose process was killed before it had written them down."""
    states = world.states() if world.run else {}
    rules = world.rules
    rules.given_up = {name for name in rules.given_up if name in states and states[name].given_up}
    rules.accepted = {(name, gate) for name, gate in rules.accepted if name in states and gate in states[name].accepted}


def _is_over(world: World) -> bool:
    return bool(world.run) and journal.read(world.folder / world.run).status in ("done", "aborted")


def _judge(world: World, code: int | None) -> None:
    """Judge what a session left behind."""
    if code == 0:
        world.rules.is_clean(world.verb)


@settings(
    max_examples=STORIES,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # A story is short; to make it shorter takes minutes.
)
@given(STORY)
def test_the_rules_hold(story: Story) -> None:
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        try:
            play(story, Path(folder))
        except RuleBroken as error:
            raise AssertionError(str(error)) from error  # What hypothesis makes smaller, and tells.
