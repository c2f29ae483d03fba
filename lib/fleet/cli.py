"""The command ``fleet``: what an operator asks beside the cookbooks."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fleet import arguments, config, config_check, config_live, output, runs
from fleet.errors import FleetError
from fleet.maintenance import report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; by default those of the process.

    Returns:
        0 if all is well, 1 if not, 3 if what was printed could not be written; argparse ends the process with 2 for
        wrong usage.
    """
    output.guard()
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
    check.add_argument("path", metavar="PATH", nargs="?", type=Path, default=config.default_path(), help=_DEFAULT)
    check.add_argument(
        "--spicerack", metavar="FILE", type=Path, help="spicerack's config.yaml (default: ../config.yaml from PATH)"
    )
    check.add_argument(
        "--live",
        action="store_true",
        help="ask the clusters' APIs as well: whether they answer, in which version, and which rights are missing",
    )
    check.set_defaults(run=_check_config)


def _add_runs(commands: "argparse._SubParsersAction[arguments.Parser]") -> None:
    group = commands.add_parser("runs", help="the runs of cookbooks").add_subparsers(metavar="COMMAND", required=True)
    everything = group.add_parser("list", help="list all runs: their status, and what they have in flight or held")
    everything.set_defaults(run=_list_runs)
    one = group.add_parser("show", help="show where a run stands, what happened in it, and what to run next")
    one.add_argument("id", metavar="RUN", help="the run's id")
    one.set_defaults(run=_show_run)
    for command in (everything, one):
        command.add_argument("--json", action="store_true", help="print JSON")
        command.add_argument("--config", metavar="PATH", type=Path, default=config.default_path(), help=_DEFAULT)


_DEFAULT = "this project's configuration (default: %(default)s; $FLEET_CONFIG may name another)"


def _check_config(args: argparse.Namespace) -> int:
    mistakes = config_check.check(args.path, args.spicerack)
    if args.live:
        with suppress(config.ConfigError):  # which is among the mistakes
            mistakes += config_live.check(config.load(args.path), args.path)
    for mistake in mistakes:
        print(mistake, file=sys.stderr)
    if mistakes:
        print(f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}.", file=sys.stderr)
        return 1
    print(f"{args.path}: no mistakes; clusters: {', '.join(sorted(config.load(args.path).clusters))}.")
    return 0


def _list_runs(args: argparse.Namespace) -> int:
    runs.list_runs(config.load(args.config).state_dir, report.console(), as_json=args.json)
    return 0


def _show_run(args: argparse.Namespace) -> int:
    runs.show(config.load(args.config).state_dir, args.id, report.console(), as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
