"""The restart of what keeps the BGP sessions of nodes: its steps beside those that all node maintenance has."""

from collections.abc import Mapping, Sequence

from fleet.adapters.hosts import services
from fleet.engine.declaration import Stage
from fleet.execution import Result, Unreachable
from fleet.procedures import bgp, gates, units
from fleet.procedures.cluster import Cluster
from fleet.procedures.nodes import NodeProcedure, stage_of
from fleet.procedures.once import Life, NodeOnce
from fleet.procedures.steps import POLL, Ready


def _unit(cluster: Cluster) -> str:
    """Return the unit that is restarted.

    Raises:
        FleetError: the cluster has no routers in the configuration.
    """
    config, _ = bgp.configured(cluster)
    return config.unit


class Restart(NodeOnce):
    """The unit runs as another start than when this run first looked."""

    name = "restart"
    deadline = "restart"
    poll = POLL

    fact = "invocation"
    words = ("restarted", "not restarted yet")

    def lives(self, hosts: Sequence[str]) -> Mapping[str, Life | Unreachable]:
        """Ask hosts for the unit's last start."""
        return units.lives(self.cluster, hosts, _unit(self.cluster))

    def order(self, ids: Mapping[str, str]) -> Mapping[str, Result]:
        """Order the restart."""
        return services.restart(self.cluster.remote, _unit(self.cluster), ids, reload=units.reloads(self.cluster))


def drains(cluster: Cluster) -> bool:
    """Say whether the run moves pods away first; the operator may have said that routers keep the routes meanwhile."""
    return bool(cluster.run.options.get("drain", True))


class RestartCalico(NodeProcedure):
    """Rolling restarts of calico-node."""

    name = "sre.k8s.restart-calico"

    def stage(self, cluster: Cluster) -> Stage:
        """Return what each node goes through.

        Raises:
            FleetError: the cluster has no routers in the configuration.
        """
        unit, moves = _unit(cluster), drains(cluster)
        return stage_of(
            cluster,
            drains=moves,
            act=Restart(cluster, drained=moves),
            proofs=[units.Active(cluster, unit), bgp.Proven(cluster), Ready(cluster), gates.DaemonsReady(cluster)],
        )
