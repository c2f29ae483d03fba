"""A re-initialisation as the engine carries it out: its stages one after the other, its questions, and the way back."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

from fleet.adapters.alertmanager.silences import Silence
from fleet.engine.journal import Journal
from fleet.engine.model import (
    Limits,
    Observation,
    Stage,
    Status,
    StepSpec,
    Unit,
    UnitState,
    Verdict,
    When,
    done,
    undone,
)
from fleet.engine.protocols import Effects
from fleet.errors import FleetError
from fleet.procedures.hosts import API_DEADLINE
from fleet.procedures.maintenance import Question, Step, effects_of, specs
from fleet.procedures.reinitialize.data import Say, Silenced, WorldStep
from fleet.procedures.reinitialize.parts import SILENCE, Part
from fleet.procedures.reinitialize.world import World
from fleet.procedures.steps import silences_about
from fleet.text import count

ANSWER = "answer"
"""The kind of the journal's events that tell that an operator has typed what was asked for."""
SILENCES = "silences"
"""The stage at the end of every session: silences end with the work, and stay as long as it is not done."""

Ask = Callable[[Part], Question | None]
"""Returns what an operator has to decide before a stage."""

logger = logging.getLogger(__name__)


class Silences(WorldStep):
    """No silence of the run is left once all is done; until then they last until someone comes.

    They are extended all the time from when the first stage is carried out, also while an operator is asked something;
    one that has ended all the same is made anew.
    """

    def __init__(self, world: World, stage: str, is_over: Callable[[], bool]) -> None:
        """Look after the silences that the named stage has made, for a run that is or is not over."""
        super().__init__(world)
        self._stage = stage
        self._is_over = is_over
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="silences", daemon=True)

    def keep(self) -> None:
        """Begin to extend them."""
        if not self._thread.is_alive() and not self._ended.is_set():
            self._thread.start()

    def look(self, state: UnitState) -> Verdict:
        """Look for silences to end; extending them is done each time."""
        over = self._is_over()
        with self._lock:
            found = self._found()
            self._ended.set()
            if over:
                return undone(f"{count(found, 'silence')} to end") if found else done()
            for silence in found:
                self.cluster.silences.extend(silence.id, self.cluster.config.alerts.held_silence)
        return done("they stay, as not all is done") if found else done()

    def act(self, state: UnitState, say: Say) -> Verdict:
        """End them."""
        for silence in self._found():
            self.cluster.silences.expire(silence.id)
        return done()

    def _found(self) -> list[Silence]:
        return list(chain.from_iterable(silences_about(self.cluster).values()))

    def _keep(self) -> None:
        seconds = self.cluster.config.alerts.silence
        while not self._ended.is_set():
            try:
                with self._lock:
                    self._extend(seconds)
            except FleetError as error:
                logger.warning("The silences of the run were not extended: %s", error)
            self._ended.wait(seconds / 3)

    def _extend(self, seconds: float) -> None:
        if self._ended.is_set():
            return
        found = silences_about(self.cluster)
        for silence in chain.from_iterable(found.values()):
            self.cluster.silences.extend(silence.id, seconds)
        made = [s for s in self.world.states(self._stage).values() if s.status is Status.DONE and not s.facts]
        if lost := [state for state in made if state.unit.name not in found]:
            Silenced(self.world).apply(lost, lambda _unit, _line: None)


class PartsProcedure:
    """Takes a cluster through stages, in their order; what is not complete ends them.

    Args:
        world: the world.
        parts: the stages.
        book: the run's journal.
        is_back: whether they are the way back.
        ask: says what an operator has to decide before a stage.
    """

    def __init__(self, world: World, parts: Sequence[Part], book: Journal, ask: Ask, *, is_back: bool) -> None:
        self._world = world
        self._parts = parts
        self._book = book
        self._is_back = is_back
        self._ask = ask
        self._question: Question | None = None
        self._asked = ""
        self._answers: set[str] = set()
        self._declined = False
        self._keeper = Silences(world, SILENCE, self._is_over)
        self._silences = Step(StepSpec(SILENCES, API_DEADLINE), self._keeper)

    @property
    def stages(self) -> Iterator[Stage]:
        """The stages that are left, up to the next question."""
        self._question = None
        self._keeper.keep()
        for part in () if self._declined else self._parts:
            known = self._world.states(part.name)
            names = list(dict.fromkeys((*part.units(), *known)))
            if not names:
                continue
            if not self._world.is_done(part.name) and part.name not in self._answers and (question := self._ask(part)):
                self._question, self._asked = question, part.name
                return
            yield self._stage(part, names)
            if not self._world.is_done(part.name):
                break
        yield Stage(SILENCES, (Unit(SILENCES),), (self._silences.spec,), when=When.END)

    def question(self) -> Question | None:
        """Return what is to be decided before the next stage."""
        return self._question

    def answered(self) -> None:
        """Take note that the operator has typed what was asked for."""
        self._book.note(ANSWER, self._asked)
        self._answers.add(self._asked)

    def declined(self) -> None:
        """Take note that the operator does not want to go on: nothing is left but to end the session."""
        self._declined = True
        self._question = None

    def outline(self) -> Sequence[str]:
        """Return the stages that are left, each with its units and steps, and the first question before one."""
        lines = []
        asked = False
        for part in self._parts:
            if not (names := list(part.units())) or self._world.is_done(part.name):
                continue
            if not asked and (question := self._ask(part)):
                asked = True
                lines.append(f'(before the next one "{question.answer}" has to be typed)')
            lines.append(f"{part.name}: {', '.join(names)}: {' → '.join(step.spec.name for step in part.steps)}")
        return [*lines, "silences end"]

    def effects(self, stage: str, step: str) -> Effects:
        """Return what a step does."""
        if stage == SILENCES:
            return self._silences.effects
        return effects_of(next(part.steps for part in self._parts if part.name == stage), step)

    def observe(self) -> Observation:
        """Say whether the run may start anything new."""
        lock = None if self._is_back else self._world.lock
        return Observation({}, lock.problem(), hopeless=lock.lost) if lock else Observation()

    def renew(self, stage: str, units: Sequence[UnitState]) -> Mapping[str, Verdict]:
        """Do nothing: silences are extended all the time."""
        return {state.unit.name: done() for state in units}

    def _stage(self, part: Part, names: Sequence[str]) -> Stage:
        limits = Limits(
            max_unavailable=1 if part.serial else len(names),
            max_failed=0 if part.serial else len(names),
            blocked=self._world.cluster.config.deadlines.blocked,
        )
        return Stage(part.name, tuple(Unit(name) for name in names), specs(part.steps), limits)

    def _is_over(self) -> bool:
        return all(self._world.is_done(part.name) for part in self._parts if part.units())
