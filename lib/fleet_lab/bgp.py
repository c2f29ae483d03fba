"""The nodes' BGP sessions, as the lab's routers themselves see them."""

import json
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from fleet_lab.errors import LabError
from fleet_lab.roles.calico import PREFIXES
from fleet_lab.topology import Topology
from fleet_lab.waiting import wait_for

Session = Mapping[str, Any]
"""What FRR's ``show bgp summary json`` says of a session: ``state``, ``pfxRcd``, ``connectionsDropped`` …"""


class Enter(Protocol):
    """Runs a command inside a host and returns its output, as :meth:`fleet_lab.lab.Lab.enter` does."""

    def __call__(self, host: str, *command: str) -> str:
        """Run it; a LabError if it fails."""
        ...


def sessions(topology: Topology, enter: Enter, *, without: Collection[str] = ()) -> dict[tuple[str, str], Session]:
    """Return the nodes' sessions by router and the node's address.

    Args:
        topology: the lab's.
        enter: runs a command inside a router.
        without: routers that are not asked.

    Raises:
        LabError: a router is down, or its bgpd does not run.
    """
    ours = {str(address) for host in topology.bgp_nodes for address in (host.ipv4, host.ipv6)}
    found: dict[tuple[str, str], Session] = {}
    for router in _routers(topology, without):
        families = json.loads(enter(router, "vtysh", "-c", "show bgp summary json"))
        for family in ("ipv4Unicast", "ipv6Unicast"):
            peers = families.get(family, {}).get("peers", {})
            found |= {(router, address): peer for address, peer in peers.items() if address in ours}
    return found


def wait_for_sessions(topology: Topology, enter: Enter, *, without: Collection[str], timeout: float) -> None:
    """Wait until all nodes have all their sessions, with all prefixes, at all routers.

    Args:
        topology: the lab's.
        enter: runs a command inside a router.
        without: nodes and routers that need not.
        timeout: seconds.

    Raises:
        LabError: some sessions are not there in time.
    """
    nodes = {
        str(address): host.name
        for host in topology.bgp_nodes
        for address in (host.ipv4, host.ipv6)
        if host.name not in without
    }

    def missing() -> str:
        found = sessions(topology, enter, without=without)
        return ", ".join(
            f"{nodes[address]} ({address}) at {router}"
            for router in _routers(topology, without)
            for address in nodes
            if not _complete(found.get((router, address), {}))
        )

    wait_for(missing, what="BGP sessions", timeout=timeout, trouble=(OSError, LabError))


def _routers(topology: Topology, without: Collection[str]) -> list[str]:
    return [host.name for host in topology.with_role("router") if host.name not in without]


def _complete(session: Session) -> bool:
    return session.get("state") == "Established" and session.get("pfxRcd") == PREFIXES
