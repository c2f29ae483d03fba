"""Configuration of this project: one YAML file, read into typed models.

The file is ``fleet/config.yaml`` in spicerack's configuration directory; ``config/fleet.yaml`` in this repository is a
commented example of it. Every mistake in it is reported at once, each with its file and key.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, IPvAnyAddress, model_validator

from fleet.config.drain import DrainConfig
from fleet.config.file import ConfigError
from fleet.config.reinitialize import EtcdConfig, ReinitializeConfig
from fleet.config.scope import AlertsConfig, GroupConfig, HostDeadlines, HostLimits, ScopeConfig
from fleet.config.types import (
    DNS_LABEL,
    NODE_LABEL,
    AbsolutePath,
    Duration,
    Model,
    Pause,
    Query,
    RouterName,
    ScopeName,
    UnitName,
)

__all__ = [
    "COMPONENTS",
    "AlertsConfig",
    "BgpConfig",
    "ClusterConfig",
    "ComponentConfig",
    "Config",
    "ConftoolConfig",
    "ControlPlaneConfig",
    "DrainConfig",
    "Duration",
    "EtcdConfig",
    "GroupConfig",
    "HaproxyConfig",
    "LeaseConfig",
    "LoadBalancerConfig",
    "ReinitializeConfig",
    "ScopeConfig",
]


class HostsConfig(Model):
    """How to find a cluster's hosts: Cumin queries, aliases welcome (``A:lab-workers``)."""

    workers: Query
    control_plane: Query


class LimitsConfig(HostLimits):
    """The limits of a cluster."""

    attempts: int = Field(default=3, ge=1)
    """How often a node is tried in all whose drain fails, where ``drain.failed`` is ``release``."""


class DeadlinesConfig(HostDeadlines):
    """The deadlines of a cluster."""

    drain: Duration = 900.0
    daemons: Duration = 600.0
    """Until the pods that stay on a node are Ready again."""
    volumes: Duration = 600.0
    """Until a drained node's volumes are detached."""
    workloads: Duration = 900.0
    """Until the workloads have their Ready pods again."""
    bgp: Duration = 600.0
    """Until all BGP sessions of a node are proven at all routers."""


class GatesConfig(Model):
    """What is looked at beside a node's own condition."""

    daemons: bool = True
    """Whether pods that stay on a node (DaemonSets', static ones) and were Ready must be Ready again."""
    ignore: tuple[Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")], ...] = ()
    """DaemonSets and static pods that need not be, as ``namespace/name``; ``*`` stands for anything."""
    volumes: bool = True
    """Whether a drained node's volumes must be detached before it is rebooted."""
    workloads: bool = True
    """Whether workloads must have their Ready pods again before any further node starts."""


class RouterConfig(Model):
    """A router and where its NETCONF server listens."""

    address: str = Field(default="", max_length=253)
    """Its host name or address; empty for the router's own name."""
    port: int = Field(default=830, ge=1, le=65535)


class BgpConfig(Model):
    """The core routers, and the BGP sessions that every node keeps with each of them."""

    routers: dict[RouterName, RouterConfig] = Field(min_length=1)
    username: str = Field(min_length=1, max_length=253)
    ssh_key: AbsolutePath | None = None
    """Private key to log in with."""
    password_file: AbsolutePath | None = None
    """File with the password to log in with, in its first line."""
    known_hosts: AbsolutePath
    """The routers' SSH host keys; a router that shows another one is not talked to."""
    asn: int = Field(ge=1, le=4294967295)
    """The AS number of the nodes."""
    families: tuple[Literal["ipv4", "ipv6"], ...] = Field(default=("ipv4", "ipv6"), min_length=1)
    """The address families in which nodes have sessions, where they have an address of that family."""
    addresses: dict[str, tuple[IPvAnyAddress, ...]] = Field(default_factory=dict)
    """The addresses of nodes that keep their sessions with others than Kubernetes or Calico knows."""
    stable: Pause = 10.0
    """How long a session must have been up before it counts as proven."""
    connect_timeout: Duration = 10.0
    rpc_timeout: Duration = 30.0
    unit: UnitName = "calico-node.service"
    """The unit of systemd that keeps the sessions on the nodes."""

    @model_validator(mode="after")
    def _can_log_in(self) -> "BgpConfig":
        if (self.ssh_key is None) == (self.password_file is None):
            raise ValueError("needs either ssh_key or password_file")
        return self

    @model_validator(mode="after")
    def _are_several(self) -> "BgpConfig":
        places: dict[tuple[str, int], str] = {}
        for name, router in self.routers.items():
            other = places.setdefault((router.address or name, router.port), name)
            if other != name:
                raise ValueError(f"{other} and {name} are the same router: they have the same address and port")
        return self


class HaproxyConfig(Model):
    """HAProxy before the apiservers, told over its runtime socket on the load balancers themselves."""

    hosts: Query
    """The load balancers, all of which are told."""
    backend: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]+$")]
    socket: AbsolutePath = Path("/run/haproxy/admin.sock")
    """Of level ``admin``."""
    server_names: Literal["fqdn", "short"] = "short"
    """Whether HAProxy knows a host by the name Cumin has for it, or by that name's first label."""


