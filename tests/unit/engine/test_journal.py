"""The journal: what is written survives, and only one process writes."""

import json
import os
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fleet.cli import runs
from fleet.clock import SystemClock
from fleet.engine import folders, report, schema, survey
from fleet.engine import journal as j
from fleet.engine.model import Accepted, GivenUp, Phase, Status, Target, TargetState
from fleet.engine.report import step_times, summary, write_json

STEPS = ["silence", "cordon", "drain", "reboot", "ready", "uncordon"]


@pytest.fixture
def info():
    return j.RunInfo(
        "r1", "sre.k8s.reboot-nodes", "lab", "root@here", "kernel", "T1", 1000.0, {"steps": {"nodes": STEPS}}
    )


@pytest.fixture
def book(tmp_path, info):
    book = j.Journal.create(tmp_path / "runs", info, {"nodes": []})
    yield book
    book.close()


def test_what_was_written_is_read_back(tmp_path, book, info):
    state = TargetState(Target("w1", "row-a", "g"), Status.RUNNING, 3, Phase.APPLY, "why", {"boot_id": "x", "n": [1]})
    book.put("nodes", [TargetState(Target("w2")), state])
    book.put("nodes", [replace(state, step=4)])
    book.record("nodes", [replace(state, step=5)], step="reboot", kind="intent")
    book.set_status("stopped")
    book.close()
    again = j.Journal.open(tmp_path / "runs", "r1")
    assert again.info() == info
    assert again.status() == "stopped"
    assert list(again.states("nodes")) == ["w2", "w1"]
    assert again.states("nodes")["w1"] == replace(state, step=5)
    assert [(e.target, e.step, e.kind, e.detail) for e in again.events()] == [("w1", "reboot", "intent", "why")]
    again.close()


def test_a_run_is_private(tmp_path, book):
    for path in [tmp_path / "runs", book.folder]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((book.folder / "journal.db").stat().st_mode) == 0o600


def test_a_living_run_is_not_opened_twice(tmp_path, book):
    with pytest.raises(folders.JournalError, match="being worked on by another process"):
        j.Journal.open(tmp_path / "runs", "r1")
    assert j.read(book.folder).status == "running"


def test_a_run_whose_process_is_gone_is_interrupted(tmp_path, info):
    if (child := os.fork()) == 0:
        j.Journal.create(tmp_path, info, {"nodes": []})
        os._exit(9)
    os.waitpid(child, 0)
    assert j.read(tmp_path / "r1").status == "interrupted"
    j.Journal.open(tmp_path, "r1").close()


@pytest.mark.parametrize("name", ["nope", "../r1", "..", "a\0b", "r1/"])
def test_a_run_that_is_not_there(tmp_path, name):
    with pytest.raises(folders.JournalError, match="There is no run"):
        j.Journal.open(tmp_path, name)


def test_a_broken_journal_is_named(tmp_path):
    (tmp_path / "r1").mkdir()
    (tmp_path / "r1" / "journal.db").write_text("this is no database" * 100)
    with pytest.raises(folders.JournalError, match="holds no readable journal"):
        j.read(tmp_path / "r1")


def test_a_state_directory_that_cannot_be_written(info):
    with pytest.raises(folders.JournalError, match="cannot be created"):
        j.Journal.create(Path("/proc/nope"), info, {"nodes": []})


def event(at, unit, step, kind):
    return j.Event(at, "nodes", unit, step, kind, "")


def test_steps_are_timed_without_the_time_between_sessions():
    events = [
        event(10, "w1", "", "start"),
        event(12, "w1", "drain", "intent"),
        event(15, "w1", "drain", "done"),
        event(20, "w1", "reboot", "held"),
        j.Event(500, "", "", "", "session", ""),
        event(505, "w1", "reboot", "done"),
    ]
    assert step_times(events, "nodes") == {"w1": {"drain": 5.0, "reboot": 10.0}}


