"""What roles are made from."""

from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from fleet_lab.paths import Paths
from fleet_lab.pki import Authority
from fleet_lab.ssh import Ssh
from fleet_lab.topology import Host, RoleName, Topology

LOCALHOST = IPv4Address("127.0.0.1")


@dataclass(frozen=True)
class Context:
    """The lab as a whole, as a role needs to know it for writing a host's files."""

    topology: Topology
    paths: Paths
    ssh: Ssh
    kubernetes_ca: Authority
    etcd_ca: Authority
    host_files: Path
    """The folder ``config/hosts`` of the repository: what every host of a fleet must have."""

    @property
    def api_url(self) -> str:
        """The address of the Kubernetes API, behind the load balancer."""
        return f"https://{self.topology.api_host.ipv4}:6443"

    def etcd_endpoints(self, role: RoleName) -> list[str]:
        """Return the client URLs of an etcd cluster's members: of those with a role."""
        return [f"https://{host.ipv4}:2379" for host in self.topology.with_role(role)]

    def machine_id(self, host: Host) -> str:
        """Return a host's machine id: its own, the same after every boot."""
        return f"{host.index:032x}"
