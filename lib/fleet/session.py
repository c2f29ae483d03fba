"""A session: one process that starts, resumes or aborts a run of node maintenance.

It brings the edges together (configuration, API, hosts, routers, alerts, journal, lock), shows the plan, asks once,
lets the engine work and reports. Cookbooks say only which procedure it is.
"""

import logging
import queue
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from ClusterShell.NodeSet import NodeSet, NodeSetException
from spicerack import Spicerack
from spicerack.exceptions import SpicerackError
from wmflib.exceptions import WmflibError
from wmflib.interactive import ask_confirmation

from fleet.bgp.junos import Routers
from fleet.config import ClusterConfig, Config
from fleet.errors import FleetError
from fleet.hosts import probe
from fleet.hosts.probe import HostState
from fleet.hosts.remote import Remote
from fleet.hosts.silences import Silences
from fleet.k8s.client import Api
from fleet.k8s.nodes import NodeWatch, ownership
from fleet.maintenance import decide, journal, planner, report
from fleet.maintenance.journal import Journal, RunInfo
from fleet.maintenance.lock import ClusterLock, Holder
from fleet.maintenance.model import Facts, Limits, Stage, Status, Unit, UnitState
from fleet.maintenance.runner import STOPPED_BY_OPERATOR, Events, Interrupted, Procedure, Runner
from fleet.procedures import inventory, plan, preflight
from fleet.procedures.cluster import Cluster
from fleet.procedures.findings import Finding, Level, note
from fleet.procedures.nodes import ABORT, NODES, Abort, NodeMaintenance, NodeProcedure, unit_of

logger = logging.getLogger(__name__)

DONE, INCOMPLETE, REFUSED, INTERRUPTED = 0, 1, 2, 3
"""Exit codes: all done; nodes are held or left; nothing was touched; the run was told to leave."""


class Refused(FleetError):
    """The run does not start; nothing was touched."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an operator asks for in a new run.

    Attributes:
        cluster: the cluster's name.
        reason: why.
        task: the ticket, or empty.
        query: a Cumin query; empty for the cluster's workers.
        exclude: hosts or nodes to leave out, as a NodeSet.
        max_unavailable: overrides the configuration.
        max_failed: overrides the configuration.
        only_if_required: only hosts that ask for a reboot.
        unattended: never ask; every question takes its safe answer.
        options: what the procedure's steps depend on beside the configuration; plain JSON values, kept with the run.
    """

    cluster: str
    reason: str
    task: str = ""
    query: str = ""
    exclude: str = ""
    max_unavailable: int | str | None = None
    max_failed: int | None = None
    only_if_required: bool = False
    unattended: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


