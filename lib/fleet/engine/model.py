"""The words of the engine, as plain data: runs, stages, targets, steps, verdicts.

A *run* of a procedure is a list of *stages*; a stage takes each of its *targets* (a node, a host, the cluster itself)
through the stage's *steps* under a rolling limit. Everything here is immutable and imports no I/O.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Facts = Mapping[str, Any]
"""What a run learned about a target and changed on it; plain JSON values, kept in the journal."""


class Status(StrEnum):
    """Where a target stands."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    HELD = "held"
    GIVEN_UP = "given up"
    """An operator closed it as it is: the run has nothing more to do with it."""


class Phase(StrEnum):
    """What comes next for a running target within its step."""

    PROBE = "probe"
    """After a crash at the pivot: has its effect happened? If not, the target starts over."""
    CHECK = "check"
    """Is there anything to do?"""
    APPLY = "apply"
    """Act."""
    VERIFY = "verify"
    """Wait until what the step promises is true."""


class Kind(StrEnum):
    """The answers a step can give."""

    DONE = "done"
    PENDING = "pending"
    UNKNOWN = "unknown"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A step's answer about one target.

    Attributes:
        kind: ``done`` (true now), ``pending`` (not yet), ``unknown`` (could not be read, which counts as not yet) or
            ``failed`` (waiting is of no use: hold the target).
        detail: one line for the operator.
        facts: what to remember about the target.
        undone: with ``pending``: what the step did is not there, or not there any more, and has to be done again.
        final: with ``failed``: the target is not tried again by itself, whatever its stage allows.
    """

    kind: Kind
    detail: str = ""
    facts: Facts = field(default_factory=dict)
    undone: bool = False
    final: bool = False


def done(detail: str = "", **facts: Any) -> Verdict:
    """Return the verdict that a step's promise is true."""
    return Verdict(Kind.DONE, detail, facts)


def pending(detail: str, **facts: Any) -> Verdict:
    """Return the verdict that a step's promise is not true yet."""
    return Verdict(Kind.PENDING, detail, facts)


def undone(detail: str) -> Verdict:
    """Return the verdict that a step has to act, also if it did so before."""
    return Verdict(Kind.PENDING, detail, undone=True)


def unknown(detail: str) -> Verdict:
    """Return the verdict that a step's promise could not be read."""
    return Verdict(Kind.UNKNOWN, detail)


def failed(detail: str, **facts: Any) -> Verdict:
    """Return the verdict that a target has to be held, or released where its step and its stage allow it."""
    return Verdict(Kind.FAILED, detail, facts)


def held(detail: str, **facts: Any) -> Verdict:
    """Return the verdict that a target has to be held: a person has to look at it, however often it may be tried."""
    return Verdict(Kind.FAILED, detail, facts, final=True)


@dataclass(frozen=True, slots=True)
class Target:
    """Something that is maintained as a whole.

    Attributes:
        name: the target's name, unique in its stage.
        domain: its failure domain (row, rack); empty when there is none.
        group: the group it shares a limit with: nodes that have the same taints.
    """

    name: str
    domain: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class StepSpec:
    """What decisions need to know of a step.

    Attributes:
        name: the step's name, unique in its stage, in the words of the operator.
        timeout: seconds from the step's begin until the target is held.
        poll: seconds between two checks.
        batch: whether one call serves many targets.
        poll_together: whether targets that wait are asked again as soon as one of them is due, so that they keep in
            step: for questions that cost the same however many targets they are about.
        gate: a step without an effect of its own: it only waits.
        takes_capacity: the effect that takes the target out of service: it needs room within the limits at that very
            moment.
        pivot: the effect that must happen at most once (a reboot): a target that was interrupted before it starts over,
            one that was interrupted after it does not.
        releases: a target that fails here has had nothing done to it that cannot be given back at once, so that it may
            be tried again later, where the stage says so.
        gives_back: the effect gives back what was taken from the target.
        acceptable: a proof for which an operator may give their word.
        bars: no further target starts while one is at this step, although that one is in service already.
    """

    name: str
    timeout: float
    poll: float = 1.0
    batch: bool = True
    poll_together: bool = False
    gate: bool = False
    takes_capacity: bool = False
    pivot: bool = False
    releases: bool = False
    gives_back: bool = False
    acceptable: bool = False
    bars: bool = False


