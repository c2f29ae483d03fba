"""The journal of a run: what was intended, what came of it, and what has to be put back.

A run is a folder, ``<state_dir>/<run id>/``, private to the operator, with ``journal.db`` (SQLite, write-ahead log,
``synchronous=FULL``: what was written survives a power cut). An effect's intent is written before the effect, its
outcome after it. Exactly one process at a time may write: it holds a lock on the file ``alive``, which the kernel
releases however the process ends. A step has its name in the journal, and its index in memory: see
:mod:`fleet.engine.schema`. A run that nobody can resume or abort any more is closed by a file ``discarded.json``.
"""

import json
import secrets
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from fleet.clock import CLOCK, Clock
from fleet.engine import folders, schema
from fleet.engine.model import TargetState


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the journal: at a time, a target's step had an intent or an outcome.

    Times are in seconds since the epoch. Within a session their differences are durations; over sessions they are not,
    as the clock may have been set.
    """

    at: float
    stage: str
    target: str
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
    """Return an id for a new run, such as ``20260131-030000-reboot-nodes-lab-4f2a`` or ``…-etcd-restart-lab-4f2a``."""
    what = "-".join(part for part in procedure.split(".") if part not in ("sre", "k8s"))
    return f"{now:%Y%m%d-%H%M%S}-{what}-{cluster}-{secrets.token_hex(2)}"


class Journal:
    """The journal of one run, open for writing. Use :meth:`create` or :meth:`open`, and close it."""

    def __init__(self, folder: Path, alive: IO[str], clock: Clock = CLOCK) -> None:
        """Open the database in a run's folder; the caller holds the lock ``alive``."""
        self.folder = folder
        self._alive = alive
        self._clock = clock
        # Times between events of a session are real ones, also if the clock is set meanwhile.
        self._epoch = clock.time() - clock.monotonic()
        self._db = schema.connect(folder / folders.FILE)

    @classmethod
    def create(
        cls, state_dir: Path, info: RunInfo, states: Mapping[str, Iterable[TargetState]], clock: Clock = CLOCK
    ) -> "Journal":
        """Create the folder and the journal of a new run, whole or not at all.

        Args:
            state_dir: where runs are kept.
            info: what identifies the run.
            states: the targets of each stage that is the run's substance.
            clock: tells when something happened.

        Raises:
            JournalError: the state directory cannot be written.
        """
        folder, new = state_dir / info.id, state_dir / f".{info.id}.new"
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            new.mkdir(mode=0o700)
            alive = folders.take_alive(new)
            db = schema.create(new / folders.FILE)
            try:
                with db:
                    values = {**{key: getattr(info, key) for key in RunInfo.__slots__}, "status": "running"}
                    db.executemany("INSERT INTO run VALUES (?, ?)", [(k, json.dumps(v)) for k, v in values.items()])
                    _put_steps(db, info.options.get("steps", {}))
                    for stage, targets in states.items():
                        for state in targets:
                            _put(db, stage, state)
            finally:
                db.close()
            new.rename(folder)
            for path in (folder, state_dir):
                folders.sync(path)
        except (OSError, ValueError, sqlite3.Error) as error:
            shutil.rmtree(new, ignore_errors=True)
            raise folders.JournalError(
                f"{folder}: cannot be created: {folders.why(error)}; see state_dir in the configuration"
            ) from error
        return cls(folder, alive, clock)

    @classmethod
    def open(cls, state_dir: Path, run_id: str, clock: Clock = CLOCK) -> "Journal":
        """Open the journal of an interrupted run, to resume or abort it.

        Raises:
            JournalError: there is no such run, it was discarded, or a process is still working on it.
        """
        folder = folders.run_folder(state_dir, run_id)
        if gone := folders.discarded(folder):
            raise folders.JournalError(f"Run {run_id} was discarded: {gone.told}; there is nothing to resume or abort.")
        try:
            alive = folders.take_alive(folder)
        except OSError as error:
            raise folders.unreadable(folder, error, "alive") from error
        try:
            journal = cls(folder, alive, clock)
            journal._check()
        except folders.UNREADABLE as error:
            alive.close()
            raise folders.unreadable(folder, error) from error
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
        with self._written():
            self._db.execute("INSERT OR REPLACE INTO run VALUES ('status', ?)", (json.dumps(status),))

    def steps(self, stage: str) -> list[str] | None:
        """Return the names of a stage's steps as its targets' states are kept with them; None if there are none yet."""
        with self._read():
            return _steps(self._db, stage)

    def put(self, stage: str, states: Iterable[TargetState], steps: Sequence[str] | None = None) -> None:
        """Write the states of targets; those that the stage does not know yet go to its end.

        Args:
            stage: the stage.
            states: the states.
            steps: the names of the stage's steps if they are others than before; then the states of all targets that
                the journal has of the stage are to be given.
        """
        with self._written():
            if steps is not None:
                _put_steps(self._db, {stage: steps})
            for state in states:
                _put(self._db, stage, state)

    def rewrite(self, states: Mapping[str, Iterable[TargetState]], options: Mapping[str, Any]) -> None:
        """Write the states of stages' targets and the run's options with the names of the steps: all or nothing."""
        with self._written():
            self._db.execute("INSERT OR REPLACE INTO run VALUES ('options', ?)", (json.dumps(dict(options)),))
            _put_steps(self._db, options.get("steps", {}))
            for stage, targets in states.items():
                for state in targets:
                    _put(self._db, stage, state)

    def record(self, stage: str, states: Iterable[TargetState], *, step: str, kind: str) -> None:
        """Write the states of targets together with an event for each.

        Args:
            stage: the targets' stage.
            states: their states after the event; the event's detail is the state's.
            step: the step's name, or empty.
            kind: ``start``, ``intent``, ``done``, ``pending``, ``unknown``, ``failed``, ``held`` ….
        """
        now = self._now()
        with self._written():
            for state in states:
                _put(self._db, stage, state)
                self._db.execute(
                    "INSERT INTO event (at, stage, unit, step, kind, detail) VALUES (?, ?, ?, ?, ?, ?)",
                    (now, stage, state.target.name, step, kind, state.detail),
                )

    def note(self, kind: str, detail: str) -> None:
        """Write an event of the run itself: ``session``, ``stop``, ``abort`` …."""
        with self._written():
            self._db.execute(
                "INSERT INTO event (at, stage, unit, step, kind, detail) VALUES (?, '', '', '', ?, ?)",
                (self._now(), kind, detail),
            )

    def _now(self) -> float:
        """Return the time by the clock as it was when the journal was opened, and by the monotonic one since."""
        return self._epoch + self._clock.monotonic()

    def states(self, stage: str) -> dict[str, TargetState]:
        """Return the states of a stage's targets, in the order of the plan."""
        with self._read():
            return {state.target.name: state for state in _states(self._db, stage)}

    def events(self) -> list[Event]:
        """Return all events, oldest first."""
        with self._read():
            return _events(self._db)

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Write something, whole or not at all."""
        with self._read(), self._db:
            yield

    @contextmanager
    def _read(self) -> Iterator[None]:
        """Name the file and the reason if the database cannot do what it is asked for.

        Raises:
            Unwritable: the disk is full, broken, or gone.
        """
        try:
            yield
        except sqlite3.Error as error:
            raise folders.Unwritable(f"{self.folder / folders.FILE}: {error}") from error

    def _check(self) -> None:
        """Read everything once.

        Raises:
            sqlite3.Error, KeyError, ValueError: it cannot be read, or is not whole.
        """
        _record(self._db, self.folder)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as its journal tells it, read without disturbing a process that works on it.

    Attributes:
        info: what identifies it.
        status: its status; ``interrupted`` if it should be running but no process is alive, ``discarded`` if an
            operator closed it without an abort.
        targets: the states of its targets, stage by stage.
        events: everything that happened, oldest first.
    """

    info: RunInfo
    status: str
    targets: Mapping[str, list[TargetState]]
    events: list[Event]

    @property
    def work(self) -> list[tuple[str, TargetState]]:
        """The targets of the stages that are the run's substance, each with its stage."""
        return [(stage, state) for stage in self.info.stages for state in self.targets.get(stage, ())]


