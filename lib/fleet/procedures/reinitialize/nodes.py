"""Stages 15 and 19, and back: units of nodes that start anew, nodes that register, their BGP sessions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fleet.adapters.bgp import verify
from fleet.adapters.k8s.client import KubernetesError
from fleet.adapters.k8s.model import Node
from fleet.adapters.k8s.nodes import list_nodes
from fleet.engine.declaration import Verdicts
from fleet.engine.model import Facts, TargetState, Verdict, done, pending
from fleet.errors import FleetError
from fleet.names import known_as
from fleet.procedures.reinitialize.data import WorldStep
from fleet.procedures.reinitialize.machines import ABSENT
from fleet.procedures.reinitialize.world import World
from fleet.steps import bgp
from fleet.steps.at_most_once import REPLACED, Incarnation, began
from fleet.steps.base import NodeStep, each
from fleet.steps.cluster import Cluster
from fleet.steps.ready import HEARTBEAT, heartbeat
from fleet.steps.units import RestartUnit
from fleet.text import count

BASELINE = "bgp"
"""The fact what the routers had of a node's sessions."""
KUBELET, CALICO = "kubelet", "calico"
"""The facts of the units that are restarted on nodes: which start was found; with ``_at``, when the new one was."""


class BgpBaseline(NodeStep):
    """It is remembered what the routers have of the nodes' sessions."""

    def __init__(self, world: World) -> None:
        """Look at the nodes of a world."""
        super().__init__(world.cluster)

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask the routers; hosts that are no nodes have none."""
        config, routers = bgp.configured(self.cluster)
        known = nodes_by_host(self.cluster)
        readings = routers.summaries()
        broken = [str(reading) for reading in readings.values() if isinstance(reading, FleetError)]

        def judge(state: TargetState) -> Verdict:
            node = known.get(state.target.name)
            if BASELINE in state.facts or node is None:
                return done()
            if broken:
                return pending("; ".join(broken))
            sessions = bgp.sessions_of(node, config)
            return done("", **{BASELINE: verify.baseline(sessions, readings, config.asn)})

        return each(targets, judge)


def nodes_by_host(cluster: Cluster) -> dict[str, Node]:
    """Return the nodes as they are now, by the names that Cumin has for their hosts.

    They are listed each time: a watch that was started before the exchange would tell of the old etcd.

    Raises:
        KubernetesError: the API could not be read.
    """
    by_name = {node.name: node for node in list_nodes(cluster.api)}
    names = {host: known_as(host, cluster.config.node_names) for host in cluster.hosts.values()}
    return {host: by_name[name] for host, name in names.items() if name in by_name}


class RestartedAnew(RestartUnit):
    """A unit of systemd was started after the run first looked at it; nothing is in service that could suffer."""

    def __init__(
        self, cluster: Cluster, unit: str, fact: str, only: Callable[[str], bool] = lambda _host: True
    ) -> None:
        """Restart a unit, on some hosts only; its invocation is remembered under a name of its own."""
        super().__init__(cluster, unit, lambda _host: "", patient=True)
        self.cluster = cluster
        self.fact = fact
        self._only = only
        self._before: Mapping[str, Node] = {}

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Compare invocations on the hosts that it is about."""
        mine = [state for state in targets if self._only(state.target.name)]
        self._before = self._heartbeats() if any(self.fact not in state.facts for state in mine) else {}
        return {**{state.target.name: done() for state in targets}, **(super().check(mine) if mine else {})}

    def noted(self, state: TargetState) -> Facts:
        """Remember the last heartbeat that the node's kubelet has sent before it is restarted."""
        node = self._before.get(state.target.name)
        return {HEARTBEAT: heartbeat(node)} if node else {}

    def _heartbeats(self) -> Mapping[str, Node]:
        if self.fact != KUBELET:
            return {}
        try:
            return nodes_by_host(self.cluster)
        except KubernetesError:  # in an API that is not there no heartbeat is
            return {}

    def _proven(self, life: Incarnation) -> Verdict:
        if life.outdated:
            return pending(f"{life.outdated}: restart it there")
        # Two units of a host are restarted in one stage: each has its own time.
        return done(**{f"new_{self.fact}": life.id, f"{self.fact}_at": life.facts[REPLACED]})

    def silence_again(self, targets: Sequence[TargetState]) -> None:
        """Do nothing: all hosts are silenced together."""


