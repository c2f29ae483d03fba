"""Sessions of the real engine in a world in memory, where to wait is to let time pass."""

import queue
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fleet.maintenance.journal import Journal
from fleet.maintenance.report import LogView
from fleet.maintenance.runner import Procedure, Runner
from fleet.procedures.cluster import Cluster
from hosts_world import World


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


class AtOnce(SimpleNamespace):
    """A thread that is done when it has been started."""

    def start(self) -> None:
        self.target()


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", world.clock)
        patch.setattr(time, "monotonic", world.clock)
        patch.setattr("fleet.maintenance.runner.threading", SimpleNamespace(Thread=AtOnce))
        return Runner(made(), book, LogView(), cluster.cancel, events).run()
