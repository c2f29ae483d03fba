"""A session: one process that starts, resumes or aborts a run.

It brings the edges together (configuration, API, hosts, routers, alerts, journal, lock), shows the plan, asks once,
lets the engine work and reports. What is maintained, and how, is the business of a kind of maintenance.
"""

import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from spicerack import Spicerack
from wmflib.exceptions import WmflibError
from wmflib.interactive import InputError, ask_confirmation, ask_input

from fleet import output
from fleet.config.model import Config
from fleet.connecting import Scopes
from fleet.edges import Edges, SystemEdges
from fleet.engine import advance, folders, journal, lost, plan, report
from fleet.engine.declaration import Question, specs
from fleet.engine.executor import ABORT, Execution
from fleet.engine.findings import Level
from fleet.engine.journal import Journal, RunInfo, RunRecord
from fleet.engine.model import Status, TargetState
from fleet.engine.protocols import Lock, View
from fleet.engine.protocols import Procedure as Executable
from fleet.engine.runner import STOPPED_BY_OPERATOR, Interrupted, Runner
from fleet.errors import FleetError
from fleet.procedures.procedure import Nothing, Procedure, Proposal, Refused
from fleet.procedures.way_out import NOTHING, WayOut, carry_out, changes
from fleet.steps.scope import Scope

logger = logging.getLogger(__name__)

