"""A host without Kubernetes: a small web server, one of a group."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fleet_lab.files import File
from fleet_lab.roles import puppet
from fleet_lab.roles.context import Context
from fleet_lab.roles.role import Role
from fleet_lab.topology import Host

UNIT = "web.service"
"""The unit of systemd."""
BUSY = "/run/web-busy"
"""While this file is there, the host must not be touched: as during a deployment."""
BEFORE = f"test ! -e {BUSY}"
"""Succeeds on a host from which something may be taken."""
AFTER = "timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080'"
"""Succeeds on a host that serves."""

_UNIT = """\
[Unit]
Description=Web server
After=lab-network.service

[Service]
ExecStart=/usr/bin/python3 -m http.server 8080 --directory /srv/web

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class Web(Role):
    """The host of a web server."""

    def files(self, context: Context, host: Host) -> Iterable[File]:
        """Return the unit, a page, and Puppet."""
        yield from puppet.files(context)
        yield File(f"/etc/systemd/system/{UNIT}", _UNIT)
        yield File("/srv/web/index.html", f"{host.name}\n")

    def binds(self, context: Context) -> Mapping[str, str]:
        """Return Puppet's code."""
        return puppet.binds(context)


ROLE = Web(packages=("python3", *puppet.PACKAGES), units=(UNIT, *puppet.UNITS))
