"""A session: one process that starts, resumes or aborts a run.

It brings the edges together (configuration, API, hosts, routers, alerts, journal, lock), shows the plan, asks once,
lets the engine work and reports. What is maintained, and how, is the business of a kind of maintenance.
"""

import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from spicerack import Spicerack
from wmflib.exceptions import WmflibError
from wmflib.interactive import InputError, ask_confirmation, ask_input

from fleet import output
from fleet.adapters import locks
from fleet.adapters.etcd import health, members
from fleet.adapters.hosts.remote import Remote
from fleet.adapters.k8s.client import Api, KubernetesError
from fleet.adapters.k8s.lock import ClusterLock, Holder
from fleet.adapters.k8s.nodes import NodeView, NoNodes
from fleet.config.model import ClusterConfig, Config
from fleet.edges import Edges, SystemEdges
from fleet.engine import advance, folders, journal, lost, plan, report
from fleet.engine.declaration import Question, specs
from fleet.engine.executor import ABORT, Execution
from fleet.engine.findings import Level
from fleet.engine.journal import Journal, RunInfo, RunRecord
from fleet.engine.model import Status, UnitState
from fleet.engine.protocols import Procedure as Executable
from fleet.engine.protocols import View
from fleet.engine.runner import STOPPED_BY_OPERATOR, Interrupted, Runner
from fleet.errors import FleetError
from fleet.procedures.procedure import Nothing, Procedure, Proposal, Refused
from fleet.procedures.way_out import NOTHING, WayOut, carry_out, changes
from fleet.steps.cluster import Cluster

logger = logging.getLogger(__name__)

DONE, INCOMPLETE, REFUSED, INTERRUPTED = 0, 1, 2, 3
"""Exit codes: all done; units are held or left; nothing was touched; the run was told to leave."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an operator asks for in a new run, whatever is maintained.

    Attributes:
        cluster: the cluster's name.
        reason: why.
        task: the ticket, or empty.
        options: what the steps depend on beside the configuration; plain JSON values, kept with the run.
    """

    cluster: str
    reason: str
    task: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


