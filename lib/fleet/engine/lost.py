"""What is said of a run whose journal cannot be written any more."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from fleet.engine import folders, journal
from fleet.engine.model import Phase, Stage, Status, TargetState

_OPEN = {Status.RUNNING: "in flight", Status.HELD: "held"}


class JournalLost(folders.Unwritable):
    """The journal cannot be written any more: nothing new was started.

    Attributes:
        left: a line for each target that is in flight or held: where it stands, as far as this process knows.
    """

    def __init__(self, why: str, left: Sequence[str]) -> None:
        """Keep why, and what is left in flight."""
        super().__init__(why)
        self.left = tuple(left)


def left_of(stage: Stage, state: TargetState) -> str:
    """Return where a target in flight or held stands, in a line."""
    how = {
        Phase.CHECK: "nothing was done in this step",
        Phase.APPLY: "it was just being done" if state.busy else "it was not done, or not to its end",
        Phase.VERIFY: "it was done and is not proven",
        Phase.PROBE: "it was ordered, and may have been done",
    }
    step = stage.steps[state.step].name if state.step < len(stage.steps) else "the end"
    why = f" ({state.detail})" if state.detail else ""
    return f"{state.target.name} is {_OPEN[state.status]} at the step {step}: {how[state.phase]}{why}"


def told(folder: Path, error: BaseException) -> tuple[str, list[str]]:
    """Return why a run's journal cannot be written any more, and a line for each target in flight or held.

    Args:
        folder: the run's folder.
        error: what was raised.
    """
    for cause in _causes(error):
        if isinstance(cause, JournalLost):  # Whatever could not be written after that is no news.
            return str(cause), list(cause.left)
    try:
        record = journal.read(folder)
    except folders.JournalError as unreadable:
        return str(error), [f"What is in flight is not known: {unreadable}"]
    return str(error), [
        f"{state.target.name} is {_OPEN[state.status]} ({stage}){f': {state.detail}' if state.detail else ''}"
        for stage, state in record.work
        if state.status in _OPEN
    ]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Return an error, and those while which it was raised."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
