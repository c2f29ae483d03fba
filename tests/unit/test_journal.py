"""The journal: what is written survives, and only one process writes."""

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.maintenance import journal as j
from fleet.maintenance.model import Phase, Status, Unit, UnitState
from fleet.maintenance.report import step_times, summary, write_json


@pytest.fixture
def info():
    return j.RunInfo("r1", "sre.k8s.reboot-nodes", "lab", "root@here", "kernel", "T1", 1000.0, {"steps": {"nodes": []}})


@pytest.fixture
def book(tmp_path, info):
    book = j.Journal.create(tmp_path / "runs", info, {"nodes": []})
    yield book
    book.close()


def test_what_was_written_is_read_back(tmp_path, book, info):
    state = UnitState(Unit("w1", "row-a", "g"), Status.RUNNING, 3, Phase.APPLY, "why", {"boot_id": "x", "n": [1]})
    book.put("nodes", [UnitState(Unit("w2")), state])
    book.put("nodes", [replace(state, step=4)])
    book.record("nodes", [replace(state, step=5)], step="reboot", kind="intent")
    book.set_status("stopped")
    book.close()
    again = j.Journal.open(tmp_path / "runs", "r1")
    assert again.info() == info
    assert again.status() == "stopped"
    assert list(again.states("nodes")) == ["w2", "w1"]
    assert again.states("nodes")["w1"] == replace(state, step=5)
    assert [(e.unit, e.step, e.kind, e.detail) for e in again.events()] == [("w1", "reboot", "intent", "why")]
    again.close()


def test_a_run_is_private(tmp_path, book):
    for path in [tmp_path / "runs", book.folder]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((book.folder / "journal.db").stat().st_mode) == 0o600


def test_a_living_run_is_not_opened_twice(tmp_path, book):
    with pytest.raises(j.JournalError, match="being worked on by another process"):
        j.Journal.open(tmp_path / "runs", "r1")
    assert j.read(book.folder).status == "running"


def test_a_run_whose_process_is_gone_is_interrupted(tmp_path, info):
    if (child := os.fork()) == 0:
        j.Journal.create(tmp_path, info, {"nodes": []})
        os._exit(9)
    os.waitpid(child, 0)
    assert j.read(tmp_path / "r1").status == "interrupted"
    j.Journal.open(tmp_path, "r1").close()


@pytest.mark.parametrize("name", ["nope", "../r1", ""])
def test_a_run_that_is_not_there(tmp_path, name):
    with pytest.raises(j.JournalError, match="There is no run"):
        j.Journal.open(tmp_path, name)


def test_a_broken_journal_is_named(tmp_path):
    (tmp_path / "r1").mkdir()
    (tmp_path / "r1" / "journal.db").write_text("this is no database" * 100)
    with pytest.raises(j.JournalError, match="holds no readable journal"):
        j.read(tmp_path / "r1")


def test_a_state_directory_that_cannot_be_written(info):
    with pytest.raises(j.JournalError, match="cannot be created"):
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
    book.record("nodes", [UnitState(Unit("w1", "row-a"), Status.RUNNING)], step="", kind="start")
    held = UnitState(Unit("w1", "row-a"), Status.HELD, 2, Phase.APPLY, "drain: blocked by b")
    book.record("nodes", [held], step="drain", kind="held")
    data = summary(j.read(book.folder), {"Go on": "cookbook x"})
    path = write_json(book.folder, data)
    unit = json.loads(path.read_text())["units"][0]
    assert (unit["unit"], unit["status"], unit["detail"]) == ("w1", "held", "drain: blocked by b")
    assert list(unit["steps"]) == ["drain"]
    assert json.loads(path.read_text())["next"] == {"Go on": "cookbook x"}


def test_a_run_that_was_killed_at_its_birth_is_named(tmp_path):
    (tmp_path / "r1").mkdir()
    j._connect(tmp_path / "r1" / "journal.db").close()
    for look in (lambda: j.read(tmp_path / "r1"), lambda: j.Journal.open(tmp_path, "r1")):
        with pytest.raises(j.JournalError, match="killed before it touched anything"):
            look()


def test_a_damaged_journal_is_not_opened(tmp_path):
    (tmp_path / "r1").mkdir()
    (tmp_path / "r1" / "journal.db").write_text("this is no database" * 100)
    with pytest.raises(j.JournalError, match="holds no readable journal"):
        j.Journal.open(tmp_path, "r1")


def test_states_and_options_are_rewritten_together(book, info):
    book.put("nodes", [UnitState(Unit("w1"), Status.HELD, 3)])
    broken = [UnitState(Unit("w1"), Status.HELD, 4), UnitState(Unit("w2"), facts={"no": object()})]
    with pytest.raises(TypeError):
        book.rewrite({"nodes": broken}, {"steps": {"nodes": ["new"]}})
    assert (book.info(), book.states("nodes")["w1"].step) == (info, 3)
    book.rewrite({"nodes": broken[:1]}, {"steps": {"nodes": ["new"]}})
    assert (book.info().options, book.states("nodes")["w1"].step) == ({"steps": {"nodes": ["new"]}}, 4)
