"""What the cookbooks share: how errors are told, the arguments of runs, and the way to a session."""

import argparse
import logging
import sqlite3
from abc import abstractmethod
from typing import Any, Literal

from spicerack import Spicerack
from spicerack.cookbook import ArgparseFormatter, CookbookBase, CookbookRunnerBase, LockArgs

from fleet import arguments, output
from fleet.adapters import locks
from fleet.config.loading import load
from fleet.config.model import Config
from fleet.errors import FleetError
from fleet.paths import default_path
from fleet.procedures.nodes import NodeProcedure, Selection
from fleet.procedures.procedure import Procedure
from fleet.procedures.roll_hosts import Selection as HostSelection
from fleet.procedures.way_out import WayOut
from fleet.session import INTERRUPTED, REFUSED, Request, Session

logger = logging.getLogger(__name__)


class FleetCookbook(CookbookBase):
    """Base of all cookbooks: how their arguments are read, and what becomes of output that nobody can take."""

    reason: bool | None = None
    """Whether there is a reason and a ticket, and the reason is required."""

    def __init__(self, spicerack: Spicerack) -> None:
        """Guard the output: this is before spicerack's log handlers are made."""
        super().__init__(spicerack)
        output.guard()

    def argument_parser(self) -> argparse.ArgumentParser:
        """Return the parser, with a ticket and a reason if the cookbook has them."""
        parser = arguments.Parser(description=self.__doc__, formatter_class=ArgparseFormatter)
        if self.reason is not None:
            parser.add_argument(
                "-t",
                "--task-id",
                type=arguments.ticket,
                default="",
                help="The ticket, such as T12345, if there is one.",
            )
            parser.add_argument(
                "-r",
                "--reason",
                type=arguments.reason,
                required=self.reason,
                help="Why; the user and this host are added.",
            )
        return parser


class MaintenanceCookbook(FleetCookbook):
    """Base of the cookbooks whose work is a run: planned, journaled, resumed, aborted."""

    reason = False  # Required for a new run only; see _request.
    changeable: frozenset[str] = frozenset()
    """The arguments of a new run that may be given anew when it is resumed or aborted."""
    scope: Literal["cluster", "group"] = "cluster"
    """What is maintained as a whole."""

    def argument_parser(self) -> argparse.ArgumentParser:
        """Return the arguments that all runs have."""
        parser = super().argument_parser()
        parser.add_argument(
            f"--{self.scope}",
            dest="scope",
            metavar=self.scope.upper(),
            type=arguments.scope,
            help=f"The {self.scope}, as the configuration names it.",
        )
        parser.add_argument("--unattended", action="store_true", help="Never ask; take the safe answer instead.")
        again = parser.add_mutually_exclusive_group()
        again.add_argument(
            "--resume", type=arguments.run_id, metavar="RUN", help="Resume a run; held targets are tried again."
        )
        again.add_argument(
            "--abort", type=arguments.run_id, metavar="RUN", help="Give back what a run has in flight or held."
        )
        closing = parser.add_argument_group("a way out, beside --resume or --abort")
        closing.add_argument(
            "--give-up",
            type=arguments.hosts,
            default=(),
            metavar="TARGETS",
            help="Close these as they are, and say why with -r REASON: worker3,worker[5-6]. The rest continues.",
        )
        closing.add_argument(
            "--accept",
            type=arguments.accepted,
            action="append",
            default=[],
            metavar="TARGET:PROOF",
            help="Take your word, given with -r REASON, for one proof of a target: worker3:alerts. May be repeated.",
        )
        self.add_arguments(parser.add_argument_group("a new run"))
        return parser

    @abstractmethod
    def add_arguments(self, parser: "argparse._ArgumentGroup") -> None:
        """Add the arguments that say what a new run is about."""

    @abstractmethod
    def procedure(self, args: argparse.Namespace) -> Procedure[Any]:
        """Return what is done, and to what."""

    def options(self, args: argparse.Namespace) -> dict[str, Any]:  # noqa: ARG002
        """Return what the steps depend on beside the configuration; it is kept with the run."""
        return {}

    def get_runner(self, args: argparse.Namespace) -> "RunRunner":
        """Return what carries it out."""
        return RunRunner(args, self.spicerack, self)


