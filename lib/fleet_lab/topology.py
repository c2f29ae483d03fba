"""The topology: which hosts the lab has, their roles and their addresses; read from a small YAML file."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from fleet.config.model import Duration
from fleet_lab.errors import LabError

DEFAULT = Path(__file__).with_name("topology.yaml")
"""The topology of a lab that is made without naming one."""

RoleName = Literal[
    "control-plane", "etcd", "new-etcd", "load-balancer", "worker", "alertmanager", "lock-store", "router", "web"
]
"""``new-etcd`` is a member of an etcd cluster that is empty, and that Kubernetes may be moved to."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,8}$")]
"""A host's name: nine characters, so that the lab's mark and it fit into the name of a network interface."""

_FIRST_HOST = 11
_BGP_NODES: tuple[RoleName, ...] = ("control-plane", "worker")
_SINGLE: tuple[RoleName, ...] = ("load-balancer", "lock-store")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(_Model):
    """The lab's networks."""

    bridge: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,14}$")] = "fleetlab"
    ipv4: IPv4Network = IPv4Network("10.77.0.0/24")
    ipv6: IPv6Network = IPv6Network("fd00:77::/64")
    pods_ipv4: IPv4Network = IPv4Network("10.78.0.0/16")
    pods_ipv6: IPv6Network = IPv6Network("fd00:78::/48")
    services: IPv4Network = IPv4Network("10.96.0.0/16")

    @property
    def machine_ipv4(self) -> IPv4Address:
        """The machine's own address on the bridge."""
        return self.ipv4[1]

    @property
    def machine_ipv6(self) -> IPv6Address:
        """The machine's own IPv6 address on the bridge."""
        return self.ipv6[1]


AsNumber = Annotated[int, Field(ge=1, le=4294967295)]


class Bgp(_Model):
    """Who speaks BGP with whom."""

    routers_asn: AsNumber = 65000
    nodes_asn: AsNumber = 64601
    graceful_restart: bool = False
    """Whether routes of a node stay at the routers while its BGP daemon is restarted."""


class _HostEntry(_Model):
    role: RoleName
    row: str = "row-a"


class Host(_Model):
    """A host with its addresses."""

    name: str
    role: RoleName
    row: str
    index: int
    """Its place in the topology, which gives its addresses and those of its pods."""
    ipv4: IPv4Address
    ipv6: IPv6Address
    pods_ipv4: IPv4Network
    pods_ipv6: IPv6Network


class Topology(_Model):
    """The whole file."""

    network: Network = Network()
    bgp: Bgp = Bgp()
    firmware_delay: Duration = 2.0
    entries: dict[Name, _HostEntry] = Field(min_length=1, alias="hosts")

    @model_validator(mode="after")
    def _complete(self) -> "Topology":
        roles = [entry.role for entry in self.entries.values()]
        for role in ("control-plane", "etcd", "worker", "alertmanager"):
            if role not in roles:
                raise ValueError(f"there is no host with the role {role}")
        for single in _SINGLE:
            if roles.count(single) != 1:
                raise ValueError(f"there must be exactly one host with the role {single}")
        if len(roles) + _FIRST_HOST >= self.network.ipv4.num_addresses - 1:
            raise ValueError(f"{self.network.ipv4} is too small for {len(roles)} hosts")
        return self

    @property
    def hosts(self) -> dict[str, Host]:
        """All hosts by name, in the file's order."""
        return {
            name: Host(
                name=name,
                role=entry.role,
                row=entry.row,
                index=index,
                ipv4=self.network.ipv4[index],
                ipv6=self.network.ipv6[index],
                pods_ipv4=IPv4Network((self.network.pods_ipv4[index * 256], 24)),
                pods_ipv6=IPv6Network((self.network.pods_ipv6[index << 64], 64)),
            )
            for index, (name, entry) in enumerate(self.entries.items(), _FIRST_HOST)
        }

    def with_role(self, role: RoleName) -> list[Host]:
        """Return the hosts of a role."""
        return [host for host in self.hosts.values() if host.role == role]

    @property
    def bgp_nodes(self) -> list[Host]:
        """The hosts that keep sessions with every router."""
        return [host for host in self.hosts.values() if host.role in _BGP_NODES]

    @property
    def api_host(self) -> Host:
        """The load balancer, whose address is the Kubernetes API's."""
        return self.with_role("load-balancer")[0]


def load(path: Path) -> Topology:
    """Read a topology.

    Args:
        path: the YAML file.

    Raises:
        LabError: with a line for each mistake: the file, the key and what is wrong with it.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LabError(f"{path}: cannot be read: {error}") from error
    try:
        return Topology.model_validate(data)
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(str(part) for part in mistake['loc'])}: {mistake['msg'].removeprefix('Value error, ')}"
            for mistake in error.errors()
        ]
        raise LabError("\n".join(lines)) from error