class Session:
    """One session of a cookbook.

    Args:
        spicerack: the cookbook runner.
        config: this project's configuration.
        procedure: what is done to each node.
    """

    def __init__(self, spicerack: Spicerack, config: Config, procedure: NodeProcedure) -> None:
        self._spicerack = spicerack
        self._config = config
        self._procedure = procedure
        self._console = report.console()
        self._events: Events = queue.SimpleQueue()

    def start(self, request: Request) -> int:
        """Plan, ask and carry out a new run; in dry-run mode only plan.

        Returns:
            An exit code.

        Raises:
            FleetError: bad input, or an edge that cannot be reached; nothing was touched.
        """
        config = self._config.cluster(request.cluster)
        now = datetime.now(UTC)
        info = RunInfo(
            id=journal.new_run_id(self._procedure.name, request.cluster, now),
            procedure=self._procedure.name,
            cluster=request.cluster,
            operator=f"{self._spicerack.username}@{self._spicerack.current_hostname}",
            reason=request.reason,
            task=request.task,
            created=now.timestamp(),
            options={},
        )
        remote = Remote(self._spicerack)
        asked = remote.query(request.query or config.hosts.workers)
        with self._connect(info, config, remote, {}) as bare:
            targets = inventory.match(asked, bare.nodes.snapshot(), _nodeset(request.exclude), config.node_names)
            hosts, findings = dict(targets.hosts), list(targets.findings)
            if request.only_if_required:
                hosts, more = _reboot_required(remote, hosts)
                findings += more
            if not hosts and not any(finding.level is Level.STOP for finding in findings):
                why = "no host asks for a reboot" if targets.hosts else "all hosts are excluded"
                self._console.print(f"Nothing to do: {why}.")
                return DONE
            workers = set(remote.query(config.hosts.workers)) if request.query else set(asked)
            control_plane = set(remote.query(config.hosts.control_plane))
            findings += inventory.compare(hosts, bare.nodes.snapshot(), workers, control_plane, config.node_names)
            limits = _limits(bare, request, workers)
            options = {**request.options, "hosts": hosts, "limits": asdict(limits)}
            cluster = replace(bare, hosts=hosts, run=replace(info, options=options))
            names = [step.spec.name for step in self._procedure.steps(cluster)]
            info = replace(info, options={**options, "steps": names})
            cluster = replace(cluster, run=info)
            proposal, facts = self._plan(cluster, limits, findings)
            plan.render(proposal, self._console)
            if proposal.worst() is Level.STOP:
                raise Refused("The preflight found what has to be put right first (see [stop] above).")
            if request.unattended and proposal.worst() is Level.ASK:
                raise Refused("An unattended run does not start with open questions (see [ask] above).")
            if self._spicerack.dry_run:
                self._console.print("Dry run: this is what a real run would do. Nothing was touched.")
                return DONE
            if not request.unattended:
                self._ask(proposal)
            states = [UnitState(unit, facts=facts.get(unit.name, {})) for unit in proposal.units]
            with (
                self._locked(cluster) as lock,
                closing(Journal.create(self._config.state_dir, info, NODES, states)) as book,
            ):
                return self._carry_out(book, cluster, proposal.units, limits, lock)

    def resume(self, run_id: str, cluster_name: str | None) -> int:
        """Go on with a run that was interrupted or stopped; held nodes are tried again.

        Args:
            run_id: the run.
            cluster_name: the cluster that the operator believes it to be on, if they said so.

        Returns:
            An exit code.

        Raises:
            FleetError: there is no such run, or it cannot go on.
        """
        if self._spicerack.dry_run:
            return self._describe(run_id, "resume", cluster_name)
        with self._reopened(run_id, "resume", cluster_name) as (book, cluster), self._locked(cluster) as lock:
            limits = Limits(**book.info().options["limits"])
            self._adapt(book, cluster)
            units = [state.unit for state in book.states(NODES).values()]
            return self._carry_out(book, cluster, units, limits, lock)

    def abort(self, run_id: str, cluster_name: str | None) -> int:
        """Give back what a run has in flight or held, each node only if it is Ready.

        Args:
            run_id: the run.
            cluster_name: the cluster that the operator believes it to be on, if they said so.

        Returns:
            An exit code.

        Raises:
            FleetError: there is no such run, or it cannot be aborted.
        """
        if self._spicerack.dry_run:
            return self._describe(run_id, "abort", cluster_name)
        with self._reopened(run_id, "abort", cluster_name) as (book, cluster), self._locked(cluster):
            self._adapt(book, cluster)
            stage = Stage(NODES, (), tuple(step.spec for step in self._procedure.steps(cluster)))
            in_flight = [state for state in book.states(NODES).values() if _is_ours(cluster, state)]
            ordered = frozenset(
                state.unit.name
                for state in in_flight
                if decide.awaits_pivot(stage, state) and state.facts.get("ordered", True)
            )
            folder = book.folder
            act = self._procedure.act(cluster)
            procedure = Abort(act, in_flight, ordered, lambda: journal.read_states(folder, ABORT))
            book.note("session", "abort")
            try:
                incomplete = self._run(procedure, book, cluster)
            except Interrupted as error:
                logger.error("Interrupted: %s. Go on with: %s", error, self._command("--abort", run_id))
                return INTERRUPTED
            if incomplete:
                for name, state in book.states(ABORT).items():
                    if state.status is not Status.DONE:
                        logger.error("%s stays cordoned and silenced: %s", name, state.detail)
                logger.error("Not all was given back. Mend that, then: %s", self._command("--abort", run_id))
                return INCOMPLETE
            book.set_status("aborted")
            self._console.print(f"Run {run_id} is aborted; {len(in_flight)} nodes were given back.")
            return DONE

    def _adapt(self, book: Journal, cluster: Cluster) -> None:
        """Make the journal fit the steps of today: the configuration may have been changed since the run was begun."""
        specs = [step.spec for step in self._procedure.steps(cluster)]
        options = book.info().options
        now = [spec.name for spec in specs]
        before = options.get("steps")
        if before is None:
            raise Refused(
                f"Run {cluster.run.id} was begun by an older version, which does not say what its steps were."
            )
        if before == now:
            return
        logger.warning("The configuration has changed: a node's steps were %s; now %s.", before, now)
        pivot = next(spec.name for spec in specs if spec.pivot)
        states = [decide.translate(state, before, now, pivot) for state in book.states(NODES).values()]
        book.rewrite(NODES, states, {**options, "steps": now})

    def _plan(
        self, cluster: Cluster, limits: Limits, findings: Sequence[Finding]
    ) -> tuple[plan.Plan, Mapping[str, Facts]]:
        known = cluster.nodes.snapshot()
        nodes = [known[name] for name in cluster.hosts]
        degraded = {node.labels.get(cluster.config.domain_label, "") for node in known.values() if not node.ready}
        units = planner.order((unit_of(node, cluster.config.domain_label) for node in nodes), first=degraded)
        names = cluster.run.options["steps"]
        found = preflight.examine(cluster, units, limits, self._config.state_dir, names)
        run = cluster.run
        task = f" ({run.task})" if run.task else ""
        proposal = plan.Plan(
            title=f"{run.procedure} on {run.cluster}: {run.reason}{task}",
            units=units,
            steps=names,
            limits=limits,
            evictions=found.evictions,
            findings=preflight.worst_first([*findings, *found.findings]),
            unit_seconds=plan.unit_seconds(self._config.state_dir, run.procedure, run.cluster),
        )
        return proposal, found.facts

    def _ask(self, proposal: plan.Plan) -> None:
        if not sys.stdout.isatty():
            raise Refused("There is no terminal to ask on; use --unattended to start without a question.")
        questions = " in spite of the findings marked [ask]" if proposal.worst() is Level.ASK else ""
        try:
            ask_confirmation(f"Start with {proposal.units[0].name}{questions}?")
        except WmflibError as error:
            raise Refused(f"Not started: {error or 'the answer was no'}.") from error

    def _carry_out(
        self, book: Journal, cluster: Cluster, units: Sequence[Unit], limits: Limits, lock: ClusterLock
    ) -> int:
        folder = book.folder
        self._console.print(f"Run {cluster.run.id}; its journal and report are in {folder}.", soft_wrap=True)
        steps = self._procedure.steps(cluster)
        known = partial(journal.read_states, folder, NODES)
        book.note("session", "")
        book.set_status("running")
        try:
            incomplete = self._run(NodeMaintenance(cluster, units, steps, limits, lock, known), book, cluster)
        except Interrupted as error:
            book.set_status("interrupted")
            with suppress(OSError):  # The terminal may be what went away.
                self._report(book)
            logger.error("Interrupted: %s.", error)
            return INTERRUPTED
        book.set_status("stopped" if incomplete else "done")
        book.note("end", incomplete)
        self._report(book)
        if incomplete:
            logger.error("Not all is done: %s.", incomplete)
            return INTERRUPTED if incomplete == STOPPED_BY_OPERATOR else INCOMPLETE
        return DONE

    def _run(self, procedure: Procedure, book: Journal, cluster: Cluster) -> str:
        with report.view() as view:
            return Runner(procedure, book, view, cluster.cancel, self._events).run()

    def _report(self, book: Journal) -> None:
        record = journal.read(book.folder)
        data = report.summary(record, NODES, report.next_commands(record))
        path = report.write_json(book.folder, data)
        report.render(data, self._console)
        self._console.print(f"Report: {path}", soft_wrap=True)

    def _command(self, option: str, run_id: str) -> str:
        return shlex.join(["cookbook", self._procedure.name, option, run_id])

    def _describe(self, run_id: str, verb: str, cluster_name: str | None) -> int:
        record = journal.read(self._config.state_dir / run_id)
        self._check_open(record.info, record.status, verb, cluster_name)
        if record.status == "running":
            raise Refused(f"Run {run_id} is being worked on by another process on this host.")
        report.render(report.summary(record, NODES, {}), self._console)
        states = record.units.get(NODES, [])
        touched = [s.unit.name for s in states if s.status in (Status.RUNNING, Status.HELD)]
        if verb == "resume":
            left = [state.unit.name for state in states if state.status is not Status.DONE]
            self._console.print(f"Dry run: a real run would go on with {', '.join(left) or 'no node'}.")
        else:
            self._console.print(f"Dry run: a real run would give back {', '.join(touched) or 'no node'}.")
        return DONE

    def _check_open(self, info: RunInfo, status: str, verb: str, cluster_name: str | None) -> None:
        if cluster_name not in (None, info.cluster):
            raise Refused(f"Run {info.id} is on the cluster {info.cluster}, not on {cluster_name}.")
        if info.procedure != self._procedure.name:
            raise Refused(f"Run {info.id} is one of {info.procedure}: {verb} it with that cookbook.")
        if status in ("done", "aborted"):
            raise Refused(f"Run {info.id} is {status} already; there is nothing to {verb}.")

    @contextmanager
    def _reopened(self, run_id: str, verb: str, cluster_name: str | None) -> Iterator[tuple[Journal, Cluster]]:
        with closing(Journal.open(self._config.state_dir, run_id)) as book:
            info = book.info()
            self._check_open(info, book.status(), verb, cluster_name)
            config = self._config.cluster(info.cluster)
            with self._connect(info, config, Remote(self._spicerack), info.options["hosts"]) as cluster:
                yield book, cluster

    @contextmanager
    def _connect(
        self, info: RunInfo, config: ClusterConfig, remote: Remote, hosts: Mapping[str, str]
    ) -> Iterator[Cluster]:
        api = Api.from_kubeconfig(config.kubeconfig)
        routers = Routers(config.bgp) if config.bgp else None
        watch = NodeWatch(api, on_change=lambda: self._events.put(None))
        try:
            alerts = config.alerts
            silences = Silences.from_spicerack(self._spicerack, instance=alerts.instance, label=alerts.label)
            yield Cluster(info.cluster, config, api, watch, remote, silences, hosts, info, routers)
        finally:
            watch.stop()
            if routers:
                routers.close()

    @contextmanager
    def _locked(self, cluster: Cluster) -> Iterator[ClusterLock]:
        """Hold the cluster for as long as the context lasts."""
        run = cluster.run
        holder = Holder(run.id, self._spicerack.current_hostname, run.operator, run.reason)
        lock = ClusterLock(cluster.api, cluster.config.lease, holder, lambda: self._events.put(None))
        try:
            # Two that start at the same moment are kept apart by spicerack's lock; see fleet.maintenance.lock.
            with self._spicerack.lock().acquired(f"fleet:{cluster.name}", concurrency=1, ttl=60):
                lock.acquire()
        except SpicerackError as error:
            raise Refused(f"Spicerack's lock could not be taken: {error}; see etcd_config, or --no-locks.") from error
        try:
            yield lock
        finally:
            lock.release()


