"""What a run looks like: the plan, the live table, the log lines and the report at the end."""

import json
import logging
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fleet.engine.folders import OVER
from fleet.engine.journal import Event, RunRecord
from fleet.engine.model import Stage, Status, TargetState
from fleet.engine.runner import STOPPED_BY_OPERATOR
from fleet.text import count

logger = logging.getLogger(__name__)

_STYLES = {
    Status.PENDING: "dim",
    Status.RUNNING: "cyan",
    Status.DONE: "green",
    Status.HELD: "bold red",
    Status.GIVEN_UP: "red",
}
_BESIDE_FACTS = 20  # columns of a table for a status and a time
_LEAST_FOR_STEPS = 14  # columns below which a list of steps cannot be read
_MOST_ROWS = 40  # of the live table; a larger fleet shows what is in flight, held, and next


def duration(seconds: float) -> str:
    """Return a duration for people: ``7s``, ``3m20s``, ``1h05m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class LogView:
    """Shows a run as log lines: for output that is no terminal, and for logs."""

    def show(self, stage: Stage, states: Mapping[str, TargetState], blocked: str) -> None:
        """Show nothing: the lines that :meth:`tell` writes say it all."""

    def tell(self, message: str, *, level: int = logging.INFO) -> None:
        """Log one thing that happened."""
        logger.log(level, "%s", message)


class LiveView(LogView):
    """Shows a run as a table that is kept up to date below the log lines, on a terminal."""

    def __init__(self, live: Live) -> None:
        """Draw with a started live display."""
        self._live = live
        self._since: dict[str, tuple[int, Status, float]] = {}

    def show(self, stage: Stage, states: Mapping[str, TargetState], blocked: str) -> None:
        """Draw the table."""
        table = Table(title=Text(_title(stage, states, blocked)), title_justify="left", expand=True)
        for column in ("unit", "domain", "step", "since", "what"):
            table.add_column(column, no_wrap=column != "what", ratio=1 if column == "what" else None)
        for state in _most_telling(states):
            key = self._since.get(state.target.name)
            if key is None or key[:2] != (state.step, state.status):
                key = self._since[state.target.name] = (state.step, state.status, time.monotonic())
            in_flight = state.status is Status.RUNNING
            table.add_row(
                Text(state.target.name),
                Text(state.target.domain),
                stage.steps[state.step].name if in_flight else state.status.value,
                duration(time.monotonic() - key[2]) if in_flight else "",
                Text(state.detail),  # Text, as rich takes what stands in brackets in a string for its markup
                style=_STYLES[state.status],
            )
        with suppress(OSError):
            self._live.update(table)


def _title(stage: Stage, states: Mapping[str, TargetState], blocked: str) -> str:
    counts = ", ".join(
        f"{sum(state.status is status for state in states.values())} {status.value}"
        for status in (Status.DONE, Status.RUNNING, Status.PENDING, Status.HELD)
    )
    return f"{stage.name}: {counts}{f' (waiting: {blocked})' if blocked else ''}"


def _most_telling(states: Mapping[str, TargetState]) -> list[TargetState]:
    if len(states) <= _MOST_ROWS:
        return list(states.values())
    order = [Status.HELD, Status.RUNNING, Status.PENDING, Status.GIVEN_UP, Status.DONE]
    chosen = sorted(states.values(), key=lambda state: order.index(state.status))[:_MOST_ROWS]
    names = {state.target.name for state in chosen}
    return [state for name, state in states.items() if name in names]


def console() -> Console:
    """Return the console for plans and reports; what is no terminal, a log or a pipe, has room for wide tables."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(width=200, highlight=False)


@contextmanager
def _until_hangup(live: Live) -> Iterator[Live]:
    """Show a live display; a terminal that has gone away is no reason to end otherwise than orderly."""
    live.start()
    try:
        yield live
    finally:
        with suppress(OSError):
            live.stop()


