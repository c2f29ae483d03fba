"""All runs of a state directory: which are open, what they have in flight, and which cannot be read."""

from dataclasses import dataclass
from pathlib import Path

from fleet.engine import folders, journal
from fleet.engine.journal import RunRecord
from fleet.engine.model import Status, TargetState

OPEN = ("running", "interrupted", "stopped")
"""The statuses of runs that may have something in flight or held."""


def in_flight(record: RunRecord) -> list[TargetState]:
    """Return the targets that a run has in flight or held."""
    if record.status not in OPEN:
        return []
    return [state for _, state in record.work if state.status in (Status.RUNNING, Status.HELD)]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A run whose journal cannot be read: it may have anything in flight, until an operator discards it.

    Attributes:
        folder: the run's folder.
        why: which file, and what is wrong with it.
        status: ``unreadable``, ``discarded``, or ``never started`` if its creation was interrupted.
    """

    folder: Path
    why: str
    status: str


def survey(state_dir: Path) -> tuple[list[RunRecord], list[Unreadable]]:
    """Return all runs, oldest first, and those that cannot be read.

    Raises:
        JournalError: the state directory cannot be read.
    """
    records, unreadable = [], []
    for folder in folders.list_runs(state_dir):
        try:
            records.append(journal.read(folder))
        except folders.JournalError as error:
            gone = folders.discarded(folder)
            status = "discarded" if gone else "unreadable"
            if isinstance(error, folders.NeverStarted):
                status = "never started"
            unreadable.append(Unreadable(folder, gone.told if gone else str(error), status))
    return records, unreadable


def open_runs(state_dir: Path) -> list[tuple[RunRecord, list[TargetState]]]:
    """Return the runs that are not over, each with the targets it has in flight or held.

    Those that cannot be read are not among them: see :func:`in_doubt`.
    """
    records, _ = survey(state_dir)
    return [(record, in_flight(record)) for record in records if record.status in OPEN]


def in_doubt(state_dir: Path, cluster: str) -> list[Unreadable]:
    """Return the runs that cannot be read, may be on a cluster, and were not discarded."""
    _, unreadable = survey(state_dir)
    return [run for run in unreadable if run.status == "unreadable" and journal.may_be_on(run.folder, cluster)]
