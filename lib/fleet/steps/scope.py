"""What a run works on: one scope, which is locked and watched as a whole.

A Kubernetes cluster is one (:class:`fleet.steps.cluster.Cluster`), and so is any group of hosts.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fleet.adapters.alertmanager.silences import Silences
from fleet.adapters.locks import Store
from fleet.clock import CLOCK, THREADS, Clock, Threads
from fleet.config.model import ClusterConfig, GroupConfig, ScopeConfig
from fleet.engine.journal import RunInfo
from fleet.execution import Hosts


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What every scope has: its hosts, its alerts, and who works on it.

    Attributes:
        name: its name in the configuration.
        config: its configuration.
        remote: its hosts, over SSH.
        silences: its Alertmanager.
        hosts: the host of each target that the run may touch.
        run: the run.
        cancel: set when the run has to leave at once.
        clock: the time; tests hand in another one.
        threads: how steps do several things at the same time.
    """

    name: str
    config: ScopeConfig
    remote: Hosts
    silences: Silences
    hosts: Mapping[str, str]
    run: RunInfo
    cancel: threading.Event = field(default_factory=threading.Event)
    clock: Clock = CLOCK
    threads: Threads = THREADS

    def by_host(self, targets: Iterable[str]) -> dict[str, str]:
        """Return targets by their hosts."""
        return {self.hosts[target]: target for target in targets}


@dataclass(frozen=True, kw_only=True)
class Group(Scope):
    """A group of hosts without Kubernetes.

    Attributes:
        config: its configuration.
        clusters: the clusters of the configuration: their hosts have cookbooks of their own.
        lock_store: the etcd in which groups are locked; None where there is none.
    """

    config: GroupConfig
    clusters: Mapping[str, ClusterConfig] = field(default_factory=dict)
    lock_store: Store | None = None
