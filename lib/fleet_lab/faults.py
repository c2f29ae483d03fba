"""The faults that can be injected into hosts: what an operator meets at three in the morning."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fleet_lab import supervisor
from fleet_lab.guest.kubelet import faults as kubelet
from fleet_lab.roles.common import SSH_REFUSED
from fleet_lab.roles.control_plane import APISERVER_STOPPED
from fleet_lab.topology import RoleName


@dataclass(frozen=True)
class Fault:
    """A fault of a host, active as long as its file is in the host's fault folder."""

    name: str
    meaning: str
    """What it does, for people."""
    roles: frozenset[RoleName] | None = None
    """The roles of the hosts that can have it; None for all."""
    seconds: float | None = None
    """What stands in the file unless another number is given; None for faults without a number."""
    unit: str | None = None
    """A systemd unit of the host that is stopped; it is not started while the fault lasts."""


_WORKERS: frozenset[RoleName] = frozenset({"worker"})

FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault(supervisor.STAYS_DOWN, "does not come back from its next reboot"),
        Fault(supervisor.SLOW_BOOT, "takes longer to come back from its next reboots", seconds=60),
        Fault(kubelet.NOT_READY, "the node is NotReady, and its pods neither start nor end", roles=_WORKERS),
        Fault(kubelet.SLOW_TERMINATION, "the node's pods take long to terminate", roles=_WORKERS, seconds=45),
        Fault(kubelet.NEVER_TERMINATES, "the node's pods never terminate", roles=_WORKERS),
        Fault(SSH_REFUSED, "nothing listens on the SSH port", unit="ssh.service"),
        Fault(
            APISERVER_STOPPED,
            "kube-apiserver does not run on this control-plane host",
            roles=frozenset({"control-plane"}),
            unit="kube-apiserver.service",
        ),
    )
}
"""All faults by name."""


def explain() -> str:
    """Return the list of faults, for people."""
    lines = []
    for fault in FAULTS.values():
        number = f" (--seconds, default {math.floor(fault.seconds)})" if fault.seconds is not None else ""
        hosts = f" [{', '.join(sorted(fault.roles))}]" if fault.roles else ""
        lines.append(f"{fault.name:24}{fault.meaning}{number}{hosts}")
    return "\n".join(lines)