class NodeCookbook(MaintenanceCookbook):
    """Base of the cookbooks that take nodes through steps."""

    procedure_type: type[NodeProcedure]
    """What is done to each node."""

    def add_arguments(self, parser: "argparse._ArgumentGroup") -> None:
        """Add the arguments that all cookbooks of node maintenance have."""
        parser.add_argument(
            "--query", type=arguments.text, help="Hosts to maintain, a Cumin query; default: all workers."
        )
        parser.add_argument(
            "--exclude",
            type=arguments.text,
            metavar="NODES",
            help="Hosts to leave out: worker1,worker[3-5].",
        )
        _add_limits(parser, "Nodes")

    def procedure(self, args: argparse.Namespace) -> Procedure[Any]:
        """Return what is done, and to which nodes."""
        selection = Selection(
            query=args.query,
            exclude=args.exclude or "",
            max_unavailable=args.max_unavailable,
            max_failed=args.max_failed,
            only_if_required=getattr(args, "only_if_required", False),
        )
        return self.procedure_type(selection)


class GroupCookbook(MaintenanceCookbook):
    """Base of the cookbooks that take the hosts of a group through steps."""

    scope = "group"

    def add_arguments(self, parser: "argparse._ArgumentGroup") -> None:
        """Add the arguments that all cookbooks of groups have."""
        parser.add_argument(
            "--query", type=arguments.text, help="Hosts of the group to maintain, a Cumin query; default: all."
        )
        parser.add_argument(
            "--exclude", type=arguments.hosts, default=(), metavar="HOSTS", help="Hosts to leave out: web1,web[3-5]."
        )
        parser.add_argument(
            "--before",
            type=arguments.text,
            metavar="COMMAND",
            help="Succeeds on a host from which something may be taken; it only looks. Default: configuration.",
        )
        parser.add_argument(
            "--after",
            type=arguments.text,
            metavar="COMMAND",
            help="Succeeds on a host that serves; it only looks. Default: configuration.",
        )
        _add_limits(parser, "Hosts")

    def selection(self, args: argparse.Namespace) -> HostSelection:
        """Return which hosts an operator asks for, and how many at once."""
        return HostSelection(
            query=args.query,
            exclude=tuple(args.exclude),
            max_unavailable=args.max_unavailable,
            max_failed=args.max_failed,
            before=args.before,
            after=args.after,
        )


def _add_limits(parser: "argparse._ArgumentGroup", what: str) -> None:
    parser.add_argument(
        "--max-unavailable",
        type=arguments.amount,
        metavar="N|N%",
        help=f"{what} unavailable at once; default: configuration.",
    )
    parser.add_argument(
        "--max-failed",
        type=arguments.whole_number,
        metavar="N",
        help=f"Failed {what.lower()} to tolerate; default: configuration.",
    )


class FleetRunner(CookbookRunnerBase):
    """Base of what carries cookbooks out: an error is told as a sentence, never as a traceback."""

    def __init__(self, args: argparse.Namespace, spicerack: Spicerack) -> None:
        """Keep what is needed; everything that can go wrong happens in :meth:`act`."""
        self._args = args
        self._spicerack = spicerack

    @property
    def counted(self) -> LockArgs:
        """How spicerack counts those that run at the same time."""
        return super().lock_args

    @property
    def lock_args(self) -> LockArgs:
        """The same; spicerack asks for it right before it takes its lock, and nothing catches what it raises then."""
        try:
            locks.check(self._spicerack)
        except FleetError as error:
            logger.error("%s", error)
            raise SystemExit(REFUSED) from error
        return self.counted

    @abstractmethod
    def act(self) -> int:
        """Do the work; return the exit code.

        Raises:
            FleetError: nothing was touched.
        """

    def run(self) -> int:
        """Do the work.

        Returns:
            0 if all is done, 1 if something is left, 2 if nothing was touched, 3 if it was interrupted, or if not all
            that was printed could be written.
        """
        code = self._run()
        if why := output.lost():
            logger.error("What was printed could not be written: %s. %s", why, self.done_anyway)
            return INTERRUPTED
        return code

    @property
    def done_anyway(self) -> str:
        """What was done although not all that was printed could be written."""
        return "Nothing was changed."

    def _run(self) -> int:
        try:
            return self.act()
        except output.OutputLost:
            return INTERRUPTED  # It is told in the end, once.
        except FleetError as error:
            for line in str(error).splitlines():
                logger.error("%s", line)
            return REFUSED
        except (OSError, sqlite3.Error) as error:
            logger.debug("The run's folder", exc_info=True)
            logger.error("The run's folder cannot be read or written: %s. See `fleet runs list`.", error)
            return INTERRUPTED


