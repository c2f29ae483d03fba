"""The stored shape of a journal, and how one of an older release is brought to it.

The version stands in ``PRAGMA user_version``: that is in the file's header, so it can be read before any table is
understood, and it changes in the same transaction as the tables. A unit's state is one JSON document: a field that a
release does not know is kept, a field that is missing has its default.

Example of a row of ``unit``: ``("nodes", "worker1", 0, '{"status": "running", "step": "reboot", "phase": "verify",
"domain": "row-a", "group": "", "detail": "not up yet", "facts": {"boot_id": "…"}, "attempts": 0, "released": false,
"accepted": {}, "given_up": null}')``. A step has its name; ``null`` stands for the end of all steps.
"""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fleet.engine.model import Accepted, GivenUp, Phase, Status, Target, TargetState

VERSION = 2
"""The version that this release writes. Version 1 had a column for each field of a unit, and no ``user_version``."""

_TABLES = """
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE stage (name TEXT PRIMARY KEY, steps TEXT NOT NULL);
CREATE TABLE unit (
    stage TEXT NOT NULL, name TEXT NOT NULL, position INTEGER NOT NULL, state TEXT NOT NULL, PRIMARY KEY (stage, name));
CREATE TABLE event (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, stage TEXT NOT NULL, unit TEXT NOT NULL, step TEXT NOT NULL,
    kind TEXT NOT NULL, detail TEXT NOT NULL);
"""


class NewerVersion(ValueError):
    """A journal was written by a newer release."""

    def __init__(self, version: int) -> None:
        """Name the version."""
        super().__init__(
            f"a newer release of this project wrote it (version {version} of the journal; this one knows {VERSION}):"
            " use that release"
        )


def create(path: Path) -> sqlite3.Connection:
    """Create an empty journal that is not in use yet; the caller commits what it writes."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    db = sqlite3.connect(path)
    db.execute("PRAGMA synchronous=FULL")
    _statements(db, _TABLES)
    db.execute(f"PRAGMA user_version = {VERSION}")
    return db


def connect(path: Path) -> sqlite3.Connection:
    """Open a journal for writing; one of an older release is migrated, whole or not at all.

    Raises:
        NewerVersion: a newer release wrote it; nothing was changed.
        sqlite3.Error: it cannot be read or written.
    """
    db = sqlite3.connect(f"file:{_quoted(path)}?mode=rw", uri=True)
    try:
        db.execute("PRAGMA synchronous=FULL")
        migrate(db)
        db.execute("PRAGMA journal_mode=WAL")
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal of any known version for reading, in today's shape; the file stays as it is.

    Raises:
        NewerVersion: a newer release wrote it.
        sqlite3.Error: it cannot be read.
    """
    with opened(path) as db:
        if _version(db) == VERSION:
            yield db
            return
        copy = sqlite3.connect(":memory:")
        try:
            db.backup(copy)
            migrate(copy)
            yield copy
        finally:
            copy.close()


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal for reading as it is, whatever its version.

    A log (``journal.db-wal``) that a killed process left cannot be read in place where nothing can be written: then a
    copy is.
    """
    with path.open("rb"):  # SQLite does not say why a file cannot be opened.
        pass
    db = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True)
    try:
        try:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            pass
        else:
            yield db
            return
    finally:
        db.close()
    with tempfile.TemporaryDirectory(prefix="fleet-journal-") as folder:
        for suffix in ("", "-wal"):
            if (source := path.with_name(path.name + suffix)).exists():
                shutil.copyfile(source, Path(folder) / source.name)
        db = sqlite3.connect(Path(folder) / path.name)
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")  # which needs no file beside the log
            yield db
        finally:
            db.close()


def migrate(db: sqlite3.Connection) -> None:
    """Bring a journal to today's shape."""
    if _version(db) == VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    with db:
        if _version(db) == VERSION:  # Another process did it meanwhile.
            return
        _from_version_1(db)
        db.execute(f"PRAGMA user_version = {VERSION}")