class Session:
    """One session of a cookbook.

    Args:
        spicerack: the cookbook runner.
        config: this project's configuration.
        procedure: what is done.
        unattended: never ask; every question takes its safe answer.
        edges: what it reaches the world with; the system's own unless others are handed in.
    """

    def __init__(
        self,
        spicerack: Spicerack,
        config: Config,
        procedure: Procedure,
        *,
        unattended: bool = False,
        edges: Edges | None = None,
    ) -> None:
        self._edges = edges or SystemEdges(spicerack)
        self._spicerack = spicerack
        self._config = config
        self._procedure = procedure
        self._console = self._edges.console
        self._unattended = unattended
        self.run = ""
        """The run that is, or was, worked on; empty as long as nothing is touched."""

    def start(self, request: Request) -> int:
        """Plan, ask and carry out a new run; in dry-run mode only plan.

        Returns:
            An exit code.

        Raises:
            FleetError: bad input, or an edge that cannot be reached; nothing was touched.
        """
        config = self._config.cluster(request.cluster)
        now = datetime.fromtimestamp(self._edges.clock.time(), UTC)
        info = RunInfo(
            id=journal.new_run_id(self._procedure.name, request.cluster, now),
            procedure=self._procedure.name,
            cluster=request.cluster,
            operator=self._operator,
            reason=request.reason,
            task=request.task,
            created=now.timestamp(),
            options=request.options,
        )
        with self._connect(info, config, {}) as bare:
            proposal = self._procedure.propose(bare, self._config.state_dir)
            if isinstance(proposal, Nothing):
                self._console.print(f"Nothing to do: {proposal.why}.")
                return DONE
            proposal.plan.render(self._console)
            output.require()  # Nothing is started that nobody could read about.
            worst = plan.worst(proposal.plan.findings)
            if worst is Level.STOP:
                raise Refused("The preflight found what has to be put right first (see [stop] above).")
            if self._unattended and worst is Level.ASK:
                raise Refused("An unattended run does not start with open questions (see [ask] above).")
            if self._spicerack.dry_run:
                self._console.print("Dry run: this is what a real run would do. Nothing was touched.")
                return DONE
            if not self._unattended:
                self._ask(proposal)
            cluster = self._with_steps(proposal.cluster)
            with (
                self._locked(cluster, None) as lock,
                closing(
                    self._edges.journal.create(self._config.state_dir, cluster.run, proposal.states, self._edges.clock)
                ) as book,
            ):
                return self._written(book, cluster.run.id, partial(self._carry_out, book, cluster, lock))

    def resume(self, run_id: str, cluster_name: str | None, way_out: WayOut = NOTHING) -> int:
        """Go on with a run that was interrupted or stopped; held units are tried again.

        Args:
            run_id: the run.
            cluster_name: the cluster that the operator believes it to be on, if they said so.
            way_out: what the operator has decided about single units.

        Returns:
            An exit code.

        Raises:
            FleetError: there is no such run, or it cannot go on.
        """
        if self._spicerack.dry_run:
            return self._describe(run_id, "resume", cluster_name, way_out)
        with (
            self._reopened(run_id, "resume", cluster_name) as (book, cluster),
            self._locked(cluster, book.folder) as lock,
        ):
            return self._written(book, run_id, partial(self._carry_out, book, cluster, lock, way_out))

    def abort(self, run_id: str, cluster_name: str | None, way_out: WayOut = NOTHING) -> int:
        """Give back what a run has in flight or held, each unit only if it is proven to be well.

        Args:
            run_id: the run.
            cluster_name: the cluster that the operator believes it to be on, if they said so.
            way_out: what the operator has decided about single units.

        Returns:
            An exit code.

        Raises:
            FleetError: there is no such run, or it cannot be aborted.
        """
        if self._spicerack.dry_run:
            return self._describe(run_id, "abort", cluster_name, way_out)
        with self._reopened(run_id, "abort", cluster_name) as (book, cluster), self._held(cluster):
            return self._written(book, run_id, partial(self._give_back, book, cluster, way_out), only_abort=True)

    def _written(self, book: Journal, run_id: str, work: Callable[[], int], *, only_abort: bool = False) -> int:
        """Do the work of a run; if its journal cannot be written any more, tell what is left, and what to run next."""
        try:
            return work()
        except folders.JournalError as error:
            why, left = lost.told(book.folder, error)
            logger.error("The journal cannot be written any more, so nothing new is started: %s", why)
            for line in left or ["Nothing is in flight or held."]:
                logger.error("%s", line)
            commands = [self._command(option, run_id) for option in ("--resume", "--abort")[only_abort:]]
            logger.error("Make room there, or mend the disk. Then: %s", ", or: ".join(commands))
            return INTERRUPTED

    def _give_back(self, book: Journal, cluster: Cluster, way_out: WayOut) -> int:
        run_id = cluster.run.id
        self._adapt(book, cluster)
        self._close(book, cluster, way_out)
        procedure = self._procedure.abort(cluster, book)
        book.note("session", "abort")
        self.run = run_id
        try:
            incomplete = self._run(procedure, book, cluster)
        except folders.JournalError:
            raise
        except Interrupted as error:
            logger.error("Interrupted: %s. Go on with: %s", error, self._command("--abort", run_id))
            return INTERRUPTED
        except FleetError as error:  # An edge that the session itself needs.
            logger.error("The abort cannot go on: %s. Mend that, then: %s", error, self._command("--abort", run_id))
            return INTERRUPTED
        # Not those of an earlier abort: what it could not give back may have been done since.
        now = {(stage.name, unit.name) for stage in procedure.stages for unit in stage.units}
        units = [
            state
            for stage, states in journal.read(book.folder).units.items()
            if stage.startswith(ABORT)
            for state in states
            if (stage, state.unit.name) in now
        ]
        if incomplete == STOPPED_BY_OPERATOR:
            logger.error("Interrupted by the operator. Go on with: %s", self._command("--abort", run_id))
            return INTERRUPTED
        if incomplete:
            for state in units:
                if state.status is not Status.DONE:
                    logger.error("%s stays out of service and silenced: %s", state.unit.name, state.detail)
            logger.error(
                "Not all was given back: %s. Mend that, then: %s", incomplete, self._command("--abort", run_id)
            )
            return INCOMPLETE
        book.set_status("aborted")
        self._console.print(f"Run {run_id} is aborted; given back: {_names(units)}.")
        return DONE

    def _with_steps(self, cluster: Cluster) -> Cluster:
        """Return the cluster of a run that remembers the names of its steps, and which of them take and give back."""
        stages = self._procedure.stages(cluster)
        names = {stage.key: [step.spec.name for step in stage.steps] for stage in stages}
        owning = {stage.key: stage.owning for stage in stages}
        options = {**cluster.run.options, "steps": names, "owning": owning}
        return replace(cluster, run=replace(cluster.run, options=options))

    def _adapt(self, book: Journal, cluster: Cluster) -> None:
        """Make the journal fit the steps of today: the configuration may have been changed since the run was begun."""
        options = book.info().options
        before = options.get("steps")
        if not isinstance(before, Mapping):
            raise Refused(
                f"Run {cluster.run.id} was begun by an older version, which does not say what its steps were."
            )
        today = self._with_steps(cluster).run.options
        now = today["steps"]
        if before == now:
            return
        if list(before) != list(now):
            raise Refused(
                f"Run {cluster.run.id} was begun with {list(before)}, and the configuration now has {list(now)}."
            )
        states = {}
        for stage, steps in self._procedure.steps(cluster).items():
            # An older version did not say which: each may be one of them.
            owning = options.get("owning", before)[stage]
            lost = [name for name in before[stage] if name in owning and name not in now[stage]]
            if lost and any(state.facts for state in book.states(stage).values() if state.status is not Status.DONE):
                raise Refused(
                    f"Run {cluster.run.id} has begun with the steps {', '.join(lost)}, which the configuration has no"
                    " more: what it took could not be given back. Restore the configuration, then try again."
                )
            if before[stage] != now[stage]:
                logger.warning("The configuration has changed: the steps were %s; now %s.", before[stage], now[stage])
                pivot = next((spec.name for spec in specs(steps) if spec.pivot), None)
                units = book.states(stage).values()
                states[stage] = [advance.translate(state, before[stage], now[stage], pivot) for state in units]
        book.rewrite(states, {**options, "steps": now, "owning": today["owning"]})

    def _close(self, book: Journal, cluster: Cluster, way_out: WayOut) -> None:
        """Record what the operator has decided about single units, and say so."""
        if not way_out:
            return
        steps = {stage: specs(its) for stage, its in self._procedure.steps(cluster).items()}
        way_out = replace(way_out, operator=self._operator)
        for line in carry_out(way_out, cluster, book, steps, self._procedure.left_on):
            logger.warning("%s", line)

    @property
    def _operator(self) -> str:
        return f"{self._spicerack.username}@{self._spicerack.current_hostname}"

    def _ask(self, proposal: Proposal) -> None:
        if not sys.stdout.isatty():
            raise Refused("There is no terminal to ask on; use --unattended to start without a question.")
        asked = plan.worst(proposal.plan.findings) is Level.ASK
        names = [state.unit.name for states in proposal.states.values() for state in states]
        first = next((name for name in names if name in proposal.cluster.hosts), "")
        begin = f"Start with {first}" if self._procedure.needs_api else "Start"
        try:
            ask_confirmation(f"{begin}{' in spite of the findings marked [ask]' if asked else ''}?")
        except WmflibError as error:
            raise Refused(f"Not started: {error or 'the answer was no'}.") from error

    def _carry_out(self, book: Journal, cluster: Cluster, lock: ClusterLock, resumed_with: WayOut | None = None) -> int:
        if resumed_with is not None:
            self._adapt(book, cluster)
            self._close(book, cluster, resumed_with)
        self._console.print(f"Run {cluster.run.id}; its journal and report are in {book.folder}.", soft_wrap=True)
        self.run = cluster.run.id
        try:
            with self._procedure.work(cluster, book, lock) as procedure:
                book.note("session", "")
                book.set_status("running")
                incomplete = self._run(procedure, book, cluster)
        except Interrupted as error:
            book.set_status("interrupted")
            with suppress(OSError):  # The terminal may be what went away.
                self._report(book)
            logger.error("Interrupted: %s.", error)
            return INTERRUPTED
        except (Refused, folders.JournalError):
            raise
        except FleetError as error:  # An edge that the session itself needs.
            book.set_status("stopped")
            self._report(book)
            logger.error("The run cannot go on: %s", error)
            return INTERRUPTED
        book.set_status("stopped" if incomplete else "done")
        book.note("end", incomplete)
        self._report(book)
        if incomplete:
            logger.error("Not all is done: %s.", incomplete)
            return INTERRUPTED if incomplete == STOPPED_BY_OPERATOR else INCOMPLETE
        return DONE

    def _run(self, procedure: Executable, book: Journal, cluster: Cluster) -> str:
        while True:
            with self._edges.view() as view:
                incomplete = self._runner(procedure, book, view, cluster).run()
            if incomplete or not isinstance(procedure, Execution):
                return incomplete
            question = procedure.question()
            if question is None:
                return ""
            if problem := self._decide(question):
                procedure.declined()
                with self._edges.view() as view:
                    self._runner(procedure, book, view, cluster).run()
                return problem
            procedure.answered()

    def _runner(self, procedure: Executable, book: Journal, view: View, cluster: Cluster) -> Runner:
        edges = self._edges
        return Runner(procedure, book, view, cluster.cancel, edges.events, clock=edges.clock, threads=edges.threads)

    def _decide(self, question: Question) -> str:
        """Ask an operator in the middle of a run; return why it does not go on, nothing if it does."""
        self._console.print(f"\n{question.text}", markup=False, soft_wrap=True)
        if self._unattended or not sys.stdout.isatty():
            return (
                f"an operator has to type {question.answer!r} to go on; resume it on a terminal, without --unattended"
            )

        def check(answer: str) -> None:
            if answer != question.answer:
                raise InputError(f"{answer!r} is not {question.answer!r}")

        try:
            ask_input(
                f'Type "{question.answer}" to go on; anything else, three times, stops here',
                choices=(),
                validator=check,
            )
        except (WmflibError, KeyboardInterrupt, EOFError):
            return f"the operator did not type {question.answer!r}"
        return ""

    def _report(self, book: Journal) -> None:
        record = journal.read(book.folder)
        data = report.summary(record, report.next_commands(record))
        report.render(data, self._console)
        try:
            path = report.write_json(book.folder, data)
        except OSError as error:
            logger.error("The report cannot be written to %s: %s.", book.folder, folders.why(error))
        else:
            self._console.print(f"Report: {path}", soft_wrap=True)

    def _command(self, option: str, run_id: str) -> str:
        return shlex.join(["cookbook", self._procedure.name, option, run_id])

    def _describe(self, run_id: str, verb: str, cluster_name: str | None, way_out: WayOut) -> int:
        folder = folders.run_folder(self._config.state_dir, run_id)
        record = journal.read(folder)
        self._check_open(record.info, record.status, verb, cluster_name)
        if problem := folders.problem(folder):
            raise Refused(f"{problem}.")
        if record.status == "running":
            raise Refused(f"Run {run_id} is being worked on by another process on this host.")
        if not self._procedure.needs_api:
            return self._outline(run_id, verb, cluster_name)
        report.render(report.summary(record, {}), self._console)
        gone = set()
        if way_out:
            gone = self._describe_way_out(record, replace(way_out, operator=self._operator))
        states = [state for _, state in record.work if state.unit.name not in gone]
        touched = [state for state in states if state.status in (Status.RUNNING, Status.HELD)]
        if verb == "resume":
            left = [state for state in states if state.status not in (Status.DONE, Status.GIVEN_UP)]
            self._console.print(f"Dry run: a real run would go on with {_names(left)}.")
        else:
            self._console.print(f"Dry run: a real run would give back {_names(touched)}.")
        return DONE

    def _describe_way_out(self, record: RunRecord, way_out: WayOut) -> set[str]:
        """Print what would be recorded of single units; return those that would be given up."""
        run, config = record.info, self._config.cluster(record.info.cluster)
        with self._connect(run, config, run.options["hosts"]) as cluster:
            steps = {stage: specs(its) for stage, its in self._procedure.steps(cluster).items()}
        states = {stage: {state.unit.name: state for state in record.units.get(stage, ())} for stage in steps}
        found = changes(way_out, states, steps, cluster.hosts)
        for _, state in found:
            what = "be given up" if state.given_up else f"have accepted: {', '.join(state.accepted)}"
            self._console.print(f"Dry run: {state.unit.name} would {what}.", markup=False)
        return {state.unit.name for _, state in found if state.given_up}

    def _outline(self, run_id: str, verb: str, cluster_name: str | None) -> int:
        """Print what a real run would do, where that depends on how far the run has come."""
        with ExitStack() as stack:
            book, cluster = stack.enter_context(self._reopened(run_id, verb, cluster_name))
            if verb == "abort":
                procedure = self._procedure.abort(cluster, book)
            else:
                procedure = stack.enter_context(self._procedure.work(cluster, book, self._lock(cluster)))
            if isinstance(procedure, Execution):
                for line in procedure.outline():
                    self._console.print(line, markup=False, soft_wrap=True)
        self._console.print("Dry run: this is what a real run would do. Nothing was touched.")
        return DONE

    def _check_open(self, info: RunInfo, status: str, verb: str, cluster_name: str | None) -> None:
        if cluster_name not in (None, info.cluster):
            raise Refused(f"Run {info.id} is on the cluster {info.cluster}, not on {cluster_name}.")
        if info.procedure != self._procedure.name:
            raise Refused(f"Run {info.id} is one of {info.procedure}: {verb} it with that cookbook.")
        if status in folders.OVER:
            raise Refused(f"Run {info.id} is {status} already; there is nothing to {verb}.")

    @contextmanager
    def _reopened(self, run_id: str, verb: str, cluster_name: str | None) -> Iterator[tuple[Journal, Cluster]]:
        with closing(self._edges.journal.open(self._config.state_dir, run_id, self._edges.clock)) as book:
            info = book.info()
            self._check_open(info, book.status(), verb, cluster_name)
            config = self._config.cluster(info.cluster)
            with self._connect(info, config, info.options["hosts"]) as cluster:
                yield book, cluster

    @contextmanager
    def _connect(self, info: RunInfo, config: ClusterConfig, hosts: Mapping[str, str]) -> Iterator[Cluster]:
        edges = self._edges
        remote, api = edges.remote(), edges.api(self._procedure.kubeconfig(config))
        with ExitStack() as stack:
            nodes: NodeView = (
                stack.enter_context(self._watch(api, config, remote)) if self._procedure.needs_api else NoNodes()
            )
            routers = stack.enter_context(edges.routers(config.bgp)) if config.bgp else None
            yield Cluster(
                info.cluster,
                config,
                api,
                nodes,
                remote,
                edges.silences(config.alerts),
                hosts,
                info,
                routers,
                clock=edges.clock,
                threads=edges.threads,
                follow=edges.follow,
            )

    def _watch(self, api: Api, config: ClusterConfig, remote: Remote) -> AbstractContextManager[NodeView]:
        try:
            return self._edges.nodes(api, lambda: self._edges.events.put(None))
        except KubernetesError as error:
            raise Refused(f"{error}{_of_etcd(config, remote)}") from error

    def _lock(self, cluster: Cluster) -> ClusterLock:
        run = cluster.run
        holder = Holder(run.id, self._spicerack.current_hostname, run.operator, run.reason)
        return self._edges.lock(cluster, holder, lambda: self._edges.events.put(None))

    def _locked(self, cluster: Cluster, folder: Path | None) -> AbstractContextManager[ClusterLock]:
        """Hold the cluster for as long as the context lasts; ``folder`` is that of a run that is gone on with."""
        if self._procedure.is_offline(cluster, folder):
            return self._holding(cluster, lambda lock: lock.suspend())
        patient = not self._procedure.needs_api and folder is not None
        return self._holding(cluster, lambda lock: lock.acquire(patient=patient))

    def _held(self, cluster: Cluster) -> AbstractContextManager[ClusterLock]:
        """Hold the cluster while it is given back: whenever there is an API on the way, if it needs none."""
        patient = not self._procedure.needs_api
        return self._holding(cluster, lambda lock: lock.acquire(patient=patient))

    @contextmanager
    def _holding(self, cluster: Cluster, take: Callable[[ClusterLock], None]) -> Iterator[ClusterLock]:
        lock = self._lock(cluster)
        try:
            # Two that start at the same moment are kept apart by spicerack's lock; see fleet.adapters.k8s.lock.
            with self._edges.start_lock(cluster.name):
                take(lock)
        except locks.ERRORS as error:
            raise Refused(locks.problem(error)) from error
        try:
            yield lock
        finally:
            lock.release()


def _of_etcd(config: ClusterConfig, remote: Remote) -> str:
    """Return what is wrong with the etcd behind an API that does not answer: the first that is looked for."""
    if config.etcd is None:
        return ""
    try:
        problem = health.problem(members.view(remote, remote.query(config.etcd.hosts), config.etcd))
    except FleetError as error:
        problem = str(error)
    return f"\nThe etcd behind it: {problem}." if problem else "\nThe etcd behind it is well."


def _names(states: Sequence[UnitState]) -> str:
    """Return the names of units, each once."""
    return ", ".join(dict.fromkeys(state.unit.name for state in states)) or "nothing"
