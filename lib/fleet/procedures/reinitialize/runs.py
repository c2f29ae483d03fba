"""Runs that move a cluster onto a new etcd: what is asked for, the plan, the work and the rollback."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from spicerack import Spicerack

from fleet.adapters import commands
from fleet.adapters.discovery import Discovery
from fleet.adapters.k8s import namespaces
from fleet.adapters.k8s.lock import ClusterLock
from fleet.adapters.load_balancer.connect import connect
from fleet.config.model import ClusterConfig
from fleet.config.types import DNS_LABEL
from fleet.engine import journal, plan
from fleet.engine.declaration import Question, Stage
from fleet.engine.executor import ABORT, Execution
from fleet.engine.findings import Finding
from fleet.engine.journal import Journal
from fleet.engine.model import Observation, Status, Target, TargetState
from fleet.engine.planner import natural
from fleet.engine.protocols import Lock
from fleet.engine.protocols import Procedure as Executable
from fleet.errors import FleetError
from fleet.procedures.preflight import carry_out, worst_first
from fleet.procedures.procedure import ClusterProcedure, Proposal, Refused
from fleet.procedures.reinitialize import parts, preflight, questions, rollback, stages, stores, world
from fleet.procedures.reinitialize.data import is_merged, read_export
from fleet.procedures.reinitialize.machines import absent
from fleet.procedures.reinitialize.parts import Edges
from fleet.procedures.reinitialize.rollback import REVERT
from fleet.procedures.reinitialize.silences import ANSWER, Silences
from fleet.procedures.reinitialize.traffic import LEFT_OUT
from fleet.procedures.reinitialize.world import World
from fleet.steps.cluster import Cluster

logger = logging.getLogger(__name__)

_LISTING = 60.0
"""Seconds for the command that lists the managed namespaces."""
_LEFT_OUT = {LEFT_OUT: True}
"""The facts of targets whose stage was left out."""


@dataclass(frozen=True, slots=True)
class Options:
    """What an operator asks for.

    Attributes:
        new_etcd: the etcd that the cluster is moved onto, as the configuration names it.
        puppet_change: the change of Puppet's code that points the hosts at it.
        reuse: the name of an etcd that need not be empty.
        from_stage: the number of the first stage that is carried out.
        max_failed: how many workers may be away; None for the configuration's number.
        calico_export: the file with Calico's data that an earlier run has kept, where the old etcd is gone.
    """

    new_etcd: str | None
    puppet_change: str | None
    reuse: str | None = None
    from_stage: int = 0
    max_failed: int | None = None
    calico_export: str | None = None


@dataclass(frozen=True, slots=True)
class ReinitializePlan:
    """What a run is going to do, stage by stage.

    Attributes:
        title: one line: the procedure, the cluster, the reason.
        stages: the stages.
        first: the number of the first that is carried out.
        findings: what the preflight found, worst first.
    """

    title: str
    stages: Sequence[Stage]
    first: int
    findings: Sequence[Finding]

    def render(self, console: Console) -> None:
        """Print the plan and its findings."""
        console.print(f"\n{self.title}", style="bold", markup=False)
        for part in self.stages:
            if parts.number(part) < self.first:
                console.print(f"{part.key}: left out (--from-stage)", style="dim", markup=False)
                continue
            names = parts.names(part)
            where = f": {', '.join(names)}" if names and names != [world.CLUSTER] else ""
            console.print(f"{part.key}{where}", style="bold", markup=False, soft_wrap=True)
            console.print(f"   {' → '.join(step.spec.name for step in part.steps)}", soft_wrap=True, markup=False)
            for line in part.about:
                console.print(f"   - {line}", markup=False, soft_wrap=True)
        console.print(
            "Before stage 5 the cluster's name has to be typed. Until then --abort restores everything; from then on it"
            " goes back to the old etcd, which nothing here deletes or changes but the API itself.",
        )
        plan.render_findings(self.findings, console)


class ReinitializeCluster(ClusterProcedure):
    """Moves a cluster onto a new etcd.

    Args:
        spicerack: the cookbook runner.
        wish: what an operator asks for in a new run.
    """

    name = "sre.k8s.reinitialize-cluster"
    needs_api = False

    def __init__(self, spicerack: Spicerack, wish: Options) -> None:
        self._spicerack = spicerack
        self._wish = wish

    def kubeconfig(self, config: ClusterConfig) -> Path:
        """Return that of the identity that may do everything in an empty cluster."""
        if config.reinitialize is None:
            raise FleetError("The cluster has no section reinitialize in the configuration.")
        return config.reinitialize.kubeconfig

    def propose(self, cluster: Cluster, state_dir: Path) -> Proposal:
        """Look at everything."""
        wish = self._wish
        if not wish.new_etcd or not wish.puppet_change:
            raise FleetError("A new run needs --new-etcd and --puppet-change.")
        if wish.reuse is not None and wish.reuse != wish.new_etcd:
            raise FleetError(f"--reuse {wish.reuse} is not the etcd of --new-etcd, {wish.new_etcd}: name it twice.")
        if wish.calico_export:
            read_export(Path(wish.calico_export))
        cluster = self._with_options(cluster)
        seen = world.make(cluster)
        edges = self._edges(cluster)
        found = stages.forth(seen, edges)
        if wish.from_stage and wish.from_stage not in {parts.number(part) for part in found}:
            numbers = ", ".join(str(parts.number(part)) for part in found)
            raise FleetError(f"There is no stage {wish.from_stage} for this cluster: there are {numbers}.")
        findings = carry_out(
            preflight.checks(seen, edges, found, wish.from_stage, state_dir), cluster.cancel, cluster.threads
        )
        shown = ReinitializePlan(plan.title(cluster.run), found, wish.from_stage, worst_first(findings))
        return Proposal(cluster, shown, {part.key: _states(part, wish.from_stage) for part in found})

    def stages(self, cluster: Cluster) -> Sequence[Stage]:
        """Return the stages from the old etcd to the new one."""
        return stages.forth(world.make(cluster), self._edges(cluster))

    @contextmanager
    def work(self, cluster: Cluster, book: Journal, lock: Lock) -> Iterator[Executable]:
        """Yield the stages from the old etcd to the new one."""
        seen = self._world(cluster, book.folder, cast(ClusterLock, lock))
        if any(event.stage.startswith(ABORT) for event in book.events()):
            raise Refused(f"The rollback of run {cluster.run.id} was started: resume it with --abort.")

        def ask(part: Stage) -> Question | None:
            # Once it was typed the outage has started: it is not asked for again in the middle of it.
            if parts.number(part) >= parts.OUTAGE and not any(event.kind == ANSWER for event in book.events()):
                return questions.before_the_outage(seen)
            if part.key == parts.MERGE and seen.config.puppet_change.merge is None and not _is_merged(seen):
                text = f"Merge the Puppet change {seen.change} now: hosts take it with their next run."
                return Question(text, "done")
            return None

        forth = stages.forth(seen, self._edges(cluster))
        yield _execution(seen, forth, book, ask, partial(self.observe, cluster, lock))

    def left_on(self, cluster: Cluster, state: TargetState) -> Sequence[str]:
        """Refuse: a cluster is moved as a whole."""
        raise FleetError(
            f"{state.target.name} of run {cluster.run.id} cannot be given up: a cluster is moved as a whole."
            " --max-failed leaves workers away, --abort goes back."
        )

    def abort(self, cluster: Cluster, book: Journal) -> Executable:
        """Return the stages back to the old etcd, as far as the run has left it."""
        seen = self._world(cluster, book.folder)
        edges = self._edges(cluster)
        reached = max((parts.number(part) for part in stages.forth(seen, edges) if _is_started(seen, part)), default=-1)
        ahead = [part for part in stages.forth(seen, edges) if part.key != parts.LATE and part.targets()]
        if all(seen.is_done(part.key) for part in ahead):
            return self._closed(seen, book)
        if seen.is_old_gone and reached >= parts.OUTAGE:
            raise FleetError(
                f"Run {cluster.run.id} was started as the old etcd is gone: there is nothing to go back to."
            )
        if reached >= parts.API_STOPS:
            stores.check_old(seen)
        # Whoever has gone on by hand, or has agreed once that there is more in it, keeps what is in the new etcd.
        used = stores.is_used_by_others(seen, ours=[seen.first] if reached >= parts.MAY_SERVE else [])
        agreed = any(it.kind == ANSWER and it.detail.startswith(ABORT) and it.detail != REVERT for it in book.events())
        wipes = reached < parts.NEW_DATA and not used and not agreed
        ordered = any((it.stage, it.step, it.kind) == (parts.NAMESPACES, "delete", "intent") for it in book.events())
        by_hand = any(facts == _LEFT_OUT for facts in seen.facts(parts.NAMESPACES).values())
        deleted = ordered or (by_hand and reached >= parts.OUTAGE)
        there = rollback.back(seen, edges, reached=reached, deleted=deleted, wipes=wipes)
        first = there[0].key if there else ""

        def ask(part: Stage) -> Question | None:
            if part.key == first and (reached >= parts.NEW_DATA or (used and reached >= parts.API_STOPS)):
                return questions.before_the_rollback(seen, pooled=reached >= parts.HANDS_BACK, deleted=deleted)
            if part.key == REVERT and seen.config.puppet_change.revert is None and _is_merged(seen):
                text = f"Revert the Puppet change {seen.change} now: hosts take it with their next run."
                return Question(text, "done")
            return None

        return _execution(seen, there, book, ask)

    def _closed(self, seen: World, book: Journal) -> Executable:
        """Return what closes a run that has moved the cluster."""
        late = list(seen.states(parts.LATE))
        away = absent(seen, late) if late else {}
        logger.warning("The cluster was moved: it stays on %s, and the run is only closed.", seen.new.name)
        if away:
            todo = "before they are used again run Puppet there, and restart calico-node and kubelet"
            logger.warning("No answer from %s: %s.", ", ".join(sorted(away)), todo)
        there = rollback.closed(seen, [host for host in late if host not in away])
        return _execution(seen, there, book, lambda _part: None)

    def is_offline(self, cluster: Cluster, folder: Path | None) -> bool:
        """Say whether the run is between the stop of the old API and the Lease in the new one."""
        options = cluster.run.options
        is_gone = bool(options.get("calico_export"))
        if folder is None:
            return is_gone or parts.API_STOPS < int(options.get("from_stage", 0)) <= parts.NEW_DATA
        stop, taken = (journal.read_states(folder, stage).values() for stage in (parts.STOP, parts.INITIALISE))
        stops = any(state.status is not Status.PENDING or state.facts for state in stop)
        is_back = any(state.status is Status.DONE for state in taken)
        return not is_back and (stops or is_gone)

    def _world(self, cluster: Cluster, folder: Path | None = None, lock: ClusterLock | None = None) -> World:
        """Return the world of a run; how many workers may be away can be changed while it lasts."""
        if self._wish.max_failed is not None:
            options = {**cluster.run.options, "max_failed": self._wish.max_failed}
            cluster = replace(cluster, run=replace(cluster.run, options=options))
        return world.make(cluster, folder, lock)

    def _with_options(self, cluster: Cluster) -> Cluster:
        """Return the cluster with the run's hosts and options, which stay the same to its end."""
        config, wish = cluster.config, self._wish
        control_plane = sorted(cluster.remote.query(config.hosts.control_plane), key=natural)
        workers = sorted(cluster.remote.query(config.hosts.workers), key=natural)
        hosts = {host: host for host in (*control_plane, *workers)}
        options: Mapping[str, Any] = {
            **cluster.run.options,
            "hosts": hosts,
            "control_plane": control_plane,
            "workers": [host for host in workers if host not in control_plane],
            "new_etcd": wish.new_etcd,
            "puppet_change": wish.puppet_change,
            "reuse": wish.reuse,
            "calico_export": wish.calico_export and str(Path(wish.calico_export).absolute()),
            "from_stage": wish.from_stage,
            "max_failed": config.limits.max_failed if wish.max_failed is None else wish.max_failed,
            "managed": _managed(cluster),
        }
        return replace(cluster, hosts=hosts, run=replace(cluster.run, options=options))

    def _edges(self, cluster: Cluster) -> Edges:
        config = world.configured(cluster)
        balancer = connect(cluster.config.control_plane.load_balancer, cluster.remote, self._spicerack)
        discovery = Discovery(config.discovery, dry_run=self._spicerack.dry_run) if config.discovery else None
        return Edges(discovery, balancer)


