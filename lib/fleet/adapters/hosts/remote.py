"""Commands on many hosts: one Cumin execution, one result a host.

Spicerack's ``RemoteHosts`` returns output grouped over hosts and raises for the whole group if one fails. Here every
host has its own exit code, carried by a marker that is printed after the command: a host without it never finished.
"""

import re
import shlex
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

# Cumin loads both lazily, and two first uses at the same time fail with a half-initialised module: they are imported
# here, in the main thread, so that executions may run in worker threads.
import ClusterShell.Worker.Ssh  # noqa: F401
import cumin.transports.clustershell  # noqa: F401
from ClusterShell.MsgTree import MsgTreeElem
from ClusterShell.NodeSet import NodeSetException
from ClusterShell.Task import task_terminate
from cumin import CuminError, NodeSet, nodeset_fromlist
from cumin.transports import Command
from spicerack import Spicerack
from spicerack.exceptions import SpicerackError
from spicerack.remote import RemoteExecutionError

from fleet.execution import RemoteError, Result, last_line

_MARKER = re.compile(r"^fleet-rc=(\d+)$", re.MULTILINE)


class Remote:
    """Runs commands on hosts through spicerack and Cumin; may be used from several threads."""

    def __init__(self, spicerack: Spicerack) -> None:
        """Initialize the instance.

        Args:
            spicerack: for Cumin's configuration, and whether this is a dry-run.

        Raises:
            RemoteError: Cumin's configuration cannot be read.
        """
        self._dry_run = spicerack.dry_run
        try:
            self._remote = spicerack.remote()
        except (CuminError, SpicerackError) as error:
            raise RemoteError(f"Cumin's configuration cannot be used: {error}") from error

    def query(self, query: str) -> list[str]:
        """Find hosts.

        Args:
            query: a Cumin query, such as ``worker[1-6]`` or ``A:lab-workers``.

        Returns:
            The names of the hosts, sorted.

        Raises:
            RemoteError: the query is wrong, or finds no host.
        """
        if not query.strip():
            raise RemoteError("The Cumin query is empty: name hosts (worker[1-6]) or an alias (A:lab-workers).")
        try:
            return sorted(self._remote.query(query).hosts)
        except (CuminError, SpicerackError, NodeSetException, OSError) as error:  # backends ask over the network
            if str(error) == "No hosts provided":
                raise RemoteError(f"The Cumin query {query!r} finds no host.") from error
            reason = last_line(str(error.__cause__ or error))
            raise RemoteError(f"The Cumin query {query!r} cannot be used: {reason}") from error

    def aliases(self) -> tuple[str, ...]:
        """Return the names of Cumin's aliases."""
        return tuple(self._remote._config.get("aliases") or ())

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
        if not hosts or (self._dry_run and not safe):
            return {}
        started = time.monotonic()
        try:
            with _out_of_reach_of_interrupts():
                outputs = self._execute(hosts, mark(command), timeout, safe=safe)
        finally:
            if threading.current_thread() is not threading.main_thread():
                task_terminate()  # ClusterShell keeps a task, with three open files, for every thread there ever was
        late = time.monotonic() - started >= timeout
        return {host: parse(outputs.get(host, ""), timeout=timeout if late else None) for host in hosts}

    def _execute(self, hosts: Sequence[str], command: str, timeout: float, *, safe: bool) -> dict[str, str]:
        grouped: Iterable[tuple[NodeSet, MsgTreeElem]]
        try:
            target = self._remote.query(f"D{{{nodeset_fromlist(hosts)}}}")
            grouped = target.run_sync(
                # The exit code is the marker's business: any other (255, ssh's own) is no reason to raise.
                Command(command, timeout=timeout, ok_codes=[]),
                success_threshold=0.0,
                is_safe=safe,
                print_output=False,
                print_progress_bars=False,
            )
        except RemoteExecutionError as error:
            grouped = error.results  # all hosts timed out
        except (CuminError, SpicerackError) as error:
            raise RemoteError(f"The command could not be run on {nodeset_fromlist(hosts)}: {error}") from error
        return {host: output.message().decode(errors="replace") for nodes, output in grouped for host in nodes}


@contextmanager
def _out_of_reach_of_interrupts() -> Iterator[None]:
    """Let commands in flight end, although ^C on a terminal reaches the processes that wait for them as well.

    They inherit what a thread blocks. Not so in the main thread, which is to notice it itself.
    """
    if threading.current_thread() is threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def mark(command: str) -> str:
    """Return a command that runs another one and then prints its exit code in a line of its own.

    It is for the login shell of whoever Cumin logs in as, any of the Bourne family; ``command`` itself is for bash.
    """
    # ClusterShell puts names of hosts where a command has %hosts, as a reason or a file of others' may.
    quoted = re.sub(r"%(?=\{?hosts)", "%''", shlex.quote(command))
    # What it says on standard error would come over a channel of its own, at times after the marker.
    return f"bash -c {quoted} </dev/null 2>&1; printf '\\nfleet-rc=%d\\n' $?"


def parse(output: str, *, timeout: float | None) -> Result:
    """Read the output of a marked command.

    Args:
        output: all that came back from the host, whatever its login shell printed before and after included.
        timeout: the seconds that it was given, if they are over.
    """
    markers = list(_MARKER.finditer(output))
    if markers:
        # Of several the last one is ours, unless the command was cut off: then there is none.
        return Result(int(markers[-1].group(1)), output[: markers[-1].start()].strip("\n"))
    said = last_line(output)
    if timeout is not None:
        reason = f"no answer within {timeout:g} s"
        return Result(None, f"{reason}, after: {said}" if said else reason)
    return Result(None, said or "the connection ended without an answer")
