"""Reboots that happen at most once, however often they are ordered."""

import re
from collections.abc import Mapping

from fleet.execution import RemoteError, Result, Runner

TIMEOUT = 30.0
"""Seconds until the order must have been taken; ``reboot-host`` returns before the host goes."""

_BOOT_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def reboot(remote: Runner, boot_ids: Mapping[str, str]) -> dict[str, Result]:
    """Order hosts to reboot, all in one execution.

    The order names the boot that is to end, and the host compares: in any other boot nothing happens. So an order may
    be given again after a crash, or arrive late, without a second reboot. The proof of the reboot is another boot id
    (:func:`fleet.adapters.hosts.probe.probe`), not this result: a host may go before it has answered.

    Args:
        remote: runs the command; in a dry-run nothing is run.
        boot_ids: the boot id that each host has now, by its name.

    Returns:
        A result for each host; exit code 0 as well where the boot has ended already.

    Raises:
        RemoteError: a boot id is none, or Cumin could not run anything.
    """
    for host, boot_id in boot_ids.items():
        if not _BOOT_ID.fullmatch(boot_id):
            raise RemoteError(f"{host} is not rebooted: {boot_id!r} is no boot id; probe the host again.")
    return remote.run(list(boot_ids), command(boot_ids), timeout=TIMEOUT, safe=False)


def command(boot_ids: Mapping[str, str]) -> str:
    """Return the command that reboots a host in one of these boots and does nothing in any other."""
    pattern = "|".join(sorted(set(boot_ids.values())))
    return f"""\
boot_id=$(cat /proc/sys/kernel/random/boot_id) || exit 1
case $boot_id in
    {pattern}) reboot-host ;;
    *) echo "not rebooted: this is boot $boot_id, another one than the one to end" ;;
esac
"""
