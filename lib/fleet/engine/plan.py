"""The plan of a maintenance: what an operator sees and agrees to before anything is touched."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fleet.engine import folders, journal, planner
from fleet.engine.findings import Finding, Level
from fleet.engine.journal import RunInfo
from fleet.engine.model import Limits, Status, Target
from fleet.engine.report import duration, step_times
from fleet.text import count

GUESS = 420.0
"""Seconds that a node is assumed to take as long as no earlier run tells better."""

_STYLES = {Level.STOP: "bold red", Level.ASK: "yellow", Level.NOTE: ""}


@dataclass(frozen=True, slots=True)
class RollingPlan:
    """What a run is going to do to nodes, or to other hosts of which several may be away at once.

    Attributes:
        title: one line: the procedure, the cluster, the reason.
        targets: the nodes in their order.
        rounds: what each goes through: "node", or which round it is, and its steps.
        limits: how many at once.
        columns: what else is shown of each node, by the heading; "?" for a node that is not in it.
        findings: what the preflight found, worst first.
        target_seconds: how long a node took in earlier runs, in a round; None if there is none.
        what: what is maintained.
        guess: seconds for each as long as no earlier run tells better.
    """

    title: str
    targets: Sequence[Target]
    rounds: Sequence[tuple[str, Sequence[str]]]
    limits: Limits
    columns: Mapping[str, Mapping[str, str]]
    findings: Sequence[Finding]
    target_seconds: float | None
    what: str = "node"
    guess: float = GUESS

    def render(self, console: Console) -> None:
        """Print the plan and its findings."""
        limits = self.limits
        console.print(f"\n{self.title}", style="bold", markup=False)
        table = Table(show_edge=False)
        for heading in ("#", self.what, "domain", *self.columns):
            table.add_column(heading, justify="left" if heading in (self.what, "domain") else "right", no_wrap=True)
        for number, target in enumerate(self.targets, 1):
            more = [Text(cells.get(target.name, "?")) for cells in self.columns.values()]
            table.add_row(str(number), Text(target.name), Text(target.domain or "-"), *more)
        console.print(table)
        for who, steps in self.rounds:
            console.print(f"Each {who}: {' → '.join(steps)}", markup=False)
        domains = count(limits.max_domains, "domain")
        console.print(
            f"At once: no more than {limits.max_unavailable} unavailable in all, in {domains};"
            f" no new {self.what} once more than {limits.max_failed} failed."
        )
        each = self.target_seconds or self.guess
        seconds = len(self.rounds) * planner.estimate(self.targets, limits, each)
        source = "as in earlier runs" if self.target_seconds else "a guess: there is no earlier run to go by"
        console.print(f"About {duration(seconds)}, at {duration(each)} a {self.what} ({source}).")
        render_findings(self.findings, console)


@dataclass(frozen=True, slots=True)
class HostPlan:
    """What a run is going to do to hosts, stage by stage.

    Attributes:
        title: one line: the procedure, the cluster, the reason.
        stages: the stages in their order, each with its hosts in theirs and the names of the steps.
        promise: a sentence on what may be out of service at once.
        findings: what the preflight found, worst first.
        seconds: how long all of it took in earlier runs; None if there is none.
    """

    title: str
    stages: Sequence[tuple[str, Sequence[str], Sequence[str]]]
    promise: str
    findings: Sequence[Finding]
    seconds: float | None

    def render(self, console: Console) -> None:
        """Print the plan and its findings."""
        console.print(f"\n{self.title}", style="bold", markup=False)
        for number, (stage, hosts, steps) in enumerate(self.stages, 1):
            console.print(f"{number}. {stage}: {', '.join(hosts)}", style="bold", markup=False)
            console.print(f"   {' → '.join(steps)}", soft_wrap=True)
        console.print(self.promise)
        if self.seconds is not None:
            console.print(f"About {duration(self.seconds)}, as in earlier runs.")
        render_findings(self.findings, console)


def worst(findings: Sequence[Finding]) -> Level:
    """Return the level of the worst finding; that of a note where there is none."""
    levels = {finding.level for finding in findings}
    return next(level for level in (Level.STOP, Level.ASK, Level.NOTE) if level in levels or level is Level.NOTE)


def render_findings(findings: Sequence[Finding], console: Console) -> None:
    """Print findings, each with what to do about it."""
    for finding in findings:
        console.print(f"[{finding.level}] {finding.what}", style=_STYLES[finding.level], markup=False)
        if finding.todo:
            console.print(f"       {finding.todo}", markup=False)
    if not findings:
        console.print("Preflight: nothing found that stands in the way.")


def title(run: RunInfo) -> str:
    """Return the line that stands above the plan of a run."""
    task = f" ({run.task})" if run.task else ""
    return f"{run.procedure} on {run.cluster}: {run.reason}{task}"


def target_seconds(state_dir: Path, procedure: str, cluster: str, stage: str, *, last: int = 5) -> float | None:
    """Return how long a target took in the last runs of a procedure on a cluster: the median, in seconds.

    Args:
        state_dir: where runs are kept.
        procedure: the cookbook.
        cluster: the cluster.
        stage: the stage that the target goes through.
        last: how many runs to look at.
    """
    totals: list[float] = []
    looked = 0
    for folder in _of_cluster(state_dir, cluster):
        try:
            record = journal.read(folder)
        except folders.JournalError:  # Only an estimate: the preflight names it.
            continue
        if (record.info.procedure, record.info.cluster) != (procedure, cluster):
            continue
        finished = {s.target.name for s in record.targets.get(stage, []) if s.status is Status.DONE}
        times = step_times(record.events, stage)
        totals += [sum(times[name].values()) for name in finished if name in times]
        looked += 1
        if looked == last:
            break
    return statistics.median(totals) if totals else None


def _of_cluster(state_dir: Path, cluster: str) -> list[Path]:
    """Return the folders of the runs on a cluster, by their names, newest first."""
    try:
        found = folders.list_runs(state_dir)
    except folders.JournalError:
        return []
    return [folder for folder in reversed(found) if f"-{cluster}-" in folder.name]