class When(StrEnum):
    """When a stage is done."""

    START = "start"
    """At the start of every session of a run: again after a resume."""
    WORK = "work"
    """Once in a run, when all stages before it are complete."""
    END = "end"
    """At the end of every session, even of one that stopped early."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be unavailable at once.

    Attributes:
        max_unavailable: targets of the cluster.
        max_domains: failure domains.
        max_failed: held targets that are tolerated.
        groups: targets of each group; a group that is not named is limited by ``max_unavailable`` alone.
        blocked: seconds to wait for others to free a limit while nothing is in flight.
    """

    max_unavailable: int = 1
    max_domains: int = 1
    max_failed: int = 0
    groups: Mapping[str, int] = field(default_factory=dict)
    blocked: float = 1800.0


@dataclass(frozen=True, slots=True)
class Retry:
    """How targets are tried again that were released.

    Attributes:
        attempts: how often a target is tried in all, until it is held.
        pause: seconds until the second attempt; each further pause is twice as long.
        longest: the longest pause, in seconds.
        keeps: the names of the facts that are remembered of earlier attempts.
    """

    attempts: int
    pause: float
    longest: float = 1800.0
    keeps: frozenset[str] = frozenset()

    def after(self, attempts: int) -> float:
        """Return the seconds to wait after so many attempts."""
        return min(self.longest, self.pause * 2.0 ** (attempts - 1))


@dataclass(frozen=True, slots=True)
class Accepted:
    """An operator's word for one proof: who gave it, and why."""

    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stage:
    """A list of steps for a list of targets."""

    name: str
    targets: tuple[Target, ...]
    steps: tuple[StepSpec, ...]
    limits: Limits = Limits()
    when: When = When.WORK
    renew: float = 0.0
    """Seconds between two renewals of what expires by itself (silences) on targets in flight; 0 for never."""
    facts: Mapping[str, Facts] = field(default_factory=dict)
    """What is known of targets from the beginning, by name."""
    retry: Retry | None = None
    """How targets are tried again whose step failed that releases them; None if they are held."""
    accepted: Mapping[str, Mapping[str, Accepted]] = field(default_factory=dict)
    """The proofs that operators have accepted, by target and step; of targets that the journal does not know yet."""

    def pivot(self) -> int | None:
        """Return the index of the pivot step, if there is one."""
        return next((index for index, step in enumerate(self.steps) if step.pivot), None)

    def last_give_back(self) -> int:
        """Return the index of the last step that gives something back; that of the last step if none does."""
        return max((index for index, step in enumerate(self.steps) if step.gives_back), default=len(self.steps) - 1)


@dataclass(frozen=True, slots=True)
class GivenUp:
    """An operator closed a target as it was.

    Attributes:
        operator: who did, ``user@host``.
        reason: why.
        left: what is still on it, a line for each: its cordon, its silence ….
    """

    operator: str
    reason: str
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TargetState:
    """Where a target stands in a stage. Times are seconds of the runner's monotonic clock, and are not kept.

    Attributes:
        attempts: how often it was released and tried again.
        released: whether it was given back after a drain that failed, and is to be tried again.
        accepted: the proofs for which an operator gave their word, by the step's name.
        given_up: who closed it as it was, if somebody did.
    """

    target: Target
    status: Status = Status.PENDING
    step: int = 0
    phase: Phase = Phase.CHECK
    detail: str = ""
    facts: Facts = field(default_factory=dict)
    busy: bool = False
    due: float = 0.0
    deadline: float = 0.0
    renew_at: float = 0.0
    attempts: int = 0
    released: bool = False
    accepted: Mapping[str, Accepted] = field(default_factory=dict)
    given_up: GivenUp | None = None


@dataclass(frozen=True, slots=True)
class Absent:
    """A target that someone or something other than this run made unavailable.

    Attributes:
        domain: its failure domain.
        group: its group.
        down: whether it is out of service, not merely closed for new work (cordoned): then it occupies its domain.
        why: one line for the operator.
    """

    domain: str
    group: str
    down: bool
    why: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What the world looks like right now.

    Attributes:
        absent: the targets, by name, that others made unavailable.
        blocked: why nothing new may start or reboot at all (the lock was lost, the cluster cannot be read); empty if
            it may.
        permanent: whether waiting is of no use while ``blocked`` says why.
    """

    absent: Mapping[str, Absent] = field(default_factory=dict)
    blocked: str = ""
    permanent: bool = False
