"""Puppet on hosts: disabled, enabled and run, with reasons that arrive exactly as they are.

The commands are those that spicerack expects on every host (config/hosts has shell versions of them). Spicerack puts
reasons in double quotes, in which ``$()`` and backticks expand on the hosts; here they are quoted.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fleet.adapters.hosts.probe import PUPPET_COMMON, PUPPET_LOCK, disabled_message
from fleet.errors import FleetError
from fleet.execution import Runner, failures

TIMEOUT = 30.0
"""Seconds to disable or enable Puppet: commands that start Ruby take 3 s on an idle host."""

# Of the files that are in use, some have the one function and some the other.
_RUNNING = f"""\
. {PUPPET_COMMON} >/dev/null 2>&1 || exit 1
for look in puppet_running_pid puppet_is_running; do
    if declare -F "$look" >/dev/null; then "$look" >/dev/null 2>&1; exit; fi
done
exit 1
"""
_ANSWER = re.compile(r"^fleet-puppet.*$", re.MULTILINE)


class PuppetError(FleetError):
    """What was asked for is impossible."""


@dataclass(frozen=True)
class PuppetResult:
    """Puppet on a host after a command."""

    disabled: str | None
    """The message that Puppet is disabled with now; ``None`` if it is enabled, or if the host did not say."""
    error: str | None
    """Why the command failed, in a line; ``None`` if it did not."""


def disable(remote: Runner, hosts: Sequence[str], reason: str) -> dict[str, PuppetResult]:
    """Disable Puppet; where somebody has disabled it before, that stays as it is.

    Args:
        remote: runs the command; in a dry-run nothing is run.
        hosts: their names, as Cumin knows them.
        reason: why; with whom and which run, as it is what tells our own lock from another's.

    Returns:
        For every host, ``disabled`` is the message in force: ``reason``, or that of somebody else.

    Raises:
        PuppetError: the reason is empty, or more than a line.
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    return _run(remote, hosts, ["disable-puppet", _checked(reason)], timeout=TIMEOUT)


def enable(remote: Runner, hosts: Sequence[str], reason: str) -> dict[str, PuppetResult]:
    """Enable Puppet where it was disabled with this reason; where it was disabled with another one, that stays.

    Args:
        remote: runs the command; in a dry-run nothing is run.
        hosts: their names, as Cumin knows them.
        reason: the one that Puppet was disabled with.

    Returns:
        For every host, ``disabled`` is the message still in force, somebody else's.

    Raises:
        PuppetError: the reason is empty, or more than a line.
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    return _run(remote, hosts, ["enable-puppet", _checked(reason)], timeout=TIMEOUT)


def running(remote: Runner, hosts: Sequence[str]) -> dict[str, bool | None]:
    """Say on which hosts a run of Puppet is in progress: disabling Puppet does not end it. None for no answer.

    Args:
        remote: runs the command, which only reads.
        hosts: their names, as Cumin knows them.

    Raises:
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    results = remote.run(hosts, _RUNNING, timeout=TIMEOUT, safe=True)
    return {host: None if result.exit_code is None else result.exit_code == 0 for host, result in results.items()}


def run(
    remote: Runner, hosts: Sequence[str], *, timeout: float, enable_reason: str | None = None
) -> dict[str, PuppetResult]:
    """Run Puppet once and wait for it; a run in progress is waited for first.

    Where Puppet is disabled it is not run: ``error`` says so and ``disabled`` by whom.

    Args:
        remote: runs the command; in a dry-run nothing is run.
        hosts: their names, as Cumin knows them.
        timeout: seconds for all of it.
        enable_reason: enable Puppet first, if it is disabled with this reason.

    Raises:
        PuppetError: the reason is empty, or more than a line.
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    words = ["run-puppet-agent", "--quiet", "--attempts", str(max(1, int(timeout // 10)))]
    if enable_reason is not None:
        words += ["--enable", _checked(enable_reason)]
    return _run(remote, hosts, words, timeout=timeout)


def command(words: Sequence[str]) -> str:
    """Return the command for bash that runs ``words`` as they are, and then says whether Puppet is disabled."""
    return f"{shlex.join(words)}\ncode=$?\n{PUPPET_LOCK}exit $code"


def _run(remote: Runner, hosts: Sequence[str], words: Sequence[str], *, timeout: float) -> dict[str, PuppetResult]:
    results = remote.run(hosts, command(words), timeout=timeout, safe=False)
    # What the command itself said, without the lines about the lock that follow it.
    errors = failures(
        {host: replace(result, output=_ANSWER.sub("", result.output)) for host, result in results.items()}
    )
    return {
        host: PuppetResult(disabled=disabled_message(result.output), error=errors.get(host))
        for host, result in results.items()
    }


def _checked(reason: str) -> str:
    # Shells drop newlines at the end of what they read: such a reason would never be the same again.
    if not reason.strip() or not reason.isprintable():
        raise PuppetError(f"The reason {reason!r} must be one line of text.")
    return reason
