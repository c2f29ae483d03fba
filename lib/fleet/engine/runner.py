"""The loop that carries a run out: observe, decide, write the intent, act, write the outcome.

The loop lives in the main thread and never blocks on an effect: effects run in threads of their own and report back
through a queue, so no target waits for another's. Only the main thread touches the journal and the states.
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from fleet.clock import CLOCK, THREADS, Clock, Threads
from fleet.engine import advance, signals
from fleet.engine import decide as decisions
from fleet.engine.effects import Answer, Call, Events, Item, answer
from fleet.engine.folders import Unwritable
from fleet.engine.journal import Journal
from fleet.engine.lost import JournalLost, left_of
from fleet.engine.model import Kind, Phase, Stage, Status, TargetState, Verdict, When
from fleet.engine.protocols import Procedure, View
from fleet.errors import FleetError

logger = logging.getLogger(__name__)

LEAVE_GRACE = 15.0
"""Seconds that effects in progress are given to end when the run is told to leave at once."""
STOPPED_BY_OPERATOR = "interrupted by the operator"
"""Why a run is not complete after the first ^C."""
WAITING_TOLD = 30.0
"""Seconds after which it is told once more why a target waits."""
SHORTEST_WAIT = 0.05
LONGEST_WAIT = 5.0
"""Seconds between two looks at the world when nothing happens."""


class Interrupted(FleetError):
    """The run was told to leave; what was in flight stands in its journal."""


class Runner:
    """Carries out one session of a run.

    Args:
        procedure: what to do.
        journal: the run's journal.
        view: where progress is shown.
        cancel: set when the run has to leave at once; long effects watch it.
        events: the queue through which everything reaches the loop; whoever sees the world change puts None into it.
        clock: the time.
        threads: where effects run.
    """

    def __init__(
        self,
        procedure: Procedure,
        journal: Journal,
        view: View,
        cancel: threading.Event,
        events: Events,
        *,
        clock: Clock = CLOCK,
        threads: Threads = THREADS,
    ) -> None:
        self._procedure = procedure
        self._journal = journal
        self._view = view
        self._cancel = cancel
        self._queue = events
        self._clock = clock
        self._threads = threads
        self._in_progress = 0
        self._items: deque[Item] = deque()
        self._current: Stage | None = None
        self._is_lost = False
        self._states: dict[str, TargetState] = {}
        self._stopping = ""
        self._stop_told = False
        self._leaving = ""
        self._told_at: dict[str, float] = {}
        self._renewing: set[str] = set()
        self._ordered: dict[str, int] = {}  # the step of each target whose intent is written

    def stop(self, reason: str) -> None:
        """Start nothing new; what is in flight continues to its end."""
        self._stopping = self._stopping or reason
        self._queue.put(None)

    def run(self) -> str:
        """Carry out the stages.

        Returns:
            An empty string if all is done, otherwise why not.

        Raises:
            Interrupted: the run was told to leave.
            JournalLost: the journal cannot be written any more.
        """
        incomplete = ""
        with signals.handled(self._interrupt, self._terminate):
            try:
                for stage in self._procedure.stages:
                    if incomplete and stage.when is not When.END:
                        continue
                    incomplete = self._stage(stage) or incomplete
            except Unwritable as error:
                raise self._lost(error) from error
        return incomplete

    def _lost(self, error: Unwritable) -> JournalLost:
        """Let effects in progress end, as far as they do soon, and return what is left in flight."""
        self._is_lost = True
        self._cancel.set()
        stage = self._current
        if stage is None:
            return JournalLost(str(error), ())
        self._take(stage, [])
        self._let_end(stage)
        states = self._states.values()
        return JournalLost(str(error), [left_of(stage, s) for s in states if s.status in (Status.RUNNING, Status.HELD)])

    def _stage(self, stage: Stage) -> str:
        self._current = stage
        self._load(stage)
        if stage.when is When.WORK:
            left = [name for name, state in self._states.items() if state.status not in (Status.DONE, Status.GIVEN_UP)]
            self._view.tell(f"Stage {stage.name}: {', '.join(left) or 'nothing is left to do'}")
        blocked_since: float | None = None
        while True:
            now = self._clock.monotonic()
            seen = self._procedure.observe()
            progress = decisions.Progress(self._states, blocked_since, self._stopping, frozenset(self._renewing))
            decision = decisions.decide(stage, progress, seen, now)
            finish = self._carry_out(stage, decision, now)
            self._view.show(stage, self._states, decision.blocked)
            if self._stopping and not self._stop_told:
                self._stop_told = True
                self._view.tell(
                    f"{self._stopping}: nothing new is started, what is in flight continues; ^C again leaves at once",
                    level=logging.WARNING,
                )
            if finish is not None:
                return "" if finish.complete else finish.reason or "not complete"
            if not decision.blocked:
                blocked_since = None
            elif blocked_since is None and not any(s.status is Status.RUNNING for s in self._states.values()):
                blocked_since = now
                self._view.tell(f"Waiting: {decision.blocked}.", level=logging.WARNING)
            changed = (decisions.Start, decisions.Hold, decisions.Release, decisions.Withdraw)
            if any(isinstance(action, changed) for action in decision.actions):
                continue  # States have changed: decide again, at once.
            wait = LONGEST_WAIT if decision.due is None else decision.due - self._clock.monotonic()
            self._wait(stage, min(max(wait, SHORTEST_WAIT), LONGEST_WAIT))

    def _load(self, stage: Stage) -> None:
        now = self._clock.monotonic()
        names = [step.name for step in stage.steps]
        kept = self._journal.states(stage.name)
        if (before := self._journal.steps(stage.name)) is not None and before != names:
            pivot = stage.pivot()
            at = None if pivot is None else names[pivot]
            kept = {name: advance.translate(state, before, names, at) for name, state in kept.items()}
        known = kept if stage.when is When.WORK else {}
        fresh = (
            TargetState(target, facts=stage.facts.get(target.name, {}), accepted=stage.accepted.get(target.name, {}))
            for target in stage.targets
        )
        states = (known.get(state.target.name, state) for state in fresh)
        self._states = {state.target.name: advance.resume(stage, state, now) for state in states}
        self._told_at = dict.fromkeys(self._states, now)
        self._renewing.clear()
        self._ordered.clear()
        self._journal.put(stage.name, {**kept, **self._states}.values(), names)
        for name, state in known.items():
            after = self._states.get(name)
            if after is not None and state.status in (Status.RUNNING, Status.HELD):
                pivot = stage.pivot()
                first = -1 if pivot is None or after.step <= pivot else pivot
                self._tell_accepted(stage, replace(after, step=first), after)

    def _carry_out(self, stage: Stage, decision: decisions.Decision, now: float) -> decisions.Finish | None:
        finish = None
        for action in decision.actions:
            match action:
                case decisions.Start(target):
                    self._set(stage, [advance.enter(stage, self._states[target], 0, now)], kind="start")
                case decisions.Hold(target, reason):
                    held = replace(self._states[target], status=Status.HELD, busy=False, detail=reason)
                    self._set(stage, [held], kind="held", step=stage.steps[held.step].name)
                    self._tell_held(held)
                case decisions.Release(target, reason):
                    before = self._states[target]
                    self._release(stage, before, advance.release(stage, replace(before, detail=reason), now), reason)
                case decisions.Wait(target):
                    state = self._states[target]
                    self._states[target] = replace(state, deadline=now + stage.steps[state.step].timeout)
                case decisions.Withdraw(target, reason):
                    state = self._states[target]
                    back = replace(state, status=Status.PENDING, step=0, phase=Phase.CHECK, detail=reason, due=0.0)
                    self._set(stage, [back], kind="withdrawn")
                    self._view.tell(f"{target}: waits, it is still in service: {reason}", level=logging.WARNING)
                case decisions.Run(step, phase, targets):
                    self._submit(stage, step, phase, targets)
                case decisions.Renew(targets):
                    for target in targets:
                        self._states[target] = replace(self._states[target], renew_at=now + stage.renew)
                        self._renewing.add(target)
                    asked = {target: self._states[target] for target in targets}
                    renew = partial(self._procedure.renew, stage.name)
                    self._spawn(Answer(stage.name, 0, None, asked), renew)
                case decisions.Finish():
                    finish = action
        return finish

    def _submit(self, stage: Stage, step: int, phase: Phase, targets: Sequence[str]) -> None:
        spec = stage.steps[step]
        for target in targets:
            self._states[target] = replace(self._states[target], busy=True)
        asked = {target: self._states[target] for target in targets}
        effects = self._procedure.effects(stage.name, spec.name)
        if phase is Phase.APPLY:
            # Once a step, where doing it again is no other act: a drain asks for evictions as long as a budget wants.
            new = [state for target, state in asked.items() if spec.pivot or self._ordered.get(target) != step]
            self._ordered |= dict.fromkeys(targets, step)
            try:
                self._journal.record(stage.name, new, step=spec.name, kind="intent")
            except Unwritable:  # Then it is not done.
                self._states |= {target: replace(state, busy=False) for target, state in asked.items()}
                raise
            self._spawn(Answer(stage.name, step, phase, asked), lambda targets: effects.apply(targets, self._report))
        else:
            self._spawn(Answer(stage.name, step, phase, asked), effects.check)

    def _report(self, target: str, line: str) -> None:
        """Take a line of progress from an effect's thread."""
        self._queue.put((target, line))

    def _spawn(self, asked: Answer, call: Call) -> None:
        """Run an effect in a thread of its own.

        A daemon thread, so that an effect that hangs cannot keep the process from ending; there are few: one for each
        step that is under way, or one for each target where a step takes its targets one by one.
        """
        self._in_progress += 1
        self._threads.start(lambda: self._queue.put(answer(asked, call)), f"effect-{asked.stage}-{asked.step}")

    def _wait(self, stage: Stage, seconds: float) -> None:
        """Wait for something to happen, and take in everything that has."""
        items: list[Item] = []
        with suppress(queue.Empty):
            items.append(self._queue.get(timeout=seconds))
            while True:
                items.append(self._queue.get_nowait())
        self._take(stage, items)

    def _take(self, stage: Stage, items: Sequence[Item]) -> None:
        self._items.extend(items)
        while self._items:  # What comes after one that cannot be written is not forgotten.
            match item := self._items.popleft():
                case Answer():
                    self._in_progress -= 1
                    self._outcome(stage, item)
                case (target, line) if target in self._states:
                    self._told(stage, self._states[target], line, level=logging.INFO)
        if self._leaving:
            self._leave(stage)

    def _outcome(self, stage: Stage, result: Answer) -> None:
        now = self._clock.monotonic()
        for target, verdict in result.verdicts.items():
            before = self._states.get(target)
            if result.stage != stage.name or before is None:
                continue
            if result.phase is None:
                self._renewing.discard(target)
                self._renewed(stage, before, verdict, now)
                continue
            if (before.status, before.step, before.phase) != (Status.RUNNING, result.step, result.phase):
                continue  # The target was held meanwhile, because this answer took too long.
            after = advance.advance(stage, before, result.phase, verdict, now)
            self._moved(stage, before, after, verdict)

    def _moved(self, stage: Stage, before: TargetState, after: TargetState, verdict: Verdict) -> None:
        step = stage.steps[before.step].name
        self._tell_accepted(stage, before, after)
        if after.released and not before.released:
            self._release(stage, before, after, f"{step}: {verdict.detail}")
        elif after.status is Status.PENDING:
            self._set(stage, [after], kind="released", step=step)
            self._view.tell(f"{after.target.name}: {after.detail}", level=logging.WARNING)
        elif after.status is Status.HELD:
            self._set(stage, [replace(after, detail=f"{step}: {after.detail}")], kind="held", step=step)
            self._tell_held(self._states[after.target.name])
        elif before.phase is Phase.PROBE and after.step < before.step:
            self._set(stage, [after], kind="over", step=step)
            self._view.tell(f"{after.target.name}: {step}: {verdict.detail}: starting over")
            self._told_at[after.target.name] = self._clock.monotonic()
        elif (after.step, after.status) != (before.step, before.status):
            self._ordered.pop(after.target.name, None)
            self._set(stage, [after], kind="done", step=step)
            self._told_at[after.target.name] = self._clock.monotonic()
            ended = "all done" if after.status is Status.DONE else f"{step}: done"
            self._view.tell(f"{after.target.name}: {ended}{f' ({verdict.detail})' if verdict.detail else ''}")
        else:
            # Why a target waits, for those who have no table before them: now and then.
            quiet = self._clock.monotonic() - self._told_at[after.target.name] < WAITING_TOLD
            self._told(stage, after, after.detail, level=logging.DEBUG if quiet else logging.INFO)
            again = self._ordered.get(after.target.name) == before.step and not stage.steps[before.step].pivot
            if after.facts != before.facts or (after.phase is not before.phase and not again):
                kind = "applied" if before.phase is Phase.APPLY and verdict.kind is Kind.DONE else verdict.kind.value
                self._set(stage, [after], kind=kind, step=step)

    def _release(self, stage: Stage, before: TargetState, after: TargetState, reason: str) -> None:
        self._set(stage, [replace(after, detail=reason)], kind="releasing", step=stage.steps[before.step].name)
        self._told_at[after.target.name] = self._clock.monotonic()
        self._view.tell(f"{after.target.name}: {reason}: given back, and tried again later", level=logging.WARNING)

    def _tell_accepted(self, stage: Stage, before: TargetState, after: TargetState) -> None:
        """Tell which proofs are passed over, as an operator has given their word for them."""
        passed = range(before.step + 1, after.step) if after.status in (Status.RUNNING, Status.DONE) else ()
        for index in passed:
            if advance.is_accepted(stage, after, index):
                name = stage.steps[index].name
                word = after.accepted[name]
                line = f"accepted by {word.operator}: {word.reason}"
                self._journal.record(stage.name, [replace(after, detail=line)], step=name, kind="accepted")
                self._view.tell(f"{after.target.name}: {name}: {line}", level=logging.WARNING)

    def _told(self, stage: Stage, state: TargetState, line: str, *, level: int) -> None:
        if line and (level > logging.DEBUG or line != self._states[state.target.name].detail):
            self._view.tell(f"{state.target.name}: {stage.steps[state.step].name}: {line}", level=level)
        if level > logging.DEBUG:
            self._told_at[state.target.name] = self._clock.monotonic()
        self._states[state.target.name] = replace(state, detail=line)

    def _renewed(self, stage: Stage, state: TargetState, verdict: Verdict, now: float) -> None:
        if verdict.kind is not Kind.DONE:
            self._view.tell(f"{state.target.name}: not renewed: {verdict.detail}", level=logging.WARNING)
            self._states[state.target.name] = replace(state, renew_at=now + decisions.RENEW_RETRY)
        elif verdict.facts:
            self._states[state.target.name] = replace(state, facts={**state.facts, **verdict.facts})
            if not self._is_lost:
                self._journal.put(stage.name, [self._states[state.target.name]])

    def _set(self, stage: Stage, states: Sequence[TargetState], *, kind: str, step: str = "") -> None:
        for state in states:
            self._states[state.target.name] = state
        if not self._is_lost:
            self._journal.record(stage.name, states, step=step, kind=kind)
        if kind == "start":
            self._told_at |= dict.fromkeys((state.target.name for state in states), self._clock.monotonic())
            self._view.tell(f"{', '.join(state.target.name for state in states)}: started")

    def _tell_held(self, state: TargetState) -> None:
        self._view.tell(f"{state.target.name}: HELD: {state.detail}", level=logging.ERROR)

    def _interrupt(self) -> None:
        """Stop orderly; the second time leave at once."""
        if self._stopping:
            self._leaving = "interrupted twice"
            self._cancel.set()
        self.stop(STOPPED_BY_OPERATOR)

    def _terminate(self, name: str) -> None:
        """Leave at once, as a signal of this name says."""
        self._leaving = f"received {name}"
        self._cancel.set()
        self._queue.put(None)

    def _leave(self, stage: Stage) -> None:
        """Let effects in progress end, within a grace, and write down what came of them."""
        reason = self._leaving
        self._leaving = ""
        self._let_end(stage)
        in_flight = [name for name, state in self._states.items() if state.status is Status.RUNNING]
        self._journal.note("interrupted", f"{reason}; in flight: {', '.join(in_flight) or 'nothing'}")
        raise Interrupted(f"{reason}; in flight: {', '.join(in_flight) or 'nothing'}")

    def _let_end(self, stage: Stage) -> None:
        """Take in what comes of effects in progress, within a grace."""
        end = self._clock.monotonic() + LEAVE_GRACE
        while self._in_progress and self._clock.monotonic() < end:
            try:
                item = self._queue.get(timeout=0.2)
            except queue.Empty:
                continue
            self._take(stage, [item])
