"""A worker: a node of the Kubernetes cluster, run by the lab's kubelet."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources

from fleet_lab.files import File, Link
from fleet_lab.roles import calico, puppet
from fleet_lab.roles.context import Context
from fleet_lab.roles.role import Role
from fleet_lab.topology import Host

_FOLDER = "/usr/local/lib/fleet-lab/kubelet"
_PKI = "/var/lib/kubelet/pki"

_UNIT = """\
[Unit]
Description=The lab's kubelet
After=network.target
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/python3 -m kubelet /etc/kubernetes/lab-kubelet.json
WorkingDirectory=/usr/local/lib/fleet-lab
Restart=always
RestartSec=1
"""


@dataclass(frozen=True)
class Worker(Role):
    """A node of the cluster."""

    def files(self, context: Context, host: Host) -> Iterable[File | Link]:
        """Return the kubelet, its settings and its certificate."""
        yield from puppet.files(context)
        yield from calico.files(context, host)
        network = context.topology.network
        credential = context.kubernetes_ca.issue(f"system:node:{host.name}", organization="system:nodes")
        settings = {
            "node": host.name,
            "server": context.api_url,
            "ca": f"{_PKI}/ca.pem",
            "certificate": f"{_PKI}/kubelet.pem",
            "key": f"{_PKI}/kubelet.key",
            "addresses": [str(host.ipv4), str(host.ipv6)],
            "labels": {"kubernetes.io/hostname": host.name, "topology.kubernetes.io/zone": host.row},
            "annotations": {
                "projectcalico.org/IPv4Address": f"{host.ipv4}/{network.ipv4.prefixlen}",
                "projectcalico.org/IPv6Address": f"{host.ipv6}/{network.ipv6.prefixlen}",
            },
            "pods_ipv4": str(host.pods_ipv4),
            "pods_ipv6": str(host.pods_ipv6),
        }
        yield File("/etc/kubernetes/lab-kubelet.json", json.dumps(settings, indent=1))
        yield File(f"{_PKI}/ca.pem", context.kubernetes_ca.certificate)
        yield File(f"{_PKI}/kubelet.pem", credential.certificate)
        yield File(f"{_PKI}/kubelet.key", credential.key, mode=0o600)
        yield File("/etc/systemd/system/kubelet.service", _UNIT)
        for source in (resources.files("fleet_lab.guest") / "kubelet").iterdir():
            if source.name.endswith(".py"):
                yield File(f"{_FOLDER}/{source.name}", source.read_bytes())

    def binds(self, context: Context) -> Mapping[str, str]:
        """Return Puppet's code."""
        return puppet.binds(context)


ROLE = Worker(
    packages=(*puppet.PACKAGES, *calico.PACKAGES),
    units=("kubelet.service", *calico.UNITS, *puppet.UNITS),
)