def read(folder: Path) -> RunRecord:
    """Read a run from its folder.

    Raises:
        NeverStarted: its creation was interrupted.
        JournalError: the folder holds no readable journal.
    """
    folders.run_folder(folder.parent, folder.name)
    try:
        with schema.reading(folder / folders.FILE) as db:
            return _record(db, folder)
    except folders.UNREADABLE as error:
        raise folders.unreadable(folder, error) from error


def read_states(folder: Path, stage: str) -> dict[str, TargetState]:
    """Return the states of a stage's targets, from any thread."""
    with schema.reading(folder / folders.FILE) as db:
        return {state.target.name: state for state in _states(db, stage)}


def cluster_of(folder: Path) -> str | None:
    """Return the cluster that a run is on, also where the rest of its journal cannot be read; None if that cannot."""
    try:
        with schema.opened(folder / folders.FILE) as db:
            return str(_run_value(db, "cluster"))
    except folders.UNREADABLE:
        return None


def may_be_on(folder: Path, cluster: str) -> bool:
    """Return whether a run whose journal cannot be read may be on a cluster: by its row, or by its folder's name."""
    known = cluster_of(folder)
    return folders.named_after(folder, cluster) if known is None else known == cluster


def _record(db: sqlite3.Connection, folder: Path) -> RunRecord:
    stages = [row[0] for row in db.execute("SELECT stage FROM unit GROUP BY stage ORDER BY min(rowid)")]
    events = _events(db)
    if not stages and not events and db.execute("SELECT count(*) FROM run").fetchone()[0] == 0:
        raise folders.NeverStarted(f"{folder}: it was killed before it touched anything: its journal is empty")
    status = str(_run_value(db, "status"))
    if folders.discarded(folder):
        status = "discarded"
    elif status == "running" and not folders.is_alive(folder):
        status = "interrupted"
    return RunRecord(_info(db), status, {stage: list(_states(db, stage)) for stage in stages}, events)


