"""The state of BGP, from the JSON of FRR's ``vtysh``. Pure: no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from . import GROUP

Json = dict[str, Any]
Address = IPv4Address | IPv6Address

SUMMARY = "show bgp summary json"
"""The command whose answer :func:`summary` reads."""

ESTABLISHED = "Established"

_RIBS = {"ipv4Unicast": "inet.0", "ipv6Unicast": "inet6.0"}
_NLRI = {"ipv4Unicast": "inet-unicast", "ipv6Unicast": "inet6-unicast"}
_STATES = ("Idle", "Connect", "Active", "OpenSent", "OpenConfirm", ESTABLISHED)


@dataclass(frozen=True)
class Rib:
    """A routing table, and how many prefixes of a peer are in it."""

    name: str
    accepted: int
    advertised: int


@dataclass(frozen=True)
class Peer:
    """A session. All the numbers are Junos' by meaning; ``elapsed`` is in seconds."""

    address: Address
    asn: int
    group: str
    state: str
    description: str
    flaps: int
    input_messages: int
    output_messages: int
    queue: int = 0
    elapsed: int = 0
    ribs: tuple[Rib, ...] = ()

    @property
    def established(self) -> bool:
        """Whether the session is up."""
        return self.state == ESTABLISHED


@dataclass(frozen=True)
class Neighbor:
    """A session in all detail.

    Attributes:
        peer: what the summary has, too.
        port: the peer's; 0 if the session is down.
        local_address: empty if the session is down.
        local_port: 0 if the session is down.
        local_asn: the router's AS number in this session.
        local_id: the router's id.
        peer_id: the peer's router id.
        nlri: the address families that are configured, in Junos' words.
        restart_time: seconds within which the peer wants to be back after a graceful restart.
        restarting: the address families for which the peer negotiated that it may restart gracefully.
        complete: the address families of which the peer has sent End-of-RIB.
    """

    peer: Peer
    port: int
    local_address: str
    local_port: int
    local_asn: int
    local_id: str
    peer_id: str
    nlri: tuple[str, ...]
    restart_time: int = 0
    restarting: tuple[str, ...] = field(default=())
    complete: tuple[str, ...] = field(default=())


def neighbors_command(address: str = "") -> str:
    """Return the command whose answer :func:`neighbors` reads: for one peer, or for all."""
    return f"show bgp neighbors {address} json" if address else "show bgp neighbors json"


def summary(answer: Json, groups: Mapping[str, str]) -> list[Peer]:
    """Read ``show bgp summary json``, where a session of two families stands twice.

    Args:
        answer: what FRR said.
        groups: the group of each peer by address.
    """
    found: dict[str, Peer] = {}
    for family, table in _RIBS.items():
        for address, peer in (answer.get(family) or {}).get("peers", {}).items():
            before = found[address].ribs if address in found else ()
            state = _state(peer["state"])
            rib = Rib(table, accepted=peer.get("pfxRcd") or 0, advertised=peer.get("pfxSnt") or 0)
            found[address] = Peer(
                address=ip_address(address),
                asn=peer["remoteAs"],
                group=groups.get(address, GROUP),
                state=state,
                description=peer.get("desc") or "",
                flaps=peer.get("connectionsDropped") or 0,
                input_messages=peer.get("msgRcvd") or 0,
                output_messages=peer.get("msgSent") or 0,
                queue=peer.get("outq") or 0,
                elapsed=(peer.get("peerUptimeMsec") or 0) // 1000,
                ribs=(*before, rib) if state == ESTABLISHED else (),
            )
    return _in_order(found)


def neighbors(answer: Json, groups: Mapping[str, str], *, router_id: str, local_as: int) -> list[Neighbor]:
    """Read ``show bgp neighbors json``, of all or of one; none if there is no such peer.

    Args:
        answer: what FRR said.
        groups: the group of each peer by address.
        router_id: the router's, where FRR does not tell it.
        local_as: the router's AS number, where FRR does not tell it.
    """
    if answer.get("bgpNoSuchNeighbor"):
        return []
    found = {address: _neighbor(address, peer, groups, router_id, local_as) for address, peer in answer.items()}
    order = _in_order({address: neighbor.peer for address, neighbor in found.items()})
    return [found[str(peer.address)] for peer in order]


def _neighbor(address: str, peer: Json, groups: Mapping[str, str], router_id: str, local_as: int) -> Neighbor:
    state = _state(peer["bgpState"])
    up = state == ESTABLISHED
    families = {name: family for name, family in (peer.get("addressFamilyInfo") or {}).items() if name in _RIBS}
    ribs = tuple(
        Rib(
            _RIBS[name],
            accepted=family.get("acceptedPrefixCounter") or 0,
            advertised=family.get("sentPrefixCounter") or 0,
        )
        for name, family in families.items()
    )
    messages = peer.get("messageStats") or {}
    return Neighbor(
        peer=Peer(
            address=ip_address(address),
            asn=peer["remoteAs"],
            group=groups.get(address) or peer.get("peerGroup") or GROUP,
            state=state,
            description=peer.get("nbrDesc") or "",
            flaps=peer.get("connectionsDropped") or 0,
            input_messages=messages.get("totalRecv") or 0,
            output_messages=messages.get("totalSent") or 0,
            ribs=ribs if up else (),
        ),
        port=peer["portForeign"] if up else 0,
        local_address=peer["hostLocal"] if up else "",
        local_port=peer["portLocal"] if up else 0,
        local_asn=peer.get("localAs") or local_as,
        local_id=peer.get("localRouterId") or router_id,
        peer_id=peer.get("remoteRouterId") or "0.0.0.0",
        nlri=tuple(_NLRI[name] for name in families),
        restart_time=(peer.get("gracefulRestartInfo") or {}).get("timers", {}).get("receivedRestartTimer") or 0,
        restarting=_restarting(peer) if up else (),
        complete=_complete(peer) if up else (),
    )


def _restarting(peer: Json) -> tuple[str, ...]:
    """Return the families that the peer may restart gracefully, with the router's help.

    A capability that went both ways is not enough: whoever only helps others announces it as well, without families.
    """
    capabilities = peer.get("neighborCapabilities") or {}
    modes = peer.get("gracefulRestartInfo") or {}
    if capabilities.get("gracefulRestart") != "advertisedAndReceived" or modes.get("remoteGrMode") != "Restart":
        return ()
    if str(modes.get("localGrMode", "")).startswith(("Disable", "NotApplicable")):
        return ()
    return tuple(_NLRI[name] for name in capabilities.get("addressFamiliesByPeer") or () if name in _NLRI)


def _complete(peer: Json) -> tuple[str, ...]:
    """Return the families of which the peer has sent End-of-RIB."""
    received = (peer.get("gracefulRestartInfo") or {}).get("endOfRibRecv") or {}
    return tuple(_NLRI[name] for name, came in received.items() if came and name in _NLRI)


def _state(state: str) -> str:
    """Return a state as Junos calls it, where FRR says ``Idle (Admin)``, or ``Clearing`` on the way down."""
    first = state.split(" ")[0]
    return first if first in _STATES else "Idle"


def _in_order(peers: Mapping[str, Peer]) -> list[Peer]:
    return sorted(peers.values(), key=lambda peer: (peer.address.version, int(peer.address)))
