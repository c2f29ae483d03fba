"""The faults that can be injected into hosts: what an operator meets at three in the morning."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fleet_lab import supervisor
from fleet_lab.errors import LabError
from fleet_lab.guest import netconf
from fleet_lab.guest.kubelet import faults as kubelet
from fleet_lab.roles import alertmanager, calico, control_plane_faults, etcd, puppet, router
from fleet_lab.roles import netconf as server
from fleet_lab.roles.common import SSH_REFUSED
from fleet_lab.roles.control_plane import APISERVER_STOPPED
from fleet_lab.topology import Host, RoleName


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
    inject: str = ""
    """What the host's shell runs, beside, when the fault is injected; nothing if the host is down."""
    heal: str = ""
    """What the host's shell runs, beside, when the fault is healed; nothing if the host is down."""


_WORKERS: frozenset[RoleName] = frozenset({"worker"})
_NODES: frozenset[RoleName] = frozenset({"control-plane", "worker"})
_ROUTERS: frozenset[RoleName] = frozenset({"router"})
_ETCD: frozenset[RoleName] = frozenset({"etcd", "new-etcd"})
_PUPPET: frozenset[RoleName] = _NODES | _ETCD
_CONTROL_PLANES: frozenset[RoleName] = frozenset({"control-plane"})

# At once, as an apiserver would wait for its watchers; its main process only, as open SSH sessions are not the fault.
_STOP = """\
systemctl stop --no-block {unit}
systemctl kill --kill-whom=main --signal=KILL {unit} 2>/dev/null
systemctl stop {unit}
"""

# Started first, as it may be down for another fault: what does not run cannot be told to read its configuration.
_RELOAD_CALICO = f"systemctl start {calico.UNIT} && systemctl reload {calico.UNIT}"

# Without waiting for it, which may take longer than a command in a host may.
_START_APISERVER = "systemctl start --no-block kube-apiserver.service"

# A member is up when there is a quorum: of several none would be.
_START_ETCD = f"systemctl start --no-block {etcd.UNIT}"


def _unit_stopped(name: str, meaning: str, unit: str, roles: frozenset[RoleName] | None = None) -> Fault:
    """A fault that stops a unit; the unit has a condition that keeps it from being started."""
    return Fault(name, meaning, roles, inject=_STOP.format(unit=unit), heal=f"systemctl start {unit}")


def _calico(name: str, meaning: str) -> Fault:
    """A fault that shows when calico-node is started the next time, and goes without a restart."""
    return Fault(name, f"from its next start on, {meaning}", _NODES, heal=_RELOAD_CALICO)


def _netconf(name: str, meaning: str) -> Fault:
    """A fault that a router's NETCONF server would see after a moment; started anew it does at once, both times."""
    restart = f"systemctl restart {server.UNIT}"
    return Fault(name, meaning, _ROUTERS, inject=restart, heal=restart)


FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault(supervisor.STAYS_DOWN, "does not come back from its next reboot"),
        Fault(supervisor.SLOW_BOOT, "takes longer to come back from its next reboots", seconds=60),
        Fault(kubelet.NOT_READY, "the node is NotReady, and its pods neither start nor end", roles=_WORKERS),
        Fault(kubelet.SLOW_TERMINATION, "the node's pods take long to terminate", roles=_WORKERS, seconds=45),
        Fault(kubelet.NEVER_TERMINATES, "the node's pods never terminate", roles=_WORKERS),
        _unit_stopped(SSH_REFUSED, "nothing listens on the SSH port", "ssh.service"),
        _unit_stopped(
            APISERVER_STOPPED,
            "kube-apiserver does not run on this control-plane host",
            "kube-apiserver.service",
            _CONTROL_PLANES,
        ),
        Fault(
            control_plane_faults.BAD_FLAG,
            "kube-apiserver does not start any more: there is a typing error in its flags",
            _CONTROL_PLANES,
            inject=f"{control_plane_faults.SCRIPT} flags",
            heal=f"{control_plane_faults.SCRIPT} flags && {_START_APISERVER}",
        ),
        Fault(
            control_plane_faults.ETCD_CUT,
            "from its next start on, kube-apiserver is cut off from etcd as soon as it is up",
            _CONTROL_PLANES,
            heal=f"{control_plane_faults.SCRIPT} mend-etcd && {_START_APISERVER}",
        ),
        Fault(
            control_plane_faults.BALANCER_CUT,
            "from kube-apiserver's next start on, the load balancer gets no answer from the host",
            _CONTROL_PLANES,
            heal=f"{control_plane_faults.SCRIPT} mend-balancer",
        ),
        Fault(
            control_plane_faults.LEADER_STUCK,
            "from their next start on, kube-controller-manager and kube-scheduler are paused as soon as they are well",
            _CONTROL_PLANES,
            heal=f"systemctl kill --signal=CONT {' '.join(control_plane_faults.HEALTH_PORTS)}",
        ),
        Fault(
            etcd.STOPPED,
            "etcd does not run on this member's host",
            _ETCD,
            inject=_STOP.format(unit=etcd.UNIT),
            heal=_START_ETCD,
        ),
        Fault(
            etcd.FAILS,
            "from its next start on, etcd does not start any more",
            _ETCD,
            heal=_START_ETCD,
        ),
        Fault(puppet.FAILS, "runs of Puppet fail on this host", _PUPPET),
        Fault(
            etcd.SLOW,
            "etcd is paused: it takes connections and answers nothing",
            _ETCD,
            inject=f"systemctl kill --kill-whom=main --signal=STOP {etcd.UNIT}",
            heal=f"systemctl kill --kill-whom=main --signal=CONT {etcd.UNIT}",
        ),
        _calico(calico.NO_SESSIONS, "calico-node's sessions stay Active at the routers"),
        _calico(calico.NO_IPV6_SESSIONS, "calico-node's sessions over IPv6 stay Active at the routers"),
        _calico(calico.FEWER_PREFIXES, "calico-node announces only half of its prefixes"),
        _calico(calico.FAILS, "calico-node does not start any more"),
        Fault(
            router.UNREACHABLE,
            "no packet of the router gets to the machine, while its sessions go on",
            _ROUTERS,
            inject=f"systemctl start {router.UNREACHABLE_UNIT}",
            heal=f"systemctl stop {router.UNREACHABLE_UNIT}",
        ),
        Fault(
            alertmanager.MESH_CUT,
            "the member of Alertmanager and the others do not gossip, while each of them answers",
            frozenset({"alertmanager"}),
            inject=f"systemctl start {alertmanager.MESH_CUT_UNIT}",
            heal=f"systemctl stop {alertmanager.MESH_CUT_UNIT}",
        ),
        Fault(netconf.HANGS, "the router's NETCONF server stops in the middle of a reply", _ROUTERS),
        _netconf(netconf.HOST_KEY, "the router's NETCONF server shows another host key"),
        _netconf(netconf.LOGIN, "the router's NETCONF server lets nobody in"),
    )
}
"""All faults by name."""


def choose(name: str, hosts: Sequence[Host], seconds: float | None) -> Fault:
    """Return a fault that is to be injected into hosts.

    Args:
        name: a key of :data:`FAULTS`.
        hosts: the hosts.
        seconds: how long, for the faults that have a number.

    Raises:
        LabError: there is no such fault, it is not for hosts of that role, or takes no such number.
    """
    fault = FAULTS.get(name)
    if fault is None:
        raise LabError(f"There is no fault {name!r}. There are: {', '.join(FAULTS)}.")
    if not hosts:
        raise LabError(f"Name the hosts that are to have the fault {name}.")
    if seconds is not None and (fault.seconds is None or seconds <= 0):
        raise LabError(f"The fault {name} takes no such number of seconds.")
    for host in hosts:
        if fault.roles is not None and host.role not in fault.roles:
            roles = ", ".join(sorted(fault.roles))
            raise LabError(f"The fault {name} is for hosts with the role {roles}: {host.name} is none.")
    return fault


def explain() -> str:
    """Return the list of faults, for people."""
    lines = []
    for fault in FAULTS.values():
        number = f" (--seconds, default {math.floor(fault.seconds)})" if fault.seconds is not None else ""
        hosts = f" [{', '.join(sorted(fault.roles))}]" if fault.roles else ""
        lines.append(f"{fault.name:24}{fault.meaning}{number}{hosts}")
    return "\n".join(lines)
