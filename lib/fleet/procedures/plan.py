"""The plan of a maintenance: what an operator sees and agrees to before anything is touched."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fleet.maintenance import journal, planner
from fleet.maintenance.model import Limits, Status, Unit
from fleet.maintenance.report import duration, step_times
from fleet.procedures.findings import Finding, Level
from fleet.procedures.nodes import NODES

GUESS = 420.0
"""Seconds that a node is assumed to take as long as no earlier run tells better."""

_STYLES = {Level.STOP: "bold red", Level.ASK: "yellow", Level.NOTE: ""}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is going to do.

    Attributes:
        title: one line: the procedure, the cluster, the reason.
        units: the nodes in their order.
        steps: the steps that each goes through.
        limits: how many at once.
        evictions: how many pods will be evicted from each node.
        findings: what the preflight found, worst first.
        unit_seconds: how long a node took in earlier runs; None if there is none.
    """

    title: str
    units: Sequence[Unit]
    steps: Sequence[str]
    limits: Limits
    evictions: Mapping[str, int]
    findings: Sequence[Finding]
    unit_seconds: float | None

    def worst(self) -> Level:
        """Return the level of the worst finding."""
        levels = {finding.level for finding in self.findings}
        return next(level for level in (Level.STOP, Level.ASK, Level.NOTE) if level in levels or level is Level.NOTE)


def render(plan: Plan, console: Console) -> None:
    """Print a plan and its findings."""
    limits = plan.limits
    console.print(f"\n{plan.title}", style="bold", markup=False)
    table = Table(show_edge=False)
    drains = "drain" in plan.steps
    columns = ("#", "node", "domain", *(("pods to evict",) if drains else ()))
    for column in columns:
        table.add_column(column, justify="right" if column in ("#", "pods to evict") else "left", no_wrap=True)
    for number, unit in enumerate(plan.units, 1):
        evictions = (str(plan.evictions.get(unit.name, "?")),) if drains else ()
        table.add_row(str(number), Text(unit.name), Text(unit.domain or "-"), *evictions)
    console.print(table)
    console.print(f"Each node: {' → '.join(plan.steps)}")
    domains = f"{limits.max_domains} domain" + ("s" if limits.max_domains > 1 else "")
    console.print(
        f"At once: no more than {limits.max_unavailable} unavailable in the whole cluster, in {domains};"
        f" no new node once more than {limits.max_failed} failed."
    )
    seconds = planner.estimate(plan.units, limits, plan.unit_seconds or GUESS)
    source = "as in earlier runs" if plan.unit_seconds else "a guess: there is no earlier run to go by"
    console.print(f"About {duration(seconds)}, at {duration(plan.unit_seconds or GUESS)} a node ({source}).")
    for finding in plan.findings:
        console.print(f"[{finding.level}] {finding.what}", style=_STYLES[finding.level], markup=False)
        if finding.todo:
            console.print(f"       {finding.todo}", markup=False)
    if not plan.findings:
        console.print("Preflight: nothing found that stands in the way.")


def unit_seconds(state_dir: Path, procedure: str, cluster: str, *, last: int = 5) -> float | None:
    """Return how long a node took in the last runs of a procedure on a cluster: the median, in seconds.

    Args:
        state_dir: where runs are kept.
        procedure: the cookbook.
        cluster: the cluster.
        last: how many runs to look at.
    """
    totals: list[float] = []
    looked = 0
    for folder in reversed(journal.list_runs(state_dir)):
        if f"-{procedure.rsplit('.', 1)[-1]}-{cluster}-" not in folder.name:
            continue
        try:
            record = journal.read(folder)
        except journal.JournalError:
            continue
        finished = {s.unit.name for s in record.units.get(NODES, []) if s.status is Status.DONE}
        times = step_times(record.events, NODES)
        totals += [sum(times[name].values()) for name in finished if name in times]
        looked += 1
        if looked == last:
            break
    return statistics.median(totals) if totals else None
