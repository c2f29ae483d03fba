"""Time that passes when it is told to, for worlds in memory, and the moments at which a process may be killed."""

import queue
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fleet.engine.journal import Journal

T = TypeVar("T")
R = TypeVar("R")


class Killed(BaseException):
    """The process is no more."""


class RuleBroken(BaseException):
    """What must never happen has happened; the engine must not take it for an effect that failed."""


def rule(what: str, *, holds: bool) -> None:
    """Make sure that a rule holds."""
    if not holds:
        raise RuleBroken(what)


class Time:
    """Time that passes when it is told to, what happens meanwhile, and the moment at which the process is killed."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.moments_left = -1
        """Moments until the process is killed; negative for never."""
        self.later: list[tuple[float, Callable[[], None]]] = []
        """What is going to happen, and when."""

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [when for when, _ in self.later if when <= end]:
            self.now = max(self.now, min(due))
            ready = [action for when, action in self.later if when <= self.now]
            self.later = [(when, action) for when, action in self.later if when > self.now]
            for action in ready:
                action()
        self.now = max(self.now, end)

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        self.later.append((self.now + seconds, action))

    def moment(self) -> None:
        """Pass a moment at which the process may be killed."""
        self.moments_left -= 1
        if self.moments_left == 0:
            raise Killed


class Repeated:
    """A call that is repeated as time passes."""

    def __init__(self) -> None:
        self.stopped = False

    def stop(self, *, wait: float = 0.0) -> None:
        self.stopped = True


class AtOnce:
    """Threads of such a time: a call is made when its thread is started, what is repeated happens as time passes."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self._repeated: list[Repeated] = []

    def start(self, call: Callable[[], None], name: str) -> None:
        call()

    def repeat(self, call: Callable[[], bool], pause: float, name: str) -> Repeated:
        repeated = Repeated()
        self._repeated.append(repeated)

        def again() -> None:
            if not repeated.stopped and call():
                self._time.at(pause, again)

        self._time.at(pause, again)
        return repeated

    def map(self, call: Callable[[T], R], items: Sequence[T], name: str, *, most: int = 16) -> list[R]:
        return [call(item) for item in items]

    def end(self) -> None:
        """End with their process."""
        for repeated in self._repeated:
            repeated.stopped = True


class Events(deque[Any]):
    """The runner's queue in such a world: to wait is to let time pass."""

    def __init__(self, time: Time) -> None:
        super().__init__()
        self._time = time

    def put(self, item: Any) -> None:
        self.append(item)

    def get(self, timeout: float = 0.0) -> Any:
        if not self:
            self._time.advance(timeout)
        return self.get_nowait()

    def get_nowait(self) -> Any:
        if not self:
            raise queue.Empty
        return self.popleft()


class MortalJournal(Journal):
    """A journal whose process may be killed right before or after it writes."""

    world: Time

    def record(self, stage: str, states: Any, *, step: str, kind: str) -> None:
        self.world.moment()
        super().record(stage, states, step=step, kind=kind)
        self.world.moment()