def test_the_report_is_json(book):
    book.record("nodes", [TargetState(Target("w1", "row-a"), Status.RUNNING)], step="", kind="start")
    held = TargetState(Target("w1", "row-a"), Status.HELD, 2, Phase.APPLY, "drain: blocked by b")
    book.record("nodes", [held], step="drain", kind="held")
    data = summary(j.read(book.folder), {"Go on": "cookbook x"})
    path = write_json(book.folder, data)
    unit = json.loads(path.read_text())["units"][0]
    assert (unit["unit"], unit["status"], unit["detail"]) == ("w1", "held", "drain: blocked by b")
    assert list(unit["steps"]) == ["drain"]
    assert json.loads(path.read_text())["next"] == {"Go on": "cookbook x"}


def test_a_run_that_was_killed_at_its_birth_is_named(tmp_path):
    (tmp_path / "r1").mkdir()
    with closing(schema.create(tmp_path / "r1" / "journal.db")) as db:
        db.commit()
    for look in (lambda: j.read(tmp_path / "r1"), lambda: j.Journal.open(tmp_path, "r1")):
        with pytest.raises(folders.JournalError, match="killed before it touched anything"):
            look()


def test_a_damaged_journal_is_not_opened(tmp_path):
    (tmp_path / "r1").mkdir()
    (tmp_path / "r1" / "journal.db").write_text("this is no database" * 100)
    with pytest.raises(folders.JournalError, match="holds no readable journal"):
        j.Journal.open(tmp_path, "r1")


def test_states_and_options_are_rewritten_together(book, info):
    book.put("nodes", [TargetState(Target("w1"), Status.HELD, 3)])
    broken = [TargetState(Target("w1"), Status.HELD, 4), TargetState(Target("w2"), facts={"no": object()})]
    new = [*STEPS, "new"]
    with pytest.raises(TypeError):
        book.rewrite({"nodes": broken}, {"steps": {"nodes": new}})
    assert (book.info(), book.states("nodes")["w1"].step) == (info, 3)
    book.rewrite({"nodes": broken[:1]}, {"steps": {"nodes": new}})
    assert (book.info().options, book.states("nodes")["w1"].step) == ({"steps": {"nodes": new}}, 4)
    assert book.steps("nodes") == new


def raw(folder, statement, *values):
    """Change a journal's file by hand."""
    with closing(sqlite3.connect(folder / "journal.db")) as db, db:
        db.execute(statement, values)


def test_a_step_has_its_name_in_the_file(book):
    book.put("nodes", [TargetState(Target("w1"), Status.RUNNING, 3), TargetState(Target("w2"), Status.DONE, 6)])
    with closing(sqlite3.connect(book.folder / "journal.db")) as db:
        stored = dict(db.execute("SELECT name, json_extract(state, '$.step') FROM unit"))
    assert stored == {"w1": "reboot", "w2": None}
    assert {name: state.step for name, state in book.states("nodes").items()} == {"w1": 3, "w2": 6}


def test_what_an_operator_decided_is_kept(book):
    state = TargetState(
        Target("w1"),
        Status.GIVEN_UP,
        2,
        attempts=3,
        released=True,
        accepted={"volumes": Accepted("ann@here", "detached by hand")},
        given_up=GivenUp("ann@here", "its board is dead", ("the cordon", "the silence abc")),
    )
    book.put("nodes", [state])
    assert book.states("nodes")["w1"] == state


def test_a_field_that_is_missing_has_its_default_and_one_that_is_not_known_is_kept(book):
    book.put("nodes", [TargetState(Target("w1"), Status.HELD, 3)])
    raw(book.folder, """UPDATE unit SET state = '{"status": "held", "step": "reboot", "colour": "red"}'""")
    assert book.states("nodes")["w1"] == TargetState(Target("w1"), Status.HELD, 3)
    book.put("nodes", [TargetState(Target("w1"), Status.HELD, 4)])
    with closing(sqlite3.connect(book.folder / "journal.db")) as db:
        stored = json.loads(db.execute("SELECT state FROM unit").fetchone()[0])
    assert (stored["colour"], stored["step"]) == ("red", "ready")


def test_steps_of_a_stage_that_is_no_substance_are_those_that_it_was_done_with(book):
    state = TargetState(Target("w1"), Status.RUNNING, 1)
    book.put("give back", [state], ["puppet on", "uncordon"])
    assert (book.states("give back"), book.steps("give back")) == ({"w1": state}, ["puppet on", "uncordon"])


