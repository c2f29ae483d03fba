"""``fleet runs``: what is listed on terminals of any width, what is discarded, and what is removed."""

import io
import json
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest
from rich.console import Console

from fleet.cli import runs, tidy
from fleet.clock import SystemClock
from fleet.engine import folders, journal, survey
from fleet.engine.findings import Level
from fleet.engine.journal import Journal, RunInfo
from fleet.engine.model import Status, Target, TargetState
from fleet.procedures import preflight
from support.clusters import cluster

IDS = {
    "done": "20260101-030000-reboot-nodes-lab-0001",
    "aborted": "20260102-030000-restart-control-plane-lab-0002",
    "stopped": "20260103-030000-etcd-restart-production-east-0003",
}
DAY = 86400.0
ENDED = 1_767_225_600.0


class Clock(SystemClock):
    """A clock that stands still."""

    def time(self) -> float:
        return ENDED


@pytest.fixture
def state_dir(tmp_path):
    """Return the state directory of three runs, and of one whose journal cannot be read."""
    for status, run_id in IDS.items():
        names = {"nodes": ["cordon", "drain"]}
        info = RunInfo(run_id, "sre.k8s.reboot-nodes", "lab", "ann@cumin1", "kernel", "T1", ENDED, {"steps": names})
        left = Status.HELD if status == "stopped" else Status.DONE
        units = [TargetState(Target("worker1"), Status.DONE, 2), TargetState(Target("worker2"), left, 1)]
        with closing(Journal.create(tmp_path, info, {"nodes": units}, Clock())) as book:
            book.note("session", "")
            book.set_status(status)
    broken = tmp_path / "20260104-030000-reboot-nodes-lab-0004"
    broken.mkdir()
    (broken / "journal.db").write_bytes(b"nothing")
    return tmp_path


BROKEN = "20260104-030000-reboot-nodes-lab-0004"


def listed(state_dir, width, *, as_json=False):
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, color_system=None)
    runs.list_runs(state_dir, console, as_json=as_json)
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 132, 200])
def test_ids_and_statuses_are_whole_at_any_width(state_dir, width):
    shown = listed(state_dir, width)
    for status, run_id in IDS.items():
        assert run_id in shown
        assert status in shown
    assert "worker2" in shown
    assert "kernel" in shown
    assert f"{BROKEN}: unreadable: {state_dir}/{BROKEN}/journal.db: holds no readable journal" in shown
    assert f"fleet runs discard {BROKEN} -r REASON" in shown
    table = [line for line in shown.splitlines() if "journal.db" not in line and "fleet runs discard" not in line]
    assert all(len(line) <= max(width, 53) for line in table)


def test_what_cannot_be_read_is_in_the_list_for_programs(state_dir):
    rows = json.loads(listed(state_dir, 80, as_json=True))
    assert [row["status"] for row in rows] == ["done", "aborted", "stopped", "unreadable"]
    assert rows[2]["in_flight"] == ["worker2"]
    assert "journal.db: holds no readable journal" in rows[3]["why"]


def close(state_dir, run_id=BROKEN):
    tidy.discard(state_dir, run_id, operator="bob@cumin1", reason="nodes looked at", now=ENDED)


def findings(state_dir, name):
    return preflight.of_runs(replace(cluster({}), name=name), state_dir, has_api=False)


def test_a_run_that_cannot_be_read_keeps_new_ones_off_its_cluster_until_it_is_discarded(state_dir):
    assert findings(state_dir, "other") == []
    [found] = findings(state_dir, "lab")
    assert found.level is Level.STOP
    assert f"Run {BROKEN} may have something in flight: {state_dir}/{BROKEN}/journal.db" in found.what
    assert f"fleet runs discard {BROKEN} -r REASON" in found.todo
    close(state_dir)
    assert findings(state_dir, "lab") == []
    assert f"{BROKEN}: discarded: nodes looked at (bob@cumin1, 2026-01-01 00:00 UTC)" in listed(state_dir, 200)
    assert (state_dir / BROKEN / "journal.db").exists()
    with pytest.raises(folders.JournalError, match="was discarded already: nodes looked at"):
        close(state_dir)
    with pytest.raises(folders.JournalError, match=r"was discarded: nodes looked at .*\n.*journal\.db"):
        runs.show(state_dir, BROKEN, Console(file=io.StringIO()), as_json=False)


def test_a_run_that_can_be_read_is_not_discarded(state_dir):
    with pytest.raises(folders.JournalError, match=f"--resume {IDS['stopped']} or .*--abort {IDS['stopped']}"):
        close(state_dir, IDS["stopped"])
    with pytest.raises(folders.JournalError, match="is done: there is nothing to discard"):
        close(state_dir, IDS["done"])
    with pytest.raises(folders.JournalError, match="There is no run 'nope'"):
        close(state_dir, "nope")
    assert not list(state_dir.glob("*/discarded.json"))


def test_a_run_at_work_is_neither_discarded_nor_removed(state_dir):
    with closing(Journal.open(state_dir, IDS["done"])):
        with pytest.raises(folders.JournalError, match="being worked on by another process"):
            close(state_dir, IDS["done"])
        assert not any(IDS["done"] in line for line in prune(state_dir))
    assert (state_dir / IDS["done"]).exists()


def prune(state_dir, *, days=180.0, now=ENDED + 200 * DAY, dry_run=False):
    return tidy.prune(state_dir, older_than=days * DAY, now=now, dry_run=dry_run)