def encode(state: TargetState, steps: Sequence[str] | None) -> dict[str, Any]:
    """Return what is stored of a unit's state.

    Args:
        state: the state.
        steps: the names of its stage's steps; None if they are not known: then the step is stored by its number.
    """
    step: int | str | None = state.step
    if steps:
        step = steps[state.step] if state.step < len(steps) else None
    given_up = state.given_up
    return {
        "domain": state.target.domain,
        "group": state.target.group,
        "status": state.status.value,
        "step": step,
        "phase": state.phase.value,
        "detail": state.detail,
        "facts": dict(state.facts),
        "attempts": state.attempts,
        "released": state.released,
        "accepted": {gate: {"operator": it.operator, "reason": it.reason} for gate, it in state.accepted.items()},
        "given_up": given_up
        and {"operator": given_up.operator, "reason": given_up.reason, "left": list(given_up.left)},
    }


def decode(name: str, stored: Mapping[str, Any], steps: Sequence[str] | None) -> TargetState:
    """Return a unit's state from what is stored of it.

    Args:
        name: the unit's name.
        stored: see :func:`encode`; any field but the status may be missing.
        steps: the names of its stage's steps; None if they are not known.

    Raises:
        ValueError: it has a status, phase or step that is not known.
        KeyError, TypeError, AttributeError: it is nothing that was ever stored.
    """
    step = stored.get("step", 0)
    if step is None:
        step = len(steps or ())
    elif isinstance(step, str):
        if step not in (steps or ()):
            raise ValueError(f"{name} is at the step {step!r}, which its stage does not have")
        step = list(steps or ()).index(step)
    accepted = stored.get("accepted") or {}
    given_up = stored.get("given_up")
    return TargetState(
        Target(name, stored.get("domain", ""), stored.get("group", "")),
        Status(stored["status"]),
        int(step),
        Phase(stored.get("phase", Phase.CHECK)),
        stored.get("detail", ""),
        stored.get("facts") or {},
        attempts=stored.get("attempts", 0),
        released=stored.get("released", False),
        accepted={gate: Accepted(it.get("operator", ""), it.get("reason", "")) for gate, it in accepted.items()},
        given_up=given_up
        and GivenUp(given_up.get("operator", ""), given_up.get("reason", ""), tuple(given_up.get("left", ()))),
    )


def _version(db: sqlite3.Connection) -> int:
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise NewerVersion(version)
    return version


def _from_version_1(db: sqlite3.Connection) -> None:
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"run", "unit", "event"} <= tables:
        raise sqlite3.DatabaseError("it is no journal: the tables run, unit and event are not there")
    row = db.execute("SELECT value FROM run WHERE key = 'options'").fetchone()
    steps = (json.loads(row[0]) if row else {}).get("steps", {})
    units = db.execute(
        "SELECT stage, name, position, domain, grp, status, step, phase, detail, facts FROM unit ORDER BY rowid"
    ).fetchall()
    db.execute("ALTER TABLE unit RENAME TO old_unit")
    db.execute("ALTER TABLE event RENAME TO old_event")
    db.execute("ALTER TABLE run RENAME TO old_run")
    _statements(db, _TABLES)
    db.execute("INSERT INTO run SELECT * FROM old_run")
    db.execute("INSERT INTO event SELECT * FROM old_event")
    db.executemany("INSERT INTO stage VALUES (?, ?)", [(name, json.dumps(names)) for name, names in steps.items()])
    for stage, name, position, domain, group, status, step, phase, detail, facts in units:
        state = TargetState(Target(name, domain, group), Status(status), step, Phase(phase), detail, json.loads(facts))
        stored = json.dumps(encode(state, steps.get(stage)))
        db.execute("INSERT INTO unit VALUES (?, ?, ?, ?)", (stage, name, position, stored))
    for table in ("run", "unit", "event"):
        db.execute(f"DROP TABLE old_{table}")


def _statements(db: sqlite3.Connection, text: str) -> None:
    for statement in text.split(";"):
        if statement.strip():
            db.execute(statement)


def _quoted(path: Path) -> str:
    """Quote a path for a URI of SQLite."""
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
