"""calico-node on the hosts that have pods: BIRD, configured as Calico's own templates do it, under that unit's name.

The configuration is in pieces, of which the unit links those into ``/run/calico-node`` that injected faults leave.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from fleet_lab.container import FAULTS
from fleet_lab.files import File
from fleet_lab.roles import calico_datastore
from fleet_lab.roles.context import Context
from fleet_lab.topology import Bgp, Host

PACKAGES = ("bird2", "etcd-client", "python3-yaml")
UNIT = "calico-node.service"
UNITS = (UNIT,)

PREFIXES = 2
"""Prefixes that a node announces to each router in each family."""

NO_SESSIONS = "bgp-down"
"""Fault: from its next start on, calico-node has no sessions."""

NO_IPV6_SESSIONS = "bgp-ipv6-down"
"""Fault: from its next start on, calico-node has only the sessions over IPv4."""

FEWER_PREFIXES = "bgp-fewer-prefixes"
"""Fault: from its next start on, calico-node announces only the first of its prefixes in each family."""

FAILS = "calico-fails"
"""Fault: calico-node does not start."""

_FOLDER = "/etc/calico"
_SELECT = "/usr/local/lib/fleet-lab/calico-select"

# Restarts are as quick as BIRD can do it: production has minutes for them, a rehearsal has not.
_MAIN = """\
router id {router_id};

protocol device {{
}}

template bgp bgp_template {{
    local as {asn};
    multihop;
    hold time 9;
    connect delay time 1;
    connect retry time 2;
    error wait time 1,3;
    graceful restart {restart};
}}

include "/run/calico-node/*.conf";
"""

_SESSION = """\
protocol bgp {name} from bgp_template {{
    {family} {{
        import all;
        export where source = RTS_STATIC;
    }};
    source address {own};
    neighbor {address} as {asn};
}}
"""

_SELECT_SCRIPT = f"""\
#!/bin/sh -e
# Selects the pieces of BIRD's configuration: all of them, but for what injected faults leave out.
fault() {{ test -e {FAULTS}/"$1"; }}
cd /run/calico-node
rm -f ./*.conf
ln -s {_FOLDER}/prefixes-1.conf .
fault {FEWER_PREFIXES} || ln -s {_FOLDER}/prefixes-2.conf .
if ! fault {NO_SESSIONS}; then
    ln -s {_FOLDER}/sessions-ipv4.conf .
    fault {NO_IPV6_SESSIONS} || ln -s {_FOLDER}/sessions-ipv6.conf .
fi
"""

_UNIT = f"""\
[Unit]
Description=calico-node
After=network.target
StartLimitIntervalSec=0

[Service]
Type=forking
RuntimeDirectory=calico-node
ExecStartPre=/bin/sh -c 'test ! -e {FAULTS}/{FAILS} || {{ echo "calico-node cannot start (injected fault)"; exit 1; }}'
ExecStartPre={calico_datastore.CHECK}
ExecStartPre={_SELECT}
ExecStart=/usr/sbin/bird -R -c {_FOLDER}/bird.conf -s /run/calico-node/bird.ctl
ExecReload={_SELECT}
ExecReload=/usr/sbin/birdc -s /run/calico-node/bird.ctl configure
Restart=always
RestartSec=1
"""

_KILLED = """\
# Routers keep the routes only of a peer that goes without a word: BIRD says goodbye when it is asked to end.
KillSignal=SIGKILL
SuccessExitStatus=KILL
"""


def configuration(host: Host, routers: Sequence[Host], bgp: Bgp) -> dict[str, str]:
    """Return the pieces of a host's configuration of BIRD, by file name.

    Args:
        host: the host.
        routers: those that it has sessions with.
        bgp: the AS numbers, and whether restarts are graceful.
    """
    restart = "on" if bgp.graceful_restart else "off"
    pieces = {"bird.conf": _MAIN.format(router_id=host.ipv4, asn=bgp.nodes_asn, restart=restart)}
    for family, own in (("ipv4", host.ipv4), ("ipv6", host.ipv6)):
        addresses = [router.ipv4 if family == "ipv4" else router.ipv6 for router in routers]
        pieces[f"sessions-{family}.conf"] = "".join(_session(family, own, it, bgp.routers_asn) for it in addresses)
    halves = zip(host.pods_ipv4.subnets(), host.pods_ipv6.subnets(), strict=True)
    for number, (ipv4, ipv6) in enumerate(halves, 1):
        pieces[f"prefixes-{number}.conf"] = _routes(number, ipv4) + _routes(number, ipv6)
    return pieces


def _session(family: str, own: IPv4Address | IPv6Address, address: IPv4Address | IPv6Address, asn: int) -> str:
    name = "Global_" + str(address).replace(".", "_").replace(":", "_")  # as Calico names those to global peers
    return _SESSION.format(name=name, family=family, own=own, address=address, asn=asn)


def _routes(number: int, prefix: IPv4Network | IPv6Network) -> str:
    family = f"ipv{prefix.version}"
    return f"protocol static pods_{family}_{number} {{\n    {family};\n    route {prefix} blackhole;\n}}\n"


def files(context: Context, host: Host) -> Iterable[File]:
    """Return the unit and the configuration."""
    topology = context.topology
    for name, text in configuration(host, topology.with_role("router"), topology.bgp).items():
        yield File(f"{_FOLDER}/{name}", text)
    yield from calico_datastore.files(context)
    yield File(_SELECT, _SELECT_SCRIPT, mode=0o755)
    yield File(f"/etc/systemd/system/{UNIT}", _UNIT + (_KILLED if topology.bgp.graceful_restart else ""))
