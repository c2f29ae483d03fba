"""A disk that is full in the middle of a run: what is in flight is told, and what to run next, without a journal."""

import logging
import queue
import resource
import threading
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.config.model import Config
from fleet.engine import folders, lost
from fleet.engine import journal as j
from fleet.engine import model as m
from fleet.engine.declaration import Specified, Stage
from fleet.engine.findings import Level
from fleet.engine.report import LogView
from fleet.engine.runner import Runner
from fleet.procedures import preflight
from fleet.procedures.procedure import Refused
from fleet.procedures.way_out import NOTHING
from fleet.session import INTERRUPTED, Session
from support.spicerack import Ann
from worlds.hosts import CONFIG, World

STEPS = ("cordon", "drain", "reboot", "ready")


class FullDisk(j.Journal):
    """A journal whose disk is full from a certain record on: SQLite itself has no page left for it."""

    full_at: tuple[str, str] = ("", "")

    def record(self, stage, states, *, step, kind):
        if (step, kind) == self.full_at:
            self._db.execute("PRAGMA max_page_count = 1")  # which SQLite takes for what it has now
            try:
                self.note("filler", "x" * 10_000)
            finally:
                self._db.execute("PRAGMA query_only = 1")  # No page is free again a moment later.
        super().record(stage, states, step=step, kind=kind)


class Step:
    """A step that is done at once."""

    def __init__(self, log, name):
        self.log, self.name = log, name
        self.applied = set()

    def check(self, units):
        return {s.target.name: m.done() if s.target.name in self.applied else m.pending("not yet") for s in units}

    def apply(self, units, tell):
        for state in units:
            self.log.append((self.name, state.target.name))
            self.applied.add(state.target.name)
        return {state.target.name: m.done() for state in units}


class Procedure:
    def __init__(self):
        self.log: list[tuple[str, str]] = []
        specs = tuple(m.StepSpec(name, 30.0, poll=0.01, batch=False, pivot=name == "reboot") for name in STEPS)
        units = tuple(m.Target(name) for name in ("w1", "w2", "w3"))
        self.stages = (m.Stage("nodes", units, specs, m.Limits(max_unavailable=1)),)
        self._steps = {name: Step(self.log, name) for name in STEPS}

    def effects(self, stage, step):
        return self._steps[step]

    def observe(self):
        return m.Observation()

    def renew(self, stage, units):
        return {}


@pytest.fixture
def info():
    options = {"steps": {"nodes": list(STEPS)}}
    return j.RunInfo("r1", "sre.k8s.reboot-nodes", "lab", "ann@here", "why", "", 0.0, options)


def play(tmp_path, info, full_at):
    """Carry out a run on a disk that is full from a certain record on; return what was done, and what is raised."""
    FullDisk.full_at = full_at
    cancel = threading.Event()
    procedure = Procedure()
    units = [m.TargetState(unit) for unit in procedure.stages[0].targets]
    with closing(FullDisk.create(tmp_path, info, {"nodes": units})) as book:
        with pytest.raises(lost.JournalLost) as caught:
            Runner(procedure, book, LogView(), cancel, queue.SimpleQueue()).run()
        assert cancel.is_set()
    return procedure.log, caught.value


@pytest.mark.parametrize(
    ("full_at", "done", "left"),
    [
        (("", "start"), [], ["w1 is in flight at the step cordon: nothing was done in this step"]),
        (("drain", "intent"), ["cordon"], ["w1 is in flight at the step drain: it was not done, or not to its end"]),
        (("reboot", "intent"), ["cordon", "drain"], ["w1 is in flight at the step reboot: it was not done"]),
        (("reboot", "applied"), ["cordon", "drain", "reboot"], ["w1 is in flight at the step reboot: it was done and"]),
        (("reboot", "done"), ["cordon", "drain", "reboot"], ["w1 is in flight at the step ready: nothing was done"]),
    ],
)
def test_nothing_is_done_that_could_not_be_written_and_what_is_left_is_told(tmp_path, info, full_at, done, left):
    log, error = play(tmp_path, info, full_at)
    assert log == [(step, "w1") for step in done], "an effect without its intent in the journal"
    assert "database or disk is full" in str(error)
    assert f"{tmp_path}/r1/journal.db" in str(error)
    assert [line[: len(begin)] for line, begin in zip(error.left, left, strict=True)] == left
    # The journal has all that was written before, so the run can be resumed.
    state = j.read(tmp_path / "r1").targets["nodes"][0]
    assert state.step <= STEPS.index("ready")
    with closing(j.Journal.open(tmp_path, "r1")) as book:
        again = Procedure()
        again._steps["reboot"].applied |= {unit for step, unit in log if step == "reboot"}
        assert Runner(again, book, LogView(), threading.Event(), queue.SimpleQueue()).run() == ""
    rebooted = [unit for step, unit in [*log, *again.log] if step == "reboot"]
    assert rebooted == ["w1", "w2", "w3"]


def test_effects_in_progress_end_within_their_grace_and_are_told_too(tmp_path, info):
    FullDisk.full_at = ("reboot", "intent")
    cancel = threading.Event()
    procedure = Procedure()
    procedure.stages = (replace(procedure.stages[0], limits=m.Limits(max_unavailable=2)),)
    drain = procedure.effects("nodes", "drain")

    class Slow(Step):
        """A drain that takes as long as the run lives for one of the nodes."""

        def apply(self, units, tell):
            if units[0].target.name == "w2":
                cancel.wait(10)
            return super().apply(units, tell)

    procedure._steps["drain"] = Slow(procedure.log, drain.name)
    states = {"nodes": [m.TargetState(unit) for unit in procedure.stages[0].targets]}
    with closing(FullDisk.create(tmp_path, info, states)) as book, pytest.raises(lost.JournalLost) as caught:
        Runner(procedure, book, LogView(), cancel, queue.SimpleQueue()).run()
    assert [line.split(" (")[0] for line in caught.value.left] == [
        "w1 is in flight at the step reboot: it was not done, or not to its end",
        "w2 is in flight at the step drain: it was done and is not proven",
    ]