class RunRunner(FleetRunner):
    """Starts, resumes or aborts a run."""

    def __init__(self, args: argparse.Namespace, spicerack: Spicerack, cookbook: MaintenanceCookbook) -> None:
        """Keep what is needed."""
        super().__init__(args, spicerack)
        self._cookbook = cookbook
        self._started: Session | None = None

    @property
    def runtime_description(self) -> str:
        """The line of the server admin log."""
        args = self._args
        if (run := _run_id(args)) is not None:
            return f"{'abort' if args.resume is None else 'resume'} {run}{_way_out(args).describe()}"
        task = f" - {args.task_id}" if args.task_id else ""
        return f"on {args.scope}: {args.reason or 'no reason given'}{task}"

    @property
    def counted(self) -> LockArgs:
        """Runs are counted only: the scope's lock is taken, and kept, by the session."""
        return LockArgs(suffix=self._args.scope or "", concurrency=0, ttl=3600)

    def act(self) -> int:
        """Start, resume or abort a run."""
        args = self._args
        settings = load(default_path(self._spicerack.config_dir))
        if (run := _run_id(args)) is not None:
            self._check_alone()
            way_out = _way_out(args)
            if way_out.accept and not way_out.reason:
                raise FleetError("--accept needs -r/--reason: it is recorded with your name.")
            session = self._session(settings)
            again = session.abort if args.resume is None else session.resume
            return again(run, args.scope, way_out)
        if args.give_up or args.accept:
            raise FleetError("--give-up and --accept are about a run that there is: they go with --resume or --abort.")
        request = _request(args, self._cookbook)
        return self._session(settings).start(request)

    @property
    def done_anyway(self) -> str:
        """The run that was carried out nevertheless, if there is one."""
        run = self._started.run if self._started else ""
        return f"The run went on without that: see `fleet runs show {run}`." if run else "Nothing was changed."

    def _session(self, settings: Config) -> Session:
        procedure = self._cookbook.procedure(self._args)
        self._started = Session(self._spicerack, settings, procedure, unattended=self._args.unattended)
        return self._started

    def _check_alone(self) -> None:
        """Refuse what says what a new run is about beside a run that has its own."""
        group = argparse.ArgumentParser().add_argument_group()
        self._cookbook.add_arguments(group)
        given = [
            action.option_strings[0]
            for action in group._group_actions
            if getattr(self._args, action.dest) != action.default and action.dest not in self._cookbook.changeable
        ]
        if given:
            raise FleetError(f"A run is resumed as it was started: leave out {', '.join(given)}.")


def _run_id(args: argparse.Namespace) -> str | None:
    """Return the run that is to be resumed or aborted; an empty string is one that was not set, and no new run."""
    run: str | None = args.abort if args.resume is None else args.resume
    return run


def _way_out(args: argparse.Namespace) -> WayOut:
    return WayOut(reason=args.reason or "", give_up=tuple(args.give_up), accept=tuple(args.accept))


def _request(args: argparse.Namespace, cookbook: MaintenanceCookbook) -> Request:
    missing = [
        name
        for name, value in ((f"--{cookbook.scope}", args.scope), ("-r/--reason", args.reason))
        if not (value or "").strip()
    ]
    if missing:
        raise FleetError(f"A new run needs {' and '.join(missing)}.")
    return Request(args.scope, args.reason, args.task_id, cookbook.options(args))
