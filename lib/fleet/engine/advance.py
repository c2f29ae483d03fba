"""What becomes of one target: from where it stands, and from what its step answered, to where it stands then. Pure.

None of them does any I/O, none of them changes its arguments.
"""

from collections.abc import Sequence
from dataclasses import replace

from fleet.engine.model import Kind, Phase, Stage, Status, TargetState, Verdict


def advance(stage: Stage, state: TargetState, phase: Phase, verdict: Verdict, now: float) -> TargetState:
    """Say what a verdict means for its target.

    Args:
        stage: the target's stage.
        state: the target's state when the step was asked.
        phase: what the step was asked to do.
        verdict: its answer.
        now: seconds of the runner's monotonic clock.
    """
    state = replace(state, busy=False, detail=verdict.detail, facts={**state.facts, **verdict.facts})
    step = stage.steps[state.step]
    if verdict.kind is Kind.FAILED:
        if may_release(stage, state) and not verdict.final:
            return release(stage, state, now)
        return replace(state, status=Status.HELD)
    if verdict.kind is Kind.DONE:
        if phase is Phase.APPLY:
            return replace(state, phase=Phase.VERIFY, due=now)
        return enter(stage, state, state.step + 1, now)
    if verdict.kind is Kind.PENDING and phase is Phase.PROBE:
        return enter(stage, state, 0, now)
    if verdict.undone and phase is Phase.VERIFY:
        return replace(state, phase=Phase.APPLY, due=now + step.poll)
    if verdict.kind is Kind.PENDING and phase is Phase.CHECK:
        return (
            replace(state, phase=Phase.VERIFY, due=now + step.poll)
            if step.gate
            else replace(state, phase=Phase.APPLY, due=now)
        )
    return replace(state, due=now + step.poll)


def enter(stage: Stage, state: TargetState, step: int, now: float, phase: Phase = Phase.CHECK) -> TargetState:
    """Return the state of a target that begins a step; the target is done when there is no such step.

    A proof that an operator has accepted is passed over. A target that was released waits for its next attempt when it
    has been given back.
    """
    while step < len(stage.steps) and (is_accepted(stage, state, step) or (state.released and stage.steps[step].bars)):
        step, phase = step + 1, Phase.CHECK
    if step >= len(stage.steps):
        if state.released:
            return _to_be_tried_again(stage, state, now)
        return replace(state, status=Status.DONE, step=step, busy=False, detail="")
    return replace(
        state,
        status=Status.RUNNING,
        step=step,
        phase=phase,
        busy=False,
        detail="",
        due=now,
        deadline=now + stage.steps[step].timeout,
        renew_at=state.renew_at or now + stage.renew,
    )


def resume(stage: Stage, state: TargetState, now: float) -> TargetState:
    """Say where a target goes on after its run was interrupted, or after it was held.

    A target whose pivot (its reboot) has not been ordered starts over, and so does one without a pivot: what was proven
    then need not be true now. One whose pivot was ordered is asked first whether that has happened. One that was past
    the pivot goes on right after it. Every step looks at the world before it acts.
    """
    if state.status in (Status.PENDING, Status.DONE, Status.GIVEN_UP):
        return replace(state, busy=False)
    state = replace(state, renew_at=now)  # The silence may be about to end, or gone.
    if state.released:
        return release(stage, state, now)
    pivot = stage.pivot()
    if pivot is None:
        return enter(stage, state, 0, now)
    if is_given_back(stage, state):
        return enter(stage, state, state.step, now)  # It is in service again.
    if state.step > pivot:
        return enter(stage, state, min(pivot + 1, len(stage.steps) - 1), now)
    if awaits_pivot(stage, state):
        return enter(stage, state, pivot, now, Phase.PROBE)
    return enter(stage, state, 0, now)


def translate(state: TargetState, before: Sequence[str], now: Sequence[str], pivot: str | None) -> TargetState:
    """Say where a target stands when its stage has other steps than when its run was interrupted.

    A target that was before the pivot is to start over, one that was past it is to be asked everything after it again.

    Args:
        state: the target's state among the steps of then.
        before: the names of the steps of then.
        now: the names of the steps of today.
        pivot: the step that must happen at most once; None if there is none. Where it is not among both a target starts
            over.
    """
    if state.status is Status.DONE:
        return replace(state, step=len(now))
    if pivot is None or pivot not in before:
        return replace(state, step=0, phase=Phase.CHECK)
    old, new = before.index(pivot), now.index(pivot)
    if state.step == old:
        return replace(state, step=new)
    return replace(state, step=0 if state.step < old else new + 1, phase=Phase.CHECK)


def is_accepted(stage: Stage, state: TargetState, step: int) -> bool:
    """Return whether an operator has given their word for the proof that a step asks for."""
    return stage.steps[step].acceptable and stage.steps[step].name in state.accepted


def is_given_back(stage: Stage, state: TargetState) -> bool:
    """Return whether all that was taken from a target was given back: it is in service while it waits, or is held."""
    return any(step.gives_back for step in stage.steps) and state.step > stage.last_give_back()


def may_release(stage: Stage, state: TargetState) -> bool:
    """Return whether a target that fails at its step is given back and tried again, and is not held."""
    return (
        stage.retry is not None
        and not state.released
        and stage.steps[state.step].releases
        and state.attempts + 1 < stage.retry.attempts
    )


def release(stage: Stage, state: TargetState, now: float) -> TargetState:
    """Return the state of a target that begins to be given back, to be tried again later."""
    first = next((index for index, step in enumerate(stage.steps) if step.gives_back), len(stage.steps))
    return enter(stage, replace(state, released=True), first, now)


def _to_be_tried_again(stage: Stage, state: TargetState, now: float) -> TargetState:
    attempts = state.attempts + 1
    pause, keeps = (stage.retry.after(attempts), stage.retry.keeps) if stage.retry else (0.0, frozenset[str]())
    kept = {name: value for name, value in state.facts.items() if name in keeps}
    return TargetState(
        state.target,
        detail=f"released after attempt {attempts}, tried again in {pause:.0f} s",
        facts={**stage.facts.get(state.target.name, {}), **kept},
        due=now + pause,
        attempts=attempts,
        accepted=state.accepted,
    )


def awaits_pivot(stage: Stage, state: TargetState) -> bool:
    """Say whether a target's pivot was ordered and is not yet known to have happened."""
    return state.step == stage.pivot() and state.phase is not Phase.CHECK


def before_pivot(stage: Stage, state: TargetState) -> bool:
    """Say whether a target's pivot is still to be ordered; one that is about to be ordered counts as such."""
    pivot = stage.pivot()
    if pivot is None or state.step != pivot:
        return pivot is not None and state.step < pivot
    return state.phase in (Phase.CHECK, Phase.APPLY)
