"""The restart of what keeps the BGP sessions of nodes: its steps beside those that all node maintenance has."""

from fleet.engine.declaration import Stage
from fleet.procedures.nodes import NodeProcedure, stage_of
from fleet.steps import bgp, gates, units
from fleet.steps.cluster import Cluster
from fleet.steps.daemon import Restart
from fleet.steps.ready import Ready


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
        unit, moves = bgp.unit(cluster), drains(cluster)
        return stage_of(
            cluster,
            drains=moves,
            act=Restart(cluster, drained=moves),
            proofs=[units.Active(cluster, unit), bgp.Proven(cluster), Ready(cluster), gates.DaemonsReady(cluster)],
        )
