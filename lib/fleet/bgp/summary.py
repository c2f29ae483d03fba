"""A router's BGP summary as plain data, read from what Junos answers. Pure: no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

ESTABLISHED = "Established"
"""The state of a session that is up; others are ``Idle``, ``Connect``, ``Active``, ``OpenSent`` and ``OpenConfirm``."""


@dataclass(frozen=True, slots=True)
class Rib:
    """What a peer contributes to a routing table.

    Attributes:
        name: the table: ``inet.0``, ``inet6.0``, ``VRF.inet.0``.
        active: prefixes that are in use.
        received: prefixes that the peer announced.
        accepted: prefixes that the import policy let in.
        suppressed: prefixes that are damped.
    """

    name: str
    active: int
    received: int
    accepted: int
    suppressed: int


@dataclass(frozen=True, slots=True)
class Peer:
    """A session, as the router has it.

    Attributes:
        address: the peer's.
        asn: the peer's AS number.
        state: as Junos calls it; :data:`ESTABLISHED` if the session is up.
        elapsed: whole seconds since the session last went up or down.
        flaps: how often the session went down.
        input_messages: received from the peer.
        output_messages: sent to the peer.
        queue: routes waiting to be sent.
        description: from the router's configuration.
        ribs: the routing tables; none while the session is down, and in text that does not tell them.
    """

    address: Address
    asn: int
    state: str
    elapsed: int
    flaps: int
    input_messages: int = 0
    output_messages: int = 0
    queue: int = 0
    description: str = ""
    ribs: tuple[Rib, ...] = ()

    @property
    def established(self) -> bool:
        """Whether the session is up."""
        return self.state == ESTABLISHED


@dataclass(frozen=True, slots=True)
class Summary:
    """All sessions of a router.

    Attributes:
        peers: in the router's order.
        taken: when the router's answer came, in seconds since the epoch by this host's clock.
    """

    peers: Sequence[Peer]
    taken: float
