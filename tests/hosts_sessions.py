"""Sessions of the real engine in a world in memory, where to wait is to let time pass."""

import queue
from collections import deque
from collections.abc import Callable
from typing import Any

from fleet.maintenance.journal import Journal
from fleet.maintenance.report import LogView
from fleet.maintenance.runner import Procedure, Runner
from fleet.procedures.cluster import Cluster
from hosts_world import AtOnce, World


class Events(deque[Any]):
    """The runner's queue in such a world: to wait is to let time pass."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def put(self, item: Any) -> None:
        self.append(item)

    def get(self, timeout: float = 0.0) -> Any:
        if not self:
            self._world.advance(timeout)
        return self.get_nowait()

    def get_nowait(self) -> Any:
        if not self:
            raise queue.Empty
        return self.popleft()


class MortalJournal(Journal):
    """A journal whose process may be killed right before or after it writes."""

    world: World

    def record(self, stage: str, states: Any, *, step: str, kind: str) -> None:
        self.world.moment()
        super().record(stage, states, step=step, kind=kind)
        self.world.moment()


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
