"""Core routers in memory: BGP sessions with nodes, and routers that do not answer, or answer with what was."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from fleet.adapters.bgp.errors import RouterError
from fleet.adapters.bgp.junos import Restarts
from fleet.adapters.bgp.summary import Address, Peer, Rib, Summary
from worlds.timeline import Time

ASN = 64601


@dataclass
class Peering:
    """A session of a router with a node."""

    is_up: bool = True
    since: float = 0.0
    flaps: int = 3
    prefixes: int = 2


@dataclass
class Routers:
    """The routers; stands for :class:`fleet.adapters.bgp.junos.Routers`.

    Attributes:
        peerings: by router and node.
        silent: the routers that do not answer.
        liars: what routers answer instead of what is.
        proven: by router and node: when the router last told that the session is up, and since when.
    """

    time: Time
    names: tuple[str, ...]
    addresses: Mapping[str, str]
    peerings: dict[tuple[str, str], Peering] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    liars: dict[str, Summary] = field(default_factory=dict)
    proven: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for router in self.names:
            for node in self.addresses:
                self.peerings[router, node] = Peering(since=self.time.now - 5000)

    def __enter__(self) -> "Routers":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Keep no connection."""

    def go_down(self, node: str, router: str = "") -> None:
        """End a node's sessions, or that with one router."""
        for (name, of), peering in self.peerings.items():
            if of == node and router in ("", name) and peering.is_up:
                peering.is_up, peering.since, peering.flaps = False, self.time.now, peering.flaps + 1

    def come_up(self, node: str, router: str = "") -> None:
        """Let a node's sessions be established."""
        for (name, of), peering in self.peerings.items():
            if of == node and router in ("", name) and not peering.is_up:
                peering.is_up, peering.since = True, self.time.now

    def forget(self, node: str) -> None:
        """Let a node's sessions be those of another machine, that are not up yet."""
        for key in self.peerings:
            if key[1] == node:
                self.peerings[key] = Peering(is_up=False, since=self.time.now, flaps=0)

    def is_well(self, node: str) -> bool:
        """Return whether all sessions of a node are up."""
        return all(peering.is_up for (_, of), peering in self.peerings.items() if of == node)

    def lie(self, router: str) -> None:
        """Let a router answer from now on with what it has at this moment."""
        self.liars[router] = self._summary(router)
        self._note(router)  # What it shows for ever was true once.

    def summaries(self) -> dict[str, Summary | RouterError]:
        answers: dict[str, Summary | RouterError] = {}
        for router in self.names:
            if router in self.silent:
                answers[router] = RouterError(f"{router} did not answer within 5 s.")
            elif router in self.liars:
                answers[router] = Summary(self.liars[router].peers, self.time.now)
            else:
                answers[router] = self._summary(router)
                self._note(router)
        if self.silent:
            self.time.advance(5.0)
        return answers

    def _note(self, router: str) -> None:
        for (name, node), peering in self.peerings.items():
            if name == router and peering.is_up:
                self.proven[router, node] = (self.time.now, peering.since)

    def restarts(self, addresses: Collection[Address] | None = None) -> dict[str, Restarts | RouterError]:
        return {
            router: RouterError(f"{router} did not answer within 5 s.")
            if router in self.silent
            else Restarts(frozenset(), frozenset())
            for router in self.names
        }

    def _summary(self, router: str) -> Summary:
        peers = [
            Peer(
                ip_address(self.addresses[node]),
                ASN,
                "Established" if peering.is_up else "Active",
                int(self.time.now - peering.since),
                peering.flaps,
                ribs=(Rib("inet.0", peering.prefixes, peering.prefixes, peering.prefixes, 0),) if peering.is_up else (),
            )
            for (name, node), peering in self.peerings.items()
            if name == router
        ]
        return Summary(peers, self.time.now)
