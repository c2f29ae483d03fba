"""Sessions of the real engine in a world in memory, where to wait is to let time pass."""

from collections.abc import Callable
from typing import Any

from fleet.engine.journal import Journal
from fleet.engine.protocols import Procedure
from fleet.engine.report import LogView
from fleet.engine.runner import Runner
from fleet.steps.cluster import Cluster
from worlds.hosts import World
from worlds.timeline import AtOnce, Events
from worlds.timeline import MortalJournal as MortalJournal


class Lock:
    """The cluster's lock, which may not be renewed at times."""

    lost = False

    def __init__(self, world: World, *troubles: tuple[float, float]) -> None:
        self._world, self._troubles = world, troubles

    def problem(self) -> str:
        now = self._world.now
        return "the lock could not be renewed" if any(a <= now < b for a, b in self._troubles) else ""


def carry_out(made: Callable[[], Procedure], book: Journal, world: World, cluster: Cluster) -> str:
    """Let the engine carry out a procedure, which is made in the world's time; return what it left undone."""
    events: Any = Events(world)
    runner = Runner(made(), book, LogView(), cluster.cancel, events, clock=world, threads=AtOnce(world))
    return runner.run()