class Registered(NodeStep):
    """The node is registered in the API, Ready, with another heartbeat than before its kubelet's start."""

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """List the nodes."""
        known = nodes_by_host(self.cluster)

        def judge(state: TargetState) -> Verdict:
            node = known.get(state.target.name)
            if node is None:
                return pending("the API does not know it")
            if problem := unready(node, self.cluster.config.domain_label):
                return pending(problem)
            if heartbeat(node) in ("", state.facts.get(HEARTBEAT)):
                return pending("no heartbeat since its kubelet's start")
            return done()

        return each(targets, judge)


def unready(node: Node, label: str) -> str:
    """Return why a node is not as it should be; nothing if it is Ready and labelled."""
    if not node.ready:
        return "NotReady"
    return "" if node.labels.get(label) else f"it has no label {label}"


class SessionsBack(NodeStep):
    """The node's BGP sessions are back at every router, as they were, or as they must be where nothing is known."""

    def __init__(self, world: World, stage: str, *, prefixes: bool) -> None:
        """Compare with what the named stage has noted.

        Args:
            world: the world.
            stage: the stage.
            prefixes: whether as many prefixes have to be there: in a new datastore a node has none before it has pods.
        """
        super().__init__(world.cluster)
        self._world = world
        self._stage = stage
        self._prefixes = prefixes

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask the routers."""
        config, routers = bgp.configured(self.cluster)
        known = nodes_by_host(self.cluster)
        readings = routers.summaries()
        noted = self._world.facts(self._stage)

        def judge(state: TargetState) -> Verdict:
            name = state.target.name
            baseline = noted.get(name, {}).get(BASELINE)
            if baseline and _was_up(baseline):
                if not self._prefixes:
                    baseline = _without_prefixes(baseline)
                since, certain = began(state.facts, self.cluster.clock, f"{CALICO}_at")
                left = verify.unproven(
                    baseline, readings, config.asn, since=since, stable=config.stable, is_certain=certain
                )
            elif name in known:
                sessions = bgp.sessions_of(known[name], config)
                left = [f"{session} {why}" for session, why in verify.missing(sessions, readings, config.asn)]
            else:
                left = []
            return pending("; ".join(left)) if left else done()

        return each(targets, judge)


def _was_up(baseline: Mapping[str, Any]) -> bool:
    """Say whether a node had any session: that of a host that was down proves nothing."""
    return any(seen["up"] for sessions in baseline.values() for seen in sessions.values())


def _without_prefixes(baseline: Mapping[str, Any]) -> dict[str, Any]:
    return {
        router: {address: {**seen, "accepted": {}} for address, seen in sessions.items()}
        for router, sessions in baseline.items()
    }


class AllSessions(WorldStep):
    """All BGP sessions of all nodes are up at every router, but for nodes that were left out."""

    def __init__(self, world: World, left_out: str) -> None:
        """Look at all nodes but those that the named stage has left out."""
        super().__init__(world)
        self._left_out = left_out

    def look(self, state: TargetState) -> Verdict:
        """Ask the routers."""
        config, routers = bgp.configured(self.cluster)
        facts = self.world.facts(self._left_out)
        known = nodes_by_host(self.cluster)
        readings = routers.summaries()
        sessions = [
            session
            for host, node in known.items()
            if not facts.get(host, {}).get(ABSENT)
            for session in bgp.sessions_of(node, config)
        ]
        left = [f"{session} {why}" for session, why in verify.missing(sessions, readings, config.asn)]
        return pending("; ".join(left[:5])) if left else done(count(sessions, "session"))


class NodesWell(WorldStep):
    """All nodes are Ready and labelled, but for those that were left out."""

    def __init__(self, world: World, left_out: str) -> None:
        """Look at all nodes but those that the named stage has left out."""
        super().__init__(world)
        self._left_out = left_out

    def look(self, state: TargetState) -> Verdict:
        """List them."""
        known = nodes_by_host(self.cluster)
        facts = self.world.facts(self._left_out)
        problems = []
        for host in self.world.workers:
            if facts.get(host, {}).get(ABSENT):
                continue
            problem = unready(known[host], self.cluster.config.domain_label) if host in known else "is not registered"
            problems += [f"{host}: {problem}"] if problem else []
        return pending("; ".join(problems[:5])) if problems else done(count(known, "node"))
