"""Decisions of the engine: pure functions from what is known to what is done next.

:func:`decide` looks at a stage's targets and at the world and says which targets may start, which steps run, and which
targets are held; what becomes of one target is the business of :mod:`fleet.engine.advance`. Nothing here does any I/O,
or changes its arguments.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from fleet.engine.advance import before_pivot, is_given_back, may_release
from fleet.engine.capacity import Capacity
from fleet.engine.model import Limits, Observation, Phase, Stage, Status, Target, TargetState, When

OVERDUE = 120.0
"""Seconds past its deadline after which a call that does not return is given up."""
RENEW_RETRY = 10.0
"""Seconds until a renewal that failed is tried again."""


@dataclass(frozen=True, slots=True)
class Start:
    """Take a target into work."""

    target: str


@dataclass(frozen=True, slots=True)
class Run:
    """Ask or carry out one step for some targets."""

    step: int
    phase: Phase
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Renew:
    """Extend what expires by itself on targets in flight."""

    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hold:
    """Leave a target as it is, closed for work, and report it."""

    target: str
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """Give a target back whose step did not come true in time: it is tried again later."""

    target: str
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Let a target's step have its whole time anew: what it waits for may need what another target still keeps away."""

    target: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Send a target back that was about to be taken out of service, and may not be now: it starts again later."""

    target: str
    reason: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The stage is over: complete, or stopped for a reason."""

    complete: bool
    reason: str = ""


