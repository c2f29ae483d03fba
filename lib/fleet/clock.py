"""Time and threads, handed to whatever needs them: tests hand in others, and let time pass by themselves."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Clock(Protocol):
    """This machine's clocks."""

    def time(self) -> float:
        """Return the seconds since the epoch: for what is shown, stored, or sent to others. It may jump."""

    def monotonic(self) -> float:
        """Return seconds that never jump: for durations and deadlines."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class Repeating(Protocol):
    """A call that is repeated in the background."""

    def stop(self, *, wait: float = 0.0) -> None:
        """End it.

        Args:
            wait: seconds to wait for a call in progress.
        """


class Threads(Protocol):
    """Ways to do several things at the same time."""

    def start(self, call: Callable[[], None], name: str) -> None:
        """Make a call in a daemon thread, which does not keep the process from ending."""

    def repeat(self, call: Callable[[], bool], pause: float, name: str) -> Repeating:
        """Make a call again and again in the background, until it returns False or is stopped.

        Args:
            call: must not raise.
            pause: seconds before each call, the first one included.
            name: the thread's name.
        """

    def map(self, call: Callable[[T], R], items: Sequence[T], name: str, *, most: int = 16) -> list[R]:
        """Make a call for each item, at the same time, and return the results in the items' order.

        Args:
            call: raises for an item by raising; the first error is raised once all calls have returned.
            items: what to call for.
            name: what the threads' names begin with.
            most: calls in progress at once.
        """


class SystemClock:
    """The clocks of the operating system."""

    def time(self) -> float:
        """Return the seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that never jump."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class _RepeatingThread:
    def __init__(self, call: Callable[[], bool], pause: float, name: str) -> None:
        self._call, self._pause = call, pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def stop(self, *, wait: float = 0.0) -> None:
        self._stop.set()
        if wait and self._thread is not threading.current_thread():
            self._thread.join(timeout=wait)

    def _loop(self) -> None:
        while not self._stop.wait(self._pause) and self._call():
            pass


class SystemThreads:
    """Threads of the operating system."""

    def start(self, call: Callable[[], None], name: str) -> None:
        """Make a call in a daemon thread."""
        threading.Thread(target=call, name=name, daemon=True).start()

    def repeat(self, call: Callable[[], bool], pause: float, name: str) -> Repeating:
        """Make a call again and again in the background."""
        return _RepeatingThread(call, pause, name)

    def map(self, call: Callable[[T], R], items: Sequence[T], name: str, *, most: int = 16) -> list[R]:
        """Make a call for each item, at the same time; one that hangs does not keep the process from ending."""
        futures: list[tuple[T, Future[R]]] = [(item, Future()) for item in items]
        waiting = SimpleQueue[tuple[T, Future[R]]]()
        for each in futures:
            waiting.put(each)

        def work() -> None:
            with suppress(Empty):
                while True:
                    item, future = waiting.get_nowait()
                    try:
                        future.set_result(call(item))
                    except BaseException as error:
                        future.set_exception(error)

        for number in range(min(most, len(items))):
            self.start(work, f"{name}-{number}")
        wait([future for _, future in futures])
        return [future.result() for _, future in futures]


CLOCK = SystemClock()
"""The clock of whoever is not handed another one."""
THREADS = SystemThreads()
"""The threads of whoever is not handed others."""


@cache
def _boot() -> str:
    """Return the id of this machine's boot. Its monotonic clock is the same for all processes until the next one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment that another process can be told of.

    Stored as ``{"time": 1769828390.0, "monotonic": 5021.3, "boot": "9b2c…"}``.

    Attributes:
        time: in seconds since the epoch, by this machine's clock, which may have been wrong.
        monotonic: by its monotonic clock, which counts from the boot.
        boot: the boot.
    """

    time: float
    monotonic: float
    boot: str

    @classmethod
    def now(cls, clock: Clock) -> "Moment":
        """Return this moment."""
        return cls(clock.time(), clock.monotonic(), _boot())

    @classmethod
    def parse(cls, stored: Any) -> "Moment | None":
        """Read a moment as it is stored; older versions stored its time alone, which is never certain."""
        if isinstance(stored, int | float):
            return cls(stored, 0.0, "not known")
        try:
            return cls(float(stored["time"]), float(stored["monotonic"]), str(stored["boot"]))
        except (KeyError, TypeError, ValueError):
            return None

    def minus(self, seconds: float) -> "Moment":
        """Return the moment some seconds before."""
        return Moment(self.time - seconds, self.monotonic - seconds, self.boot)

    def stored(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)

    @property
    def is_certain(self) -> bool:
        """Whether its distance from now is known for certain: the machine has not booted since."""
        return self.boot == _boot()

    def on_monotonic(self, clock: Clock) -> float:
        """Return when it was by the monotonic clock of today; of another boot, as far as the clocks were right."""
        return self.monotonic if self.is_certain else clock.monotonic() - (clock.time() - self.time)
