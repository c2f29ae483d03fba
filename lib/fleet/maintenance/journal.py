"""The journal of a run: what was intended, what came of it, and what has to be put back.

A run is a folder, ``<state_dir>/<run id>/``, private to the operator, with ``journal.db`` (SQLite, write-ahead log,
``synchronous=FULL``: what was written survives a power cut). An effect's intent is written before the effect, its
outcome after it. Exactly one process at a time may write: it holds a lock on the file ``alive``, which the kernel
releases however the process ends.
"""

import fcntl
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from fleet.errors import FleetError
from fleet.maintenance.model import Phase, Status, Unit, UnitState

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS unit (
    stage TEXT NOT NULL, name TEXT NOT NULL, position INTEGER NOT NULL, domain TEXT NOT NULL, grp TEXT NOT NULL,
    status TEXT NOT NULL, step INTEGER NOT NULL, phase TEXT NOT NULL, detail TEXT NOT NULL, facts TEXT NOT NULL,
    PRIMARY KEY (stage, name));
CREATE TABLE IF NOT EXISTS event (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, stage TEXT NOT NULL, unit TEXT NOT NULL, step TEXT NOT NULL,
    kind TEXT NOT NULL, detail TEXT NOT NULL);
"""


class JournalError(FleetError):
    """A run's journal is missing, unreadable, or in use by another process."""


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the journal: at a time (seconds since the epoch), a unit's step had an intent or an outcome."""

    at: float
    stage: str
    unit: str
    step: str
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What identifies a run.

    Attributes:
        id: the run's id, which ``--resume`` and ``--abort`` take.
        procedure: the cookbook, such as ``sre.k8s.reboot-nodes``.
        cluster: the cluster it works on.
        operator: who started it, ``user@host``.
        reason: why.
        task: the ticket, or empty.
        created: seconds since the epoch.
        options: what the procedure was asked to do; plain JSON values. ``steps`` has the names of the steps of each
            stage that is the run's substance.
    """

    id: str
    procedure: str
    cluster: str
    operator: str
    reason: str
    task: str
    created: float
    options: Mapping[str, Any]

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that are the run's substance, in order; others get ready and tidy up."""
        return tuple(self.options.get("steps", ()))


def new_run_id(procedure: str, cluster: str, now: datetime) -> str:
    """Return an id for a new run, such as ``20260131-030000-reboot-nodes-lab-4f2a``."""
    return f"{now:%Y%m%d-%H%M%S}-{procedure.rsplit('.', 1)[-1]}-{cluster}-{secrets.token_hex(2)}"


class Journal:
    """The journal of one run, open for writing. Use :meth:`create` or :meth:`open`, and close it."""

    def __init__(self, folder: Path, alive: IO[str]) -> None:
        """Open the database in a run's folder; the caller holds the lock ``alive``."""
        self.folder = folder
        self._alive = alive
        self._db = _connect(folder / "journal.db")

    @classmethod
    def create(cls, state_dir: Path, info: RunInfo, states: Mapping[str, Iterable[UnitState]]) -> "Journal":
        """Create the folder and the journal of a new run, whole or not at all.

        Args:
            state_dir: where runs are kept.
            info: what identifies the run.
            states: the units of each stage that is the run's substance.

        Raises:
            JournalError: the state directory cannot be written.
        """
        folder = state_dir / info.id
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise JournalError(
                f"{folder}: cannot be created: {error.strerror}; see state_dir in the configuration"
            ) from error
        journal = cls(folder, _take_alive(folder))
        with journal._db:
            journal._db.executemany(
                "INSERT INTO run VALUES (?, ?)",
                [(key, json.dumps(getattr(info, key))) for key in RunInfo.__slots__] + [("status", '"running"')],
            )
            for stage, units in states.items():
                for state in units:
                    journal._put(stage, state)
        return journal

    @classmethod
    def open(cls, state_dir: Path, run_id: str) -> "Journal":
        """Open the journal of an interrupted run, to resume or abort it.

        Raises:
            JournalError: there is no such run, or a process is still working on it.
        """
        folder = state_dir / run_id
        if "/" in run_id or not (folder / "journal.db").is_file():
            raise JournalError(f"There is no run {run_id!r} in {state_dir}; `fleet runs list` shows all.")
        alive = _take_alive(folder)
        try:
            journal = cls(folder, alive)
            journal.info()
        except (sqlite3.Error, KeyError, ValueError) as error:
            alive.close()
            raise _unreadable(folder, error) from error
        return journal

    def close(self) -> None:
        """Close the database and let go of the run."""
        self._db.close()
        self._alive.close()

    def info(self) -> RunInfo:
        """Return what identifies the run."""
        return _info(self._db)

    def status(self) -> str:
        """Return the run's status: ``running``, ``done``, ``stopped`` or ``aborted``."""
        return str(_run_value(self._db, "status"))

    def set_status(self, status: str) -> None:
        """Write the run's status."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO run VALUES ('status', ?)", (json.dumps(status),))

    def put(self, stage: str, states: Iterable[UnitState]) -> None:
        """Write the states of units; those that the stage does not know yet go to its end."""
        with self._db:
            for state in states:
                self._put(stage, state)

    def rewrite(self, states: Mapping[str, Iterable[UnitState]], options: Mapping[str, Any]) -> None:
        """Write the states of stages' units and the run's options, both or neither."""
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO run VALUES ('options', ?)", (json.dumps(dict(options)),))
            for stage, units in states.items():
                for state in units:
                    self._put(stage, state)

    def record(self, stage: str, states: Iterable[UnitState], *, step: str, kind: str) -> None:
        """Write the states of units together with an event for each.

        Args:
            stage: the units' stage.
            states: their states after the event; the event's detail is the state's.
            step: the step's name, or empty.
            kind: ``start``, ``intent``, ``done``, ``pending``, ``unknown``, ``failed``, ``held`` ….
        """
        now = time.time()
        with self._db:
            for state in states:
                self._put(stage, state)
                self._db.execute(
                    "INSERT INTO event (at, stage, unit, step, kind, detail) VALUES (?, ?, ?, ?, ?, ?)",
                    (now, stage, state.unit.name, step, kind, state.detail),
                )

    def note(self, kind: str, detail: str) -> None:
        """Write an event of the run itself: ``session``, ``stop``, ``abort`` …."""
        with self._db:
            self._db.execute(
                "INSERT INTO event (at, stage, unit, step, kind, detail) VALUES (?, '', '', '', ?, ?)",
                (time.time(), kind, detail),
            )

    def states(self, stage: str) -> dict[str, UnitState]:
        """Return the states of a stage's units, in the order of the plan."""
        return {state.unit.name: state for state in _states(self._db, stage)}

    def events(self) -> list[Event]:
        """Return all events, oldest first."""
        return _events(self._db)

    def _put(self, stage: str, state: UnitState) -> None:
        self._db.execute(
            "INSERT INTO unit VALUES (?, ?, (SELECT count(*) FROM unit WHERE stage = ?), ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (stage, name) DO UPDATE SET status = excluded.status, step = excluded.step,"
            " phase = excluded.phase, detail = excluded.detail, facts = excluded.facts",
            (
                stage,
                state.unit.name,
                stage,
                state.unit.domain,
                state.unit.group,
                state.status,
                state.step,
                state.phase,
                state.detail,
                json.dumps(dict(state.facts)),
            ),
        )


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as its journal tells it, read without disturbing a process that works on it.

    Attributes:
        info: what identifies it.
        status: its status; ``interrupted`` if it should be running but no process is alive.
        units: the states of its units, stage by stage.
        events: everything that happened, oldest first.
    """

    info: RunInfo
    status: str
    units: Mapping[str, list[UnitState]]
    events: list[Event]

    @property
    def work(self) -> list[tuple[str, UnitState]]:
        """The units of the stages that are the run's substance, each with its stage."""
        return [(stage, state) for stage in self.info.stages for state in self.units.get(stage, ())]


