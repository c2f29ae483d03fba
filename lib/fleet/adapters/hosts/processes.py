"""The main processes of units: with which arguments they were started, which no file tells for sure."""

import base64
import binascii
import re
import shlex
from collections.abc import Sequence

from fleet.execution import TIMEOUT, Runner, Unreachable, failures

_LINE = re.compile(r"^fleet-arguments=([A-Za-z0-9+/=]*)$", re.MULTILINE)


def arguments(remote: Runner, hosts: Sequence[str], unit: str) -> dict[str, tuple[str, ...] | Unreachable]:
    """Return with which arguments a unit's main process was started; none where it does not run.

    Args:
        remote: runs the command, which only reads.
        hosts: their names, as Cumin knows them.
        unit: the unit's full name.

    Raises:
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    command = f"""\
pid=$(systemctl show --property=MainPID --value -- {shlex.quote(unit)}) || exit
case $pid in 0) words= ;; [1-9]*) words=$(base64 --wrap=0 "/proc/$pid/cmdline") || exit ;; *) exit 1 ;; esac
echo "fleet-arguments=$words"
"""
    return _ask(remote, hosts, command)


def of_program(remote: Runner, hosts: Sequence[str], program: str) -> dict[str, tuple[str, ...] | Unreachable]:
    """Return with which arguments a program was started, whatever has started it; none where it does not run.

    Args:
        remote: runs the command, which only reads.
        hosts: their names, as Cumin knows them.
        program: its name, of 15 letters at most, as the kernel keeps no more.

    Raises:
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    command = f"""\
found=$(grep --files-with-matches --line-regexp -- {shlex.quote(program)} /proc/[0-9]*/comm 2>/dev/null | head -n 1)
case $found in '') words= ;; *) words=$(base64 --wrap=0 "${{found%comm}}cmdline") || exit ;; esac
echo "fleet-arguments=$words"
"""
    return _ask(remote, hosts, command)


def _ask(remote: Runner, hosts: Sequence[str], command: str) -> dict[str, tuple[str, ...] | Unreachable]:
    results = remote.run(hosts, command, timeout=TIMEOUT, safe=True)
    failed = failures(results)
    return {host: Unreachable(failed[host]) if host in failed else parse(r.output) for host, r in results.items()}


def parse(output: str) -> tuple[str, ...] | Unreachable:
    """Read the answer of a host.

    Args:
        output: all that it printed.
    """
    found = _LINE.search(output)
    try:
        if found is None:
            raise ValueError("no answer")
        text = base64.b64decode(found.group(1), validate=True).decode(errors="replace")
    except (ValueError, binascii.Error):
        return Unreachable(f"its answer cannot be read: {output.strip()[:200]!r}")
    return tuple(text.removesuffix("\0").split("\0")) if text else ()


def flag(words: Sequence[str], name: str) -> str | None:
    """Return the value of ``--name=value`` or ``--name value`` among arguments; the last one counts."""
    value = None
    for index, word in enumerate(words):
        if word.startswith(f"--{name}="):
            value = word.split("=", 1)[1]
        elif word == f"--{name}" and index + 1 < len(words):
            value = words[index + 1]
    return value
