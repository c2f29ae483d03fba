"""What procedures are declared with: steps, brackets, an act, and the stages that they make up.

A stage reads like a list: what has to be true *before*, what is *held* meanwhile, the *act*, the *proofs* that all is
well again. What is held is given back in reverse order after the proofs; a bracket that is named among the proofs is
given back there. From the same declaration :mod:`fleet.engine.executor` knows how a run is aborted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fleet.engine.model import Limits, Retry, StepSpec, Target, TargetState, Verdict, done
from fleet.engine.protocols import Effects

Verdicts = Mapping[str, Verdict]
"""The answers of a step, by the names of the targets that it was asked about."""
Tell = Callable[[str, str], None]
"""Reports a target's progress within a step: its name and one line."""
Known = Callable[[], Mapping[str, TargetState]]
"""Reads the states of a run's targets from its journal, from any thread."""


class Step(Effects, Protocol):
    """A step, with what decisions need to know of it."""

    @property
    def spec(self) -> StepSpec:
        """What decisions need to know of it."""


class Act(Step, Protocol):
    """What happens at most once in a run to each target."""

    @property
    def settles_within(self) -> float:
        """The seconds that an order which is on its way may take to be carried out."""

    def settle(self, targets: Sequence[TargetState], *, over: bool) -> Verdicts:
        """Return whether an order that may be on its way has come true, or can no longer do so.

        Args:
            targets: targets to which an order was given, or may have been.
            over: whether an order that has not come true by now never will.
        """

    def touched(self, state: TargetState) -> bool:
        """Return whether the act has, or may have, happened to a target, or the target was taken out of use for it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run knows of its targets, for steps that are about all of them.

    Attributes:
        everywhere: reads the states of all targets; of one in several stages, that of the last it came to.
        here: reads those of the stage whose bracket it is.
        steps: that stage's steps.
        aborts: whether the run is being aborted.
    """

    everywhere: Known
    here: Known
    steps: tuple[StepSpec, ...]
    aborts: bool = False


@dataclass(frozen=True, slots=True)
class Specified:
    """A step whose specification is made where it is used: effects that several stages share.

    Attributes:
        spec: what decisions need to know of it.
        effects: what it does.
    """

    spec: StepSpec
    effects: Effects

    @property
    def wraps(self) -> Effects:
        """What brings the preflight."""
        return self.effects

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask whether the step's promise is true."""
        return self.effects.check(targets)

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:
        """Make it true."""
        return self.effects.apply(targets, tell)


@dataclass(frozen=True, slots=True)
class Question:
    """Something that only an operator may decide, in the middle of a run.

    Attributes:
        text: what they have to know, in lines.
        answer: the word that has to be typed to continue.
    """

    text: str
    answer: str


def never(_state: TargetState) -> bool:
    """Return False: of no target."""
    return False


