"""What effects answer to the loop, from threads of their own."""

import logging
import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fleet.engine.model import Phase, TargetState, Verdict, failed, pending, unknown
from fleet.errors import FleetError

logger = logging.getLogger(__name__)

Call = Callable[[Sequence[TargetState]], Mapping[str, Verdict]]
"""Asks a step, lets it act, or renews what expires; it may raise anything."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an effect was asked, and what it answered.

    Attributes:
        stage: the stage's name.
        step: the step's index.
        phase: what the step was asked to do; None for a renewal.
        asked: the targets that it was asked about, as they were then.
        verdicts: the answers, by name; empty as long as there is none.
    """

    stage: str
    step: int
    phase: Phase | None
    asked: Mapping[str, TargetState]
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)


Item = Answer | tuple[str, str] | None
"""What reaches the loop: an effect's answer, a line of its progress, or just a reason to look."""
Events = queue.SimpleQueue[Item]


def answer(asked: Answer, call: Call) -> Answer:
    """Carry an effect out, and return what it answered for each target, whatever happens."""
    verdicts: dict[str, Verdict] = {}
    problem: Verdict | None = None
    try:
        verdicts = dict(call(list(asked.asked.values())))
    except FleetError as error:
        problem = pending(str(error)) if asked.phase is Phase.APPLY else unknown(str(error))
    except Exception as error:
        logger.debug("An effect broke", exc_info=True)
        problem = failed(f"{type(error).__name__}: {error} (a defect; see the extended log)")
    missing = problem or unknown("no answer")
    return replace(asked, verdicts={target: verdicts.get(target, missing) for target in asked.asked})
