"""Alertmanager, and a watcher that raises alerts for hosts that are down."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

from fleet_lab.files import File
from fleet_lab.roles.context import Context
from fleet_lab.roles.role import Role
from fleet_lab.topology import Host

PORT = 9093
"""Where Alertmanager listens."""

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


@dataclass(frozen=True)
class Alertmanager(Role):
    """The host of Alertmanager and of the watcher."""

    def files(self, context: Context, host: Host) -> Iterable[File]:
        """Return Alertmanager's configuration and the watcher."""
        addresses = {other.name: str(other.ipv4) for other in context.topology.hosts.values()}
        watcher = resources.files("fleet_lab.guest") / "host_watcher.py"
        yield File("/etc/prometheus/alertmanager.yml", _CONFIG)
        yield File(
            "/etc/default/prometheus-alertmanager",
            f'ARGS="--web.listen-address={host.ipv4}:{PORT} --cluster.listen-address= --log.level=warn"\n',
        )
        yield File(
            "/etc/lab-hosts.json",
            json.dumps({"alertmanager": f"http://{host.ipv4}:{PORT}", "hosts": addresses}, indent=1),
        )
        yield File("/usr/local/lib/fleet-lab/host_watcher.py", watcher.read_bytes())
        yield File("/etc/systemd/system/lab-host-watcher.service", _WATCHER)


ROLE = Alertmanager(
    packages=("prometheus-alertmanager",),
    units=("prometheus-alertmanager.service", "lab-host-watcher.service"),
)
