"""Journals of older releases: shown as they are, migrated whole or not at all, and resumed as their release would."""

import hashlib
import json
import resource
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from fleet.cli import runs
from fleet.config.reinitialize import EtcdConfig
from fleet.engine import advance, folders, report, schema, survey
from fleet.engine import journal as j
from fleet.engine.journal import Journal
from fleet.engine.model import Phase, Stage, Status, StepSpec
from fleet.procedures import restart_control_plane
from fleet.procedures.hosts import HostProcedure
from fleet.procedures.restart_etcd import RestartEtcd
from fleet.steps.control_plane_health import ControlPlane
from support.places import DATA
from worlds.hosts import World

JOURNALS = DATA / "journals"
NAMES = sorted(path.stem for path in JOURNALS.glob("*.db"))


def said(name: str) -> dict[str, Any]:
    """Return what the old release said of a journal."""
    return dict(json.loads((JOURNALS / f"{name}.json").read_text(encoding="utf-8")))


@pytest.fixture(params=NAMES)
def old(request, tmp_path):
    """Return the folder of a run of the old release, and what that said of it."""
    expected = said(request.param)
    folder = tmp_path / expected["id"]
    folder.mkdir()
    shutil.copy(JOURNALS / f"{request.param}.db", folder / "journal.db")
    return folder, expected


def account(units):
    """Return what is known of units, as plain values."""
    return {
        stage: {
            state.target.name: {
                "domain": state.target.domain,
                "group": state.target.group,
                "status": state.status.value,
                "step": state.step,
                "phase": state.phase.value,
                "detail": state.detail,
                "facts": dict(state.facts),
            }
            for state in states
        }
        for stage, states in units.items()
    }


def version(folder):
    with closing(sqlite3.connect(f"file:{folder}/journal.db?mode=ro", uri=True)) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


def digest(folder):
    return hashlib.sha256((folder / "journal.db").read_bytes()).hexdigest()


def stage_of(record, expected, name, *, more=()):
    """Return a stage with the steps that the run has, and more before the pivot or at the end."""
    steps = list(record.info.options["steps"][name])
    pivot = expected["pivot"].get(name)
    for step in more:
        steps.insert(steps.index(pivot) if pivot else len(steps), step)
    return Stage(name, (), tuple(StepSpec(step, 60.0, pivot=step == pivot) for step in steps))


def resumed(stage, states):
    found = {}
    for state in states:
        now = advance.resume(stage, state, 0.0)
        step = stage.steps[now.step].name if now.step < len(stage.steps) else None
        found[state.target.name] = [now.status.value, step, now.phase.value]
    return found


def test_it_is_shown_and_stays_as_it_is(old, capsys):
    folder, expected = old
    before = digest(folder)
    record = j.read(folder)
    assert (record.info.id, record.info.procedure, record.status) == (
        expected["id"],
        expected["procedure"],
        expected["status"],
    )
    assert account(record.targets) == expected["units"]
    assert len(record.events) == expected["events"]
    runs.list_runs(folder.parent, report.console(), as_json=False)
    runs.show(folder.parent, folder.name, report.console(), as_json=False)
    assert expected["id"] in capsys.readouterr().out
    assert (version(folder), digest(folder)) == (0, before)


def test_it_is_migrated_when_it_is_opened_and_goes_on_where_it_would_have(old):
    folder, expected = old
    with closing(Journal.open(folder.parent, folder.name)) as book:
        assert account({stage: book.states(stage).values() for stage in expected["units"]}) == expected["units"]
    assert version(folder) == schema.VERSION
    record = j.read(folder)
    assert (account(record.targets), len(record.events)) == (expected["units"], expected["events"])
    for name, states in expected["resumed"].items():
        stage = stage_of(record, expected, name)
        assert resumed(stage, record.targets.get(name, ())) == states
        awaited = [state.target.name for state in record.targets.get(name, ()) if advance.awaits_pivot(stage, state)]
        assert awaited == expected["awaits_pivot"][name]
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        stored = db.execute("SELECT json_extract(state, '$.step') FROM unit WHERE stage IN (SELECT name FROM stage)")
        assert not any(isinstance(step, int) for (step,) in stored)


@pytest.mark.parametrize("stop_after", [1, 5, 10, 20, 40, 80, 160])
def test_a_migration_that_is_interrupted_leaves_the_journal_as_it_was(tmp_path, stop_after):
    shutil.copy(JOURNALS / "reboot-in-flight.db", tmp_path / "journal.db")
    with closing(sqlite3.connect(tmp_path / "journal.db")) as db:
        left = [stop_after]

        def interrupt():
            left[0] -= 1
            return left[0] <= 0

        db.set_progress_handler(interrupt, 10)
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            schema.migrate(db)
    assert version(tmp_path) == 0
    folder = tmp_path / said("reboot-in-flight")["id"]
    folder.mkdir()
    (tmp_path / "journal.db").rename(folder / "journal.db")
    assert account(j.read(folder).targets) == said("reboot-in-flight")["units"]


