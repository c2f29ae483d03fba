"""The account of a watchdog: requests, failures, gaps, and writes that its watch has to show. No I/O; thread-safe."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

SHOWN_WITHIN = 5.0
"""Seconds within which the watch has to show a write that succeeded."""

_STALLED = 2.0  # seconds without any success after which the API is not well, whether or not anything has failed yet
_LAST = 10  # failures that are reported in words


@dataclass(frozen=True, slots=True)
class Report:
    """What a watchdog saw.

    Attributes:
        requests: lists, writes and openings of a watch, each tried once.
        failed: how many of them failed, and how many events were lost.
        failures: the last few failures: when (UTC), and what.
        longest_gap: the longest time in seconds from one success to the next, of lists or of writes; it is not below
            the pause between two writes.
        reconnects: how often a watch ended and was opened again, which is no failure.
        events_lost: writes that succeeded and that the watch did not show, or not within some seconds.
    """

    requests: int
    failed: int
    failures: tuple[str, ...]
    longest_gap: float
    reconnects: int
    events_lost: int


class Tally:
    """Counts, from when it is made until it is told to end.

    Args:
        kinds: the kinds of requests that are made all the time, such as ``list``.
        clock: seconds that only go forward.
    """

    def __init__(self, kinds: Iterable[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._requests = self._failed = self._reconnects = self._lost = 0
        self._failures: deque[str] = deque(maxlen=_LAST)
        now = clock()
        self._last_failure = now
        self._last_success = dict.fromkeys(kinds, now)
        self._longest = 0.0
        self._ended: float | None = None
        self._newest_shown = 0
        self._unshown: dict[int, float] = {}  # writes that the watch has to show, and when they succeeded

    def succeeded(self, kind: str) -> None:
        """Count a request that was answered well."""
        with self._lock:
            if self._ended is not None:
                return
            self._requests += 1
            if kind in self._last_success:
                now = self._clock()
                self._longest = max(self._longest, now - self._last_success[kind])
                self._last_success[kind] = now

    def failed(self, kind: str, why: str) -> None:
        """Count a request that failed."""
        with self._lock:
            self._requests += self._ended is None
            self._fail(f"{kind}: {why}")

    def reconnected(self) -> None:
        """Count a watch that was opened again."""
        with self._lock:
            self._reconnects += self._ended is None

    def wrote(self, number: int) -> None:
        """Note that a write succeeded, so that the watch has to show it.

        Args:
            number: of the write. Numbers go up, and no write begins before the one before it has succeeded or failed.
        """
        with self._lock:
            if number > self._newest_shown:  # the watch may be quicker than the answer
                self._unshown[number] = self._clock()

    def showed(self, number: int) -> None:
        """Note that the watch showed a write, or the list with which it begins anew.

        Watches keep the order, so that those before it will not come any more.
        """
        with self._lock:
            self._newest_shown = max(self._newest_shown, number)
            for other in sorted(self._unshown):
                if other < number:
                    self._lose(f"write {other} was left out")
                if other <= number:
                    del self._unshown[other]

    def overdue(self) -> bool:
        """Count the writes as lost that the watch should have shown by now, and tell whether there were any."""
        with self._lock:
            due = self._clock() - SHOWN_WITHIN
            late = [number for number, wrote in self._unshown.items() if wrote <= due]
            for number in late:
                del self._unshown[number]
                self._lose(f"write {number} was not shown within {SHOWN_WITHIN:.0f} s")
            return bool(late)

    def end(self) -> None:
        """Count nothing from now on."""
        with self._lock:
            self._ended = self._now()

    def clean_for(self) -> float:
        """Return the seconds since the last failure, or since the beginning; 0 while answers fail to come."""
        with self._lock:
            return 0.0 if self._open_gap() > _STALLED else self._now() - self._last_failure

    def report(self) -> Report:
        """Return the account as it stands."""
        with self._lock:
            return Report(
                requests=self._requests,
                failed=self._failed,
                failures=tuple(self._failures),
                longest_gap=max(self._longest, self._open_gap()),
                reconnects=self._reconnects,
                events_lost=self._lost,
            )

    def _now(self) -> float:
        return self._clock() if self._ended is None else self._ended

    def _open_gap(self) -> float:
        return self._now() - min(self._last_success.values())

    def _lose(self, what: str) -> None:
        self._lost += self._ended is None
        self._fail(f"watch: {what}")

    def _fail(self, what: str) -> None:
        if self._ended is None:
            self._failed += 1
            self._last_failure = self._clock()
            self._failures.append(f"{datetime.now(UTC):%H:%M:%S} {what}")
