"""``fleet runs``: which runs there are, where they stand, and what to run next."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fleet.maintenance import folders, journal, report
from fleet.maintenance.journal import RunRecord
from fleet.maintenance.model import Status, UnitState

OPEN = ("running", "interrupted", "stopped")
"""The statuses of runs that may have something in flight or held."""


def in_flight(record: RunRecord) -> list[UnitState]:
    """Return the units that a run has in flight or held."""
    if record.status not in OPEN:
        return []
    return [state for _, state in record.work if state.status in (Status.RUNNING, Status.HELD)]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A run whose journal cannot be read: it may have anything in flight, until an operator discards it.

    Attributes:
        folder: the run's folder.
        why: which file, and what is wrong with it.
    """

    folder: Path
    why: str


def survey(state_dir: Path) -> tuple[list[RunRecord], list[Unreadable]]:
    """Return all runs, oldest first, and those that cannot be read; runs that were never started are left out.

    Raises:
        JournalError: the state directory cannot be read.
    """
    records, unreadable = [], []
    for folder in folders.list_runs(state_dir):
        try:
            records.append(journal.read(folder))
        except folders.NeverStarted:
            continue
        except folders.JournalError as error:
            unreadable.append(Unreadable(folder, str(error)))
    return records, unreadable


def open_runs(state_dir: Path) -> list[tuple[RunRecord, list[UnitState]]]:
    """Return the runs that are not over, each with the units it has in flight or held.

    Those that cannot be read are not among them: see :func:`in_doubt`.
    """
    records, _ = survey(state_dir)
    return [(record, in_flight(record)) for record in records if record.status in OPEN]


def in_doubt(state_dir: Path, cluster: str) -> list[Unreadable]:
    """Return the runs that cannot be read, may be on a cluster, and were not discarded."""
    _, unreadable = survey(state_dir)
    return [run for run in unreadable if not folders.discarded(run.folder) and journal.may_be_on(run.folder, cluster)]


def list_runs(state_dir: Path, console: Console, *, as_json: bool) -> None:
    """Print all runs, oldest first.

    Args:
        state_dir: where runs are kept.
        console: where to print.
        as_json: print JSON instead of a table.
    """
    records = []
    broken = []
    for folder in folders.list_runs(state_dir):
        try:
            records.append(journal.read(folder))
        except folders.JournalError as error:
            broken.append(str(error))
    if as_json:
        rows = [
            {
                "run": record.info.id,
                "status": record.status,
                "operator": record.info.operator,
                "reason": record.info.reason,
                "in_flight": [state.unit.name for state in in_flight(record)],
            }
            for record in records
        ]
        console.print_json(json.dumps(rows))
        return
    table = Table(show_edge=False)
    for column in ("run", "started", "status", "done", "in flight or held", "operator", "reason"):
        table.add_column(column, no_wrap=column == "run")
    for record in records:
        states = [state for _, state in record.work]
        finished = sum(state.status is Status.DONE for state in states)
        table.add_row(
            record.info.id,
            datetime.fromtimestamp(record.info.created, UTC).strftime("%Y-%m-%d %H:%M"),
            record.status,
            f"{finished}/{len(states)}",
            ", ".join(state.unit.name for state in in_flight(record)),
            Text(record.info.operator),
            Text(record.info.reason),
        )
    console.print(table if records else f"There are no runs in {state_dir}.")
    for line in broken:
        console.print(line, markup=False)


def show(state_dir: Path, run_id: str, console: Console, *, as_json: bool) -> None:
    """Print where a run stands, what happened in it, and what to run next.

    Args:
        state_dir: where runs are kept.
        run_id: the run.
        console: where to print.
        as_json: print JSON instead of text.

    Raises:
        JournalError: there is no such run.
    """
    record = journal.read(folders.run_folder(state_dir, run_id))
    data = report.summary(record, report.next_commands(record))
    if as_json:
        console.print_json(json.dumps(data))
        return
    report.render(data, console)
    console.print("\nWhat happened:")
    for event in record.events:
        at = datetime.fromtimestamp(event.at, UTC).strftime("%H:%M:%S")
        words = " ".join(word for word in (event.unit, event.step, event.kind) if word)
        console.print(f"  {at} {words}{f': {event.detail}' if event.detail else ''}", markup=False, highlight=False)
