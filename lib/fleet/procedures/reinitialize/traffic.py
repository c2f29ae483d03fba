"""Stages 4 and 5, and back: the services' discovery records, and the managed namespaces."""

import threading
from collections.abc import Sequence

from fleet.adapters.discovery import Discovery, last_one
from fleet.adapters.k8s import namespaces
from fleet.engine.declaration import Verdicts
from fleet.engine.model import TargetState, Verdict, done, failed, pending, undone
from fleet.procedures.reinitialize.data import Say, WorldStep, is_merged
from fleet.procedures.reinitialize.world import World
from fleet.steps.base import NodeStep
from fleet.text import count

LEFT_OUT = "left_out"
"""The fact of targets whose stage was left out (--from-stage)."""
POOLED = "was_pooled"
"""The fact whether a service was pooled in the cluster's datacenter when the run came to it."""


class Depooled(WorldStep):
    """The service's discovery record does not lead to the cluster's datacenter, but to another one."""

    def __init__(self, world: World, discovery: Discovery) -> None:
        """Set records of a discovery."""
        super().__init__(world)
        self._discovery = discovery

    def look(self, state: TargetState) -> Verdict:
        """Read the record; whether it was pooled is noted before that is changed."""
        name, datacenter = state.target.name, datacenter_of(self.world)
        found = self._discovery.pooled([name])
        if datacenter not in found[name]:
            return failed(f"it has no record of the datacenter {datacenter}: correct reinitialize.discovery.datacenter")
        was = bool(state.facts.get(POOLED, found[name].get(datacenter, False)))
        if not found[name].get(datacenter):
            return done("it was not pooled, and stays so" if not was else "", **{POOLED: was})
        if last_one(found, datacenter):
            return failed(f"it is pooled in no other datacenter than {datacenter}: it would be away", **{POOLED: was})
        return pending(f"it is pooled in {datacenter}", **{POOLED: was})

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Depool it."""
        self._discovery.set(state.target.name, datacenter_of(self.world), pooled=False)
        return done()


class TrafficGone(WorldStep):
    """No traffic for the service comes to the cluster any more."""

    def __init__(self, world: World) -> None:
        """Ask some services at a time."""
        super().__init__(world)
        self._turn = threading.BoundedSemaphore(world.config.services.parallel)

    def look(self, state: TargetState) -> Verdict:
        """Run the configured check."""
        discovery = self.world.config.discovery
        if discovery is None or discovery.traffic is None:
            return done("no check is configured")
        log = f"traffic-{state.target.name}.log"
        with self._turn:
            code = self.world.run(self.world.fill(discovery.traffic, service=state.target.name), log)
        return done() if code == 0 else pending(f"there is traffic still, see {self.world.place(log)}")


class AsProven(NodeStep):
    """What was proven before the question still is: no service came back, none is left alone, nothing is merged."""

    def __init__(self, world: World, discovery: Discovery | None, stage: str) -> None:
        """Look at the services that the named stage has depooled."""
        super().__init__(world.cluster)
        self._world = world
        self._discovery = discovery
        self._stage = stage

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look at all of it, once for all units."""
        problems = [f"the change {self._world.change} is merged"] if is_merged(self._world) else []
        # Where stage 4 was left out, all of them are to have been depooled by hand.
        noted = self._world.facts(self._stage)
        names = [name for name, facts in noted.items() if facts.get(POOLED) or facts.get(LEFT_OUT)]
        if self._discovery and names:
            found, here = self._discovery.pooled(names), datacenter_of(self._world)
            problems += [f"{name} is pooled in {here} again" for name in names if found[name].get(here)]
            problems += [f"{name} is pooled nowhere else any more" for name in last_one(found, here)]
        verdict = pending("; ".join(problems[:5])) if problems else done()
        return {state.target.name: verdict for state in targets}


class Repooled(WorldStep):
    """The services that the run has depooled are pooled again, and no others."""

    def __init__(self, world: World, discovery: Discovery, stage: str) -> None:
        """Pool what the named stage has noted as pooled."""
        super().__init__(world)
        self._discovery = discovery
        self._stage = stage

    def look(self, state: TargetState) -> Verdict:
        """Read the records."""
        left = self._left()
        return undone(f"{', '.join(left)} not pooled") if left else done()

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Pool them."""
        for name in self._left():
            self._discovery.set(name, datacenter_of(self.world), pooled=True)
            say(f"{name} is pooled")
        return done()

    def _left(self) -> Sequence[str]:
        names = [name for name, facts in self.world.facts(self._stage).items() if facts.get(POOLED)]
        found = self._discovery.pooled(names) if names else {}
        return [name for name in names if not found[name].get(datacenter_of(self.world))]


class NamespaceGone(WorldStep):
    """The managed namespace is gone, with all that was in it."""

    def look(self, state: TargetState) -> Verdict:
        """Ask how far its deletion is; what hangs is named."""
        found = namespaces.look(self.cluster.api, state.target.name)
        if not found.there:
            return done()
        if not found.terminating:
            return undone("it is there")
        if found.hanging:
            return pending(f"it is being deleted: a finalizer keeps {', '.join(found.hanging)}")
        problems = f"; {' '.join(found.problems)}" if found.problems else ""
        return pending(f"it is being deleted: {self._pods(state.target.name)}{problems}")

    def _pods(self, name: str) -> str:
        """Return which pods are left: those on a node that does not answer stay until it does, or is deleted."""
        pods, _ = self.cluster.api.list_all(f"/api/v1/namespaces/{name}/pods")
        left = [f"{pod['metadata']['name']} on {pod['spec'].get('nodeName', 'no node')}" for pod in pods]
        return f"{count(left, 'pod')} left{': ' if left else ''}{', '.join(left[:3])}"

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Order its deletion; Kubernetes' own namespaces, and any that is not managed, are refused."""
        name = state.target.name
        namespaces.refuse([name])
        if name not in self.world.managed:
            return failed(f"{name} is no managed namespace")
        namespaces.delete(self.cluster.api, name)
        return done()


class Settled(WorldStep):
    """No managed namespace is being deleted: what is deployed in one that is, is refused, or goes with it."""

    def look(self, state: TargetState) -> Verdict:
        """Ask for all of them."""
        going = [name for name in self.world.managed if namespaces.look(self.cluster.api, name).terminating]
        return pending(f"being deleted: {', '.join(going)}") if going else done()


def datacenter_of(world: World) -> str:
    """Return the cluster's own datacenter, as the discovery records have it."""
    return world.config.discovery.datacenter if world.config.discovery else ""
