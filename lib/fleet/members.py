"""All members of a cluster are asked, at the same time: no member's answer is taken for the cluster's.

Members are what has to be asked one by one as none of them speaks for the others: Alertmanagers, load balancers, core
routers, members of etcd.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from fleet.clock import THREADS, Threads
from fleet.errors import FleetError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answers(Generic[T]):
    """What members answered.

    Attributes:
        what: what they are, in the plural: ``members of Alertmanager``.
        given: the answers, by the members' names.
        failed: why each of the others could not be asked, by name.
    """

    what: str
    given: Mapping[str, T]
    failed: Mapping[str, FleetError]

    @property
    def problem(self) -> str:
        """Which members could not be asked and why, without a full stop; empty if all answered."""
        reasons = {name: str(error) for name, error in self.failed.items()}
        return problem(self.what, reasons, of=len(self.given) + len(self.failed))


def ask(what: str, names: Sequence[str], question: Callable[[str], T], *, threads: Threads = THREADS) -> Answers[T]:
    """Ask all members, each in a thread.

    Args:
        what: what they are, in the plural.
        names: their names.
        question: asks the member of a name; raises FleetError if it could not be asked.
        threads: how to ask them at the same time.
    """

    def attempt(name: str) -> T | FleetError:
        try:
            return question(name)
        except FleetError as error:
            return error

    outcomes = dict(zip(names, threads.map(attempt, names, what, most=max(1, len(names))), strict=True))
    return Answers(
        what,
        {name: outcome for name, outcome in outcomes.items() if not isinstance(outcome, FleetError)},
        {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, FleetError)},
    )


def problem(what: str, reasons: Mapping[str, str], *, of: int, verb: str = "asked") -> str:
    """Return the message about members that could not be asked; empty if there are none.

    For example ``1 of 2 members of Alertmanager could not be asked: http://alerts1:9093: connection refused``.

    Args:
        what: what they are, in the plural.
        reasons: why, by name. A reason that begins with the name is not given it once more.
        of: how many members there are.
        verb: what else could not be done to them.
    """
    if not reasons:
        return ""
    told = (
        reason if reason.startswith(f"{name} ") else f"{name}: {reason}"
        for name, reason in ((name, text.strip().rstrip(".")) for name, text in reasons.items())
    )
    return f"{len(reasons)} of {of} {what} could not be {verb}: {'; '.join(told)}"
