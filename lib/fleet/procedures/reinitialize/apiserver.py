"""kube-apiserver in all stages: on which etcd it serves, that no other one does, and what is proven through it."""

import json
from collections.abc import Sequence
from contextlib import suppress

from fleet.adapters.etcd import keys
from fleet.adapters.hosts import processes, services
from fleet.adapters.k8s.apiserver import Health, Strange, unread, url
from fleet.adapters.k8s.client import Api, ApiError
from fleet.adapters.k8s.lock import ClusterLock
from fleet.adapters.load_balancer.model import LoadBalancer
from fleet.engine.declaration import Verdicts
from fleet.engine.model import TargetState, Verdict, done, failed, pending, undone, unknown
from fleet.errors import FleetError
from fleet.execution import Unreachable
from fleet.procedures.reinitialize.admission import FLAG, taken_out
from fleet.procedures.reinitialize.data import Say, WorldStep
from fleet.procedures.reinitialize.machines import QUIET, named, of_results
from fleet.procedures.reinitialize.world import Store, World
from fleet.steps.base import NodeStep
from fleet.steps.control_plane_health import of_health
from fleet.steps.units import reloads

_NAMESPACE = "kube-system"


class Serves(WorldStep):
    """The running kube-apiserver has the endpoints of one etcd and no others, and the admission plugins it should."""

    def __init__(self, world: World, store: Store, *, without: Sequence[str] = (), admission: str = "") -> None:
        """Have it run.

        Args:
            world: the world.
            store: the etcd.
            without: admission plugins that it must not have.
            admission: the stage whose plugins it must have again; empty for none.
        """
        super().__init__(world)
        self._store = store
        self._without = frozenset(without)
        self._admission = admission

    def look(self, state: TargetState) -> Verdict:
        """Read with which arguments its process was started."""
        host = state.target.name
        words = processes.arguments(self.cluster.remote, [host], self._unit())[host]
        if isinstance(words, Unreachable):
            return unknown(f"{host} does not answer: {words.reason}")
        if not words:
            return undone("it does not run")
        servers = _servers(words)
        enabled = set((processes.flag(words, FLAG) or "").split(","))
        back = taken_out(self.world, self._admission, host) if self._admission else []
        if set(servers) != set(self._store.config.endpoints):
            return undone(f"it runs on {', '.join(servers)}")
        if still := sorted(enabled & self._without):
            return undone(f"it runs with {', '.join(still)}")
        if missing := sorted(set(back) - enabled):
            return undone(f"it runs without {', '.join(missing)}")
        return done()

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Order its start, anew if it runs with other arguments."""
        orders = {state.target.name: [self._unit()]}
        results = services.order(self.cluster.remote, "restart", orders, reload=reloads(self.cluster))
        return of_results(results, [state])[state.target.name]

    def _unit(self) -> str:
        return self.world.component_units()[0]


def _servers(words: Sequence[str]) -> tuple[str, ...]:
    return tuple((processes.flag(words, "etcd-servers") or "").split(","))


class OneEtcd(NodeStep):
    """No kube-apiserver runs on another etcd than one, and where none runs nothing of the control plane does.

    The units of a host that was rebooted come up by themselves, with the files and the caches of another etcd, and the
    load balancer would use such an apiserver as well.
    """

    def __init__(self, world: World, store: Store) -> None:
        """Look at all control-plane hosts."""
        super().__init__(world.cluster)
        self._world = world
        self._store = store

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look once for all units."""
        found = serving(self._world)
        problems = [f"{host} does not answer: {it.reason}" for host, it in found.items() if isinstance(it, Unreachable)]
        unit, wanted = self._world.component_units()[0], set(self._store.config.endpoints)
        for host, servers in found.items():
            if not isinstance(servers, Unreachable) and servers and set(servers) != wanted:
                problems.append(f"{unit} on {host} serves {named(self._world, servers)}: stop it")
        problems += self._idle([host for host, servers in found.items() if servers == ()])
        verdict = pending("; ".join(problems)) if problems else done()
        return {state.target.name: verdict for state in targets}

    def _idle(self, hosts: Sequence[str]) -> list[str]:
        """Say what runs, or is about to, on hosts without an apiserver; on the first one controllers follow it."""
        api, *controllers = self._world.component_units()
        asked = [(api, hosts), *((unit, [host for host in hosts if host != self._world.first]) for unit in controllers)]
        problems = []
        for unit, those in asked:
            for host, state in services.state(self.cluster.remote, those, unit).items() if those else ():
                if isinstance(state, Unreachable):
                    problems.append(f"{host} does not answer: {state.reason}")
                elif state.transitioning or state.active not in QUIET:
                    problems.append(f"{unit} on {host} {state.trouble() or 'is active'}: stop it")
        return problems


def serving(world: World) -> dict[str, tuple[str, ...] | Unreachable]:
    """Return the etcd servers of each host's running kube-apiserver; none where it does not run."""
    found = processes.arguments(world.cluster.remote, world.control_plane, world.component_units()[0])
    return {
        host: words if isinstance(words, Unreachable) else (_servers(words) if words else ())
        for host, words in found.items()
    }


