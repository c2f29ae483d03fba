"""The stand-in for PyBal on the load balancer: it follows conftool's objects of the apiservers."""

import json
from collections.abc import Iterable
from importlib import resources

from fleet_lab.files import File
from fleet_lab.roles.context import Context
from fleet_lab.topology import Host

UNIT = "lab-pybal.service"
PORT = 9090
"""Where it answers as PyBal's instrumentation does."""
POOL = "kubemaster_6443"

TAGS = {"dc": "lab", "cluster": "kubernetes", "service": "kubemaster"}
"""The tags of conftool's objects of the apiservers."""
NAMESPACE, VERSION, POOLS_PATH = "/conftool", "v1", "pools"
"""Where conftool keeps its objects in etcd."""

_PKI = "/etc/lab-pybal"
_SETTINGS = f"{_PKI}/settings.json"
_PROGRAM = "/usr/local/lib/fleet-lab/pybal.py"

_UNIT = f"""\
[Unit]
Description=Has HAProxy do as conftool's objects say
After=haproxy.service
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/python3 {_PROGRAM} {_SETTINGS}
Restart=always
RestartSec=1
"""


def url(context: Context) -> str:
    """Return where the pool of the apiservers is asked for."""
    return f"http://{context.topology.api_host.ipv4}:{PORT}/pools/{POOL}"


def files(context: Context, host: Host, socket: str, backend: str) -> Iterable[File]:
    """Return the program, its unit, settings and certificate.

    Args:
        context: the lab.
        host: the load balancer.
        socket: HAProxy's runtime socket.
        backend: the backend of the apiservers.
    """
    client = context.etcd_ca.issue("pybal")
    settings = {
        "etcd": f"https://{context.topology.with_role('lock-store')[0].ipv4}:2379",
        "objects": "/".join((NAMESPACE, VERSION, POOLS_PATH, *TAGS.values())),
        "ca": f"{_PKI}/ca.pem",
        "certificate": f"{_PKI}/client.pem",
        "key": f"{_PKI}/client.key",
        "socket": socket,
        "backend": backend,
        "pool": POOL,
        "listen": str(host.ipv4),
        "port": PORT,
    }
    yield File(_SETTINGS, json.dumps(settings, indent=1))
    yield File(f"{_PKI}/ca.pem", context.etcd_ca.certificate)
    yield File(f"{_PKI}/client.pem", client.certificate)
    yield File(f"{_PKI}/client.key", client.key, mode=0o600)
    yield File(_PROGRAM, (resources.files("fleet_lab.guest") / "pybal.py").read_bytes())
    yield File(f"/etc/systemd/system/{UNIT}", _UNIT)
