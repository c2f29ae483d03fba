"""The members of an Alertmanager cluster, each with a watcher that tells all of them of hosts that are down."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

from fleet_lab.container import FAULTS
from fleet_lab.files import File
from fleet_lab.roles.context import Context
from fleet_lab.roles.role import Role
from fleet_lab.topology import Host

PORT = 9093
"""Where Alertmanager listens."""

_MESH_PORT = 9094
"""Where the members gossip, over TCP and UDP."""

MESH_CUT = "alertmanager-mesh-cut"
"""Fault: the member and the others do not gossip; each answers, and is told of alerts."""

MESH_CUT_UNIT = f"lab-{MESH_CUT}.service"
"""Runs as long as that fault lasts."""

_CONFIG = """\
# Alerts are looked at and silenced; nobody is paged.
route:
  receiver: nobody
  group_by: [instance]
receivers:
  - name: nobody
"""

_WATCHER = """\
[Unit]
Description=Raises HostDown for hosts of the lab that do not answer
After=prometheus-alertmanager.service
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/fleet-lab/host_watcher.py /etc/lab-hosts.json
Restart=always
RestartSec=1
"""


_MESH_CUT = """\
[Unit]
Description=No gossip with other members (injected fault)
ConditionPathExists={path}
After=lab-network.service

[Service]
Type=oneshot
RemainAfterExit=yes
{commands}
"""


def _mesh_cut() -> str:
    """Return the unit that lets no packet of the mesh in or out."""
    # TCP and UDP by their numbers, as hosts have no /etc/protocols.
    rules = [f"blackhole ipproto {protocol} {end} {_MESH_PORT}" for protocol in (6, 17) for end in ("sport", "dport")]
    # What comes in is only asked about if these come before the rule for the host's own addresses.
    local = "lookup local"
    start = [f"add pref 2 {local}", *(f"add pref 1 {rule}" for rule in rules), f"delete pref 0 {local}"]
    stop = [f"add pref 0 {local}", *(f"delete pref 1 {rule}" for rule in rules), f"delete pref 2 {local}"]
    lines = [
        f"Exec{when}=/usr/sbin/ip rule {each}" for when, all_ in (("Start", start), ("Stop", stop)) for each in all_
    ]
    return _MESH_CUT.format(path=f"{FAULTS}/{MESH_CUT}", commands="\n".join(lines))


@dataclass(frozen=True)
class Alertmanager(Role):
    """The host of a member and of a watcher."""

    def files(self, context: Context, host: Host) -> Iterable[File]:
        """Return Alertmanager's configuration and the watcher."""
        members = context.topology.with_role("alertmanager")
        mesh = [
            f"--cluster.listen-address={host.ipv4}:{_MESH_PORT}" if len(members) > 1 else "--cluster.listen-address="
        ]
        mesh += [f"--cluster.peer={other.ipv4}:{_MESH_PORT}" for other in members if other != host]
        # One that was away is looked for as soon as it is back; what was missed while a mesh was cut for a moment is
        # exchanged soon, not after a minute.
        mesh += ["--cluster.reconnect-interval=1s", "--cluster.pushpull-interval=5s"]
        addresses = {other.name: str(other.ipv4) for other in context.topology.hosts.values()}
        watcher = resources.files("fleet_lab.guest") / "host_watcher.py"
        yield File("/etc/prometheus/alertmanager.yml", _CONFIG)
        yield File(
            "/etc/default/prometheus-alertmanager",
            f'ARGS="--web.listen-address={host.ipv4}:{PORT} {" ".join(mesh)} --log.level=warn"\n',
        )
        yield File(
            "/etc/lab-hosts.json",
            json.dumps(
                {"alertmanagers": [f"http://{member.ipv4}:{PORT}" for member in members], "hosts": addresses}, indent=1
            ),
        )
        yield File("/usr/local/lib/fleet-lab/host_watcher.py", watcher.read_bytes())
        yield File("/etc/systemd/system/lab-host-watcher.service", _WATCHER)
        yield File(f"/etc/systemd/system/{MESH_CUT_UNIT}", _mesh_cut())


ROLE = Alertmanager(
    packages=("prometheus-alertmanager",),
    units=("prometheus-alertmanager.service", "lab-host-watcher.service", MESH_CUT_UNIT),
)