DONE, INCOMPLETE, REFUSED, INTERRUPTED = 0, 1, 2, 3
"""Exit codes: all done; targets are held or left; nothing was touched; the run was told to leave."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an operator asks for in a new run, whatever is maintained.

    Attributes:
        scope: the name of the cluster or the group.
        reason: why.
        task: the ticket, or empty.
        options: what the steps depend on beside the configuration; plain JSON values, kept with the run.
    """

    scope: str
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
        procedure: Procedure[Any],
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

    @property
    def _scopes(self) -> Scopes:
        return Scopes(self._edges, self._config, self._procedure, host=self._spicerack.current_hostname)

    def start(self, request: Request) -> int:
        """Plan, ask and carry out a new run; in dry-run mode only plan.

        Returns:
            An exit code.

        Raises:
            FleetError: bad input, or an edge that cannot be reached; nothing was touched.
        """
        self._procedure.config(self._config, request.scope)  # There is such a scope.
        now = datetime.fromtimestamp(self._edges.clock.time(), UTC)
        info = RunInfo(
            id=journal.new_run_id(self._procedure.name, request.scope, now),
            procedure=self._procedure.name,
            cluster=request.scope,
            operator=self._operator,
            reason=request.reason,
            task=request.task,
            created=now.timestamp(),
            options=request.options,
        )
        with self._scopes.connect(info, {}) as bare:
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
            scope = self._with_steps(proposal.scope)
            with (
                self._scopes.locked(scope, None) as lock,
                closing(
                    self._edges.journal.create(self._config.state_dir, scope.run, proposal.states, self._edges.clock)
                ) as book,
            ):
                return self._written(book, scope.run.id, partial(self._carry_out, book, scope, lock))

    def resume(self, run_id: str, scope_name: str | None, way_out: WayOut = NOTHING) -> int:
        """Resume a run that was interrupted or stopped; held targets are tried again.

        Args:
            run_id: the run.
            scope_name: the cluster or group that the operator believes it to be on, if they said so.
            way_out: what the operator has decided about single targets.

        Returns:
            An exit code.

        Raises:
            FleetError: there is no such run, or it cannot continue.
        """
        if self._spicerack.dry_run:
            return self._describe(run_id, "resume", scope_name, way_out)
        with (
            self._reopened(run_id, "resume", scope_name) as (book, scope),
            self._scopes.locked(scope, book.folder) as lock,
        ):
            return self._written(book, run_id, partial(self._carry_out, book, scope, lock, way_out))

    def abort(self, run_id: str, scope_name: str | None, way_out: WayOut = NOTHING) -> int:
        """Give back what a run has in flight or held, each target only if it is proven to be well.

        Args:
            run_id: the run.
            scope_name: the cluster or group that the operator believes it to be on, if they said so.
            way_out: what the operator has decided about single targets.

        Returns:
            An exit code.

        Raises:
            FleetError: there is no such run, or it cannot be aborted.
        """
        if self._spicerack.dry_run:
            return self._describe(run_id, "abort", scope_name, way_out)
        with self._reopened(run_id, "abort", scope_name) as (book, scope), self._scopes.held(scope):
            return self._written(book, run_id, partial(self._give_back, book, scope, way_out), only_abort=True)

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

    def _give_back(self, book: Journal, scope: Scope, way_out: WayOut) -> int:
        run_id = scope.run.id
        self._adapt(book, scope)
        self._close(book, scope, way_out)
        procedure = self._procedure.abort(scope, book)
        book.note("session", "abort")
        self.run = run_id
        try:
            incomplete = self._run(procedure, book, scope)
        except folders.JournalError:
            raise
        except Interrupted as error:
            logger.error("Interrupted: %s. Continue with: %s", error, self._command("--abort", run_id))
            return INTERRUPTED
        except FleetError as error:  # An edge that the session itself needs.
            logger.error("The abort cannot continue: %s. Mend that, then: %s", error, self._command("--abort", run_id))
            return INTERRUPTED
        # Not those of an earlier abort: what it could not give back may have been done since.
        now = {(stage.name, target.name) for stage in procedure.stages for target in stage.targets}
        targets = [
            state
            for stage, states in journal.read(book.folder).targets.items()
            if stage.startswith(ABORT)
            for state in states
            if (stage, state.target.name) in now
        ]
        if incomplete == STOPPED_BY_OPERATOR:
            logger.error("Interrupted by the operator. Continue with: %s", self._command("--abort", run_id))
            return INTERRUPTED
        if incomplete:
            for state in targets:
                if state.status is not Status.DONE:
                    logger.error("%s stays out of service and silenced: %s", state.target.name, state.detail)
            logger.error(
                "Not all was given back: %s. Mend that, then: %s", incomplete, self._command("--abort", run_id)
            )
            return INCOMPLETE
        book.set_status("aborted")
        self._console.print(f"Run {run_id} is aborted; given back: {_names(targets)}.")
        return DONE

    def _with_steps(self, scope: Scope) -> Scope:
        """Return the cluster of a run that remembers the names of its steps, and which of them take and give back."""
        stages = self._procedure.stages(scope)
        names = {stage.key: [step.spec.name for step in stage.steps] for stage in stages}
        owning = {stage.key: stage.owning for stage in stages}
        options = {**scope.run.options, "steps": names, "owning": owning}
        return replace(scope, run=replace(scope.run, options=options))

    def _adapt(self, book: Journal, scope: Scope) -> None:
        """Make the journal fit the steps of today: the configuration may have changed since the run was started."""
        options = book.info().options
        before = options.get("steps")
        if not isinstance(before, Mapping):
            raise Refused(
                f"Run {scope.run.id} was started by an older version, which does not say what its steps were."
            )
        today = self._with_steps(scope).run.options
        now = today["steps"]
        if before == now:
            return
        if list(before) != list(now):
            raise Refused(
                f"Run {scope.run.id} was started with {list(before)}, and the configuration now has {list(now)}."
            )
        states = {}
        for stage, steps in self._procedure.steps(scope).items():
            # An older version did not say which: each may be one of them.
            owning = options.get("owning", before)[stage]
            lost = [name for name in before[stage] if name in owning and name not in now[stage]]
            if lost and any(state.facts for state in book.states(stage).values() if state.status is not Status.DONE):
                raise Refused(
                    f"Run {scope.run.id} has started with the steps {', '.join(lost)}, which the configuration has no"
                    " more: what it took could not be given back. Restore the configuration, then try again."
                )
            if before[stage] != now[stage]:
                logger.warning("The configuration has changed: the steps were %s; now %s.", before[stage], now[stage])
                pivot = next((spec.name for spec in specs(steps) if spec.pivot), None)
                targets = book.states(stage).values()
                states[stage] = [advance.translate(state, before[stage], now[stage], pivot) for state in targets]
        book.rewrite(states, {**options, "steps": now, "owning": today["owning"]})

    def _close(self, book: Journal, scope: Scope, way_out: WayOut) -> None:
        """Record what the operator has decided about single targets, and say so."""
        if not way_out:
            return
        steps = {stage: specs(its) for stage, its in self._procedure.steps(scope).items()}
        way_out = replace(way_out, operator=self._operator)
        for line in carry_out(way_out, scope.hosts, book, steps, partial(self._procedure.left_on, scope)):
            logger.warning("%s", line)

    @property
    def _operator(self) -> str:
        return f"{self._spicerack.username}@{self._spicerack.current_hostname}"

    def _ask(self, proposal: Proposal) -> None:
        if not sys.stdout.isatty():
            raise Refused("There is no terminal to ask on; use --unattended to start without a question.")
        asked = plan.worst(proposal.plan.findings) is Level.ASK
        names = [state.target.name for states in proposal.states.values() for state in states]
        first = next((name for name in names if name in proposal.scope.hosts), "")
        begin = f"Start with {first}" if self._procedure.needs_api else "Start"
        try:
            ask_confirmation(f"{begin}{' in spite of the findings marked [ask]' if asked else ''}?")
        except WmflibError as error:
            raise Refused(f"Not started: {error or 'the answer was no'}.") from error

    def _carry_out(self, book: Journal, scope: Scope, lock: Lock, resumed_with: WayOut | None = None) -> int:
        if resumed_with is not None:
            self._adapt(book, scope)
            self._close(book, scope, resumed_with)
        self._console.print(f"Run {scope.run.id}; its journal and report are in {book.folder}.", soft_wrap=True)
        self.run = scope.run.id
        try:
            with self._procedure.work(scope, book, lock) as procedure:
                book.note("session", "")
                book.set_status("running")
                incomplete = self._run(procedure, book, scope)
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
            logger.error("The run cannot continue: %s", error)
            return INTERRUPTED
        book.set_status("stopped" if incomplete else "done")
        book.note("end", incomplete)
        self._report(book)
        if incomplete:
            logger.error("Not all is done: %s.", incomplete)
            return INTERRUPTED if incomplete == STOPPED_BY_OPERATOR else INCOMPLETE
        return DONE

    def _run(self, procedure: Executable, book: Journal, scope: Scope) -> str:
        while True:
            with self._edges.view() as view:
                incomplete = self._runner(procedure, book, view, scope).run()
            if incomplete or not isinstance(procedure, Execution):
                return incomplete
            question = procedure.question()
            if question is None:
                return ""
            if problem := self._decide(question):
                procedure.declined()
                with self._edges.view() as view:
                    self._runner(procedure, book, view, scope).run()
                return problem
            procedure.answered()

    def _runner(self, procedure: Executable, book: Journal, view: View, scope: Scope) -> Runner:
        edges = self._edges
        return Runner(procedure, book, view, scope.cancel, edges.events, clock=edges.clock, threads=edges.threads)

    def _decide(self, question: Question) -> str:
        """Ask an operator in the middle of a run; return why it does not continue, nothing if it does."""
        self._console.print(f"\n{question.text}", markup=False, soft_wrap=True)
        if self._unattended or not sys.stdout.isatty():
            return f"an operator has to type {question.answer!r}: resume it on a terminal, without --unattended"

        def check(answer: str) -> None:
            if answer != question.answer:
                raise InputError(f"{answer!r} is not {question.answer!r}")

        try:
            ask_input(
                f'Type "{question.answer}" to continue; anything else, three times, stops here',
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

    def _describe(self, run_id: str, verb: str, scope_name: str | None, way_out: WayOut) -> int:
        folder = folders.run_folder(self._config.state_dir, run_id)
        record = journal.read(folder)
        self._check_open(record.info, record.status, verb, scope_name)
        if problem := folders.problem(folder):
            raise Refused(f"{problem}.")
        if record.status == "running":
            raise Refused(f"Run {run_id} is being worked on by another process on this host.")
        if not self._procedure.needs_api:
            return self._outline(run_id, verb, scope_name)
        report.render(report.summary(record, {}), self._console)
        gone = set()
        if way_out:
            gone = self._describe_way_out(record, replace(way_out, operator=self._operator))
        states = [state for _, state in record.work if state.target.name not in gone]
        touched = [state for state in states if state.status in (Status.RUNNING, Status.HELD)]
        if verb == "resume":
            left = [state for state in states if state.status not in (Status.DONE, Status.GIVEN_UP)]
            self._console.print(f"Dry run: a real run would continue with {_names(left)}.")
        else:
            self._console.print(f"Dry run: a real run would give back {_names(touched)}.")
        return DONE

    def _describe_way_out(self, record: RunRecord, way_out: WayOut) -> set[str]:
        """Print what would be recorded of single targets; return those that would be given up."""
        run = record.info
        with self._scopes.connect(run, run.options["hosts"]) as scope:
            steps = {stage: specs(its) for stage, its in self._procedure.steps(scope).items()}
        states = {stage: {state.target.name: state for state in record.targets.get(stage, ())} for stage in steps}
        found = changes(way_out, states, steps, scope.hosts)
        for _, state in found:
            what = "be given up" if state.given_up else f"have accepted: {', '.join(state.accepted)}"
            self._console.print(f"Dry run: {state.target.name} would {what}.", markup=False)
        return {state.target.name for _, state in found if state.given_up}

    def _outline(self, run_id: str, verb: str, scope_name: str | None) -> int:
        """Print what a real run would do, where that depends on how far the run has come."""
        with ExitStack() as stack:
            book, scope = stack.enter_context(self._reopened(run_id, verb, scope_name))
            if verb == "abort":
                procedure = self._procedure.abort(scope, book)
            else:
                procedure = stack.enter_context(self._procedure.work(scope, book, self._scopes.lock(scope)))
            if isinstance(procedure, Execution):
                for line in procedure.outline():
                    self._console.print(line, markup=False, soft_wrap=True)
        self._console.print("Dry run: this is what a real run would do. Nothing was touched.")
        return DONE

    def _check_open(self, info: RunInfo, status: str, verb: str, scope_name: str | None) -> None:
        if scope_name not in (None, info.cluster):
            raise Refused(f"Run {info.id} is on {info.cluster}, not on {scope_name}.")
        if info.procedure != self._procedure.name:
            raise Refused(f"Run {info.id} is one of {info.procedure}: {verb} it with that cookbook.")
        if status in folders.OVER:
            raise Refused(f"Run {info.id} is {status} already; there is nothing to {verb}.")

    @contextmanager
    def _reopened(self, run_id: str, verb: str, scope_name: str | None) -> Iterator[tuple[Journal, Scope]]:
        with closing(self._edges.journal.open(self._config.state_dir, run_id, self._edges.clock)) as book:
            info = book.info()
            self._check_open(info, book.status(), verb, scope_name)
            with self._scopes.connect(info, info.options["hosts"]) as scope:
                yield book, scope


def _names(states: Sequence[TargetState]) -> str:
    """Return the names of targets, each once."""
    return ", ".join(dict.fromkeys(state.target.name for state in states)) or "nothing"