class Silent(WorldStep):
    """No kube-apiserver answers on any host's own address, whatever its unit is called."""

    def look(self, state: TargetState) -> Verdict:
        """Ask all of them."""
        found = self.world.apiservers().examine(self.world.control_plane)
        answering = [host for host, health in found.items() if isinstance(health, Health | Strange)]
        return pending(f"kube-apiserver answers on {', '.join(answering)}") if answering else done()


class Ready(WorldStep):
    """kube-apiserver is ready, asked on the host's own address, and the API's address leads to a ready one."""

    def look(self, state: TargetState) -> Verdict:
        """Ask both."""
        host = state.target.name
        found: Health | Unreachable = self.world.apiservers().examine([host])[host]
        if problem := of_health(host, found):
            return pending(problem)
        if failing := self.cluster.api.not_ready():
            return pending(f"{self.cluster.api.server} is not ready: {failing}")
        if why := unread(self.cluster.api, self.cluster.config.lease):
            return pending(f"{self.cluster.api.server} is not ready: {why}")
        return done()


class Balanced(WorldStep):
    """The load balancer itself says that it uses the host."""

    def __init__(self, world: World, balancer: LoadBalancer) -> None:
        """Ask a load balancer."""
        super().__init__(world)
        self._balancer = balancer

    def look(self, state: TargetState) -> Verdict:
        """Ask it."""
        host = state.target.name
        server = self._balancer.states([host])[host]
        return done(server.detail) if server.up else pending(server.detail)


class Leased(WorldStep):
    """The cluster's Lease is held in the API that there is now."""

    def look(self, state: TargetState) -> Verdict:
        """Ask the lock."""
        return undone("not yet") if self._lock().is_suspended else done()

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Take it."""
        try:
            self._lock().acquire()
        except ApiError as error:
            if error.status != 404:
                raise
            namespace = self.cluster.config.lease.namespace
            return pending(
                f"the namespace {namespace} of the Lease is not there: reinitialize.initialize has to make it"
            )
        return done()

    def _lock(self) -> ClusterLock:
        if self.world.lock is None:
            raise FleetError("There is no lock to take.")
        return self.world.lock


class Marked(WorldStep):
    """What is written through the host's kube-apiserver is in the etcd that it should be in, and not in the other."""

    def __init__(self, world: World, store: Store, other: Store) -> None:
        """Prove an etcd."""
        super().__init__(world)
        self._store = store
        self._other = other

    def look(self, state: TargetState) -> Verdict:
        """Look for the marker in both; that the other etcd cannot be asked is no objection."""
        name = marker(self.world, self._store, state.target.name)
        key = f"{self.world.config.etcd_prefix}/configmaps/{_NAMESPACE}/{name}"
        with suppress(FleetError):
            if self._read(self._other, key):
                return failed(f"what the API writes is in {self._other.name}: {key}")
        return done(f"writes to {self._store.name}") if self._read(self._store, key) else undone("no marker yet")

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Write the marker, through the host's own address."""
        server = url(state.target.name, self.cluster.config.control_plane)
        api = Api.from_kubeconfig(self.world.config.kubeconfig, server=server)
        path = f"/api/v1/namespaces/{_NAMESPACE}/configmaps"
        data = {"run": self.cluster.run.id, "etcd": json.dumps(list(self._store.config.endpoints))}
        try:
            name = marker(self.world, self._store, state.target.name)
            api.create(path, {"metadata": {"name": name}, "data": data})
        except ApiError as error:
            if error.status == 404:
                return pending(f"the namespace {_NAMESPACE} is not there yet")
            if error.status != 409:
                raise
        finally:
            api.disconnect()
        return done()

    def _read(self, store: Store, key: str) -> bytes | None:
        return keys.read(self.cluster.remote, store.asked(self.cluster), store.config, key)


class Unmarked(WorldStep):
    """The markers of the run are gone."""

    def look(self, state: TargetState) -> Verdict:
        """Look for them through the API."""
        left = [name for name in self._names() if self._there(name)]
        return undone(f"{', '.join(left)} in {_NAMESPACE}") if left else done()

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Delete them."""
        for name in self._names():
            try:
                self.cluster.api.delete(f"/api/v1/namespaces/{_NAMESPACE}/configmaps/{name}")
            except ApiError as error:
                if error.status != 404:
                    raise
        return done()

    def _names(self) -> list[str]:
        stores = (self.world.old, self.world.new)
        return [marker(self.world, store, host) for store in stores for host in self.world.control_plane]

    def _there(self, name: str) -> bool:
        try:
            self.cluster.api.get(f"/api/v1/namespaces/{_NAMESPACE}/configmaps/{name}")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True


def marker(world: World, store: Store, host: str) -> str:
    """Return the name of the ConfigMap by which a run proves on which etcd a host serves."""
    side = "old" if store is world.old else "new"
    return f"fleet-{world.cluster.run.id}-{side}-{host}".lower().replace("_", "-")
