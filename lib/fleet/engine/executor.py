"""Carries declared stages out, and derives from them how a run is aborted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from fleet.clock import Clock
from fleet.engine import advance, model
from fleet.engine.declaration import Act, Bracket, Known, Question, Seen, Stage, Step, Tell, Verdicts, specs
from fleet.engine.model import (
    Observation,
    Status,
    StepSpec,
    Target,
    TargetState,
    When,
    done,
)
from fleet.engine.protocols import Effects

ABORT = "abort "
"""What the names of the stages begin with in which targets in flight are given back."""
PREPARE = "prepare"
"""The stage at the start of a session that takes what is taken from all targets at once."""
OVER = (Status.DONE, Status.GIVEN_UP)
"""The statuses of targets for which nothing is left to do."""

States = Callable[[str], Mapping[str, TargetState]]
"""Reads the states of a stage's targets in the journal, from any thread."""


class Execution:
    """What the runner carries out: declared stages one after the other; what is not complete ends them.

    Args:
        stages: the stages.
        states: reads the states of a stage's targets in the journal, from any thread.
        observe: says what the world looks like, at once and without I/O.
        ending: further steps at the end of every session, each a stage of its own.
        answered: takes note that the question before a stage was answered.
        starting: called when the first stage is about to be carried out.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        states: States,
        observe: Callable[[], Observation] = Observation,
        ending: Sequence[Step] = (),
        answered: Callable[[str], None] = lambda _stage: None,
        starting: Callable[[], None] = lambda: None,
    ) -> None:
        self._stages = stages
        self._states = states
        self._observe = observe
        self._note = answered
        self._starting = starting
        self._answers: set[str] = set()
        self._asked: tuple[str, Question] | None = None
        self._declined = False
        seen = _seen_by(stages, states, known_of(stages, states))
        self._prepare = [bracket.prepare(it) for it, bracket in seen if bracket.prepare]
        self._ending = [*ending, *_cleanups(seen)]

    @property
    def stages(self) -> Iterator[model.Stage]:
        """The stages up to the next question; the order of targets is asked for when a stage's turn has come."""
        self._asked = None
        self._starting()
        if self._prepare:
            yield model.Stage(PREPARE, (Target(PREPARE),), specs(self._prepare), when=When.START)
        for stage in () if self._declined else self._stages:
            known = self._states(stage.key)
            # What the run began with and is not found any more is held, and not passed over as if it were done.
            targets = {target.name: target for target in stage.targets()}
            targets |= {name: state.target for name, state in known.items()}
            if not targets:
                continue
            if question := self._question(stage):
                self._asked = stage.key, question
                return
            yield model.Stage(
                stage.key,
                tuple(targets.values()),
                specs(stage.steps),
                stage.limits,
                renew=stage.renew,
                retry=stage.retry,
            )
            if not self._is_over(stage):
                break
        yield from _ending_stages(self._ending)

    def question(self) -> Question | None:
        """Return what is to be decided before the next stage; None if nothing is, or no stage is left."""
        return self._asked[1] if self._asked else None

    def answered(self) -> None:
        """Take note that the operator has typed what was asked for."""
        if self._asked:
            self._note(self._asked[0])
            self._answers.add(self._asked[0])

    def declined(self) -> None:
        """Take note that the operator does not want to continue: nothing is left but to end the session."""
        self._declined, self._asked = True, None

    def outline(self) -> list[str]:
        """Return the stages that are left, each with its targets and steps, and the first question before one."""
        lines = []
        asked = False
        for stage in self._stages:
            names = [target.name for target in stage.targets()]
            if not names or (self._states(stage.key) and self._is_over(stage)):
                continue
            if not asked and (question := self._question(stage)):
                asked = True
                lines.append(f'(before the next one "{question.answer}" has to be typed)')
            lines.append(f"{stage.key}: {', '.join(names)}: {' → '.join(step.spec.name for step in stage.steps)}")
        return [*lines, *(step.spec.name for step in self._ending)]

    def _question(self, stage: Stage) -> Question | None:
        if stage.question is None or stage.key in self._answers:
            return None
        known = self._states(stage.key)
        return None if known and self._is_over(stage) else stage.question()

    def _is_over(self, stage: Stage) -> bool:
        return all(state.status in OVER for state in self._states(stage.key).values())

    def effects(self, stage: str, step: str) -> Effects:
        """Return what a step does."""
        if stage == PREPARE:
            return effects_of(self._prepare, step)
        own = next((each.steps for each in self._stages if each.key == stage), self._ending)
        return effects_of(own, step)

    def observe(self) -> Observation:
        """Return what the world looks like."""
        return self._observe()

    def renew(self, stage: str, targets: Sequence[TargetState]) -> Verdicts:
        """Extend what expires by itself on targets in flight."""
        return _renew(next(each for each in self._stages if each.key == stage), targets)


