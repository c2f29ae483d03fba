"""A re-initialisation as the engine carries it out: its stages one after the other, its questions, and the way back."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from fleet.errors import FleetError
from fleet.maintenance.journal import Journal
from fleet.maintenance.model import (
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
from fleet.maintenance.runner import Effects
from fleet.procedures.cluster import Cluster
from fleet.procedures.hosts import API_DEADLINE
from fleet.procedures.maintenance import Question, Step, effects_of, specs
from fleet.procedures.reinitialize.data import Say, WorldStep, silences_of
from fleet.procedures.reinitialize.stages import Part
from fleet.procedures.reinitialize.world import World

SILENCES = "silences"
"""The stage at the end of every session: silences end with the work, and stay as long as it is not done."""

Ask = Callable[[Part], Question | None]
"""Returns what an operator has to decide before a stage."""

logger = logging.getLogger(__name__)


class Silences(WorldStep):
    """No silence of the run is left once all is done; until then they last until someone comes."""

    def __init__(self, world: World, is_over: Callable[[], bool]) -> None:
        """Look after the silences of a run, which is or is not over."""
        super().__init__(world)
        self._is_over = is_over

    def look(self, state: UnitState) -> Verdict:
        """Look for silences to end; extending them is done each time."""
        found = silences_of(self.cluster)
        if self._is_over():
            return undone(f"{len(found)} silences to end") if found else done()
        extend(self.cluster, self.cluster.config.alerts.held_silence)
        return done("they stay, as not all is done") if found else done()

    def act(self, state: UnitState, say: Say) -> Verdict:
        """End them."""
        for silence in silences_of(self.cluster).values():
            self.cluster.silences.expire(silence.id)
        return done()


def extend(cluster: Cluster, seconds: float) -> None:
    """Let all silences of a run last for some seconds from now."""
    for silence in silences_of(cluster).values():
        cluster.silences.extend(silence.id, seconds)


@contextmanager
def kept_silent(cluster: Cluster) -> Iterator[None]:
    """Extend the silences of a run as long as the context lasts: also while an operator is asked something."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(cluster.config.alerts.silence / 3):
            try:
                extend(cluster, cluster.config.alerts.silence)
            except FleetError as error:
                logger.warning("The silences of the run were not extended: %s", error)

    thread = threading.Thread(target=keep, name="silences", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


class PartsProcedure:
    """Takes a cluster through stages, in their order; what is not complete ends them.

    Args:
        world: the world.
        parts: the stages.
        book: the run's journal.
        when: whether they are the run's substance, or the way back.
        ask: says what an operator has to decide before a stage.
    """

    def __init__(self, world: World, parts: Sequence[Part], book: Journal, when: When, ask: Ask) -> None:
        self._world = world
        self._parts = parts
        self._book = book
        self._when = when
        self._ask = ask
        self._question: Question | None = None
        self._asked = ""
        self._answers: set[str] = set()
        self._declined = False
        self._silences = Step(StepSpec(SILENCES, API_DEADLINE), Silences(world, self._is_over))

    @property
    def stages(self) -> Iterator[Stage]:
        """The stages that are left, up to the next question."""
        self._question = None
        for part in () if self._declined else self._parts:
            known = self._world.states(part.name)
            names = list(dict.fromkeys((*part.units(), *known)))
            if not names:
                continue
            if not self._is_done(part) and part.name not in self._answers and (question := self._ask(part)):
                self._question, self._asked = question, part.name
                return
            yield self._stage(part, names, known)
            if not self._is_done(part):
                break
        yield Stage(SILENCES, (Unit(SILENCES),), (self._silences.spec,), when=When.END)

    def question(self) -> Question | None:
        """Return what is to be decided before the next stage."""
        return self._question

    def answered(self) -> None:
        """Take note that the operator has typed what was asked for."""
        self._book.note("answer", self._asked)
        self._answers.add(self._asked)

    def declined(self) -> None:
        """Take note that the operator does not want to go on: nothing is left but to end the session."""
        self._declined = True
        self._question = None

    def outline(self) -> Sequence[str]:
        """Return the stages that are left, each with its units and steps."""
        return [
            f"{part.name}: {', '.join(names)}: {' → '.join(step.spec.name for step in part.steps)}"
            for part in self._parts
            if (names := list(part.units())) and (self._when is not When.WORK or not self._is_done(part))
        ]

    def effects(self, stage: str, step: str) -> Effects:
        """Return what a step does."""
        if stage == SILENCES:
            return self._silences.effects
        return effects_of(next(part.steps for part in self._parts if part.name == stage), step)

    def observe(self) -> Observation:
        """Say whether the run may start anything new."""
        lock = self._world.lock if self._when is When.WORK else None
        return Observation({}, lock.problem(), hopeless=lock.lost) if lock else Observation()

    def renew(self, stage: str, units: Sequence[UnitState]) -> Mapping[str, Verdict]:
        """Do nothing: silences are extended all the time."""
        return {state.unit.name: done() for state in units}

    def _stage(self, part: Part, names: Sequence[str], known: Mapping[str, UnitState]) -> Stage:
        limits = Limits(
            max_unavailable=1 if part.serial else len(names),
            max_failed=0 if part.serial else len(names),
            blocked=self._world.cluster.config.deadlines.blocked,
        )
        units = tuple(Unit(name) for name in names)
        # On the way back every stage begins anew, but for what it has learned in an earlier attempt.
        learned = self._when is not When.WORK and not part.forgets
        facts = {name: state.facts for name, state in known.items()} if learned else {}
        return Stage(part.name, units, specs(part.steps), limits, when=self._when, facts=facts)

    def _is_done(self, part: Part) -> bool:
        states = self._world.states(part.name).values()
        return bool(states) and all(state.status is Status.DONE for state in states)

    def _is_over(self) -> bool:
        return all(self._is_done(part) for part in self._parts if part.units())
