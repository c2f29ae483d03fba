"""The folders of runs: which there are, who works on one, and which were discarded."""

import fcntl
import json
import os
import re
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fleet.errors import FleetError

FILE = "journal.db"
DISCARDED = "discarded.json"
OVER = ("done", "aborted", "discarded")
"""The statuses of runs that have nothing in flight any more."""
_ROOM = 1 << 20
"""Bytes that a run's folder has to have room for, at the very least."""
_ID = re.compile(r"\d{8}-\d{6}-(?P<what>.+)-[0-9a-f]{4}")
UNREADABLE = (sqlite3.Error, OSError, KeyError, ValueError, TypeError, AttributeError)
"""What is raised where the journal is none, or not whole."""


class JournalError(FleetError):
    """A run's journal is missing, unreadable, or in use by another process."""


class Unwritable(JournalError):
    """The journal of a run that is worked on cannot be written, or not be read, any more."""


class NeverStarted(JournalError):
    """The creation of a run's journal was interrupted: nothing was touched."""


@dataclass(frozen=True, slots=True)
class Discarded:
    """What ``discarded.json`` in a run's folder says.

    Example: ``{"operator": "ann@cumin1", "at": "2026-01-31T03:00:00+00:00", "reason": "its nodes were reinstalled"}``.
    """

    operator: str
    at: str
    reason: str

    @property
    def told(self) -> str:
        """One line for people."""
        return f"{self.reason} ({self.operator}, {self.at[:16].replace('T', ' ')} UTC)"


def discarded(folder: Path) -> Discarded | None:
    """Return who closed a run without an abort, and why; None if nobody did, or what they left cannot be read."""
    try:
        found = json.loads((folder / DISCARDED).read_text(encoding="utf-8"))
        return Discarded(*(str(found[key]) for key in Discarded.__slots__))
    except UNREADABLE:
        return None


def run_folder(state_dir: Path, run_id: str) -> Path:
    """Return a run's folder.

    Raises:
        JournalError: there is no such run.
    """
    if not run_id.strip():
        raise JournalError("The run's id is empty: was it in a variable that is not set? `fleet runs list` shows all.")
    if "/" not in run_id and run_id not in (".", "..") and "\0" not in run_id:
        try:
            if is_run(state_dir / run_id):
                return state_dir / run_id
        except OSError as error:
            raise unreadable(state_dir / run_id, error) from error
    raise JournalError(f"There is no run {run_id!r} in {state_dir}; `fleet runs list` shows all.")


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run's, by its name or by what is in it.

    Raises:
        OSError: it cannot be looked into.
    """
    if folder.name.startswith("."):
        return False  # One that is just being created.
    return (_ID.fullmatch(folder.name) is not None and folder.is_dir()) or os.path.lexists(folder / FILE)


def problem(folder: Path) -> str:
    """Return why nothing can be written in a folder, or in one that is yet to be created; nothing if it can.

    What is asked is the file system itself, by a file that is removed at once: rights, mounts, quotas and room alike.
    """
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".fleet-", dir=there) as probe:
            (Path(probe) / "probe").write_bytes(b"\0" * _ROOM)
    except OSError as error:
        return f"{folder}: cannot be written{'' if there == folder else f' (in {there})'}: {why(error)}"
    return ""


def list_runs(state_dir: Path) -> list[Path]:
    """Return the folders of all runs, oldest first.

    Raises:
        JournalError: the state directory cannot be read.
    """
    try:
        with os.scandir(state_dir) as entries:
            folders = [Path(entry.path) for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalError(
            f"{state_dir}: cannot be read: {error.strerror}; see state_dir in the configuration"
        ) from error
    return sorted(folder for folder in folders if _may_be_run(folder))


def _may_be_run(folder: Path) -> bool:
    try:
        return is_run(folder)
    except OSError:
        return True


def is_alive(folder: Path) -> bool:
    """Return whether a process works on a run.

    Raises:
        OSError: that cannot be found out.
    """
    try:
        alive = (folder / "alive").open(encoding="ascii")
    except FileNotFoundError:
        return False
    with alive:
        try:
            fcntl.flock(alive, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def named_after(folder: Path, cluster: str) -> bool:
    """Return whether a run may be on a cluster by its folder's name; a name that tells nothing may be anyone's.

    Names of procedures and of clusters have hyphens: ``…-reboot-nodes-prod-lab-4f2a`` may be on ``lab``.
    """
    found = _ID.fullmatch(folder.name)
    return found is None or found["what"].endswith(f"-{cluster}")


def unreadable(folder: Path, error: Exception, name: str = "") -> JournalError:
    """Return what is said of a journal that cannot be read: which file, and why."""
    if isinstance(error, OSError) and error.filename:
        return JournalError(f"{error.filename}: cannot be opened: {why(error)}")
    return JournalError(f"{folder / (name or FILE)}: holds no readable journal: {why(error)}")


def why(error: Exception) -> str:
    """Return an error's reason, in a few words."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, KeyError):
        return f"the row {error.args[0]!r} is missing"
    return str(error)


def take_alive(folder: Path) -> IO[str]:
    """Take a run for this process.

    Raises:
        JournalError: another process works on it.
        OSError: the lock's file cannot be opened.
    """
    alive = (folder / "alive").open("w", encoding="ascii")
    try:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        alive.close()
        raise JournalError(f"Run {folder.name} is being worked on by another process on this host.") from error
    return alive


def sync(folder: Path) -> None:
    """Make sure that a folder's entries survive a power cut."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
