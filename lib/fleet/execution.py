"""Commands on hosts as everybody sees them: what runs them, and what came of it on each host."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fleet.errors import FleetError

TIMEOUT = 15.0
"""Seconds that a host has for its answer; a busy host that swaps or starts Ruby needs some."""


class RemoteError(FleetError):
    """A query or an execution could not be carried out at all."""


@dataclass(frozen=True)
class Result:
    """What a command did on a host."""

    exit_code: int | None
    """The command's exit code; ``None`` if the host could not be reached, or did not finish in time."""
    output: str
    """What the command printed, standard error included; or why there is no exit code, in a line."""

    @property
    def ok(self) -> bool:
        """Whether the command ran and succeeded."""
        return self.exit_code == 0


class Runner(Protocol):
    """What runs commands on hosts, as adapters and steps need it."""

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        """Run a command on hosts, at the same time, in one Cumin execution.

        Args:
            hosts: their names, as Cumin knows them.
            command: for bash; words of others' making are to be quoted by the caller.
            timeout: how long it may take on each host, in seconds, the connection included.
            safe: whether it only reads; in a dry-run nothing else is run.

        Returns:
            A result for every host; nothing for a command that a dry-run leaves out.

        Raises:
            RemoteError: Cumin could not run anything.
        """


class Hosts(Runner, Protocol):
    """A :class:`Runner` that finds hosts as well."""

    def query(self, query: str) -> list[str]:
        """Find hosts.

        Args:
            query: a Cumin query, such as ``worker[1-6]`` or ``A:lab-workers``.

        Returns:
            The names of the hosts, sorted.

        Raises:
            RemoteError: the query is wrong, or finds no host.
        """


@dataclass(frozen=True)
class Unreachable:
    """A host that could not be asked."""

    reason: str
    """Why, in a line."""


def failures(results: Mapping[str, Result]) -> dict[str, str]:
    """Return why each host that did not succeed did not, in a line."""
    return {
        host: (last_line(result.output) or "no output")
        + (f" (exit code {result.exit_code})" if result.exit_code else "")
        for host, result in results.items()
        if not result.ok
    }


def last_line(text: str) -> str:
    """Return the last line of a text that says something: where programs put what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