Action = Start | Run | Renew | Hold | Release | Wait | Withdraw | Finish


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, and when to look again.

    Attributes:
        actions: in the order in which they are to be done.
        blocked: why pending targets cannot start although there is nothing else to do; empty if they can.
        due: the time of the next check or deadline, or None when only an event can change anything.
    """

    actions: tuple[Action, ...]
    blocked: str = ""
    due: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """The mutable part of a stage: its targets' states, and since when it waits for others.

    Attributes:
        targets: the state of every target, in the order of the plan.
        blocked_since: when the stage began to wait with nothing in flight; None if it does not.
        stopping: why nothing new is to start (an operator's wish); empty if there is no such wish.
        renewing: the targets for which a renewal is under way: what it extends must not be given back meanwhile.
    """

    targets: Mapping[str, TargetState]
    blocked_since: float | None = None
    stopping: str = ""
    renewing: frozenset[str] = frozenset()


def decide(stage: Stage, progress: Progress, seen: Observation, now: float) -> Decision:
    """Say what to do next in a stage.

    Args:
        stage: the stage.
        progress: where its targets stand.
        seen: the world right now.
        now: seconds of the runner's monotonic clock.
    """
    running: list[TargetState] = []
    held: list[TargetState] = []
    waiting: list[TargetState] = []
    for state in progress.targets.values():  # Once: there may be thousands, most of them done or waiting.
        if state.status is Status.PENDING:
            waiting.append(state)
        elif state.status is Status.RUNNING:
            running.append(state)
        elif state.status is Status.HELD:
            held.append(state)
    # Those that were tried before come last, in the order of the plan among themselves.
    waiting.sort(key=lambda state: state.attempts)
    due = partial(_next_due, stage, progress, running, held, waiting)

    actions: list[Action] = list(_withdrawals(stage, running, held, seen))
    withdrawn = {action.target for action in actions if isinstance(action, Withdraw)}
    running = [state for state in running if state.target.name not in withdrawn]
    actions += _holds(stage, running, seen, now)
    just_held = {action.target for action in actions if isinstance(action, Hold)}
    overdue = {action.target for action in actions if isinstance(action, Hold | Release | Wait)}
    going = [state for state in running if state.target.name not in overdue]
    actions += _runs(stage, going, seen, now, progress.renewing)
    actions += _renewals(stage, [*running, *held], now)

    occupied = [state.target for state in [*running, *held] if not is_given_back(stage, state)]
    barring = _barring(stage, going)
    starts, reason = _startable(stage, progress, seen, waiting, occupied, len(held) + len(just_held), now, barring)
    actions += starts

    in_flight = len(running) - len(just_held) + len(starts)
    if in_flight == 0 and not withdrawn:
        if not waiting:
            failures = len(held) + len(just_held)
            return Decision((*actions, Finish(failures == 0, f"{failures} held" if failures else "")))
        if seen.permanent or _is_final(stage, progress, waiting, occupied, len(held) + len(just_held), now):
            return Decision((*actions, Finish(False, reason or _first_problem(stage, waiting, occupied))), reason)
    return Decision(tuple(actions), "" if starts or not waiting else reason, due(in_flight))


def _holds(
    stage: Stage, running: Sequence[TargetState], seen: Observation, now: float
) -> Iterator[Hold | Release | Wait]:
    """End the wait of targets whose step did not come true in time, and of those that may not be rebooted any more."""
    for state in running:
        step = stage.steps[state.step]
        late = now - state.deadline
        if late >= (OVERDUE if state.busy else 0.0):
            why = "its call does not return" if state.busy else state.detail or "it never became true"
            if step.bars and not state.busy and any(_is_closed(stage, other) for other in running):
                yield Wait(state.target.name)
                continue
            end = Release if may_release(stage, state) and not state.busy else Hold
            yield end(state.target.name, f"{step.name}: not within {step.timeout:.0f} s: {why}")
        elif seen.permanent and not state.busy and _is_closed(stage, state) and before_pivot(stage, state):
            yield Hold(state.target.name, f"{step.name}: not continued: {seen.blocked}")


def _withdrawals(
    stage: Stage, running: Sequence[TargetState], held: Sequence[TargetState], seen: Observation
) -> Iterator[Withdraw]:
    """Send targets back that are about to be taken out of service while there is no room for them.

    There was when they started; but others may have made targets unavailable since, above all between a crash and its
    resume.
    """
    closed = [s.target for s in [*running, *held] if s.target.name in seen.absent or _is_closed(stage, s)]
    room = Capacity(stage.limits, closed, seen.absent)
    for state in running:
        closing = state.phase is Phase.APPLY and not state.busy and stage.steps[state.step].takes_capacity
        if closing and state.target.name not in seen.absent:
            if problem := seen.blocked or room.problem(state.target):
                yield Withdraw(state.target.name, problem)
            else:
                room.take(state.target)


def _runs(
    stage: Stage, running: Sequence[TargetState], seen: Observation, now: float, renewing: frozenset[str]
) -> list[Run]:
    """Return the calls that are due, and with each the targets that are asked along with it.

    Targets at the same step and phase share one call, unless each call takes as long as its target needs.
    """
    calls: dict[tuple[int, Phase, str], list[TargetState]] = {}
    for state in running:
        step = stage.steps[state.step]
        if state.busy or ((step.pivot or step.takes_capacity) and state.phase is Phase.APPLY and seen.blocked):
            continue
        if step.gives_back and state.target.name in renewing:
            continue
        shared = "" if step.batch else state.target.name
        calls.setdefault((state.step, state.phase, shared), []).append(state)
    runs = []
    for (index, phase, _), states in calls.items():
        if due := [state for state in states if state.due <= now]:
            poll_together = stage.steps[index].poll_together and phase is not Phase.APPLY
            runs.append(Run(index, phase, tuple(state.target.name for state in (states if poll_together else due))))
    return runs


def _is_closed(stage: Stage, state: TargetState) -> bool:
    """Say whether a target in flight is, or may be, out of service already."""
    closing = next((index for index, step in enumerate(stage.steps) if step.takes_capacity), 0)
    if is_given_back(stage, state):
        return False
    applied = state.step == closing and (state.phase is Phase.VERIFY or (state.phase is Phase.APPLY and state.busy))
    return state.step > closing or applied or state.status is Status.HELD


def _renewals(stage: Stage, in_flight: list[TargetState], now: float) -> list[Renew]:
    # Not from the last step on that gives something back: it ends what would be renewed.
    last = stage.last_give_back()
    names = tuple(s.target.name for s in in_flight if stage.renew and s.renew_at <= now and s.step < last)
    return [Renew(names)] if names else []


def _barring(stage: Stage, running: Sequence[TargetState]) -> str:
    """Return which target keeps all others from starting, and why; empty if none does."""
    for state in running:
        if stage.steps[state.step].bars:
            return f"{state.target.name}: {stage.steps[state.step].name}: {state.detail or 'not looked at yet'}"
    return ""


def _too_many_failed(limits: Limits, failures: int) -> str:
    if failures <= limits.max_failed:
        return ""
    return f"{failures} held, and no more than {limits.max_failed} may fail"


def _startable(
    stage: Stage,
    progress: Progress,
    seen: Observation,
    waiting: list[TargetState],
    occupied: list[Target],
    failures: int,
    now: float,
    barring: str,
) -> tuple[list[Start], str]:
    if stage.when is not When.WORK:  # Getting ready and tidying up make nothing unavailable.
        return [Start(state.target.name) for state in waiting], ""
    if stop := progress.stopping or seen.blocked or _too_many_failed(stage.limits, failures):
        return [], stop
    if barring:
        return [], barring
    ready = [state for state in waiting if not state.attempts or state.due <= now]
    return _starts(stage.limits, ready, occupied, seen)


def _starts(
    limits: Limits, waiting: list[TargetState], occupied: list[Target], seen: Observation
) -> tuple[list[Start], str]:
    """Return the targets that may start, and what keeps the first one that may not."""
    room = Capacity(limits, occupied, seen.absent)
    starts = []
    reason = ""
    full: set[tuple[str, str, bool]] = set()
    for state in waiting:
        target = state.target
        alike = (target.domain, target.group, target.name in seen.absent)
        if alike in full:
            continue  # What there was no room for just now there is none for now: the room only gets less.
        if room.take(target):
            starts.append(Start(target.name))
        else:
            full.add(alike)
            reason = reason or room.problem(target)
    return starts, reason


def _first_problem(stage: Stage, waiting: list[TargetState], occupied: list[Target]) -> str:
    return _starts(stage.limits, waiting, occupied, Observation())[1]


def _is_final(
    stage: Stage, progress: Progress, waiting: list[TargetState], occupied: list[Target], failures: int, now: float
) -> bool:
    """Say whether waiting for others is of no use: nothing is in flight and nothing can start."""
    if progress.stopping or _too_many_failed(stage.limits, failures):
        return True
    starts, _ = _starts(stage.limits, waiting, occupied, Observation())
    if not starts:
        return True
    return progress.blocked_since is not None and now - progress.blocked_since >= stage.limits.blocked


def _next_due(
    stage: Stage,
    progress: Progress,
    running: Sequence[TargetState],
    held: Sequence[TargetState],
    waiting: Sequence[TargetState],
    in_flight: int,
) -> float | None:
    times = [state.deadline + OVERDUE if state.busy else min(state.due, state.deadline) for state in running]
    times += [state.due for state in waiting if state.attempts]
    if stage.renew:
        last = stage.last_give_back()
        times += [state.renew_at for state in (*running, *held) if state.step < last]
    if not in_flight and progress.blocked_since is not None:
        times.append(progress.blocked_since + stage.limits.blocked)
    return min(times, default=None)