def test_a_journal_of_a_newer_release_is_refused_and_left_alone(tmp_path, book):
    book.close()
    raw(book.folder, f"PRAGMA user_version = {schema.VERSION + 1}")
    before = (book.folder / "journal.db").read_bytes()
    for look in (lambda: j.read(book.folder), lambda: j.Journal.open(tmp_path / "runs", "r1")):
        with pytest.raises(folders.JournalError, match=r"r1/journal\.db: .*a newer release of this project wrote it"):
            look()
    assert (book.folder / "journal.db").read_bytes() == before
    assert j.cluster_of(book.folder) == "lab"


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("DELETE FROM run WHERE key = 'status'", "the row 'status' is missing"),
        ("DELETE FROM run", "the row 'status' is missing"),
        ("UPDATE run SET value = '{' WHERE key = 'options'", "Expecting property name"),
        ("UPDATE unit SET state = '{}'", "the row 'status' is missing"),
        ("""UPDATE unit SET state = '{"status": "lost"}'""", "'lost' is not a valid Status"),
        ("""UPDATE unit SET state = '{"status": "held", "step": "dance"}'""", "w1 is at the step 'dance'"),
        ("UPDATE unit SET state = '[]'", "has no attribute 'get'"),
        ("DROP TABLE event", "no such table: event"),
    ],
)
def test_a_journal_that_is_not_whole_is_named_and_is_in_doubt(tmp_path, book, statement, why):
    book.put("nodes", [TargetState(Target("w1"), Status.HELD, 3)])
    book.close()
    raw(book.folder, statement)
    for look in (lambda: j.read(book.folder), lambda: j.Journal.open(tmp_path / "runs", "r1")):
        with pytest.raises(folders.JournalError, match=f"r1/journal.db: holds no readable journal: .*{why}") as caught:
            look()
        assert not isinstance(caught.value, folders.NeverStarted)
    assert [run.folder.name for run in survey.in_doubt(tmp_path / "runs", "lab")] == ["r1"]
    (book.folder / "alive").unlink()
    assert not folders.is_alive(book.folder)


ID = "20260131-030000-reboot-nodes-lab-4f2a"


def damage_zero(folder):
    (folder / "journal.db").write_bytes(b"")


def damage_text(folder):
    (folder / "journal.db").write_text("this is no database" * 100)


def damage_half(folder):
    path = folder / "journal.db"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_folder(folder):
    (folder / "journal.db").unlink()
    (folder / "journal.db").mkdir()


def damage_missing(folder):
    (folder / "journal.db").unlink()


def damage_link(folder):
    damage_missing(folder)
    (folder / "journal.db").symlink_to("nowhere")


DAMAGES = [damage_zero, damage_text, damage_half, damage_folder, damage_missing, damage_link]


@pytest.fixture
def a_run(tmp_path, info):
    """Return the folder of a run that has ended in disorder."""
    with closing(j.Journal.create(tmp_path, replace(info, id=ID), {"nodes": [TargetState(Target("w1"))]})) as book:
        book.record("nodes", [TargetState(Target("w1"), Status.RUNNING, 3)] * 50, step="reboot", kind="intent")
    return book.folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_journal_that_cannot_be_read_may_have_something_in_flight(tmp_path, a_run, damage):
    damage(a_run)
    for look in (lambda: j.read(a_run), lambda: j.Journal.open(tmp_path, ID)):
        with pytest.raises(folders.JournalError, match=r"lab-4f2a/journal\.db: ") as caught:
            look()
        assert "killed before it touched anything" not in str(caught.value)
    assert [run.folder.name for run in survey.in_doubt(tmp_path, "lab")] == [ID]
    assert survey.in_doubt(tmp_path, "other") == []
    renamed = a_run.rename(tmp_path / "broken")
    expected = [] if damage is damage_missing else ["broken"]  # Then nothing tells that it is a run's.
    assert [run.folder.name for run in survey.in_doubt(tmp_path, "other")] == expected
    renamed.rename(a_run)
    (a_run / "discarded.json").write_text('{"operator": "ann@here", "at": "2026-01-31T03:00:00", "reason": "gone"}')
    assert survey.in_doubt(tmp_path, "lab") == []
    with pytest.raises(folders.JournalError, match=r"was discarded: gone \(ann@here, 2026-01-31 03:00 UTC\)"):
        j.Journal.open(tmp_path, ID)