@contextmanager
def view() -> Iterator[LogView]:
    """Yield the view that fits the output: a live table on a terminal, log lines otherwise."""
    errors = Console(stderr=True)
    if not errors.is_terminal:
        yield LogView()
        return
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if type(handler) is logging.StreamHandler and handler.stream is sys.stderr
    ]
    stderr = sys.stderr
    with _until_hangup(Live(console=errors, refresh_per_second=4, redirect_stderr=True)) as live:
        # Log handlers keep the stream they were made with; lines written past the live display would tear it.
        for handler in handlers:
            handler.setStream(sys.stderr)
        try:
            yield LiveView(live)
        finally:
            for handler in handlers:
                handler.setStream(stderr)


WATCHDOG = "watchdog"
"""The kind of the events that tell, in JSON, what the API's clients noticed during a session."""


_ENDS = ("done", "held", "releasing", "released")
"""The kinds of events with which a target leaves a step."""


def step_times(events: Sequence[Event], stage: str) -> dict[str, dict[str, float]]:
    """Return how long each target of a stage spent in each step, in seconds, over all sessions of a run.

    Args:
        events: the events of the run, oldest first.
        stage: the stage.
    """
    times: dict[str, dict[str, float]] = {}
    since: dict[str, float] = {}
    for event in events:
        if event.kind == "session":
            since = dict.fromkeys(since, event.at)
        if event.stage != stage:
            continue
        if event.kind in _ENDS and event.step:
            steps = times.setdefault(event.target, {})
            spent = max(0.0, event.at - since.get(event.target, event.at))  # older journals have times that jumped
            steps[event.step] = steps.get(event.step, 0.0) + spent
        if event.kind in ("start", *_ENDS):
            since[event.target] = event.at
    return times


def next_commands(record: RunRecord) -> dict[str, str]:
    """Return what to run next, by what it is for; nothing if the run is over."""
    if record.status in OVER:
        return {}
    again = shlex.join(["cookbook", record.info.procedure])
    ended = next((event.detail for event in reversed(record.events) if event.kind in ("end", "session")), "")
    held = ",".join(dict.fromkeys(state.target.name for _, state in record.work if state.status is Status.HELD))
    give_up = shlex.join(["--resume", record.info.id, "--give-up", held, "-r", "REASON"])
    wrong = bool(held) or (record.status == "stopped" and ended != STOPPED_BY_OPERATOR)
    go_on = "Resume, once what is wrong is mended" if wrong else "Resume"
    return {
        go_on: f"{again} --resume {record.info.id}",
        "Or give back what is in flight and held": f"{again} --abort {record.info.id}",
        **({"Or close what is held as it is, and continue with the rest": f"{again} {give_up}"} if held else {}),
    }


def summary(record: RunRecord, commands: Mapping[str, str]) -> dict[str, Any]:
    """Return a run's report as plain JSON values.

    Args:
        record: the run.
        commands: what to run next, by what it is for.
    """
    all_times = {stage: step_times(record.events, stage) for stage in record.info.stages}
    at = [event.at for event in record.events]
    targets = [
        {
            "stage": stage,
            "unit": state.target.name,
            "domain": state.target.domain,
            "status": state.status.value,
            "detail": state.detail,
            "accepted": {gate: f"{word.operator}: {word.reason}" for gate, word in state.accepted.items()},
            "left": list(state.given_up.left) if state.given_up else [],
            "steps": {step: round(seconds, 3) for step, seconds in times.get(state.target.name, {}).items()},
            "seconds": round(sum(times.get(state.target.name, {}).values()), 3),
            "facts": dict(state.facts),
        }
        for stage, state in record.work
        for times in (all_times[stage],)
    ]
    return {
        "run": asdict(record.info),
        "status": record.status,
        "started": datetime.fromtimestamp(record.info.created, UTC).isoformat(),
        "seconds": round(max([record.info.created, *at]) - record.info.created, 3),
        "units": targets,
        "watchdog": [json.loads(event.detail) for event in record.events if event.kind == WATCHDOG],
        "next": dict(commands),
    }


