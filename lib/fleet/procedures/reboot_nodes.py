"""The reboot of nodes: its steps beside those that all node maintenance has."""

from fleet.engine.declaration import Stage
from fleet.procedures.nodes import NodeProcedure, stage_of
from fleet.steps import bgp, gates
from fleet.steps.cluster import Cluster
from fleet.steps.ready import Ready
from fleet.steps.reboot import Puppet, Reboot


class RebootNodes(NodeProcedure):
    """Rolling reboots."""

    name = "sre.k8s.reboot-nodes"

    def stage(self, cluster: Cluster) -> Stage:
        """Return what each node goes through."""
        return stage_of(
            cluster,
            empty=[gates.VolumesDetached(cluster)],
            act=Reboot(cluster),
            proofs=[Puppet(cluster), Ready(cluster), bgp.Proven(cluster), gates.DaemonsReady(cluster)],
        )
