"""The members of an Alertmanager cluster: all are asked at once, how many must answer, and what time it is there."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fleet import members
from fleet.adapters.alertmanager.alertmanager import Reply, SilenceError, Transport, epoch
from fleet.clock import Clock, Threads
from fleet.members import Answers

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SKEW = 5.0
"""Seconds that two clocks may differ: the time that members tell is in whole seconds, and old by that of its way."""


class Alertmanagers:
    """The members of one cluster of Alertmanagers; may be used from several threads.

    Args:
        urls: where they are; a member's URL is its name.
        needed: how many have to answer; None for all.
        transport: the way to them.
        clock: this host's time.
        threads: how to ask several at the same time.
    """

    def __init__(
        self, urls: Sequence[str], *, needed: int | None, transport: Transport, clock: Clock, threads: Threads
    ) -> None:
        self.names = tuple(url.rstrip("/") for url in urls)
        self.clock = clock
        self.unasked = ""
        """Which members could not be asked the last time, where the others suffice; empty if all answered."""
        self._needed = len(self.names) if needed is None else min(needed, len(self.names))
        self._transport = transport
        self._threads = threads
        self._dates: dict[str, tuple[float, float]] = {}
        """What each member said last that time it is, and our monotonic clock at that moment."""
        self._ahead: dict[str, float] = {}
        """Seconds that each member's clock is ahead of ours."""

    def ask(self, question: Callable[[str], T], names: Sequence[str] | None = None) -> Answers[T]:
        """Ask members at the same time; all of them unless names are given."""
        return members.ask(
            "members of Alertmanager", self.names if names is None else names, question, threads=self._threads
        )

    def suffice(self, answers: Answers[Any]) -> None:
        """Make sure that enough members answered.

        Args:
            answers: those of all members.

        Raises:
            SilenceError: it is not so; which did not, and why.
        """
        problem = answers.problem
        if len(answers.given) < self._needed:
            others = "; alerts.members_needed may let the others suffice" if answers.given else ""
            raise SilenceError(f"{problem}. Repair it, or correct its URL in alertmanager/config.yaml{others}.")
        if problem and problem != self.unasked:
            logger.warning("%s; what the others know has to suffice.", problem)
        self.unasked = problem

    def call(self, method: str, name: str, path: str, **arguments: Any) -> Reply:
        """Ask one member.

        Args:
            method: of HTTP.
            name: the member.
            path: of the API v2.
            arguments: see :class:`fleet.adapters.alertmanager.alertmanager.Transport`.

        Raises:
            SilenceError: it could not be asked.
        """
        reply = self._transport(method, f"{name}/api/v2/{path}", **arguments)
        if reply.date is not None:
            self._dates[name] = (reply.date, self.clock.monotonic())
            ahead = reply.date - self.clock.time()
            known, self._ahead[name] = self._ahead.get(name, 0.0), ahead
            if (problem := clock_difference(name, ahead)) and abs(ahead - known) > _SKEW:
                logger.warning("%s", problem)
        return reply

    def read(
        self, name: str, path: str, parse: Callable[[Any], Sequence[T]], params: dict[str, str] | None = None
    ) -> list[T]:
        """Read a list of a member's.

        Args:
            name: the member.
            path: of the API v2.
            parse: reads an entry, of which it may make several things or nothing.
            params: of the query.

        Raises:
            SilenceError: it could not be asked, or its answer is no such list.
        """
        reply = self.call("GET", name, path, params=params)
        if not reply.ok:
            raise SilenceError(reply.reason)
        try:
            return [found for entry in reply.data for found in parse(entry)]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise SilenceError("its answer cannot be read: is this an Alertmanager with the API v2?") from error

    @property
    def clock_differences(self) -> tuple[str, ...]:
        """Which members' clocks differ from this host's, a sentence each; as of the last answers."""
        return tuple(said for name, ahead in list(self._ahead.items()) if (said := clock_difference(name, ahead)))

    def now(self, name: str) -> float:
        """Return the time by a member's clock, in seconds since the epoch."""
        date, then = self._dates.get(name, (self.clock.time(), self.clock.monotonic()))
        return date + self.clock.monotonic() - then

    def ours(self, text: str, name: str) -> float:
        """Return a time that a member told, in seconds since the epoch by our clock."""
        ahead = self._ahead.get(name, 0.0)
        return epoch(text) - (ahead if abs(ahead) > _SKEW else 0.0)


def clock_difference(name: str, ahead: float) -> str:
    """Return what is wrong with a member's clock, in a sentence; empty if it agrees with this host's.

    Args:
        name: the member.
        ahead: seconds that its clock is ahead of this host's; negative if it is behind.
    """
    if abs(ahead) <= _SKEW:
        return ""
    word = "ahead of" if ahead > 0 else "behind"
    return (
        f"The clock of {name} is {abs(ahead):.0f} s {word} this host's: silences go by Alertmanager's."
        " Look at NTP on both."
    )