class Abort:
    """Gives back the targets that a run has in flight or held, each only when it is proven to be well.

    Args:
        stages: the stages of the run.
        states: reads the states of a stage's targets in the journal, from any thread.
        clock: the time.
        ending: further steps at the end, each a stage of its own.
    """

    def __init__(self, stages: Sequence[Stage], states: States, clock: Clock, ending: Sequence[Step] = ()) -> None:
        self.stages: list[model.Stage] = []
        self._declared = {f"{ABORT}{stage.key}": stage for stage in stages}
        self._steps: dict[str, Sequence[Step]] = {}
        for name, stage in self._declared.items():
            own = [state for state in states(stage.key).values() if _is_open(stage, state)]
            if not own or stage.act is None:
                continue
            ordered = frozenset(state.target.name for state in own if _is_ordered(stage, state))
            steps = self._steps[name] = stage.abort_steps(Settled(stage.act, ordered, clock))
            self.stages.append(
                model.Stage(
                    name,
                    tuple(state.target for state in own),
                    specs(steps),
                    when=When.START,
                    renew=stage.renew,
                    facts={state.target.name: state.facts for state in own},
                    accepted={state.target.name: state.accepted for state in own},
                )
            )
        # Not those of an earlier abort: what it could not give back may have been done since.
        ours = [(stage.name, target.name) for stage in self.stages for target in stage.targets]
        begun = known_of(stages, states)

        def known() -> dict[str, TargetState]:
            found = {name: states(name) for name, _ in ours}
            return {**begun(), **{target: found[name][target] for name, target in ours if target in found[name]}}

        ending = [*ending, *_cleanups(_seen_by(stages, states, known, aborts=True))]
        self._steps |= {step.spec.name: [step] for step in ending}
        self.stages += _ending_stages(ending)

    def effects(self, stage: str, step: str) -> Effects:
        """Return what a step does."""
        return effects_of(self._steps[stage], step)

    def observe(self) -> Observation:
        """Return that nothing is in the way: what is given back needs no capacity."""
        return Observation()

    def renew(self, stage: str, targets: Sequence[TargetState]) -> Verdicts:
        """Extend what expires by itself on targets that are being given back."""
        return _renew(self._declared[stage], targets)


class Settled:
    """No order is on its way: one that was given has come true, or can no longer do so."""

    GRACE = 15.0
    """Seconds after which a host where the old one still runs will not carry the order out any more."""

    def __init__(self, act: Act, ordered: frozenset[str], clock: Clock) -> None:
        """Look at the named targets: an order was given to them and is not proven to have come true."""
        self.spec = StepSpec("settle", act.settles_within + self.GRACE, gate=True)
        self._act = act
        self._ordered = ordered
        self._clock = clock
        self._since = clock.monotonic()

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Compare ids; nothing to wait for where no order was given."""
        ordered = [state for state in targets if state.target.name in self._ordered]
        over = self._clock.monotonic() - self._since > self.GRACE
        verdicts = {state.target.name: done() for state in targets}
        return {**verdicts, **(self._act.settle(ordered, over=over) if ordered else {})}

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Do nothing: a gate only waits."""
        return {state.target.name: done() for state in targets}


def effects_of(steps: Sequence[Step], name: str) -> Effects:
    """Return what a step does, by its name."""
    return next(step for step in steps if step.spec.name == name)


def known_of(stages: Sequence[Stage], states: States) -> Known:
    """Return what reads the states of all targets; of one in several stages, that of the last it came to."""

    def known() -> dict[str, TargetState]:
        found: dict[str, TargetState] = {}
        for stage in stages:
            for name, state in states(stage.key).items():
                if state.status is not Status.PENDING or state.facts or name not in found:
                    found[name] = state
        return found

    return known


def _seen_by(
    stages: Sequence[Stage], states: States, everywhere: Known, *, aborts: bool = False
) -> list[tuple[Seen, Bracket]]:
    """Return all brackets, each with what it may know of the run."""
    return [
        (Seen(everywhere, partial(states, stage.key), specs(stage.steps), aborts), bracket)
        for stage in stages
        for bracket in stage.brackets
    ]


def _cleanups(brackets: Sequence[tuple[Seen, Bracket]]) -> list[Step]:
    """Return the steps that end a session, each once; what was taken last is cleaned up first."""
    steps = [bracket.cleanup(seen) for seen, bracket in reversed(brackets) if bracket.cleanup]
    return list({step.spec.name: step for step in steps if step}.values())


def _ending_stages(ending: Sequence[Step]) -> list[model.Stage]:
    """Return a stage for each step: one that fails does not keep the others from their work."""
    return [model.Stage(step.spec.name, (Target(step.spec.name),), (step.spec,), when=When.END) for step in ending]


def _is_open(stage: Stage, state: TargetState) -> bool:
    """Return whether an abort has something to give back on a target."""
    if state.status in OVER:
        return stage.in_flight(state) and state.status is not Status.GIVEN_UP
    return state.status in (Status.RUNNING, Status.HELD) or stage.in_flight(state)


def _is_ordered(stage: Stage, state: TargetState) -> bool:
    """Return whether the act was ordered and is not proven."""
    compiled = model.Stage(stage.key, (), specs(stage.steps))
    return advance.awaits_pivot(compiled, state) and bool(state.facts.get("ordered", True))


def _renew(stage: Stage, targets: Sequence[TargetState]) -> Verdicts:
    verdicts = {state.target.name: done() for state in targets}
    for bracket in stage.brackets:
        if bracket.renew:
            verdicts.update(bracket.renew(targets))
    return verdicts
