"""The nodes' BGP sessions, as the lab's routers themselves see them."""

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from fleet_lab.errors import LabError
from fleet_lab.roles.calico import PREFIXES
from fleet_lab.waiting import wait_for

if TYPE_CHECKING:
    from fleet_lab.lab import Lab


def sessions(lab: "Lab") -> dict[tuple[str, str], dict[str, Any]]:
    """Return what :meth:`fleet_lab.lab.Lab.sessions` returns."""
    return _sessions(lab, lab.names("router"))


def wait_for_sessions(lab: "Lab", *, without: Collection[str], timeout: float) -> None:
    """Do what :meth:`fleet_lab.lab.Lab.wait_for_sessions` does."""
    routers = [name for name in lab.names("router") if name not in without]
    nodes = {
        str(address): host.name
        for host in lab.context.topology.bgp_nodes
        for address in (host.ipv4, host.ipv6)
        if host.name not in without
    }

    def missing() -> str:
        found = _sessions(lab, routers)
        return ", ".join(
            f"{nodes[address]} ({address}) at {router}"
            for router in routers
            for address in nodes
            if not _complete(found.get((router, address), {}))
        )

    wait_for(missing, what="BGP sessions", timeout=timeout, trouble=(OSError, LabError))


def _sessions(lab: "Lab", routers: Collection[str]) -> dict[tuple[str, str], dict[str, Any]]:
    ours = {str(address) for host in lab.context.topology.bgp_nodes for address in (host.ipv4, host.ipv6)}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for router in routers:
        families = json.loads(lab.enter(router, "vtysh", "-c", "show bgp summary json"))
        for family in ("ipv4Unicast", "ipv6Unicast"):
            peers = families.get(family, {}).get("peers", {})
            found |= {(router, address): peer for address, peer in peers.items() if address in ours}
    return found


def _complete(session: dict[str, Any]) -> bool:
    return session.get("state") == "Established" and session.get("pfxRcd") == PREFIXES
