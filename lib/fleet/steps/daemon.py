"""The restart of the unit that keeps the BGP sessions of a node."""

from collections.abc import Mapping, Sequence

from fleet.adapters.hosts import services
from fleet.adapters.hosts.services import ServiceState
from fleet.engine.findings import Finding, Found, stop
from fleet.execution import Result, Unreachable
from fleet.steps import bgp, units
from fleet.steps.at_most_once import Incarnation, NodeAtMostOnce
from fleet.steps.base import POLL
from fleet.steps.cluster import Cluster
from fleet.steps.look import Look


def of_unit(cluster: Cluster, unit: str) -> list[Finding]:
    """Ask all hosts whether the unit that is to be restarted is active."""
    findings: list[Finding] = []
    for host, answer in services.state(cluster.remote, list(cluster.hosts.values()), unit).items():
        if not isinstance(answer, ServiceState):
            continue  # The preflight names the hosts that do not answer by itself.
        found = units.of_definition(cluster, host, unit, answer, f"Correct bgp.unit, or --exclude {host}.")
        if not found and (why := answer.trouble()):
            found = [stop(f"{unit} on {host} {why}.", f"Repair it, or --exclude {host}.")]
        findings += found
    return findings


class Restart(NodeAtMostOnce):
    """The unit runs as another start than when this run first looked."""

    name = "restart"
    deadline = "restart"
    poll = POLL

    fact = "invocation"
    messages = ("restarted", "not restarted yet")

    def preflight(self, look: Look) -> Found:  # noqa: ARG002
        """Look at the unit on all hosts."""
        return Found(tuple(of_unit(self.cluster, bgp.unit(self.cluster))))

    def current(self, hosts: Sequence[str]) -> Mapping[str, Incarnation | Unreachable]:
        """Ask hosts for the unit's last start."""
        return units.current(self.cluster, hosts, bgp.unit(self.cluster))

    def order(self, ids: Mapping[str, str]) -> Mapping[str, Result]:
        """Order the restart."""
        return services.restart(self.cluster.remote, bgp.unit(self.cluster), ids, reload=units.reloads(self.cluster))
