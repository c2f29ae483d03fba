"""A cluster's edges in one place: its API, its hosts, its alerts, and who works on it."""

from dataclasses import dataclass, field

from fleet.adapters.bgp.junos import RoutersView
from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.lease import Sightings
from fleet.adapters.k8s.nodes import Node, NodeView, Owner
from fleet.adapters.k8s.reflector import Follow, follow
from fleet.config.model import ClusterConfig
from fleet.errors import FleetError
from fleet.steps.scope import Scope

STALE = 30.0
"""Seconds without news from the API after which what is known of the nodes counts as unknown."""


class NodeGone(FleetError):
    """Kubernetes knows no such node."""


@dataclass(frozen=True, kw_only=True)
class Cluster(Scope):
    """A cluster that a run works on.

    Attributes:
        config: its configuration.
        api: its API.
        nodes: a live view of its nodes; one that knows nothing where a run goes on without an API.
        routers: its core routers; None where the configuration has none.
        follow: how steps follow what changes in the API.
        lease_seen: what was seen of the cluster's Lease: the preflight's watch counts when the lock is taken.
    """

    config: ClusterConfig
    api: Api
    nodes: NodeView
    routers: RoutersView | None = None
    follow: Follow = follow
    lease_seen: Sightings = field(default_factory=Sightings)

    @property
    def owner(self) -> Owner:
        """Who maintains nodes in this run, as it is written on them."""
        return Owner(self.run.id, self.run.operator, self.run.reason)

    def node(self, name: str) -> Node:
        """Return a node as the watch last saw it.

        Raises:
            NodeGone: there is no such node.
            FleetError: what is known is too old to be trusted.
        """
        self.check_current()
        try:
            return self.nodes.snapshot()[name]
        except KeyError:
            raise NodeGone(f"Kubernetes does not know {name} any more") from None

    def check_current(self) -> None:
        """Make sure that the live view of the nodes is one.

        Raises:
            FleetError: it has had no news for too long.
        """
        if (age := self.nodes.age()) > STALE:
            raise FleetError(f"the API has told nothing of the nodes for {age:.0f} s")
