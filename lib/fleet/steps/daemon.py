"""The restart of the unit that keeps the BGP sessions of a node."""

from collections.abc import Mapping, Sequence

from fleet.adapters.hosts import services
from fleet.execution import Result, Unreachable
from fleet.steps import bgp, units
from fleet.steps.at_most_once import Incarnation, NodeAtMostOnce
from fleet.steps.base import POLL


class Restart(NodeAtMostOnce):
    """The unit runs as another start than when this run first looked."""

    name = "restart"
    deadline = "restart"
    poll = POLL

    fact = "invocation"
    messages = ("restarted", "not restarted yet")

    def current(self, hosts: Sequence[str]) -> Mapping[str, Incarnation | Unreachable]:
        """Ask hosts for the unit's last start."""
        return units.current(self.cluster, hosts, bgp.unit(self.cluster))

    def order(self, ids: Mapping[str, str]) -> Mapping[str, Result]:
        """Order the restart."""
        return services.restart(self.cluster.remote, bgp.unit(self.cluster), ids, reload=units.reloads(self.cluster))
