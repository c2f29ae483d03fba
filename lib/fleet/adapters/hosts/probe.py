"""The state of many hosts, asked for with one read-only command."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fleet.execution import TIMEOUT, Runner, Unreachable

PUPPET_COMMON = "/usr/local/share/bash/puppet-common.sh"
"""What spicerack and this project ask for Puppet's files; config/hosts has one."""

PUPPET_LOCK = f"""\
if . {PUPPET_COMMON} >/dev/null 2>&1; then
    echo fleet-puppet=installed
    [ -f "$PUPPET_DISABLEDLOCK" ] && echo "fleet-puppet-lock=$(tr '\\n' ' ' <"$PUPPET_DISABLEDLOCK")"
fi
"""
"""Says whether Puppet is disabled, and with which message; :func:`disabled_message` reads it."""

# Every line has a prefix, so that whatever else a host prints is not mistaken for an answer.
_COMMAND = f"""\
read -r uptime _ </proc/uptime
echo "fleet-boot-id=$(cat /proc/sys/kernel/random/boot_id)"
echo "fleet-uptime=$uptime"
echo "fleet-now=$(date +%s.%N)"
[ -e /run/reboot-required ] && echo fleet-reboot-required=yes
command -v reboot-host >/dev/null && echo fleet-reboot-host=yes
{PUPPET_LOCK}
if [ -n "$PUPPET_SUMMARY" ] && [ -f "$PUPPET_SUMMARY" ]; then
    echo "fleet-puppet-run=$(awk '$1 == "last_run:" {{ print $2 }}' "$PUPPET_SUMMARY")"
    last_run_success && echo fleet-puppet-success=yes
fi
true
"""

_LINE = re.compile(r"^fleet-([a-z-]+)=(.*)$", re.MULTILINE)
_BOOT_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class HostState:
    """What a host says about itself."""

    boot_id: str
    """The kernel's random id of this boot."""
    uptime: float
    """Seconds since the boot."""
    now: float
    """The host's clock, in seconds since the epoch. It may be wrong, above all right after a boot."""
    reboot_required: bool
    """Whether ``/run/reboot-required`` exists."""
    can_reboot: bool
    """Whether there is a ``reboot-host``, the way to reboot it."""
    puppet_installed: bool
    """Whether the host can be asked about Puppet at all."""
    puppet_disabled: str | None
    """The message that Puppet is disabled with, perhaps empty; ``None`` if it is enabled."""
    puppet_last_success: float | None
    """When the last run of Puppet ended, if it was a success; by the host's clock as it was then: it names the run."""
    puppet_failed: bool
    """Whether the last run of Puppet was a failure."""


def probe(remote: Runner, hosts: Sequence[str], *, timeout: float = TIMEOUT) -> dict[str, HostState | Unreachable]:
    """Ask hosts for their state, all at the same time; nothing is changed, in a dry-run as well.

    Args:
        remote: runs the command.
        hosts: their names, as Cumin knows them.
        timeout: seconds that each has for its answer.

    Raises:
        fleet.execution.RemoteError: Cumin could not run anything.
    """
    results = remote.run(hosts, _COMMAND, timeout=timeout, safe=True)
    return {
        host: Unreachable(result.output) if result.exit_code is None else parse(result.output)
        for host, result in results.items()
    }


def parse(output: str) -> HostState | Unreachable:
    """Read the answer of a host.

    Args:
        output: all that it printed.
    """
    said = dict(_LINE.findall(output))
    try:
        boot_id, uptime, now = said["boot-id"].strip(), float(said["uptime"]), float(said["now"])
        run = float(said["puppet-run"]) if said.get("puppet-run", "").strip() else None
    except (KeyError, ValueError):
        boot_id = ""
    if not _BOOT_ID.fullmatch(boot_id):
        return Unreachable(f"its answer cannot be read: {output.strip()[:200]!r}")
    success = "puppet-success" in said
    return HostState(
        boot_id=boot_id,
        uptime=uptime,
        now=now,
        reboot_required="reboot-required" in said,
        can_reboot="reboot-host" in said,
        puppet_installed="puppet" in said,
        puppet_disabled=disabled_message(said),
        puppet_last_success=run if success else None,
        puppet_failed="puppet-run" in said and not success,
    )


def disabled_message(said: dict[str, str] | str) -> str | None:
    """Return the message that Puppet is disabled with; ``None`` if it is enabled.

    Args:
        said: what :data:`PUPPET_LOCK` printed, or its lines by name.
    """
    lines = dict(_LINE.findall(said)) if isinstance(said, str) else said
    if "puppet-lock" not in lines:
        return None
    content = lines["puppet-lock"].strip()
    try:
        return str(json.loads(content)["disabled_message"])
    except (ValueError, KeyError, TypeError):
        return "" if content in ("", "{}", "null") else content