def test_a_unit_whose_reboot_was_ordered_is_asked_first_with_other_steps_as_well(tmp_path):
    expected = said("reboot-in-flight")
    folder = tmp_path / expected["id"]
    folder.mkdir()
    shutil.copy(JOURNALS / "reboot-in-flight.db", folder / "journal.db")
    with closing(Journal.open(tmp_path, folder.name)) as book:
        before = book.steps("nodes") or []
        options = book.info().options
        stage = stage_of(j.read(folder), expected, "nodes", more=["volumes", "workloads"])
        now = [step.name for step in stage.steps]
        states = [advance.translate(state, before, now, "reboot") for state in book.states("nodes").values()]
        book.rewrite({"nodes": states}, {**options, "steps": {"nodes": now}})
    with closing(Journal.open(tmp_path, folder.name)) as book:
        found = resumed(stage, book.states("nodes").values())
    assert found == {
        "w1": ["done", None, "verify"],
        "w2": ["running", "reboot", "probe"],
        "w3": ["running", "silence", "check"],
        "w4": ["running", "puppet", "check"],
        "w5": ["running", "reboot", "probe"],
        "w6": ["running", "silence", "check"],
        "w7": ["pending", "silence", "check"],
    }


class Plane(HostProcedure):
    """Runs over the control plane of a world."""

    name = "sre.k8s.restart-control-plane"
    promise = ""

    def all_hosts(self, cluster: Any) -> list[str]:
        return list(cluster.hosts)

    def stages(self, cluster: Any) -> Any:
        plane = ControlPlane(cluster, list(cluster.hosts), apiservers=cluster.remote, balancer=cluster.remote)
        return restart_control_plane.stages_of(plane, list(cluster.run.options["steps"]))

    def checks(self, cluster: Any) -> Any:
        return ()

    def work(self, cluster: Any, book: Any, lock: Any) -> Any:
        raise AssertionError


@pytest.mark.parametrize("old", [name for name in NAMES if said(name)["gives_back"]], indirect=True)
def test_an_abort_gives_back_what_the_run_owns(old):
    folder, expected = old
    hosts = {name: name for states in expected["units"].values() for name in states if name[-1].isdigit()}
    world = World(sorted(hosts), units=("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"))
    with closing(Journal.open(folder.parent, folder.name)) as book:
        cluster = world.cluster(sorted(hosts))
        config = cluster.config.model_copy(update={"etcd": EtcdConfig(hosts="etcd[1-3]")})
        cluster = replace(cluster, config=config, run=book.info())
        kind = RestartEtcd() if expected["procedure"] == "sre.etcd.restart" else Plane()
        stages = {stage.name: [unit.name for unit in stage.targets] for stage in kind.abort(cluster, book).stages}
    of_hosts = {name: units for name, units in expected["gives_back"].items() if name.startswith("abort")}
    assert {name: units for name, units in stages.items() if name.startswith("abort")} == of_hosts


def test_what_is_in_flight_or_held_is_known(old):
    folder, expected = old
    is_open = expected["status"] != "done"
    listed = [[state.target.name for state in states] for _, states in survey.open_runs(folder.parent)]
    stages = expected["pivot"] or [stage for stage in expected["units"] if stage[0].isdigit()]
    left = [
        name
        for stage in stages
        for name, state in expected["units"].get(stage, {}).items()
        if state["status"] in ("running", "held")
    ]
    assert listed == ([left] if is_open else [])


@pytest.fixture
def killed(tmp_path):
    """Return the folder of a run whose last writes stand in ``journal.db-wal`` alone."""
    work, folder = tmp_path / "work", tmp_path / said("control-plane-held")["id"]
    work.mkdir()
    folder.mkdir()
    shutil.copy(JOURNALS / "control-plane-held.db", work / "journal.db")
    with closing(sqlite3.connect(work / "journal.db")) as db:
        with db:
            db.execute("UPDATE unit SET detail = 'the last word' WHERE name = 'cp2'")
        for name in ("journal.db", "journal.db-wal"):
            shutil.copy(work / name, folder / name)
    return folder


def test_a_log_that_a_killed_process_left_is_read_too(killed):
    assert j.read(killed).targets["kube-apiserver"][1].detail == "the last word"
    assert version(killed) == 0
    with closing(Journal.open(killed.parent, killed.name)) as book:
        assert book.states("kube-apiserver")["cp2"].detail == "the last word"


def test_a_log_is_read_where_nothing_can_be_written_beside_it(killed):
    """As on a full disk and on a read-only one: SQLite cannot make its file of shared memory, of 32 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (31 << 10, before[1]))
    try:
        db = sqlite3.connect(f"file:{killed}/journal.db?mode=ro", uri=True)
        with closing(db), pytest.raises(sqlite3.OperationalError):
            db.execute("SELECT * FROM unit")
        assert j.read(killed).targets["kube-apiserver"][1].detail == "the last word"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_stage_whose_steps_were_never_named_has_numbers(tmp_path):
    """Version 1 named the steps of the run's substance only; those of an abort get their names when it goes on."""
    expected = said("control-plane-abort")
    folder = tmp_path / expected["id"]
    folder.mkdir()
    shutil.copy(JOURNALS / "control-plane-abort.db", folder / "journal.db")
    with closing(Journal.open(tmp_path, folder.name)) as book:
        assert book.steps("abort kube-apiserver") is None
        state = book.states("abort kube-apiserver")["cp1"]
        assert (state.status, state.step, state.phase) == (Status.RUNNING, 1, Phase.APPLY)
        book.put("abort kube-apiserver", [state], ["settle", "pool"])
        assert book.states("abort kube-apiserver")["cp1"] == state
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        row = db.execute("SELECT state FROM unit WHERE stage = 'abort kube-apiserver'").fetchone()
    assert json.loads(row[0])["step"] == "pool"


def test_tables_that_are_no_journal_are_refused(tmp_path):
    folder = tmp_path / "r1"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        db.execute("CREATE TABLE unit (name TEXT)")
    with pytest.raises(folders.JournalError, match="it is no journal"):
        j.read(folder)