class ConftoolConfig(Model):
    """Conftool's objects, which PyBal follows: ``pooled=yes`` and ``pooled=no``."""

    config_file: AbsolutePath = Path("/etc/conftool/config.yaml")
    schema_file: AbsolutePath = Path("/etc/conftool/schema.yaml")
    selector: dict[str, str] = Field(min_length=1)
    """The tags of the apiservers' objects of the type ``node``, such as ``dc``, ``cluster`` and ``service``."""
    names: Literal["fqdn", "short"] = "fqdn"
    """Whether conftool knows a host by the name Cumin has for it, or by that name's first label."""
    pybal: tuple[Annotated[str, Field(pattern=r"^https?://[^\s]+$")], ...] = ()
    """The pool at the instrumentation of each PyBal, such as ``http://lvs1:9090/pools/kubemaster_6443``."""


class LoadBalancerConfig(Model):
    """What is before the apiservers; neither of the two where its own health checks are all there is."""

    haproxy: HaproxyConfig | None = None
    conftool: ConftoolConfig | None = None
    drain: Pause = 30.0
    """How long the connections to a server may take to end once it gets no new ones."""

    @model_validator(mode="after")
    def _is_one(self) -> "LoadBalancerConfig":
        if self.haproxy and self.conftool:
            raise ValueError("has both haproxy and conftool: one of them decides who gets connections")
        return self


class ComponentConfig(Model):
    """A unit of systemd on control-plane hosts, and how to tell that it is well."""

    unit: UnitName | None = None
    """Nothing for the component's name and ``.service``."""
    check: Annotated[str, Field(pattern=r"\S")] | None = None
    """A command for bash on the host that only looks, and succeeds if the component is well."""


COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
"""What every control plane has, in the order of restarts; the project itself knows how to tell that it is well."""


class ControlPlaneConfig(Model):
    """The control plane: how to reach each apiserver, what is before them, and what else may be restarted there."""

    port: int = Field(default=6443, ge=1, le=65535)
    """Where every kube-apiserver listens on its host's own address."""
    addresses: dict[str, IPvAnyAddress] = Field(default_factory=dict)
    """The addresses of control-plane hosts that cannot be reached by the name Cumin has for them."""
    load_balancer: LoadBalancerConfig = LoadBalancerConfig()
    components: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], ComponentConfig] = Field(
        default_factory=dict
    )
    """Further units that may be restarted, and the names of the known components' units if they are others."""
    settle: Pause = 10.0
    """How long all must have been well, and no request failed, after kube-apiserver's restart on a host."""
    max_failed_requests: int = Field(default=0, ge=0)
    """Failed requests of the watchdog that a run tolerates; with one more it starts nothing new."""

    @model_validator(mode="after")
    def _can_be_checked(self) -> "ControlPlaneConfig":
        for name, component in self.components.items():
            if (component.check is None) != (name in COMPONENTS):
                what = "must have no check: it has one" if name in COMPONENTS else "needs a check"
                raise ValueError(f"components.{name} {what}")
        return self