def _managed(cluster: Cluster) -> list[str]:
    """Return the managed namespaces: those of the configuration, or what its command prints.

    Raises:
        FleetError: the command fails, prints nothing, or names one of Kubernetes' own.
    """
    managed = world.configured(cluster).managed
    if isinstance(managed, str):
        command = commands.fill(managed, cluster=cluster.name)
        code, said = commands.ask(command, timeout=_LISTING)
        if code:
            why = " ".join(said.split())[-200:] or f"exit code {code}"
            raise FleetError(f"The managed namespaces are not known: `{command}`: {why}")
        managed = tuple(line.strip() for line in said.splitlines() if line.strip())
        if strange := [name for name in managed if not re.fullmatch(DNS_LABEL, name)]:
            raise FleetError(f"`{command}` has to print one namespace a line; it prints {strange[0]!r}.")
    if not managed:
        raise FleetError("There are no managed namespaces: see reinitialize.managed.")
    namespaces.refuse(managed)
    return list(dict.fromkeys(managed))


def _execution(
    seen: World,
    found: Sequence[Stage],
    book: Journal,
    ask: Callable[[Stage], Question | None],
    observe: Callable[[], Observation] = Observation,
) -> Execution:
    """Return stages as they are carried out, with the silences beside them."""

    def is_over() -> bool:
        return all(seen.is_done(stage.key) for stage in found if stage.targets())

    keeper = Silences(seen, parts.SILENCE, is_over)
    asking = [replace(stage, question=partial(ask, stage)) for stage in found]
    return Execution(asking, seen.states, observe, [keeper], partial(book.note, ANSWER), keeper.keep)


def _states(part: Stage, first: int) -> list[TargetState]:
    units = list(part.targets())
    if parts.number(part) >= first:
        return [TargetState(unit) for unit in units]
    done = TargetState(
        Target(""), Status.DONE, step=len(part.steps), detail="left out by --from-stage", facts=_LEFT_OUT
    )
    return [replace(done, target=unit) for unit in units]


def _is_started(seen: World, part: Stage) -> bool:
    states = seen.states(part.key).values()
    return any(s.facts != _LEFT_OUT and (s.status is not Status.PENDING or s.facts) for s in states)


def _is_merged(seen: World) -> bool:
    """Say whether the change is known to be merged; who is asked for it in vain loses nothing."""
    try:
        return is_merged(seen)
    except FleetError:
        return False
