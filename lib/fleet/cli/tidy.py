"""Close runs whose journal cannot be read, and remove runs that ended long ago."""

import json
import os
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from fleet.engine import folders, journal
from fleet.engine.folders import Discarded, JournalError
from fleet.engine.report import next_commands

_LEFTOVERS = (".new", ".gone")
"""How the hidden folders of a run end that was not quite created, or not quite removed."""


def discard(state_dir: Path, run_id: str, *, operator: str, reason: str, now: float) -> None:
    """Close a run whose journal cannot be read: its folder is kept, but it is in nobody's way any more.

    Args:
        state_dir: where runs are kept.
        run_id: the run.
        operator: who does it, ``user@host``.
        reason: why.
        now: seconds since the epoch.

    Raises:
        JournalError: there is no such run, a process works on it, or it can be resumed, aborted or is over.
    """
    folder = folders.run_folder(state_dir, run_id)
    if gone := folders.discarded(folder):
        raise JournalError(f"Run {run_id} was discarded already: {gone.told}.")
    if _works(folder):
        raise JournalError(f"Run {run_id} is being worked on by another process on this host.")
    try:
        record = journal.read(folder)
    except folders.NeverStarted:
        raise JournalError(
            f"Run {run_id} was killed before it touched anything: there is nothing to discard."
        ) from None
    except JournalError:
        _write(folder, Discarded(operator, datetime.fromtimestamp(now, UTC).isoformat(), reason))
        return
    if record.status in folders.OVER:
        raise JournalError(f"Run {run_id} is {record.status}: there is nothing to discard.")
    commands = " or ".join(next_commands(record).values())
    raise JournalError(f"Run {run_id} can be read, so it is not discarded. Resume or abort it: {commands}")


def prune(state_dir: Path, *, older_than: float, now: float, dry_run: bool) -> list[str]:
    """Remove the folders of runs that are over, and what interrupted creations and removals have left.

    Args:
        state_dir: where runs are kept.
        older_than: how long ago a run must have ended, in seconds.
        now: seconds since the epoch.
        dry_run: remove nothing.

    Returns:
        A line for each run that was removed: its id, its status, and when it ended.

    Raises:
        JournalError: the state directory cannot be read, or a folder cannot be removed.
    """
    lines = []
    for folder in folders.list_runs(state_dir):
        if folder.is_symlink() or (ended := _ended(folder)) is None or now - ended[1] < older_than:
            continue
        status, at = ended
        if not dry_run:
            _remove(folder)
        lines.append(f"{folder.name}: {status}, ended {datetime.fromtimestamp(at, UTC):%Y-%m-%d}")
    if not dry_run and state_dir.is_dir():
        for leftover in state_dir.glob(".*"):
            if leftover.suffix in _LEFTOVERS and now - leftover.stat().st_mtime >= older_than and not _works(leftover):
                _remove(leftover)
    return lines


def _ended(folder: Path) -> tuple[str, float] | None:
    """Return a run's status and when it ended, in seconds since the epoch; None if it may not be over."""
    if gone := folders.discarded(folder):
        try:
            return "discarded", datetime.fromisoformat(gone.at).timestamp()
        except ValueError:
            return None
    try:
        record = journal.read(folder)
        if record.status not in folders.OVER or _works(folder):
            return None
    except JournalError:
        return None
    return record.status, max((event.at for event in record.events), default=record.info.created)


def _works(folder: Path) -> bool:
    try:
        return folders.is_alive(folder)
    except OSError as error:
        raise folders.unreadable(folder, error, "alive") from error


def _write(folder: Path, mark: Discarded) -> None:
    """Write who has discarded a run, whole or not at all."""
    new = folder / f".{folders.DISCARDED}.new"
    try:
        with new.open("w", encoding="utf-8") as file:
            json.dump(asdict(mark), file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(folder / folders.DISCARDED)
        folders.sync(folder)
    except OSError as error:
        raise JournalError(f"{folder / folders.DISCARDED}: cannot be written: {folders.why(error)}") from error


def _remove(folder: Path) -> None:
    """Remove a folder; one that is half gone is no run any more."""
    gone = folder if folder.name.startswith(".") else folder.with_name(f".{folder.name}.gone")
    try:
        folder.rename(gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise JournalError(f"{folder}: cannot be removed: {folders.why(error)}") from error
