"""What a re-initialisation works on: two etcd clusters, the hosts, each apiserver's own address, the run's folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet.adapters import commands
from fleet.adapters.etcd import health, members
from fleet.adapters.k8s.apiserver import Apiservers
from fleet.adapters.k8s.lock import ClusterLock
from fleet.config.model import COMPONENTS, EtcdConfig, ReinitializeConfig
from fleet.engine import journal
from fleet.engine.model import Status, TargetState
from fleet.errors import FleetError
from fleet.steps.cluster import Cluster
from fleet.steps.control_plane_health import unit_of

CLUSTER = "cluster"
"""The one target of the stages that are about the cluster as a whole."""
DEFAULT_CALICO = "calico-node.service"


@dataclass(frozen=True)
class Store:
    """An etcd cluster.

    Attributes:
        name: what it is called.
        config: how to reach it.
        hosts: its members' hosts.
    """

    name: str
    config: EtcdConfig
    hosts: Sequence[str]

    def asked(self, cluster: Cluster) -> str:
        """Return the host of a member that is well, to ask about the whole; a follower if there is one.

        Raises:
            FleetError: no member is known to be well.
        """
        view = members.view(cluster.remote, self.hosts, self.config)
        if host := health.spokesman(view):
            return host
        raise FleetError(f"No member of {self.name} is known to be well: {health.problem(view)}.")


@dataclass(frozen=True)
class World:
    """Everything that a run sees.

    Attributes:
        cluster: the cluster.
        config: what is the organisation's own.
        old: the etcd of today.
        new: the etcd that the cluster is moved onto.
        control_plane: the control-plane hosts; the first one is the first on the new etcd.
        workers: the workers' hosts.
        change: the change of Puppet's code.
        managed: the managed namespaces.
        max_failed: how many workers may be away.
        folder: the run's folder; None while there is only a plan.
        lock: the cluster's lock; None where there is none to take again.
    """

    cluster: Cluster
    config: ReinitializeConfig
    old: Store
    new: Store
    control_plane: Sequence[str]
    workers: Sequence[str]
    change: str
    managed: Sequence[str]
    max_failed: int
    folder: Path | None = None
    lock: ClusterLock | None = None

    @property
    def is_old_gone(self) -> bool:
        """Whether the old etcd is lost: Calico's data comes from an export then, and there is no rollback."""
        return bool(self.cluster.run.options.get("calico_export"))

    @property
    def first(self) -> str:
        """The control-plane host that is the first on the new etcd."""
        return self.control_plane[0]

    @property
    def hosts(self) -> list[str]:
        """All hosts of the cluster."""
        return [*self.control_plane, *self.workers]

    @property
    def calico_unit(self) -> str:
        """The unit that keeps the nodes' BGP sessions."""
        return self.cluster.config.bgp.unit if self.cluster.config.bgp else DEFAULT_CALICO

    def component_units(self) -> list[str]:
        """Return the units of the control plane, kube-apiserver first."""
        return [unit_of(self.cluster.config.control_plane, name) for name in COMPONENTS]

    def units_of(self, host: str) -> list[str]:
        """Return the units of a host that must not run while etcd is exchanged."""
        return [*(self.component_units() if host in self.control_plane else ()), self.calico_unit]

    def needed_units(self, host: str) -> list[str]:
        """Return those of them that every such host has: calico-node may be missing on the control plane."""
        return self.component_units() if host in self.control_plane else [self.calico_unit]

    def apiservers(self) -> Apiservers:
        """Return the apiservers, each by its own address.

        Raises:
            KubernetesError: the kubeconfig is not usable.
        """
        config = self.cluster.config
        return Apiservers(self.config.kubeconfig, config.control_plane, self.control_plane, config.lease)

    def place(self, name: str) -> Path:
        """Return a file in the run's folder.

        Raises:
            FleetError: there is only a plan.
        """
        if self.folder is None:
            raise FleetError(f"There is no run that {name} could be kept with.")
        return self.folder / name

    def facts(self, stage: str) -> Mapping[str, Mapping[str, Any]]:
        """Return what a stage has learned about its targets, from any thread."""
        return {name: state.facts for name, state in self.states(stage).items()}

    def states(self, stage: str) -> Mapping[str, TargetState]:
        """Return the states of a stage's targets, from any thread."""
        return {} if self.folder is None else journal.read_states(self.folder, stage)

    def is_done(self, stage: str) -> bool:
        """Return whether all targets of a stage are done, and it has any."""
        states = self.states(stage).values()
        return bool(states) and all(state.status is Status.DONE for state in states)

    def fill(self, command: str, **values: str) -> str:
        """Return a configured command with its values."""
        return commands.fill(command, cluster=self.cluster.name, **values)

    def run(self, command: str, log: str, tell: "commands.Tell | None" = None) -> int:
        """Run a filled command on this host, its output in the run's folder; return its exit code.

        Raises:
            fleet.adapters.commands.CommandError: it did not end in time.
        """
        return commands.run(
            command,
            timeout=self.config.command_timeout,
            log=self.place(log),
            cancel=self.cluster.cancel,
            tell=tell or (lambda _line: None),
        )


def make(cluster: Cluster, folder: Path | None = None, lock: ClusterLock | None = None) -> World:
    """Return the world of a run, by its options.

    Raises:
        FleetError: the configuration does not have what the run needs.
    """
    options = cluster.run.options
    config = configured(cluster)
    name = str(options["new_etcd"])
    if name not in config.etcds:
        raise FleetError(
            f"There is no etcd {name!r} for {cluster.name} in the configuration (reinitialize.etcds); there is"
            f" {', '.join(sorted(config.etcds))}."
        )
    if cluster.config.etcd is None:  # The configuration's own check has said so before.
        raise FleetError(f"The cluster {cluster.name} has no section etcd in the configuration.")
    find = cluster.remote.query
    return World(
        cluster=cluster,
        config=config,
        old=Store("the old etcd", cluster.config.etcd, find(cluster.config.etcd.hosts)),
        new=Store(name, config.etcds[name], find(config.etcds[name].hosts)),
        control_plane=options["control_plane"],
        workers=options["workers"],
        change=str(options["puppet_change"]),
        managed=options["managed"],
        max_failed=int(options["max_failed"]),
        folder=folder,
        lock=lock,
    )


def configured(cluster: Cluster) -> ReinitializeConfig:
    """Return the section of a cluster's configuration.

    Raises:
        FleetError: there is none.
    """
    if cluster.config.reinitialize is None:
        raise FleetError(f"The cluster {cluster.name} has no section reinitialize in the configuration.")
    return cluster.config.reinitialize
