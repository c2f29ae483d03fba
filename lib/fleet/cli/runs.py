"""``fleet runs``: which runs there are, where they stand, and what to run next."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fleet.engine import folders, journal, report
from fleet.engine.journal import RunRecord
from fleet.engine.model import Status
from fleet.engine.survey import in_flight, survey


def list_runs(state_dir: Path, console: Console, *, as_json: bool) -> None:
    """Print all runs, oldest first, and then those that cannot be read.

    Args:
        state_dir: where runs are kept.
        console: where to print.
        as_json: print JSON instead of a table.
    """
    records, unreadable = survey(state_dir)
    if as_json:
        rows = [
            {
                "run": record.info.id,
                "status": record.status,
                "operator": record.info.operator,
                "reason": record.info.reason,
                "in_flight": [state.target.name for state in in_flight(record)],
            }
            for record in records
        ]
        rows += [{"run": run.folder.name, "status": run.status, "why": run.why} for run in unreadable]
        console.print_json(json.dumps(rows))
        return
    rows_of_text = [_row(record) for record in records]
    longest = max((len(row[0]) for row in rows_of_text), default=0)
    if longest + _BESIDE_ID <= console.width:
        _table(rows_of_text, console)
    else:  # Nobody can read columns of a few letters.
        for run_id, started, status, done, left, operator, reason in rows_of_text:
            console.print(run_id, markup=False, soft_wrap=True)
            flight = f"; in flight or held: {left}" if left else ""
            for line in (f"{status}; started {started}; {done} done{flight}", f"{operator}: {reason}"):
                console.print(Padding(Text(line), (0, 0, 0, 2)))
    for run in unreadable:
        console.print(f"{run.folder.name}: {run.status}: {run.why}", markup=False, soft_wrap=True)
        if run.status == "unreadable":
            console.print(f"  {_WAY_OUT.format(run.folder.name)}", markup=False, soft_wrap=True)
    if not records and not unreadable:
        console.print(f"There are no runs in {state_dir}.", markup=False, soft_wrap=True)


_BESIDE_ID = 75
"""Columns that a table needs beside the runs' ids."""
_WAY_OUT = "It may have something in flight: look at the hosts, then: fleet runs discard {} -r REASON"


def _row(record: RunRecord) -> tuple[str, ...]:
    states = [state for _, state in record.work]
    finished = sum(state.status is Status.DONE for state in states)
    return (
        record.info.id,
        datetime.fromtimestamp(record.info.created, UTC).strftime("%Y-%m-%d %H:%M"),
        record.status,
        f"{finished}/{len(states)}",
        ", ".join(state.target.name for state in in_flight(record)),
        record.info.operator,
        record.info.reason,
    )


def _table(rows: Sequence[Sequence[str]], console: Console) -> None:
    if not rows:
        return
    table = Table(show_edge=False)
    for column in ("run", "started", "status", "done", "in flight or held", "operator", "reason"):
        table.add_column(column, no_wrap=column in ("run", "status", "done"), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


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
    folder = folders.run_folder(state_dir, run_id)
    try:
        record = journal.read(folder)
    except folders.JournalError as error:
        if gone := folders.discarded(folder):
            raise folders.JournalError(f"Run {run_id} was discarded: {gone.told}.\n{error}") from error
        raise
    data = report.summary(record, report.next_commands(record))
    if as_json:
        console.print_json(json.dumps(data))
        return
    report.render(data, console)
    console.print("\nWhat happened:")
    for event in record.events:
        at = datetime.fromtimestamp(event.at, UTC).strftime("%H:%M:%S")
        words = " ".join(word for word in (event.target, event.step, event.kind) if word)
        console.print(f"  {at} {words}{f': {event.detail}' if event.detail else ''}", markup=False, highlight=False)