def read(folder: Path) -> RunRecord:
    """Read a run from its folder.

    Raises:
        JournalError: the folder holds no readable journal.
    """
    if not (folder / "journal.db").is_file():
        raise JournalError(f"There is no run {folder.name!r} in {folder.parent}; `fleet runs list` shows all.")
    try:
        db = _connect(folder / "journal.db", read_only=True)
        try:
            stages = [row[0] for row in db.execute("SELECT stage FROM unit GROUP BY stage ORDER BY min(rowid)")]
            status = str(_run_value(db, "status"))
            if status == "running" and not _is_alive(folder):
                status = "interrupted"
            return RunRecord(_info(db), status, {stage: list(_states(db, stage)) for stage in stages}, _events(db))
        finally:
            db.close()
    except (sqlite3.Error, KeyError, ValueError) as error:
        raise _unreadable(folder, error) from error


def read_states(folder: Path, stage: str) -> dict[str, UnitState]:
    """Return the states of a stage's units, from any thread."""
    db = _connect(folder / "journal.db", read_only=True)
    try:
        return {state.unit.name: state for state in _states(db, stage)}
    finally:
        db.close()


def list_runs(state_dir: Path) -> list[Path]:
    """Return the folders of all runs, oldest first."""
    return sorted(path.parent for path in state_dir.glob("*/journal.db"))


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    if read_only:
        return sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.executescript(_SCHEMA)
    return db


def _unreadable(folder: Path, error: Exception) -> JournalError:
    why = "it was killed before it touched anything" if isinstance(error, KeyError) else str(error)
    return JournalError(f"{folder}: holds no readable journal: {why}")


def _take_alive(folder: Path) -> IO[str]:
    alive = (folder / "alive").open("w", encoding="ascii")
    try:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        alive.close()
        raise JournalError(f"Run {folder.name} is being worked on by another process on this host.") from error
    return alive


def _is_alive(folder: Path) -> bool:
    try:
        _take_alive(folder).close()
    except (JournalError, OSError):
        return True
    return False


def _run_value(db: sqlite3.Connection, key: str) -> Any:
    row = db.execute("SELECT value FROM run WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise KeyError(key)
    return json.loads(row[0])


def _info(db: sqlite3.Connection) -> RunInfo:
    return RunInfo(**{key: _run_value(db, key) for key in RunInfo.__slots__})


def _states(db: sqlite3.Connection, stage: str) -> Iterator[UnitState]:
    rows = db.execute(
        "SELECT name, domain, grp, status, step, phase, detail, facts FROM unit WHERE stage = ? ORDER BY position",
        (stage,),
    )
    for name, domain, group, status, step, phase, detail, facts in rows:
        yield UnitState(Unit(name, domain, group), Status(status), step, Phase(phase), detail, json.loads(facts))


def _events(db: sqlite3.Connection) -> list[Event]:
    return [Event(*row) for row in db.execute("SELECT at, stage, unit, step, kind, detail FROM event ORDER BY id")]
