"""How a session comes to its scope: connected to everything that is asked there, and locked."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

from fleet.adapters import locks
from fleet.adapters.etcd import health, members
from fleet.adapters.k8s.client import Api, KubernetesError
from fleet.adapters.k8s.lock import ClusterLock
from fleet.adapters.k8s.nodes import NodeView, NoNodes
from fleet.config.model import ClusterConfig, Config, GroupConfig
from fleet.edges import Edges
from fleet.engine.journal import RunInfo
from fleet.engine.protocols import Holder, Lock
from fleet.errors import FleetError
from fleet.execution import Hosts
from fleet.procedures.procedure import ClusterProcedure, Procedure, Refused
from fleet.steps.cluster import Cluster
from fleet.steps.scope import Group, Scope


class Scopes:
    """Connects the sessions of a procedure to their scopes, and locks these.

    Args:
        edges: what everything is reached with.
        settings: this project's configuration.
        procedure: what is done.
        host: this host, for the lock.
    """

    def __init__(self, edges: Edges, settings: Config, procedure: Procedure[Any], *, host: str) -> None:
        self._edges = edges
        self._settings = settings
        self._procedure = procedure
        self._host = host

    @contextmanager
    def connect(self, run: RunInfo, hosts: Mapping[str, str]) -> Iterator[Scope]:
        """Connect a run to its scope.

        Args:
            run: the run.
            hosts: the host of each target that it may touch.

        Raises:
            FleetError: on entering: an edge cannot be reached.
        """
        config = self._procedure.config(self._settings, run.cluster)
        with ExitStack() as stack:
            if isinstance(config, GroupConfig):
                yield self._group(config, run, hosts)
            else:
                procedure = cast(ClusterProcedure, self._procedure)
                yield self._cluster(stack, procedure, cast(ClusterConfig, config), run, hosts)

    def lock(self, scope: Scope) -> Lock:
        """Return a scope's lock, which is not taken yet."""
        run, edges = scope.run, self._edges
        holder = Holder(run.id, self._host, run.operator, run.reason)

        def on_change() -> None:
            edges.events.put(None)

        if isinstance(scope, Group):
            return edges.group_lock(scope, holder, on_change)
        return edges.lock(cast(Cluster, scope), holder, on_change)

    def locked(self, scope: Scope, folder: Path | None) -> AbstractContextManager[Lock]:
        """Hold a scope for as long as the context lasts; ``folder`` is that of a run that is resumed."""
        patient = not self._procedure.needs_api and folder is not None

        def take(lock: Lock) -> None:
            procedure = self._procedure
            if isinstance(procedure, ClusterProcedure) and procedure.is_offline(cast(Cluster, scope), folder):
                cast(ClusterLock, lock).suspend()
            else:
                lock.acquire(patient=patient)

        return self._holding(scope, take)

    def held(self, scope: Scope) -> AbstractContextManager[Lock]:
        """Hold a scope while it is given back: whenever there is an API meanwhile, if the run needs none."""
        patient = not self._procedure.needs_api
        return self._holding(scope, lambda lock: lock.acquire(patient=patient))

    @contextmanager
    def _holding(self, scope: Scope, take: Callable[[Lock], None]) -> Iterator[Lock]:
        lock = self.lock(scope)
        try:
            # Two that start at the same moment are kept apart by spicerack's lock; see fleet.adapters.k8s.lock.
            with self._edges.start_lock(scope.name):
                take(lock)
        except locks.ERRORS as error:
            raise Refused(locks.problem(error)) from error
        try:
            yield lock
        finally:
            lock.release()

    def _group(self, config: GroupConfig, run: RunInfo, hosts: Mapping[str, str]) -> Group:
        edges = self._edges
        return Group(
            name=run.cluster,
            config=config,
            remote=edges.remote(),
            silences=edges.silences(config.alerts),
            hosts=hosts,
            run=run,
            clock=edges.clock,
            threads=edges.threads,
            clusters=self._settings.clusters,
            lock_store=edges.lock_store(),
        )

    def _cluster(
        self,
        stack: ExitStack,
        procedure: ClusterProcedure,
        config: ClusterConfig,
        run: RunInfo,
        hosts: Mapping[str, str],
    ) -> Cluster:
        edges = self._edges
        remote, api = edges.remote(), edges.api(procedure.kubeconfig(config))
        nodes: NodeView = NoNodes()
        if procedure.needs_api:
            nodes = stack.enter_context(self._watch(api, config, remote))
        return Cluster(
            name=run.cluster,
            config=config,
            api=api,
            nodes=nodes,
            remote=remote,
            silences=edges.silences(config.alerts),
            hosts=hosts,
            run=run,
            routers=stack.enter_context(edges.routers(config.bgp)) if config.bgp else None,
            clock=edges.clock,
            threads=edges.threads,
            follow=edges.follow,
        )

    def _watch(self, api: Api, config: ClusterConfig, remote: Hosts) -> AbstractContextManager[NodeView]:
        try:
            return self._edges.nodes(api, lambda: self._edges.events.put(None))
        except KubernetesError as error:
            raise Refused(f"{error}{_of_etcd(config, remote)}") from error


def _of_etcd(config: ClusterConfig, remote: Hosts) -> str:
    """Return what is wrong with the etcd behind an API that does not answer: the first that is looked for."""
    if config.etcd is None:
        return ""
    try:
        problem = health.problem(members.view(remote, remote.query(config.etcd.hosts), config.etcd))
    except FleetError as error:
        problem = str(error)
    return f"\nThe etcd behind it: {problem}." if problem else "\nThe etcd behind it is well."