def test_runs_that_ended_long_ago_are_removed_and_no_others(state_dir):
    expected = [f"{IDS['done']}: done, ended 2026-01-01", f"{IDS['aborted']}: aborted, ended 2026-01-01"]
    assert prune(state_dir, now=ENDED + 179 * DAY) == []
    assert prune(state_dir, dry_run=True) == expected
    assert {path.name for path in state_dir.iterdir()} == {*IDS.values(), BROKEN}
    assert prune(state_dir) == expected
    assert {path.name for path in state_dir.iterdir()} == {IDS["stopped"], BROKEN}
    close(state_dir)
    assert prune(state_dir) == [f"{BROKEN}: discarded, ended 2026-01-01"]
    assert prune(state_dir) == []


def test_what_an_interrupted_creation_or_removal_left_is_removed(state_dir):
    for name in (".20260105-030000-x-lab-0005.new", ".20260105-030000-x-lab-0006.gone", ".keep"):
        (state_dir / name).mkdir()
    now = (state_dir / ".keep").stat().st_mtime + 181 * DAY
    prune(state_dir, now=now, dry_run=True)
    assert len(list(state_dir.glob(".*"))) == 3
    prune(state_dir, now=now)
    assert [path.name for path in state_dir.glob(".*")] == [".keep"]


def test_a_run_that_is_discarded_and_can_be_read_again_stays_closed(state_dir):
    folder = state_dir / IDS["stopped"]
    whole = (folder / "journal.db").read_bytes()
    (folder / "journal.db").write_bytes(b"")
    close(state_dir, folder.name)
    (folder / "journal.db").write_bytes(whole)
    assert journal.read(folder).status == "discarded"
    assert not survey.open_runs(state_dir)
    with pytest.raises(folders.JournalError, match="was discarded"):
        Journal.open(state_dir, folder.name)


CONFIG = """
state_dir: {}
clusters:
  lab:
    kubeconfig: /x
    hosts: {{workers: w1, control_plane: cp1}}
"""
HEAVY = ("spicerack", "kubernetes", "cumin", "git", "etcd", "wmflib", "requests")


def fleet(*words, config):
    """Run the command in a process of its own; return its exit code, what it printed, and which modules it has."""
    code = (
        "import sys; from fleet.cli.main import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        "print('modules', *sorted(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, env={"FLEET_CONFIG": str(config)}, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def config(tmp_path, state_dir):
    path = tmp_path / "fleet.yaml"
    path.write_text(CONFIG.format(state_dir))
    return path


@pytest.mark.parametrize(
    ("words", "spared"),
    [
        (["--help"], (*HEAVY, "pydantic", "rich", "yaml")),
        (["runs", "prune", "--help"], (*HEAVY, "pydantic", "rich", "yaml")),
        (["config", "check", "--help"], (*HEAVY, "pydantic", "rich", "yaml")),
        (["runs", "list"], HEAVY),
        (["runs", "show", IDS["done"]], HEAVY),
    ],
)
def test_only_what_is_needed_is_imported(config, words, spared):
    code, printed, errors = fleet(*words, config=config)
    assert (code, bool(printed)) == (0, True)
    modules = errors.split()
    assert "fleet.cli.main" in modules
    assert [name for name in spared if name in modules] == []


def test_the_commands(config, state_dir):
    code, printed, _ = fleet("runs", "discard", BROKEN, "-r", "nodes looked at", config=config)
    assert (code, BROKEN in printed) == (0, True)
    mark = json.loads((state_dir / BROKEN / "discarded.json").read_text())
    assert mark["reason"] == "nodes looked at"
    assert "@" in mark["operator"]
    code, printed, _ = fleet("runs", "prune", "--older-than", "1h", "--dry-run", config=config)
    assert (code, printed.splitlines()[-1]) == (0, "Dry run: 2 runs that ended more than 1h ago would be removed.")
    code, printed, _ = fleet("runs", "prune", "--older-than", "1h", config=config)
    assert (code, printed.splitlines()[-1]) == (0, "2 runs that ended more than 1h ago removed.")
    assert sorted(path.name for path in state_dir.iterdir() if path.is_dir()) == [IDS["stopped"], BROKEN]
    code, _, errors = fleet("runs", "prune", "--older-than", "often", config=config)
    assert (code, "--older-than: 'often' is no duration" in errors) == (1, True)


@pytest.mark.parametrize("run_id", ["", " ", "../../x", "a/b"])
def test_what_is_no_id_is_told_so(config, run_id):
    code, _, errors = fleet("runs", "show", run_id, config=config)
    assert code == 2
    assert ("is a variable of the shell not set?" if not run_id.strip() else "is no run's id") in errors


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", ["worker1", "worker1.rack-b.example-datacenter.example.org"])
def test_units_and_statuses_are_whole_where_a_run_is_shown_at_any_width(tmp_path, width, name):
    steps = ["silence", "cordon", "drain", "reboot", "ready", "uncordon"]
    options = {"steps": {"nodes": steps, "kube-controller-manager": steps}}
    info = RunInfo("r1", "sre.k8s.reboot-nodes", "lab", "ann@cumin1", "kernel", "", ENDED, options)
    unit = Target(name, "row-b")
    states = {stage: [TargetState(unit, Status.HELD, 3)] for stage in options["steps"]}
    with closing(Journal.create(tmp_path, info, states, Clock())) as book:
        for step in steps[:3]:
            book.record("nodes", [TargetState(unit, Status.HELD, 3)], step=step, kind="done")
        book.set_status("stopped")
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, color_system=None)
    runs.show(tmp_path, "r1", console, as_json=False)
    table = stream.getvalue().split("What happened")[0].split("worker1 is held")[0].splitlines()[:12]
    assert not any("\N{HORIZONTAL ELLIPSIS}" in line for line in table)
    assert sum("held" in line for line in table) >= 2
    rows = "".join("".join(table).split())
    assert rows.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", "").count("worker1") >= 2
