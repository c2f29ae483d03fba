"""A router's BGP summary as plain data, read from what Junos answers. Pure: no I/O."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NoReturn, overload

from lxml import etree

from fleet.adapters.bgp import values
from fleet.adapters.bgp.values import Address as Address
from fleet.errors import FleetError

ESTABLISHED = "Established"
"""The state of a session that is up; others are ``Idle``, ``Connect``, ``Active``, ``OpenSent`` and ``OpenConfirm``."""


class SummaryError(FleetError):
    """A router's answer is no BGP summary; the text quotes what is wrong with it."""


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


@dataclass(frozen=True)
class Summary:
    """All sessions of a router.

    Attributes:
        peers: in the router's order.
        taken: when the router's answer came, by this host's monotonic clock.
    """

    peers: Sequence[Peer]
    taken: float

    def find(self, address: Address, asn: int) -> tuple[Peer, ...]:
        """Return the sessions with a peer; usually one, none if the router has no such peer.

        There are several where the same address is a peer in several routing instances, which a summary does not name:
        what is asked of the session has to hold for all of them.

        Raises:
            SummaryError: a peer with this address cannot be read.
        """
        same = [self.peers[place] for place in self._places.get((int(address), asn), ())]
        return tuple(peer for peer in same if peer.address == address)  # the interface of link-local ones as well

    @cached_property
    def _places(self) -> Mapping[tuple[int, int], Sequence[int]]:
        """Where peers are, by the number of their address, whose hash takes less time than its own."""
        places: dict[tuple[int, int], list[int]] = {}
        keys = self.peers.keys() if isinstance(self.peers, Unread) else ((p.address, p.asn) for p in self.peers)
        for place, (address, asn) in enumerate(keys):
            places.setdefault((int(address), asn), []).append(place)
        return places


class Unread(Sequence[Peer]):
    """The peers of an answer in XML, each read when it is wanted: a router has thousands, a gate asks for a few."""

    def __init__(self, elements: Sequence[Any]) -> None:
        self._elements = elements

    def __len__(self) -> int:
        return len(self._elements)

    @overload
    def __getitem__(self, place: int) -> Peer: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Peer]: ...

    def __getitem__(self, place: int | slice) -> Peer | Sequence[Peer]:
        """Read a peer, or several.

        Raises:
            SummaryError: one cannot be read.
        """
        found = self._elements[place]
        return [_peer(element) for element in found] if isinstance(place, slice) else _peer(found)

    def keys(self) -> Iterator[tuple[Address, int]]:
        """Yield the address and the AS number of each peer.

        Raises:
            SummaryError: a peer has none.
        """
        for element in self._elements:
            address = asn = None
            for child in element:
                match _local(child.tag):
                    case "peer-address":
                        address = child.text
                    case "peer-as":
                        asn = child.text
                if address and asn:
                    break
            try:
                yield values.address((address or "").strip()), values.asn((asn or "").strip())
            except ValueError as error:
                refuse(f"has a peer that cannot be read ({error})", _quoted(element))


def parse_xml(reply: Any, *, taken: float) -> Summary:
    """Read the answer to ``get-bgp-summary-information``.

    Namespaces do not matter, nor whether ``rpc-reply`` or ``multi-routing-engine-results`` is around the answer; with
    several routing engines their peers follow each other.

    Args:
        reply: the XML as text or bytes, or an element of lxml.
        taken: when the answer came, by this host's monotonic clock.

    Raises:
        SummaryError: there is no summary in it, or a peer cannot be read.
    """
    return Summary([_peer(element) for element in _elements(reply)], taken)


def read_xml(reply: Any, *, taken: float) -> Summary:
    """Read the answer as :func:`parse_xml` does, but what it says of a peer not before that is asked for.

    Raises:
        SummaryError: there is no summary in it, or a peer has no address or AS number.
    """
    summary = Summary(Unread(_elements(reply)), taken)
    _ = summary._places
    return summary


def _elements(reply: Any) -> list[Any]:
    """Return the peers of an answer as elements."""
    root = _parsed(reply) if isinstance(reply, str | bytes) else reply
    found = [root] if _local(root.tag) == "bgp-information" else list(root.iter("{*}bgp-information"))
    if not found:
        refuse("has no bgp-information", _quoted(root))
    return [peer for one in found for peer in one.iterchildren("{*}bgp-peer")]


def _parsed(reply: str | bytes) -> Any:
    # A text is decoded already, whatever its XML declaration says.
    data, encoding = (reply.encode(errors="replace"), "utf-8") if isinstance(reply, str) else (reply, None)
    parser = etree.XMLParser(
        encoding=encoding, resolve_entities=False, no_network=True, remove_comments=True, remove_blank_text=True
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        refuse(f"is no XML ({error})", data[:_QUOTE].decode(errors="replace"))
    if doctype := root.getroottree().docinfo.doctype:
        refuse("has a document type, whose entities are not looked up", doctype)
    return root


def _peer(element: Any) -> Peer:
    try:
        texts, ribs, since = {}, [], None
        for child in element:
            name = _local(child.tag)
            if name == "bgp-rib":
                ribs.append(_rib(child))
            else:
                texts[name] = child.text
                if name == "elapsed-time":
                    since = child
        if since is None:
            raise KeyError("elapsed-time")
        return Peer(
            address=values.address((texts["peer-address"] or "").strip()),
            asn=values.asn((texts["peer-as"] or "").strip()),
            state=values.state((texts["peer-state"] or "").strip()),
            elapsed=_elapsed(since),
            flaps=values.count(texts["flap-count"]),
            input_messages=values.count(texts["input-messages"]),
            output_messages=values.count(texts["output-messages"]),
            queue=values.count(texts["route-queue-count"]),
            description=(texts.get("description") or "").strip(),
            ribs=tuple(ribs),
        )
    except KeyError as error:
        refuse(f"has a peer without {error.args[0]}", _quoted(element))
    except ValueError as error:
        refuse(f"has a peer that cannot be read ({error})", _quoted(element))


def _rib(element: Any) -> Rib:
    texts = {_local(child.tag): child.text for child in element}
    name = (texts["name"] or "").strip()
    if not name:
        raise ValueError("a table has no name")
    return Rib(
        name,
        values.count(texts["active-prefix-count"]),
        values.count(texts["received-prefix-count"]),
        values.count(texts["accepted-prefix-count"]),
        values.count(texts["suppressed-prefix-count"]),
    )


@lru_cache(maxsize=1024)  # thousands of peers have the same few
def _local(tag: Any) -> str:
    """Return an element's name without its namespace; a comment's has none at all."""
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _elapsed(element: Any) -> int:
    for key, value in element.items():
        if _local(key) == "seconds":
            return values.count(value)
    return values.elapsed((element.text or "").strip())


def _quoted(element: Any) -> str:
    return str(etree.tostring(element, encoding="unicode", with_tail=False))


def refuse(what: str, quote: str) -> NoReturn:
    """Raise what says that there is something wrong with an answer, and quotes it."""
    short = " ".join(quote.split())
    raise SummaryError(f"The router's BGP summary {what}: {short[:_QUOTE]}{'…' if len(short) > _QUOTE else ''}")


_QUOTE = 300