def _nodeset(text: str) -> list[str]:
    try:
        return list(NodeSet(text))
    except NodeSetException as error:
        raise Refused(f"--exclude {text!r} is no list of hosts: {error}; write worker1,worker[3-5].") from error


def _is_ours(cluster: Cluster, state: UnitState) -> bool:
    """Say whether a run has a node in flight or held, by its journal or by what stands on the node."""
    node = cluster.nodes.snapshot().get(state.unit.name)
    owner = ownership(node) if node else None
    return state.status in (Status.RUNNING, Status.HELD) or (owner is not None and owner.run == cluster.run.id)


def _limits(cluster: Cluster, request: Request, workers: Collection[str]) -> Limits:
    config = cluster.config
    names = {inventory.node_name(host, config.node_names) for host in workers}
    nodes = [node for node in cluster.nodes.snapshot().values() if node.name in names]
    amount = config.limits.max_unavailable if request.max_unavailable is None else request.max_unavailable
    try:
        most = planner.resolve(amount, len(nodes))
    except ValueError as error:
        raise Refused(f"max_unavailable: {error}") from error
    return Limits(
        max_unavailable=most,
        max_domains=config.limits.max_domains,
        max_failed=config.limits.max_failed if request.max_failed is None else request.max_failed,
        groups=planner.group_limits((unit_of(node, config.domain_label).group for node in nodes), amount),
        blocked=config.deadlines.blocked,
    )


def _reboot_required(remote: Remote, hosts: Mapping[str, str]) -> tuple[dict[str, str], list[Finding]]:
    answers = probe.probe(remote, list(hosts.values())) if hosts else {}
    needed, findings = {}, []
    for node, host in hosts.items():
        answer = answers[host]
        # One that does not answer stays in, for the preflight to name.
        if not isinstance(answer, HostState) or answer.reboot_required:
            needed[node] = host
    if len(needed) < len(hosts):
        findings.append(note(f"{len(hosts) - len(needed)} of {len(hosts)} hosts do not ask for a reboot."))
    return needed, findings