def test_the_cluster_is_taken_from_the_journal_first(tmp_path, a_run):
    raw(a_run, "DELETE FROM run WHERE key = 'options'")
    raw(a_run, "UPDATE run SET value = '\"prod\"' WHERE key = 'cluster'")
    assert not survey.in_doubt(tmp_path, "lab")
    assert survey.in_doubt(tmp_path, "prod")


@pytest.mark.parametrize(
    ("name", "cluster", "expected"),
    [
        (ID, "lab", True),
        (ID, "nodes-lab", True),  # It may be one of a procedure "reboot".
        (ID, "ab", False),
        (ID, "nodes", False),
        ("lost", "lab", True),
    ],
)
def test_a_folders_name_tells_which_clusters_it_may_be_of(tmp_path, name, cluster, expected):
    assert folders.named_after(tmp_path / name, cluster) is expected


def test_a_run_that_was_never_started_is_in_nobodys_way(tmp_path):
    (tmp_path / "r1").mkdir()
    with closing(schema.create(tmp_path / "r1" / "journal.db")) as db:
        db.commit()
    (tmp_path / ".r2.new").mkdir()
    (tmp_path / "lost+found").mkdir()
    records, left = survey.survey(tmp_path)
    assert (records, [(run.folder.name, run.status) for run in left]) == ([], [("r1", "never started")])
    assert survey.in_doubt(tmp_path, "lab") == []


def test_a_state_directory_that_cannot_be_read_is_said_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(folders.JournalError, match="file: cannot be read: Not a directory; see state_dir"):
        survey.survey(tmp_path / "file")
    assert survey.survey(tmp_path / "nothing") == ([], [])


class SetClock(SystemClock):
    """A clock that a test sets."""

    now, passed = 7.0, 100.0

    def time(self):
        return self.now

    def monotonic(self):
        return self.passed


def test_times_are_those_of_the_clock_that_is_handed_in(tmp_path, info):
    with closing(j.Journal.create(tmp_path, info, {"nodes": []}, SetClock())) as book:
        book.note("session", "")
    with closing(j.Journal.open(tmp_path, "r1", SetClock())) as book:
        book.record("nodes", [TargetState(Target("w1"))], step="", kind="start")
        assert [event.at for event in book.events()] == [7.0, 7.0]


@pytest.mark.parametrize("jump", [-10_800.0, 10_800.0])
def test_times_between_events_are_real_ones_though_the_clock_is_set(tmp_path, info, jump):
    clock = SetClock()
    with closing(j.Journal.create(tmp_path, info, {"nodes": []}, clock)) as book:
        book.note("session", "")
        clock.now, clock.passed = clock.now + 5 + jump, clock.passed + 5
        book.record("nodes", [TargetState(Target("w1"))], step="", kind="start")
        clock.now, clock.passed = clock.now + 3, clock.passed + 3
        book.note("end", "")
        assert [event.at for event in book.events()] == [7.0, 12.0, 15.0]


@pytest.mark.parametrize(
    ("procedure", "begins"),
    [("sre.etcd.restart", "20260131-030000-etcd-restart-lab-"), ("sre.k8s.reboot-nodes", ID[:-4])],
)
def test_an_id_tells_what_is_done(procedure, begins):
    assert j.new_run_id(procedure, "lab", datetime(2026, 1, 31, 3, tzinfo=UTC)).startswith(begins)


def test_an_empty_variable_is_told_as_one(tmp_path):
    with pytest.raises(folders.JournalError, match="in a variable that is not set"):
        j.Journal.open(tmp_path, " ")
    with pytest.raises(folders.JournalError, match="in a variable that is not set"):
        runs.show(tmp_path, "", report.console(), as_json=False)
