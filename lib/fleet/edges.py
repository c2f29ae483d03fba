"""What a session reaches the world with; tests hand in another world."""

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Protocol

from rich.console import Console
from spicerack import Spicerack

from fleet.adapters import locks
from fleet.adapters.alertmanager.silences import Silences
from fleet.adapters.bgp.junos import Routers, RoutersView
from fleet.adapters.hosts.remote import Remote
from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.lock import ClusterLock
from fleet.adapters.k8s.nodes import NodeView, NodeWatch
from fleet.adapters.k8s.reflector import Follow, follow
from fleet.clock import CLOCK, THREADS, Clock, Threads
from fleet.config.model import AlertsConfig, BgpConfig
from fleet.engine import report
from fleet.engine.effects import Events
from fleet.engine.journal import Journal
from fleet.engine.protocols import Holder, View
from fleet.execution import Hosts
from fleet.steps.cluster import Cluster
from fleet.steps.scope import Group


class Edges(Protocol):
    """The edges of a session: each method connects to one kind of neighbour."""

    @property
    def clock(self) -> Clock:
        """The time."""

    @property
    def threads(self) -> Threads:
        """Where effects run."""

    @property
    def events(self) -> Events:
        """The queue through which everything reaches the engine's loop."""

    @property
    def console(self) -> Console:
        """Where plans and reports are printed."""

    @property
    def journal(self) -> type[Journal]:
        """The journals of runs."""

    @property
    def follow(self) -> Follow:
        """How steps follow what changes in the API."""

    def view(self) -> AbstractContextManager[View]:
        """Return what shows a run's progress."""

    def remote(self) -> Hosts:
        """Return the hosts.

        Raises:
            RemoteError: Cumin's configuration cannot be used.
        """

    def api(self, kubeconfig: Path) -> Api:
        """Return a cluster's API.

        Raises:
            KubernetesError: the kubeconfig cannot be used.
        """

    def nodes(self, api: Api, on_change: Callable[[], None]) -> AbstractContextManager[NodeView]:
        """Return a live view of a cluster's nodes.

        Args:
            api: the cluster's API.
            on_change: called after changes, from any thread.

        Raises:
            KubernetesError: the nodes could not be listed.
        """

    def routers(self, config: BgpConfig) -> AbstractContextManager[RoutersView]:
        """Return a cluster's core routers."""

    def silences(self, config: AlertsConfig) -> Silences:
        """Return a cluster's Alertmanager.

        Raises:
            SilenceError: its configuration cannot be used.
        """

    def lock(self, cluster: Cluster, holder: Holder, on_change: Callable[[], None]) -> ClusterLock:
        """Return a cluster's lock, which is not taken yet."""

    def lock_store(self) -> locks.Store | None:
        """Return the etcd of locks; None where there is none.

        Raises:
            LockStoreError: its configuration cannot be used.
        """

    def group_lock(self, group: Group, holder: Holder, on_change: Callable[[], None]) -> locks.GroupLock:
        """Return a group's lock, which is not taken yet.

        Raises:
            LockStoreError: its configuration cannot be used.
        """

    def start_lock(self, cluster: str) -> AbstractContextManager[None]:
        """Return what keeps apart two sessions on a cluster that start at the same moment.

        Raises:
            SpicerackError: on entering: it could not be taken.
        """


class SystemEdges:
    """The edges of a session on a cluster-management host.

    Args:
        spicerack: the cookbook runner.
    """

    clock: Clock = CLOCK
    threads: Threads = THREADS
    journal: type[Journal] = Journal
    follow: Follow = staticmethod(follow)

    def __init__(self, spicerack: Spicerack) -> None:
        self._spicerack = spicerack
        self.events = Events()
        self.console = report.console()

    def view(self) -> AbstractContextManager[View]:
        """Return a live table on a terminal, log lines otherwise."""
        return report.view()

    def remote(self) -> Remote:
        """Return hosts over SSH."""
        return Remote(self._spicerack)

    def api(self, kubeconfig: Path) -> Api:
        """Return a cluster's API."""
        return Api.from_kubeconfig(kubeconfig)

    def nodes(self, api: Api, on_change: Callable[[], None]) -> AbstractContextManager[NodeView]:
        """Return a watch of a cluster's nodes."""
        return NodeWatch(api, on_change=on_change)

    def routers(self, config: BgpConfig) -> AbstractContextManager[Routers]:
        """Return routers over NETCONF."""
        return closing(Routers(config))

    def silences(self, config: AlertsConfig) -> Silences:
        """Return the Alertmanager of spicerack's configuration."""
        return Silences.from_spicerack(
            self._spicerack,
            instance=config.instance,
            label=config.label,
            needed=config.needed,
            clock=self.clock,
            threads=self.threads,
        )

    def lock(self, cluster: Cluster, holder: Holder, on_change: Callable[[], None]) -> ClusterLock:
        """Return the lock that is a Lease in the API."""
        return ClusterLock(
            cluster.api,
            cluster.config.lease,
            holder,
            on_change,
            clock=cluster.clock,
            threads=cluster.threads,
            seen=cluster.lease_seen,
        )

    def lock_store(self) -> locks.Store | None:
        """Return the etcd of spicerack's locks."""
        return locks.store(self._spicerack)

    def group_lock(self, group: Group, holder: Holder, on_change: Callable[[], None]) -> locks.GroupLock:
        """Return the lock that is a key in the etcd of spicerack's locks."""
        return locks.GroupLock(
            self.lock_store(),
            group.name,
            group.config.lock,
            holder,
            on_change,
            clock=group.clock,
            threads=group.threads,
        )

    def start_lock(self, cluster: str) -> AbstractContextManager[None]:
        """Return spicerack's own lock."""
        lock: AbstractContextManager[None] = self._spicerack.lock().acquired(f"fleet:{cluster}", concurrency=1, ttl=60)
        return lock
