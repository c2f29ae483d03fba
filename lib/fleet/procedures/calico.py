"""The restart of what keeps the BGP sessions of nodes: its steps beside those that all node maintenance has."""

from collections.abc import Mapping, Sequence

from fleet.adapters.hosts import services
from fleet.engine.model import StepSpec
from fleet.execution import Result, Unreachable
from fleet.procedures import bgp, units
from fleet.procedures.cluster import Cluster
from fleet.procedures.maintenance import Step
from fleet.procedures.nodes import (
    NodeProcedure,
    alerts_step,
    bgp_steps,
    closing_steps,
    daemons_step,
    giving_steps,
    ready_step,
    workloads_step,
)
from fleet.procedures.once import Life, NodeOnce


def _unit(cluster: Cluster) -> str:
    """Return the unit that is restarted.

    Raises:
        FleetError: the cluster has no routers in the configuration.
    """
    config, _ = bgp.configured(cluster)
    return config.unit


class Restart(NodeOnce):
    """The unit runs as another start than when this run first looked."""

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


def restart_steps(cluster: Cluster) -> tuple[Step, ...]:
    """Return the steps of a restart.

    Raises:
        FleetError: the cluster has no routers in the configuration.
    """
    bgp.configured(cluster)
    restart = cluster.config.deadlines.restart
    return (
        *closing_steps(cluster, drained=drains(cluster)),
        Step(StepSpec("restart", restart, poll=0.5, pivot=True), _act(cluster)),
        Step(StepSpec("active", restart, poll=0.5, gate=True, acceptable=True), units.Active(cluster, _unit(cluster))),
        *bgp_steps(cluster),
        ready_step(cluster),
        *daemons_step(cluster),
        alerts_step(cluster),
        *giving_steps(cluster),
        *(workloads_step(cluster) if drains(cluster) else ()),
    )


def _act(cluster: Cluster) -> Restart:
    return Restart(cluster, drained=drains(cluster))


RESTART_CALICO = NodeProcedure("sre.k8s.restart-calico", restart_steps, _act)
"""Rolling restarts of calico-node."""
