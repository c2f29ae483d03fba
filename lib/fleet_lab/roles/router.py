"""A core router: FRR's zebra and bgpd, and before them a NETCONF server that answers as Junos does."""

from collections.abc import Iterable
from dataclasses import dataclass

from fleet_lab.container import FAULTS
from fleet_lab.files import File
from fleet_lab.roles import netconf
from fleet_lab.roles.context import Context
from fleet_lab.roles.role import Role
from fleet_lab.topology import Host, Topology

NODES_IPV4 = "kubernetes-ipv4"
NODES_IPV6 = "kubernetes-ipv6"
CORE = "core"
TRANSIT = "transit"

UNREACHABLE = "router-unreachable"
"""Fault: the router and the machine do not reach each other."""

UNREACHABLE_UNIT = f"lab-{UNREACHABLE}.service"
"""Runs as long as that fault lasts."""

# A provider whose line is not there yet: addresses and AS number are those of documentation.
_TRANSIT_ADDRESS = "192.0.2.1"
_TRANSIT_ASN = 65551

_UNIT = """\
[Unit]
Description=FRR: {daemon}
After={after}
StartLimitIntervalSec=0

[Service]
Type=forking
PIDFile=/run/frr/{daemon}.pid
ExecStart=/usr/lib/frr/{daemon} --daemon --vty_port 0 --config_file /etc/frr/{daemon}.conf --log syslog
Restart=always
RestartSec=1
"""

_UNREACHABLE = """\
[Unit]
Description=No way to the machine (injected fault)
ConditionPathExists={path}
After=lab-network.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/ip route add blackhole {ipv4}
ExecStart=/usr/sbin/ip route add blackhole {ipv6}
ExecStop=/usr/sbin/ip route delete blackhole {ipv4}
ExecStop=/usr/sbin/ip route delete blackhole {ipv6}
"""


def bgpd(host: Host, topology: Topology) -> str:
    """Return the configuration of bgpd: a session for each node and family, one with each other router, a transit."""
    bgp = topology.bgp
    lines = [
        f"hostname {host.name}",
        f"router bgp {bgp.routers_asn}",
        f" bgp router-id {host.ipv4}",
        " bgp log-neighbor-changes",
        # Without it FRR helps others to restart, as Junos does when it is told nothing.
        *([" bgp graceful-restart"] if bgp.graceful_restart else []),
        " no bgp ebgp-requires-policy",
        " no bgp default ipv4-unicast",
        " timers bgp 3 9",
        # Announce at once, not after seconds: BIRD 2.0.12 sends what it has last put in line only when something comes.
        " coalesce-time 50",
    ]
    for group in (NODES_IPV4, NODES_IPV6):
        lines += [
            f" neighbor {group} peer-group",
            f" neighbor {group} remote-as {bgp.nodes_asn}",
            f" neighbor {group} passive",
        ]
    lines += [f" neighbor {CORE} peer-group", f" neighbor {CORE} remote-as {bgp.routers_asn}"]
    for address, (group, description) in neighbours(host, topology).items():
        if group == TRANSIT:
            lines.append(f" neighbor {address} remote-as {_TRANSIT_ASN}")
        else:
            lines.append(f" neighbor {address} peer-group {group}")
        lines.append(f" neighbor {address} description {description}")
    for family, active in (("ipv4", (NODES_IPV4, CORE, _TRANSIT_ADDRESS)), ("ipv6", (NODES_IPV6, CORE))):
        lines.append(f" address-family {family} unicast")
        lines += [f"  neighbor {peer} activate" for peer in active]
        lines.append(" exit-address-family")
    return "\n".join([*lines, "exit"]) + "\n"


def neighbours(host: Host, topology: Topology) -> dict[str, tuple[str, str]]:
    """Return a router's peers: their addresses, each with its group and description."""
    found = {}
    for node in topology.bgp_nodes:
        found[str(node.ipv4)] = (NODES_IPV4, node.name)
        found[str(node.ipv6)] = (NODES_IPV6, node.name)
    for other in topology.with_role("router"):
        if other != host:
            found[str(other.ipv4)] = (CORE, other.name)
    found[_TRANSIT_ADDRESS] = (TRANSIT, "transit")
    return found


@dataclass(frozen=True)
class Router(Role):
    """A core router."""

    def files(self, context: Context, host: Host) -> Iterable[File]:
        """Return the configuration of FRR and of the NETCONF server, and the units."""
        topology = context.topology
        for daemon, after, text in (
            ("zebra", "network.target", f"hostname {host.name}\n"),
            ("bgpd", "network.target frr-zebra.service", bgpd(host, topology)),
        ):
            yield File(f"/etc/frr/{daemon}.conf", text, mode=0o640, owner="frr")
            yield File(f"/etc/systemd/system/frr-{daemon}.service", _UNIT.format(daemon=daemon, after=after))
        yield File("/etc/frr/vtysh.conf", "no service integrated-vtysh-config\n", mode=0o640, owner="frr")
        yield File(
            f"/etc/systemd/system/{UNREACHABLE_UNIT}",
            _UNREACHABLE.format(
                path=f"{FAULTS}/{UNREACHABLE}",
                ipv4=topology.network.machine_ipv4,
                ipv6=topology.network.machine_ipv6,
            ),
        )
        groups = {address: group for address, (group, _) in neighbours(host, topology).items()}
        yield from netconf.files(context, host, groups)


ROLE = Router(
    packages=("frr", *netconf.PACKAGES),
    units=("frr-zebra.service", "frr-bgpd.service", UNREACHABLE_UNIT, *netconf.UNITS),
)
