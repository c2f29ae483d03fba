"""What an operator may type behind a command: words of one line, and how each kind of them is read.

Everything is refused while the command line is parsed: before it is logged, announced or used.
"""

import argparse
import re
import sys
from typing import Any

from fleet import output
from fleet.text import printable

LOST = 3
"""The exit code if what was printed could not be written."""
_LONGEST_WORD = 20_000
_LONGEST_REASON = 500
_TICKET = re.compile(r"T[0-9]{1,6}")


class Parser(argparse.ArgumentParser):
    """A parser that refuses what does not fit into a line, and tells if its help could not be written."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse words, each of which has to be one line of text that shows."""
        for word in sys.argv[1:] if args is None else args:
            if problem := _problem(str(word)):
                self.error(problem)
        return super().parse_known_args(args, namespace)

    def print_help(self, file: Any = None) -> None:
        """Print the help; end the process if it could not be written."""
        super().print_help(file)
        if why := output.lost():
            self.exit(LOST, f"What was printed could not be written: {why}.\n")


def _problem(word: str) -> str:
    if len(word) > _LONGEST_WORD:
        return f"a word has {len(word)} characters, more than {_LONGEST_WORD}: {word[:40]!r}…"
    if not word.isprintable():
        return f"{printable(word)} must be one line of plain text: it has characters that do not show"
    return ""


def text(value: str) -> str:
    """Read a word that says something, for argparse."""
    if not value.strip():
        raise argparse.ArgumentTypeError("it is empty: is a variable of the shell not set? Leave it out, or fill it")
    return value


def reason(value: str) -> str:
    """Read an administrative reason, for argparse: it is announced, and written onto nodes and silences."""
    text(value)
    if '"' in value:
        raise argparse.ArgumentTypeError(f"it must have no double quotes: {value!r}")
    if len(value) > _LONGEST_REASON:
        raise argparse.ArgumentTypeError(f"it has {len(value)} characters: at most {_LONGEST_REASON} are announced")
    return value


def ticket(value: str) -> str:
    """Read the id of a ticket, or nothing, for argparse."""
    if value and not _TICKET.fullmatch(value):
        raise argparse.ArgumentTypeError(f"{value!r} is no ticket: write T and its number, such as T12345")
    return value


def scope(value: str) -> str:
    """Read the name of a cluster or a group, for argparse: it is part of names in the locks' etcd, and of folders."""
    text(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", value):
        raise argparse.ArgumentTypeError(f"{value!r} is no name of a cluster or a group: the configuration has them")
    return value


def run_id(value: str) -> str:
    """Read the id of a run, for argparse."""
    text(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value):
        raise argparse.ArgumentTypeError(f"{value!r} is no run's id: `fleet runs list` shows them")
    return value


def amount(value: str) -> int | str:
    """Read a number of nodes or a percentage, for argparse."""
    from fleet.config.types import parse_amount

    try:
        return parse_amount(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def whole_number(value: str) -> int:
    """Read a number that is not negative, for argparse."""
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise argparse.ArgumentTypeError(f"{value!r} is no number: write 0 or more")
    return int(value)


def names(value: str) -> tuple[str, ...]:
    """Read names with commas between them, for argparse."""
    found = tuple(name.strip() for name in text(value).split(",") if name.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{value!r} has no names")
    return found


def services(value: str) -> tuple[str, ...]:
    """Read names of units of systemd with commas between them, for argparse."""
    found = names(value)
    if wrong := [name for name in found if not re.fullmatch(r"[A-Za-z0-9:_.@-]{1,247}\.service", name)]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is no service of systemd: write nginx.service")
    return tuple(dict.fromkeys(found))


def hosts(value: str) -> tuple[str, ...]:
    """Read names of hosts or nodes, such as ``worker1,worker[3-5]``, for argparse."""
    from ClusterShell.NodeSet import NodeSet, NodeSetException

    try:
        return tuple(NodeSet(text(value)))
    except NodeSetException as error:
        raise argparse.ArgumentTypeError(f"{value!r} is no list of hosts: write worker1,worker[3-5]") from error


def accepted(value: str) -> tuple[str, str]:
    """Read a target and the name of one of its proofs, such as ``worker3:alerts``, for argparse."""
    target, _, proof = value.partition(":")
    if not target.strip() or not proof.strip():
        raise argparse.ArgumentTypeError(f"{value!r} names no target and proof: write worker3:alerts")
    return target.strip(), proof.strip()
