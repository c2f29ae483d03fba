"""Units of systemd on hosts: their state, and restarts that happen at most once."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fleet.hosts.probe import TIMEOUT, Unreachable
from fleet.hosts.remote import RemoteError, Result, Runner

NEVER = "never-started"
"""Stands for the invocation of a unit that has not been started since the boot."""

ORDER_TIMEOUT = 30.0
"""Seconds until the order must have been taken."""

_INVOCATION = re.compile(rf"[0-9a-f]{{32}}|{NEVER}")
_PROPERTIES = "LoadState,ActiveState,Result,InvocationID,InactiveExitTimestampMonotonic,Job"
_LINE = re.compile(r"^fleet-([A-Za-z-]+)=(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class ServiceState:
    """What systemd says about a unit."""

    loaded: bool
    """Whether there is such a unit."""
    active: str
    """``active``, ``activating``, ``deactivating``, ``inactive`` or ``failed``."""
    result: str
    """Why it ended: ``success``, ``exit-code``, ``signal``, …"""
    invocation: str
    """The id of its last start, :data:`NEVER` if there is none; every start has another one."""
    age: float
    """Seconds since it was last started; since the boot if never."""
    boot_id: str
    """The id of the host's boot."""
    moving: bool
    """Whether it is being started or stopped, or is about to be: what it is now is not what it will be."""


def state(remote: Runner, hosts: Sequence[str], unit: str) -> dict[str, ServiceState | Unreachable]:
    """Ask hosts for the state of a unit, all at the same time; nothing is changed, in a dry-run as well.

    Args:
        remote: runs the command.
        hosts: their names, as Cumin knows them.
        unit: the unit's full name.

    Raises:
        RemoteError: Cumin could not run anything.
    """
    results = remote.run(hosts, _state_command(unit), timeout=TIMEOUT, safe=True)
    return {
        host: Unreachable(result.output) if result.exit_code is None else parse(result.output)
        for host, result in results.items()
    }


def restart(remote: Runner, unit: str, invocations: Mapping[str, str]) -> dict[str, Result]:
    """Order the restart of a unit where it still runs as it did, all in one execution; it is not waited for.

    The order names the start that is to end, and the host compares: a unit that was started again meanwhile is left
    alone. So an order may be given again after a crash, or arrive late, without a second restart. The proof is another
    invocation (:func:`state`).

    Args:
        remote: runs the command; in a dry-run nothing is run.
        unit: the unit's full name.
        invocations: the invocation that each host has now, by its name.

    Raises:
        RemoteError: an invocation is none, or Cumin could not run anything.
    """
    for host, invocation in invocations.items():
        if not _INVOCATION.fullmatch(invocation):
            raise RemoteError(f"{unit} is not restarted on {host}: {invocation!r} is no invocation; ask again.")
    return remote.run(list(invocations), _restart_command(unit, invocations), timeout=ORDER_TIMEOUT, safe=False)


def order(
    remote: Runner, verb: Literal["start", "stop", "restart"], units: Mapping[str, Sequence[str]]
) -> dict[str, Result]:
    """Order units to be started or stopped, in one execution for all hosts that have the same; it is not waited for.

    Args:
        remote: runs the command; in a dry-run nothing is run.
        verb: what is ordered; a unit that is as it should be stays so, unless it is restarted.
        units: the units' full names, by host.

    Raises:
        RemoteError: Cumin could not run anything.
    """
    return {
        host: result
        for names in dict.fromkeys(map(tuple, units.values()))
        if names
        for host, result in remote.run(
            [host for host, its in units.items() if tuple(its) == names],
            f"systemctl {verb} --no-block -- {shlex.join(names)}",
            timeout=ORDER_TIMEOUT,
            safe=False,
        ).items()
    }


def _state_command(unit: str) -> str:
    return f"""\
read -r uptime _ </proc/uptime
echo "fleet-boot-id=$(cat /proc/sys/kernel/random/boot_id)"
echo "fleet-uptime=$uptime"
systemctl show --property={_PROPERTIES} -- {shlex.quote(unit)} | sed 's/^/fleet-/'
"""


def _restart_command(unit: str, invocations: Mapping[str, str]) -> str:
    name = shlex.quote(unit)
    pattern = "|".join(sorted(set(invocations.values())))
    return f"""\
invocation=$(systemctl show --property=InvocationID --value -- {name}) || exit 1
case ${{invocation:-{NEVER}}} in
    {pattern}) systemctl restart --no-block -- {name} ;;
    *) echo "not restarted: it was started again already, as $invocation" ;;
esac
"""


def parse(output: str) -> ServiceState | Unreachable:
    """Read the answer of a host.

    Args:
        output: all that it printed.
    """
    said = {key: value.strip() for key, value in _LINE.findall(output)}
    try:
        uptime = float(said["uptime"])
        started = float(said["InactiveExitTimestampMonotonic"]) / 1e6
        return ServiceState(
            loaded=said["LoadState"] == "loaded",
            active=said["ActiveState"],
            result=said["Result"],
            invocation=said["InvocationID"] or NEVER,
            # systemd's monotonic clock and the uptime are the same on hosts that are not suspended.
            age=uptime - started,
            boot_id=said["boot-id"],
            moving=said.get("Job", "") not in ("", "0") or said["ActiveState"] not in ("active", "inactive", "failed"),
        )
    except (KeyError, ValueError):
        return Unreachable(f"its answer cannot be read: {output.strip()[:200]!r}")