def _run_value(db: sqlite3.Connection, key: str) -> Any:
    row = db.execute("SELECT value FROM run WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise KeyError(key)
    return json.loads(row[0])


def _info(db: sqlite3.Connection) -> RunInfo:
    return RunInfo(**{key: _run_value(db, key) for key in RunInfo.__slots__})


def _steps(db: sqlite3.Connection, stage: str) -> list[str] | None:
    row = db.execute("SELECT steps FROM stage WHERE name = ?", (stage,)).fetchone()
    return None if row is None else list(json.loads(row[0]))


def _put_steps(db: sqlite3.Connection, steps: Mapping[str, Sequence[str]]) -> None:
    rows = [(stage, json.dumps(list(names))) for stage, names in steps.items()]
    db.executemany("INSERT OR REPLACE INTO stage VALUES (?, ?)", rows)


def _put(db: sqlite3.Connection, stage: str, state: TargetState) -> None:
    """Write a target's state; fields of it that this release does not know stay as they are."""
    row = db.execute("SELECT state FROM unit WHERE stage = ? AND name = ?", (stage, state.target.name)).fetchone()
    stored = {**(json.loads(row[0]) if row else {}), **schema.encode(state, _steps(db, stage))}
    db.execute(
        "INSERT INTO unit VALUES (?, ?, (SELECT count(*) FROM unit WHERE stage = ?), ?)"
        " ON CONFLICT (stage, name) DO UPDATE SET state = excluded.state",
        (stage, state.target.name, stage, json.dumps(stored)),
    )


def _states(db: sqlite3.Connection, stage: str) -> Iterator[TargetState]:
    steps = _steps(db, stage)
    for name, state in db.execute("SELECT name, state FROM unit WHERE stage = ? ORDER BY position", (stage,)):
        yield schema.decode(name, json.loads(state), steps)


def _events(db: sqlite3.Connection) -> list[Event]:
    return [Event(*row) for row in db.execute("SELECT at, stage, unit, step, kind, detail FROM event ORDER BY id")]
