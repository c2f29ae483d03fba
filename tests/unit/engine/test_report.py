"""Views and reports: whatever text reaches them, they show it and go on."""

import io
from dataclasses import replace

import pytest
from rich.console import Console
from rich.live import Live

from fleet.cli import runs
from fleet.engine import report
from fleet.engine.journal import Event, Journal, RunInfo
from fleet.engine.model import Stage, Status, StepSpec, Target, TargetState

HOSTILE = "Puppet: File[/etc/motd] failed [/bold] [red]$(reboot)[/] \x1b[2J ☃"


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


INFO = RunInfo("r1", "sre.k8s.reboot-nodes", "lab", "ann[/]@here", HOSTILE, "", 1000.0, {"steps": {"nodes": ["drain"]}})
STAGE = Stage("nodes", (Target("w1", "row-a"),), (StepSpec("drain", 1),))


@pytest.mark.parametrize("status", list(Status))
def test_the_live_table_shows_any_text(status):
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    with Live(console=console, auto_refresh=False) as live:
        view = report.LiveView(live)
        view.show(STAGE, {"w1": TargetState(STAGE.targets[0], status, detail=HOSTILE)}, HOSTILE)
        live.refresh()
    assert "File[/etc/motd] failed [/bold] [red]$(reboot)[/]" in text_of(console)


def test_a_large_fleet_shows_what_is_in_flight_first():
    console = Console(file=io.StringIO(), force_terminal=True, width=160, height=100)
    states = {f"w{i}": TargetState(Target(f"w{i}")) for i in range(500)}
    states["w499"] = replace(states["w499"], status=Status.HELD)
    with Live(console=console, auto_refresh=False) as live:
        report.LiveView(live).show(STAGE, states, "")
        live.refresh()
    text = text_of(console)
    assert "w499" in text
    assert "w300" not in text


def test_runs_are_listed_and_shown_with_any_text(tmp_path):
    state = TargetState(STAGE.targets[0], Status.HELD, detail=HOSTILE)
    book = Journal.create(tmp_path, INFO, {"nodes": [state]})
    book.record("nodes", [state], step="drain", kind="held")
    book.set_status("stopped")
    book.close()
    console = Console(file=io.StringIO(), width=300)
    runs.list_runs(tmp_path, console, as_json=False)
    runs.show(tmp_path, "r1", console, as_json=False)
    text = text_of(console)
    assert text.count("File[/etc/motd] failed [/bold]") >= 3
    assert "cookbook sre.k8s.reboot-nodes --resume r1" in text


def test_a_run_that_is_over_names_nothing_to_do(tmp_path):
    state = TargetState(STAGE.targets[0], Status.HELD, detail="given back")
    book = Journal.create(tmp_path, INFO, {"nodes": [state]})
    book.set_status("aborted")
    book.close()
    console = Console(file=io.StringIO(), width=300)
    runs.show(tmp_path, "r1", console, as_json=False)
    assert "--resume" not in text_of(console)
    assert "w1 is held" not in text_of(console)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (60, "1m00s"), (3599, "59m59s"), (3660, "1h01m")]
)
def test_durations_are_for_people(seconds, text):
    assert report.duration(seconds) == text


def test_no_step_took_less_than_no_time():
    """In journals of older versions times jump with the clock."""
    events = [
        Event(1000.0, "nodes", "w1", "", "start", ""),
        Event(1010.0, "nodes", "w1", "drain", "done", ""),
        Event(-9000.0, "nodes", "w1", "reboot", "done", ""),
        Event(-8990.0, "nodes", "w1", "ready", "done", ""),
    ]
    assert report.step_times(events, "nodes") == {"w1": {"drain": 10.0, "reboot": 0.0, "ready": 10.0}}


def test_the_time_of_a_step_that_released_its_unit_is_its_own():
    def event(at: float, kind: str, step: str = "") -> Event:
        return Event(at, "nodes", "w1", step, kind, "")

    events = [
        event(0, "start"),
        event(1, "done", "cordon"),
        event(9, "releasing", "drain"),
        event(10, "done", "uncordon"),
        event(10, "released", "workloads"),
        event(70, "start"),
        event(71, "done", "cordon"),
        event(74, "done", "drain"),
    ]
    assert report.step_times(events, "nodes")["w1"] == {"cordon": 2, "drain": 11, "uncordon": 1, "workloads": 0}
