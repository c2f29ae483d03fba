"""The section ``reinitialize``: what is an organisation's own in moving a cluster onto a new etcd."""

import string
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from fleet.config.types import (
    DNS_LABEL,
    PROTECTED,
    AbsolutePath,
    Duration,
    Matcher,
    Model,
    NoSecret,
    Query,
    ScopeName,
    UnitName,
)
from fleet.text import listed


def _placeholders(*allowed: str) -> AfterValidator:
    def check(command: str) -> str:
        names = {name for _, name, _, _ in string.Formatter().parse(command) if name is not None}
        if unknown := sorted(names - set(allowed)):
            raise ValueError(f"{{{unknown[0]}}} is not known here: there is {', '.join(f'{{{a}}}' for a in allowed)}")
        return command

    return AfterValidator(check)


Text = Annotated[str, Field(pattern=r"\S")]
ClusterCommand = Annotated[Text, _placeholders("cluster")]
"""A command for bash on the cluster-management host; ``{cluster}`` is the cluster's name, quoted."""
ChangeCommand = Annotated[Text, _placeholders("cluster", "change")]
"""The same, with ``{change}``: what ``--puppet-change`` names."""
ServiceCommand = Annotated[Text, _placeholders("cluster", "service")]
"""The same, with ``{service}``."""
Name = Annotated[str, Field(pattern=DNS_LABEL)]
Url = Annotated[str, Field(pattern=r"^https?://[^\s,/]+:[0-9]+$")]


class EtcdConfig(Model):
    """An etcd cluster behind Kubernetes; ``etcdctl`` is run on its members."""

    hosts: Query
    """The members' hosts."""
    unit: UnitName = "etcd.service"
    environment: dict[Annotated[str, Field(pattern=r"^ETCDCTL_[A-Z_]+$"), NoSecret], str] = Field(default_factory=dict)
    """What etcdctl is given on each member to reach that member: ``ETCDCTL_ENDPOINTS``, ``ETCDCTL_CACERT`` …"""
    snapshots: AbsolutePath = Path("/var/backups/etcd")
    """The folder on the members for snapshots."""
    endpoints: tuple[Url, ...] = ()
    """The members' client URLs, as Kubernetes' and Calico's hosts reach them. Only a re-initialisation needs them."""


class PuppetChangeConfig(Model):
    """The change of Puppet's code that points Kubernetes and Calico at the new etcd."""

    merged: ChangeCommand
    """Succeeds if the change is merged, exits with 1 if it is not; anything else is an error."""
    merge: ChangeCommand | None = None
    """Merges it; nothing where an operator does it, and is asked for it."""
    revert: ChangeCommand | None = None
    """Reverts it, on the rollback; nothing where an operator does it, and is asked for it."""


class CalicoConfig(Model):
    """Calico's datastore, as ``calicoctl`` on the cluster's hosts sees it."""

    file: AbsolutePath = Path("/etc/calico/calicoctl.cfg")
    """The configuration of calicoctl on every host, with ``etcdEndpoints`` in it."""
    profiles: tuple[Name, ...] = ("kube-system",)
    """The namespaces that get a default profile, so that their pods are let through before policies are there."""


class DiscoveryConfig(Model):
    """The discovery records of the cluster's services: conftool's objects of the type ``discovery``."""

    config_file: AbsolutePath = Path("/etc/conftool/config.yaml")
    schema_file: AbsolutePath = Path("/etc/conftool/schema.yaml")
    datacenter: Name
    """The name of the cluster's own datacenter among the objects; another one has to be pooled for each service."""
    services: tuple[Name, ...] = Field(min_length=1)
    """The records (the tag ``dnsdisc``)."""
    traffic: ServiceCommand | None = None
    """Succeeds once no traffic for the service comes to the cluster any more."""


class ComponentsConfig(Model):
    """The cluster's own workloads, beside what is initialised."""

    command: ClusterCommand
    namespaces: tuple[Name, ...] = Field(min_length=1)
    """Where all workloads have to be Ready afterwards."""


class DeployConfig(Model):
    """The services on the cluster."""

    names: tuple[Name, ...] = Field(min_length=1)
    deploy: ServiceCommand
    """Deploys a service; it may be run again."""
    check: ServiceCommand | None = None
    """Succeeds if the service answers."""
    parallel: int = Field(default=4, ge=1)
    """How many are deployed at once, and asked at once for their traffic and whether they answer."""


class ReinitializeConfig(Model):
    """What it takes to move the cluster onto a new etcd."""

    etcds: dict[ScopeName, EtcdConfig] = Field(min_length=1)
    """The etcd clusters that ``--new-etcd`` may name."""
    kubeconfig: AbsolutePath
    """Of an identity that may do everything in an empty cluster: in the group ``system:masters``. Private."""
    puppet_change: PuppetChangeConfig
    calico: CalicoConfig = CalicoConfig()
    discovery: DiscoveryConfig | None = None
    """Nothing where no discovery record leads to the cluster."""
    apiserver_defaults: AbsolutePath = Path("/etc/default/kube-apiserver")
    """The file with the flags of kube-apiserver."""
    etcd_prefix: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._-]+)+$")] = "/registry"
    """kube-apiserver's ``--etcd-prefix``."""
    admission_plugins: tuple[Annotated[str, Field(pattern=r"^[A-Za-z]+$")], ...] = ()
    """Those that keep an empty cluster from being initialised, such as PodSecurityPolicy; none in Kubernetes 1.25."""
    kubelet: UnitName = "kubelet.service"
    node_watchers: tuple[UnitName, ...] = ()
    """Further units on workers that watch the API, such as ``kube-proxy.service``: they are restarted, too."""
    managed: ClusterCommand | tuple[Name, ...]
    """The managed namespaces, which are deleted and deployed anew: their names, or what prints one a line."""
    initialize: ClusterCommand
    """Initialises an empty cluster; it may be run again."""
    initialized: tuple[Annotated[str, Field(pattern=r"^/(api|apis)/\S+$")], ...] = Field(min_length=1)
    """Paths of objects in the API that must exist afterwards."""
    components: ComponentsConfig
    services: DeployConfig
    silences: tuple[Annotated[tuple[Matcher, ...], Field(min_length=1)], ...] = ()
    """Silences beside those of the hosts, each by its matchers: of the services."""
    command_timeout: Duration = 1800.0
    """How long each command on the cluster-management host may take."""

    @model_validator(mode="after")
    def _spares_kubernetes(self) -> "ReinitializeConfig":
        named = () if isinstance(self.managed, str) else self.managed
        if own := [name for name in named if name in PROTECTED]:
            raise ValueError(f"managed: {listed(own, 'is', 'are')} Kubernetes' own, and never deleted")
        return self

    @model_validator(mode="after")
    def _has_endpoints(self) -> "ReinitializeConfig":
        if bare := [name for name, etcd in self.etcds.items() if not etcd.endpoints]:
            raise ValueError(f"etcds.{bare[0]} needs endpoints: Kubernetes and Calico are proven to use them")
        return self