class LeaseConfig(Model):
    """The Kubernetes Lease that a run holds on its cluster as long as it lives."""

    namespace: str = Field(default="kube-system", pattern=DNS_LABEL)
    name: str = Field(default="fleet-maintenance", pattern=DNS_LABEL)
    duration: Duration = 60.0


class ClusterConfig(ScopeConfig):
    """A cluster: its hosts, limits, deadlines, alerts and Puppet."""

    kubeconfig: AbsolutePath
    """The kubeconfig of an identity with the permissions in ``config/kubernetes-rbac.yaml``."""
    hosts: HostsConfig
    node_names: Literal["fqdn", "short"] = "fqdn"
    """Whether Kubernetes knows a host by the name Cumin has for it, or by that name's first label."""
    domain_label: str = Field(default="topology.kubernetes.io/zone", pattern=NODE_LABEL, max_length=317)
    """The node label that names the failure domain."""
    limits: LimitsConfig = LimitsConfig()
    deadlines: DeadlinesConfig = DeadlinesConfig()
    drain: DrainConfig = DrainConfig()
    gates: GatesConfig = GatesConfig()
    bgp: BgpConfig | None = None
    """Nothing where the routers are not to be asked: then no gate looks at BGP."""
    control_plane: ControlPlaneConfig = ControlPlaneConfig()
    etcd: EtcdConfig | None = None
    """Nothing where its members are not to be maintained."""
    reinitialize: ReinitializeConfig | None = None
    """Nothing where the cluster is not to be moved onto a new etcd."""
    lease: LeaseConfig = LeaseConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> "ClusterConfig":
        if self.bgp and self.bgp.stable >= self.deadlines.bgp:
            raise ValueError("bgp.stable must be shorter than deadlines.bgp: no session could be proven in time")
        if self.control_plane.settle >= self.deadlines.ready:
            raise ValueError("control_plane.settle must be shorter than deadlines.ready: no host could settle in time")
        if self.reinitialize and (self.etcd is None or not self.etcd.endpoints):
            raise ValueError(
                "reinitialize needs etcd.endpoints: that of today is proven to be left, and rolled back to"
            )
        if self.reinitialize and not self.puppet.enabled:
            raise ValueError("reinitialize needs puppet.enabled: it is Puppet that points the hosts at the new etcd")
        conftool = self.control_plane.load_balancer.conftool
        discovery = self.reinitialize.discovery if self.reinitialize else None
        # Conftool keeps its connection in a class: one configuration at a time can be used in a process.
        if conftool and discovery and conftool.config_file != discovery.config_file:
            raise ValueError("reinitialize.discovery.config_file must be that of control_plane.load_balancer.conftool")
        return self


class Config(Model):
    """The whole file."""

    state_dir: AbsolutePath
    """Where runs are kept: a folder a run, private to the operator."""
    clusters: dict[ScopeName, ClusterConfig] = Field(default_factory=dict)
    groups: dict[ScopeName, GroupConfig] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_scopes(self) -> "Config":
        if not self.clusters and not self.groups:
            raise ValueError("needs clusters or groups: there is nothing to maintain")
        if both := sorted(set(self.clusters) & set(self.groups)):
            raise ValueError(f"{', '.join(both)}: clusters and groups must have different names, as runs are named so")
        return self

    def cluster(self, name: str) -> ClusterConfig:
        """Return the configuration of a cluster.

        Args:
            name: the cluster's name, a key of ``clusters``.

        Raises:
            ConfigError: there is no such cluster.
        """
        return _named(self.clusters, "cluster", name)

    def group(self, name: str) -> GroupConfig:
        """Return the configuration of a group of hosts.

        Args:
            name: the group's name, a key of ``groups``.

        Raises:
            ConfigError: there is no such group.
        """
        return _named(self.groups, "group", name)


_S = TypeVar("_S", bound=ScopeConfig)


def _named(those: Mapping[str, _S], kind: str, name: str) -> _S:
    try:
        return those[name]
    except KeyError:
        known = ", ".join(sorted(those)) or "none"
        raise ConfigError(f"There is no {kind} {name!r} in the configuration. It has: {known}.") from None
