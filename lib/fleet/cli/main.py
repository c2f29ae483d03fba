"""The command ``fleet``: what an operator asks beside the cookbooks."""

# What takes long to import (spicerack, pydantic, rich) is imported by the subcommand that needs it.

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fleet import arguments, output
from fleet.errors import FleetError
from fleet.paths import default_path
from fleet.text import count


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; by default those of the process.

    Returns:
        0 if all is well, 1 if not, 3 if what was printed could not be written; argparse ends the process with 2 for
        wrong usage.
    """
    output.guard()
    logging.getLogger().addHandler(logging.NullHandler())  # What libraries log is no message of this command.
    args = parser().parse_args(argv)
    try:
        code = int(args.run(args))
    except FleetError as error:
        print(error, file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        return 130
    if why := output.lost():
        print(f"What was printed could not be written: {why}.", file=sys.stderr)
        return arguments.LOST
    return code


def parser() -> argparse.ArgumentParser:
    """Return the parser; every subcommand sets ``run``, which takes the arguments and returns the exit code."""
    root = arguments.Parser(
        prog="fleet",
        description=__doc__,
        epilog="Exit codes: 0 all is well; 1 something is not; 2 wrong usage; 3 what was printed could not be written.",
    )
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    _add_config(commands)
    _add_runs(commands)
    return root


def _add_config(commands: "argparse._SubParsersAction[arguments.Parser]") -> None:
    group = commands.add_parser("config", help="the configuration").add_subparsers(metavar="COMMAND", required=True)
    check = group.add_parser(
        "check",
        help="name every mistake in the configuration",
        description="Read this project's configuration, the files that it names, and spicerack's, Cumin's and "
        "Alertmanager's beside it; name every mistake with its file and key. Nothing is changed, and no cluster is "
        "asked without --live. Exit code 0 if there is none, otherwise 1.",
    )
    check.add_argument("path", metavar="PATH", nargs="?", type=Path, default=default_path(), help=_DEFAULT)
    check.add_argument(
        "--spicerack", metavar="FILE", type=Path, help="spicerack's config.yaml (default: ../config.yaml from PATH)"
    )
    check.add_argument(
        "--live",
        action="store_true",
        help="ask all that is named as well, and change nothing: the clusters' APIs (version, missing rights), hosts "
        "over SSH, routers, Alertmanager's members, load balancers, the etcd of spicerack's lock",
    )
    check.set_defaults(run=_check_config)


def _add_runs(commands: "argparse._SubParsersAction[arguments.Parser]") -> None:
    group = commands.add_parser("runs", help="the runs of cookbooks").add_subparsers(metavar="COMMAND", required=True)
    everything = group.add_parser("list", help="list all runs: their status, and what they have in flight or held")
    everything.set_defaults(run=_list_runs)
    one = group.add_parser("show", help="show where a run stands, what happened in it, and what to run next")
    one.set_defaults(run=_show_run)
    lost = group.add_parser(
        "discard",
        help="close a run whose journal cannot be read",
        description="Close a run whose journal cannot be read: it may have something in flight, so it keeps new runs "
        "off its cluster. Look at its hosts first: what it has cordoned, silenced or disabled stays so. Its folder is "
        "kept; who discarded it, when and why is written there. A run that can be read is resumed or aborted instead.",
        epilog='Example: fleet runs discard 20260131-030000-reboot-nodes-lab-4f2a -r "disk broken; nodes looked at"',
    )
    lost.add_argument("-r", "--reason", required=True, type=arguments.reason, help="why; it is kept with the run")
    lost.set_defaults(run=_discard_run)
    old = group.add_parser(
        "prune",
        help="remove runs that ended long ago",
        description="Remove the folders of runs that are done, aborted or discarded, with all that they have kept "
        "(reports, exports). Runs that are not over, and those that cannot be read, always stay.",
        epilog="Example: fleet runs prune --older-than 180d --dry-run",
    )
    old.add_argument("--older-than", required=True, metavar="TIME", help="since they ended: 180d, 12h")
    old.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    old.set_defaults(run=_prune_runs)
    for command in (one, lost):
        command.add_argument("id", metavar="RUN", type=arguments.run_id, help="the run's id")
    for command in (everything, one):
        command.add_argument("--json", action="store_true", help="print JSON")
    for command in (everything, one, lost, old):
        command.add_argument("--config", metavar="PATH", type=Path, default=default_path(), help=_DEFAULT)


_DEFAULT = "this project's configuration (default: %(default)s; $FLEET_CONFIG may name another)"


def _check_config(args: argparse.Namespace) -> int:
    from fleet.cli import config_check
    from fleet.config.file import ConfigError
    from fleet.config.loading import load

    mistakes = config_check.check(args.path, args.spicerack)
    if args.live:
        from fleet.cli import config_live

        with suppress(ConfigError):  # which is among the mistakes
            beside = config_check.spicerack_beside(args.path, args.spicerack)
            mistakes += config_live.check(load(args.path), args.path, spicerack=beside)
    for mistake in mistakes:
        print(mistake, file=sys.stderr)
    if mistakes:
        print(f"{count(mistakes, 'mistake')}.", file=sys.stderr)
        return 1
    config = load(args.path)
    kinds = {"clusters": list(config.clusters), "groups": list(config.groups)}
    there = "; ".join(f"{kind}: {', '.join(sorted(those))}" for kind, those in kinds.items() if those)
    print(f"{args.path}: no mistakes; {there}.")
    return 0


def _state_dir(args: argparse.Namespace) -> Path:
    from fleet.config.loading import load

    return load(args.config).state_dir


def _list_runs(args: argparse.Namespace) -> int:
    from fleet.cli import runs
    from fleet.engine import report

    runs.list_runs(_state_dir(args), report.console(), as_json=args.json)
    return 0


def _show_run(args: argparse.Namespace) -> int:
    from fleet.cli import runs
    from fleet.engine import report

    runs.show(_state_dir(args), args.id, report.console(), as_json=args.json)
    return 0


def _discard_run(args: argparse.Namespace) -> int:
    from fleet.cli import tidy
    from fleet.clock import CLOCK

    state_dir = _state_dir(args)
    tidy.discard(state_dir, args.id, operator=_operator(), reason=args.reason, now=CLOCK.time())
    print(f"Run {args.id} is discarded; its folder stays: {state_dir / args.id}. What it has left on hosts stays, too.")
    return 0


def _prune_runs(args: argparse.Namespace) -> int:
    from fleet.cli import tidy
    from fleet.clock import CLOCK
    from fleet.config.types import parse_duration

    try:
        seconds = parse_duration(args.older_than)
    except ValueError as error:
        raise FleetError(f"--older-than: {error}") from error
    lines = tidy.prune(_state_dir(args), older_than=seconds, now=CLOCK.time(), dry_run=args.dry_run)
    for line in lines:
        print(line)
    what = f"{count(lines, 'run')} that ended more than {args.older_than} ago"
    print(f"Dry run: {what} would be removed." if args.dry_run else f"{what} removed.")
    return 0


def _operator() -> str:
    import getpass
    import os
    import socket

    return f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{socket.gethostname()}"


if __name__ == "__main__":
    sys.exit(main())
