"""No rule is broken in any story of a group of hosts: whatever breaks, whoever works there, wherever it is killed."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from worlds.groups import LOCK, ROWS, Web, World
from worlds.locks import Kept, LockStore

STORIES = 120 if os.environ.get("CI") else 60
HOSTS = tuple(ROWS)
Event = tuple[float, str, str]


def happening(world: World, kind: str, host: str) -> Callable[[], None]:
    """Return what lets something happen."""
    return lambda: happen(world, kind, host)


def happen(world: World, kind: str, host: str) -> None:
    """Let something happen to a host, or around it."""
    machine, store = world.hosts[host], world.locks
    assert store is not None
    others = Kept(json.dumps({"run": "r0", "host": "b", "operator": "bob", "reason": "x"}), world.now + 120.0)
    effects: dict[str, Callable[[], object]] = {
        "breaks": lambda: world.break_down(host, seconds=None),
        "breaks for a while": lambda: world.break_down(host, seconds=40.0),
        "breaks at its act": lambda: setattr(machine, "breaks", True),
        "is busy": lambda: setattr(machine, "is_busy", True),
        "is busy for a while": lambda: for_a_while(world, machine, "is_busy", value=True),
        "does not answer": lambda: setattr(machine, "answers", False),
        "does not answer for a while": lambda: for_a_while(world, machine, "answers", value=False),
        "never comes back": lambda: setattr(machine, "lasts", None),
        "takes long to boot": lambda: setattr(machine, "lasts", 120.0),
        "is slow to obey": lambda: setattr(machine, "delay", 12.0),
        "refuses": lambda: setattr(machine, "refuses", True),
        "has no Puppet that works": lambda: setattr(machine, "puppet_fails", True),
        "reboots by itself": lambda: world.machines.go_down(host) if machine.is_up else None,
        "loses its silence": lambda: lose_silences(world),
        "locks vanish": lambda: setattr(store, "is_up", False),
        "locks are back": lambda: setattr(store, "is_up", True),
        "another run takes the lock": lambda: (
            store.keys.setdefault(LOCK, others)
            if store.keys.get(LOCK) is None or store.keys[LOCK].ends_at <= world.now
            else None
        ),
    }
    effects[kind]()


def for_a_while(world: World, machine: Web, name: str, *, value: bool) -> None:
    """Let an attribute of a host be another one for 45 s."""
    setattr(machine, name, value)
    world.at(45.0, lambda: setattr(machine, name, not value))


def lose_silences(world: World) -> None:
    """Let somebody end all silences."""
    for member in world.alertmanagers.members.values():
        member.silences.clear()


def take(store: LockStore, others: Kept) -> None:
    """Take the lock, if nobody has it."""
    kept = store.keys.get(LOCK)
    if kept is None or kept.ends_at <= store.time.now:
        store.keys[LOCK] = others


KINDS = (
    "breaks",
    "breaks for a while",
    "breaks at its act",
    "is busy",
    "is busy for a while",
    "does not answer",
    "does not answer for a while",
    "never comes back",
    "takes long to boot",
    "is slow to obey",
    "refuses",
    "has no Puppet that works",
    "reboots by itself",
    "loses its silence",
    "locks vanish",
    "locks are back",
    "another run takes the lock",
)


def heal(world: World) -> None:
    """Put in order all that others have broken, but nothing that the run has done."""
    assert world.locks is not None
    world.advance(200.0)  # All that was going to happen has happened.
    world.locks.is_up = True
    for name, machine in world.hosts.items():
        machine.is_busy = machine.refuses = machine.puppet_fails = machine.breaks = False
        machine.answers, machine.delay = True, 0.5
        if not machine.is_up and machine.lasts is None:
            machine.lasts = 20.0
            world.machines.come_up_after(name, 1.0)
        machine.lasts = 20.0
        world.mend(name)
    world.advance(400.0)


@settings(max_examples=STORIES, deadline=None, suppress_health_check=list(HealthCheck))
@example(True, 1, [(2.0, "breaks at its act", "web1")], [7, 3], ["abort", "abort"])
@given(
    st.booleans(),
    st.integers(1, 2),
    st.lists(
        st.tuples(st.floats(0.0, 150.0), st.sampled_from(KINDS), st.sampled_from(HOSTS)),
        max_size=5,
    ),
    st.lists(st.integers(1, 60), max_size=3),
    st.lists(st.sampled_from(["resume", "abort"]), min_size=3, max_size=3),
)
def test_rules_hold_in_every_story(
    restarts: bool, most: int, events: list[Event], kills: list[int], verbs: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), restarts=restarts, most=most, max_failed=1)
        for delay, kind, host in events:
            world.at(delay, happening(world, kind, host))
        for verb, kill in zip(["resume", *verbs], kills, strict=False):
            if verb == "abort" and world.run:
                world.abort(kill=kill)
            elif verb != "abort":
                world.resume(kill=kill)  # which starts a run if there is none
            world.advance(3.0)
        heal(world)
        codes = [world.resume()]
        while codes[-1] != 0 and len(codes) < 4 and world.run:
            world.advance(200.0)
            codes.append(world.resume())
        # A run that was aborted cannot be resumed; one that was refused for what others left is started anew.
        if 0 in codes or world.run:
            assert codes[-1] in (0, 2), (codes, world.held(), world.refusal)
            assert world.left() == [], world.refusal
