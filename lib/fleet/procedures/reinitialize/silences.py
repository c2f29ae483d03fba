"""The silences of a re-initialisation, from its first stage to its end, whoever is asked something meanwhile."""

import logging
import threading
from collections.abc import Callable
from itertools import chain

from fleet.adapters.alertmanager.silences import Silence
from fleet.engine.model import (
    Status,
    StepSpec,
    TargetState,
    Verdict,
    done,
    undone,
)
from fleet.errors import FleetError
from fleet.procedures.reinitialize.data import Say, Silenced, WorldStep
from fleet.procedures.reinitialize.world import World
from fleet.steps.base import CHANGE_DEADLINE
from fleet.steps.silences import silences_about
from fleet.text import count

ANSWER = "answer"
"""The kind of the journal's events that tell that an operator has typed what was asked for."""
SILENCES = "silences"
"""The stage at the end of every session: silences end with the work, and stay as long as it is not done."""

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

    @property
    def spec(self) -> StepSpec:
        """What decisions need to know of the step."""
        return StepSpec(SILENCES, CHANGE_DEADLINE)

    def look(self, state: TargetState) -> Verdict:
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

    def act(self, state: TargetState, say: Say) -> Verdict:
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
        if lost := [state for state in made if state.target.name not in found]:
            Silenced(self.world).apply(lost, lambda _unit, _line: None)