class Runs:
    """A kind of maintenance whose sessions note at their end what they saw, as those of a control plane do."""

    name = "sre.k8s.reboot-nodes"
    needs_api = True

    def __init__(self, *, notes=False):
        self._notes = notes
        self.made = Procedure()

    @contextmanager
    def work(self, cluster, book, lock):
        try:
            yield self.made
        finally:
            if self._notes:
                book.note("watchdog", "x" * 10_000)

    def abort(self, cluster, book):
        return self.made

    def stages(self, cluster):
        steps = [Specified(spec, self.made.effects("nodes", spec.name)) for spec in self.made.stages[0].steps]
        return [Stage("nodes", list, before=steps)]


def session(tmp_path, runs, *, dry_run=False):
    config = Config(state_dir=tmp_path, clusters={"lab": CONFIG})
    return Session(Ann(dry_run=dry_run), config, runs)


def carried_out(tmp_path, info, runs, full_at, verb):
    """Carry out a session on a disk that is full from a certain record on; return its exit code."""
    FullDisk.full_at = full_at
    states = {"nodes": [m.TargetState(unit) for unit in runs.made.stages[0].targets]}
    cluster = World(["w1"]).cluster(["w1"])
    cluster = replace(cluster, run=info)
    with closing(FullDisk.create(tmp_path, info, states)) as book:
        it = session(tmp_path, runs)
        if verb == "abort":
            return it._written(book, "r1", lambda: it._give_back(book, cluster, NOTHING), only_abort=True)
        return it._written(book, "r1", lambda: it._carry_out(book, cluster, None))


@pytest.mark.parametrize("notes", [False, True])
def test_a_session_ends_with_what_is_left_and_with_both_commands(tmp_path, info, caplog, notes):
    assert carried_out(tmp_path, info, Runs(notes=notes), ("reboot", "applied"), "resume") == INTERRUPTED
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert "database or disk is full" in told[0]
    assert told[1].startswith("w1 is in flight at the step reboot: it was done and is not proven")
    assert told[2].endswith(
        "Then: cookbook sre.k8s.reboot-nodes --resume r1, or: cookbook sre.k8s.reboot-nodes --abort r1"
    )


def test_an_abort_can_only_be_aborted(tmp_path, info, caplog):
    assert carried_out(tmp_path, info, Runs(), ("drain", "intent"), "abort") == INTERRUPTED
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert told[-1].endswith("Then: cookbook sre.k8s.reboot-nodes --abort r1")


def test_a_disk_that_is_full_at_the_end_says_that_nothing_is_in_flight(tmp_path, info, caplog):
    class Late(FullDisk):
        def set_status(self, status):
            raise folders.Unwritable("r1/journal.db: database or disk is full")

    with closing(Late.create(tmp_path, info, {"nodes": []})) as book:
        it = session(tmp_path, Runs())
        assert it._written(book, "r1", lambda: book.set_status("done")) == INTERRUPTED
    assert "Nothing is in flight or held." in caplog.text


def test_a_report_that_cannot_be_written_is_no_reason_to_fail(tmp_path, info, caplog):
    FullDisk.full_at = ("", "")
    with closing(FullDisk.create(tmp_path, info, {"nodes": []})) as book:
        (book.folder / ".report.json.new").mkdir()
        session(tmp_path, Runs())._report(book)
    assert "The report cannot be written to" in caplog.text


def test_a_place_that_cannot_be_written_is_found_out_before(tmp_path):
    assert folders.problem(tmp_path) == ""
    assert folders.problem(tmp_path / "not" / "yet") == ""
    assert list(tmp_path.iterdir()) == []
    assert folders.problem(Path("/proc/fleet")).startswith("/proc/fleet: cannot be written (in /proc): ")
    (tmp_path / "file").write_text("")
    assert folders.problem(tmp_path / "file").endswith(": Not a directory")
    assert folders.problem(tmp_path / "file" / "runs").endswith(": Not a directory")


@pytest.fixture
def small_files():
    """Let no file of this process grow beyond half of what a run's folder has to have room for."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_preflight_finds_out_that_a_run_could_not_be_kept(tmp_path, small_files):
    cluster = World(["w1"]).cluster(["w1"])
    [found] = preflight.of_runs(cluster, tmp_path / "state", has_api=False)
    assert found.level is Level.STOP
    assert found.what == f"{tmp_path}/state: cannot be written (in {tmp_path}): File too large."
    assert "state_dir" in found.todo


@pytest.mark.parametrize("verb", ["resume", "abort"])
def test_a_dry_run_is_refused_where_the_real_one_would_be(tmp_path, info, small_files, verb):
    states = {"nodes": [m.TargetState(m.Target("w1"), m.Status.HELD, 1)]}
    with closing(j.Journal.create(tmp_path, info, states)) as book:
        book.set_status("stopped")
    it = session(tmp_path, Runs(), dry_run=True)
    with pytest.raises(Refused, match="r1: cannot be written: File too large"):
        getattr(it, verb)("r1", None)