def write_json(folder: Path, data: Mapping[str, Any]) -> Path:
    """Write a run's report to its folder, whole or not at all, and return the file."""
    path = folder / "report.json"
    temporary = folder / ".report.json.new"
    try:
        temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return path


def render(data: Mapping[str, Any], console: Console) -> None:
    """Print a report: a table of targets and steps with their times, then what is held and what to do next.

    Args:
        data: what :func:`summary` returned.
        console: where to print.
    """
    targets = data["units"]
    run = data["run"]
    ran = f"{data['status']} after {duration(data['seconds'])}"
    console.print(f"\nRun {run['id']} on {run['cluster']}: {ran}", markup=False, soft_wrap=True)
    names = list(dict.fromkeys(step for target in targets for step in target["steps"]))
    # Where there is but one stage, or no target has a domain, a column would say nothing.
    several, placed = len({target["stage"] for target in targets}) > 1, any(target["domain"] for target in targets)
    facts = [*(("stage",) if several else ()), "unit", *(("domain",) if placed else ())]
    room = (
        console.width
        - _BESIDE_FACTS
        - sum(max((len(target[name]) for target in targets), default=0) + 3 for name in facts)
    )
    # A narrow terminal has no room for a column a step, a narrower one for none of them; what and how it is stays.
    columns = [[name] for name in names] if sum(len(name) + 3 for name in names) + 50 <= console.width else [names]
    if room < _LEAST_FOR_STEPS:
        columns = []
    table = Table(show_edge=False)
    for name in (*facts, "status"):
        table.add_column(name, no_wrap=room >= 0 or name == "status", overflow="fold")
    for column in columns:
        table.add_column(
            column[0] if len(column) == 1 else "steps",
            justify="right" if len(column) == 1 else "left",
            overflow="fold",
        )
    table.add_column("total", justify="right", no_wrap=True)
    for target in targets:
        status = Status(target["status"])
        cells = [_times(target["steps"], column) for column in columns]
        total = duration(target["seconds"]) if target["steps"] else ""
        table.add_row(*(Text(target[name]) for name in facts), status.value, *cells, total, style=_STYLES[status])
    console.print(table)
    for seen in data["watchdog"]:
        console.print(watchdog_line(seen), markup=False)
    for target in targets if data["status"] not in OVER else ():
        if target["status"] in (Status.HELD, Status.RUNNING):
            where = "held" if target["status"] == Status.HELD else "in flight"
            why = f": {target['detail']}" if target["detail"] else "."
            console.print(f"{target['unit']} is {where}{why}", style="bold red", markup=False)
    for target in targets:
        if target["status"] == Status.GIVEN_UP:
            left = ", ".join(target["left"]) or "nothing"
            console.print(f"{target['unit']}: {target['detail']}; left on it: {left}.", style="red", markup=False)
        for gate, word in target["accepted"].items():
            console.print(
                f"{target['unit']}: {gate} was not proven, but accepted by {word}.", style="red", markup=False
            )
    for what, command in data["next"].items():
        console.print(f"{what}:\n  {command}", markup=False, soft_wrap=True)


def watchdog_line(seen: Mapping[str, Any]) -> str:
    """Return what the API's clients noticed during a session, for people."""
    lost = f", {count(seen['events_lost'], 'event')} lost" if seen["events_lost"] else ""
    return (
        f"Watchdog: {count(seen['requests'], 'request')} to the API's address, {seen['failed']} failed{lost};"
        f" longest gap {seen['longest_gap']:.1f} s; the watch went on {count(seen['reconnects'], 'time')}."
    )


def _times(times: Mapping[str, float], names: Sequence[str]) -> str:
    """Return the times of some steps: bare for one, with their names for several."""
    if len(names) == 1:
        return duration(times[names[0]]) if names[0] in times else ""
    return ", ".join(f"{name} {duration(times[name])}" for name in names if name in times)