@dataclass(frozen=True, slots=True)
class Bracket:
    """What is taken away for a while.

    Attributes:
        take: takes it from a target; who owns it stands in the journal before.
        back: gives it back, where each target has its own; None where the cleanup gives it back.
        prepare: makes the step that takes it from all targets at the start of a session; None if there is none.
        cleanup: makes the step that ends a session: what no target needs any more is given back. It may make none.
        renew: extends what expires by itself; None if nothing does.
        on_abort: what an abort does first of all; None if there is nothing.
    """

    take: Step | None = None
    back: Step | None = None
    prepare: Callable[[Seen], Step] | None = None
    cleanup: Callable[[Seen], Step | None] | None = None
    renew: Callable[[Sequence[TargetState]], Verdicts] | None = None
    on_abort: Step | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One declaration, applied to its targets in their order.

    Attributes:
        key: its name, in the journal as well.
        targets: returns the targets in their order; it is asked when the stage's turn has come.
        before: gates; nothing is taken until they are open.
        holding: what is taken away meanwhile, and gates between.
        act: what happens at most once.
        proofs: gates, and other steps after the act; a bracket among them is given back at its place.
        after: gates that are asked once all is given back.
        limits: how many targets at once.
        retry: how targets are tried again whose step failed that releases them.
        renew: seconds between two renewals of what expires by itself; 0 for never.
        abort_proofs: the gates that an abort asks of targets that it concerns.
        patience: seconds for each of them: who aborts wants to know soon.
        concerns: returns whether a target has to be proven before an abort gives it back; others are taken as they
            are.
        in_flight: returns whether an abort has something to give back on a target.
        about: what it does, in lines for people: commands, files, hosts.
        question: returns what an operator has to decide before the stage; None if there is nothing.
    """

    key: str
    targets: Callable[[], Sequence[Target]]
    before: Sequence[Step] = ()
    holding: Sequence[Bracket | Step] = ()
    act: Act | None = None
    proofs: Sequence[Bracket | Step] = ()
    after: Sequence[Step] = ()
    limits: Limits = field(default_factory=Limits)
    retry: Retry | None = None
    renew: float = 0.0
    abort_proofs: Sequence[Step] = ()
    patience: float = 120.0
    concerns: Callable[[TargetState], bool] = never
    in_flight: Callable[[TargetState], bool] = never
    about: Sequence[str] = ()
    question: Callable[[], Question | None] | None = None

    @property
    def brackets(self) -> list[Bracket]:
        """What is taken away meanwhile, in the order in which it is taken."""
        return [part for part in self.holding if isinstance(part, Bracket)]

    @property
    def owning(self) -> list[str]:
        """The names of the steps that take something which each target has to be given back, and of those that do."""
        pairs = [(bracket.take, bracket.back) for bracket in self.brackets if bracket.back]
        return [step.spec.name for pair in pairs for step in pair if step]

    @property
    def steps(self) -> list[Step]:
        """All steps of a target, in their order."""
        taken = [part.take if isinstance(part, Bracket) else part for part in self.holding]
        proven = [part.back if isinstance(part, Bracket) else part for part in self.proofs]
        found = (*self.before, *taken, self.act, *proven, *self._given_back_last(), *self.after)
        return [step for step in found if step is not None]

    def abort_steps(self, settle: Step | None) -> list[Step]:
        """Return the steps of an abort.

        Args:
            settle: waits until no order is on its way; None where there is no act.
        """
        early = [part.back for part in self.proofs if isinstance(part, Bracket)]
        proofs = [_proof_of(step, self.concerns, self.patience) for step in self.abort_proofs]
        found = (settle, *(bracket.on_abort for bracket in self.brackets), *proofs, *early, *self._given_back_last())
        return [step for step in found if step is not None]

    def _given_back_last(self) -> list[Step]:
        early = [id(part) for part in self.proofs if isinstance(part, Bracket)]
        return [bracket.back for bracket in reversed(self.brackets) if bracket.back and id(bracket) not in early]


def specs(steps: Sequence[Step]) -> tuple[StepSpec, ...]:
    """Return what decisions know of steps."""
    return tuple(step.spec for step in steps)


@dataclass(frozen=True, slots=True)
class _Proof:
    """A gate as an abort has it: asked only of targets that the run has taken out of service, and not for long."""

    spec: StepSpec
    gate: Step
    concerns: Callable[[TargetState], bool]

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask it of those that it concerns."""
        asked = [state for state in targets if self.concerns(state)]
        verdicts = {state.target.name: done("not asked: it is in service, and taken as it is") for state in targets}
        return {**verdicts, **(self.gate.check(asked) if asked else {})}

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:
        """Do what the gate does: nothing."""
        return self.gate.apply(targets, tell)


def _proof_of(gate: Step, concerns: Callable[[TargetState], bool], patience: float) -> Step:
    return _Proof(replace(gate.spec, timeout=min(gate.spec.timeout, patience)), gate, concerns)
