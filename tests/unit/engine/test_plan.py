"""Plans and reports of runs over hosts: every stage is shown, and what the API's clients noticed."""

import io
import json

import pytest
from rich.console import Console

from fleet.clock import SystemClock
from fleet.engine import journal, report
from fleet.engine.findings import Level, ask, note, stop
from fleet.engine.journal import Journal, RunInfo
from fleet.engine.model import Status, Target, TargetState
from fleet.engine.plan import HostPlan, worst

HOSTILE = "why [/bold] $(reboot) [red]☃"
STAGES = {"kube-apiserver": ["depool", "restart"], "kube-scheduler": ["restart"]}
INFO = RunInfo("r1", "sre.k8s.restart-control-plane", "lab", "ann", HOSTILE, "", 1000.0, {"steps": STAGES})


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plan(seconds=None, findings=()) -> HostPlan:
    return HostPlan(
        title=f"sre.k8s.restart-control-plane on lab: {HOSTILE}",
        stages=[
            ("kube-apiserver", ["cp1", "cp2"], ["others", "depool", "restart"]),
            ("kube-scheduler", ["cp2", "cp1"], ["others", "restart"]),
        ],
        promise="One host at a time.",
        findings=findings,
        seconds=seconds,
    )


def test_a_plan_shows_each_stage_with_its_own_order(console):
    plan().render(console)
    assert text_of(console).splitlines() == [
        "",
        f"sre.k8s.restart-control-plane on lab: {HOSTILE}",
        "1. kube-apiserver: cp1, cp2",
        "   others → depool → restart",
        "2. kube-scheduler: cp2, cp1",
        "   others → restart",
        "One host at a time.",
        "Preflight: nothing found that stands in the way.",
    ]


def test_a_plan_tells_how_long_it_takes_if_that_is_known(console):
    plan(130.0).render(console)
    assert "About 2m10s, as in earlier runs." in text_of(console)


def test_findings_are_shown_with_what_to_do(console):
    findings = [stop("cp2 [x] is ill.", "Repair it."), ask("a?", "b"), note("c")]
    assert (worst(findings), worst(findings[1:]), worst(findings[2:]), worst([])) == (
        Level.STOP,
        Level.ASK,
        Level.NOTE,
        Level.NOTE,
    )
    plan(findings=findings).render(console)
    shown = text_of(console).splitlines()[-5:]
    assert shown == ["[stop] cp2 [x] is ill.", "       Repair it.", "[ask] a?", "       b", "[note] c"]


SEEN = {"requests": 1200, "failed": 0, "failures": [], "longest_gap": 0.52, "reconnects": 2, "events_lost": 0}


class Ticking(SystemClock):
    """A clock on which ten seconds pass between two looks."""

    now = 990.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        self.now += 10.0
        return self.now


@pytest.fixture
def record(tmp_path):
    """Return a run of two sessions; the second stage is held in the second one."""
    done, waiting = TargetState(Target("cp1"), Status.DONE, 2), TargetState(Target("cp1"))
    held = TargetState(Target("cp1"), Status.HELD, 0, detail="restart: not within 300 s: [/red]")
    clock = Ticking()
    book = Journal.create(tmp_path, INFO, {"kube-apiserver": [done], "kube-scheduler": [waiting]}, clock)
    book.record("kube-apiserver", [done], step="", kind="start")
    book.record("kube-apiserver", [done], step="depool", kind="done")
    book.record("kube-apiserver", [done], step="restart", kind="done")
    book.note(report.WATCHDOG, json.dumps(SEEN))
    book.note("session", "")
    book.record("kube-scheduler", [held], step="", kind="start")
    book.record("kube-scheduler", [held], step="restart", kind="held")
    book.note(report.WATCHDOG, json.dumps({**SEEN, "failed": 3, "events_lost": 1}))
    book.set_status("stopped")
    book.close()
    return journal.read(book.folder)


def test_a_host_in_several_stages_has_a_line_for_each(record, console):
    data = report.summary(record, report.next_commands(record))
    assert [(u["stage"], u["unit"], u["status"], u["steps"], u["seconds"]) for u in data["units"]] == [
        ("kube-apiserver", "cp1", "done", {"depool": 10.0, "restart": 10.0}, 20.0),
        ("kube-scheduler", "cp1", "held", {"restart": 10.0}, 10.0),
    ]
    report.render(data, console)
    shown = text_of(console)
    header = next(line for line in shown.splitlines() if "stage" in line)
    assert "domain" not in header
    assert [name for name in ("stage", "unit", "status", "depool", "restart", "total") if name not in header] == []
    assert "cp1 is held: restart: not within 300 s: [/red]" in shown
    assert "cookbook sre.k8s.restart-control-plane --resume r1" in shown
    assert "cookbook sre.k8s.restart-control-plane --abort r1" in shown


def test_the_watchdogs_account_is_shown_for_each_session(record, console):
    data = report.summary(record, {})
    assert [seen["failed"] for seen in data["watchdog"]] == [0, 3]
    report.render(data, console)
    assert [line for line in text_of(console).splitlines() if line.startswith("Watchdog")] == [
        "Watchdog: 1200 requests to the API's address, 0 failed; longest gap 0.5 s; the watch went on 2 times.",
        "Watchdog: 1200 requests to the API's address, 3 failed, 1 event lost; longest gap 0.5 s;"
        " the watch went on 2 times.",
    ]


def test_a_narrow_terminal_shows_the_steps_in_one_column(record):
    console = Console(file=io.StringIO(), width=60)
    report.render(report.summary(record, {}), console)
    assert "steps" in text_of(console)
