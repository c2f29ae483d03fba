"""What a Junos device prints about BGP: XML and text. Pure: no I/O."""

from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

from .frr import Neighbor, Peer, Rib

VERSION = "18.4R1"
ROUTING = f"http://xml.juniper.net/junos/{VERSION}/junos-routing"
"""The namespace of what a device says about routing."""

NAMESPACE = f"http://xml.juniper.net/junos/{VERSION}/junos"
"""The namespace of ``junos:style`` and ``junos:seconds``; a reply declares it."""

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_WEEK = 7 * _DAY


def elapsed(seconds: int) -> str:
    """Return a time as Junos prints it: ``7``, ``32:13``, ``5:04:03``, ``1d 2:03:04``, ``12w1d 21:45:51``."""
    weeks, rest = divmod(seconds, _WEEK)
    days, rest = divmod(rest, _DAY)
    hours, rest = divmod(rest, _HOUR)
    minutes, rest = divmod(rest, _MINUTE)
    if weeks or days:
        return (f"{weeks}w" if weeks else "") + f"{days}d {hours}:{minutes:02}:{rest:02}"
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else str(rest)


def summary_xml(peers: Sequence[Peer]) -> str:
    """Return ``<bgp-information>`` as ``get-bgp-summary-information`` has it."""
    return _information(
        _text("group-count", len({peer.group for peer in peers})),
        _text("peer-count", len(peers)),
        _text("down-peer-count", sum(not peer.established for peer in peers)),
        *(_table(name, total) for name, total in _tables(peers).items()),
        *map(_summary_peer, peers),
    )


def neighbors_xml(neighbors: Iterable[Neighbor]) -> str:
    """Return ``<bgp-information>`` as ``get-bgp-neighbor-information`` has it."""
    return _information(*map(_neighbor, neighbors))


def summary_text(peers: Sequence[Peer]) -> str:
    """Return what ``show bgp summary`` prints."""
    down = sum(not peer.established for peer in peers)
    lines = [f"Groups: {len({peer.group for peer in peers})} Peers: {len(peers)} Down peers: {down}"]
    lines.append("Table          Tot Paths  Act Paths Suppressed    History Damp State    Pending")
    for name, total in _tables(peers).items():
        lines += [f"{name:<21}", f"{'':13}{total:>11}{total:>11}" + f"{0:>11}" * 4]
    lines.append(
        "Peer                     AS      InPkt     OutPkt    OutQ   Flaps Last Up/Dwn "
        "State|#Active/Received/Accepted/Damped..."
    )
    for peer in peers:
        lines += _text_peer(peer)
    return "\n".join(lines) + "\n"


def _text_peer(peer: Peer) -> Iterable[str]:
    """Return a peer's lines: the counts of one of inet.0 alone stand in its own, those of others in lines below."""
    line = (
        f"{peer.address!s:<15}  {peer.asn:>10} {peer.input_messages:>10} {peer.output_messages:>10}"
        f" {peer.queue:>7} {peer.flaps:>7} {elapsed(peer.elapsed):>11} "
    )
    if not peer.established:
        return [line + peer.state]
    if [rib.name for rib in peer.ribs] == ["inet.0"]:
        return [f"{line}{_counts(peer.ribs[0]):<20} 0/0/0/0"]
    return [line + "Establ", *(f"  {rib.name}: {_counts(rib)}" for rib in peer.ribs)]


def _counts(rib: Rib) -> str:
    return f"{rib.accepted}/{rib.accepted}/{rib.accepted}/0"


def _tables(peers: Iterable[Peer]) -> dict[str, int]:
    """Return the prefixes in each table."""
    totals: dict[str, int] = {}
    for peer in peers:
        for rib in peer.ribs:
            totals[rib.name] = totals.get(rib.name, 0) + rib.accepted
    return dict(sorted(totals.items()))


def _table(name: str, total: int) -> str:
    counts = [
        _text(f"{kind}-{which}prefix-count", total if which != "internal-" and kind != "suppressed" else 0)
        for which in ("", "external-", "internal-")
        for kind in ("total", "active", "accepted", "suppressed")
    ]
    counts += [_text(f"{kind}-prefix-count", 0) for kind in ("history", "damped", "pending")]
    state = _text("bgp-rib-state", "BGP restart is complete")
    return _block("bgp-rib", _text("name", name), _text("received-prefix-count", total), *counts, state, style="brief")


def _summary_peer(peer: Peer) -> str:
    state = (
        _text("peer-state", peer.state, ' junos:format="Establ"')
        if peer.established
        else _text("peer-state", peer.state)
    )
    return _block(
        "bgp-peer",
        _text("peer-address", peer.address),
        _text("peer-as", peer.asn),
        _text("input-messages", peer.input_messages),
        _text("output-messages", peer.output_messages),
        _text("route-queue-count", peer.queue),
        _text("flap-count", peer.flaps),
        _text("elapsed-time", elapsed(peer.elapsed), f' junos:seconds="{peer.elapsed}"'),
        _text("description", peer.description) if peer.description else "",
        state,
        *(_block("bgp-rib", _text("name", rib.name), *_rib_counts(rib), style="terse") for rib in peer.ribs),
        style="terse",
    )


def _rib_counts(rib: Rib) -> list[str]:
    counts = [_text(f"{kind}-prefix-count", rib.accepted) for kind in ("active", "received", "accepted")]
    return [*counts, _text("suppressed-prefix-count", 0)]


def _neighbor(neighbor: Neighbor) -> str:
    peer = neighbor.peer
    return _block(
        "bgp-peer",
        _text("peer-address", f"{peer.address}+{neighbor.port}" if peer.established else peer.address),
        _text("peer-as", peer.asn),
        _text("local-address", f"{neighbor.local_address}+{neighbor.local_port}")
        if peer.established
        else _text("local-address", "unspecified"),
        _text("local-as", neighbor.local_asn),
        _text("description", peer.description) if peer.description else "",
        _text("peer-group", peer.group),
        _text("peer-cfg-rti", "master"),
        _text("peer-fwd-rti", "master"),
        _text("peer-type", "Internal" if peer.asn == neighbor.local_asn else "External"),
        _text("peer-state", peer.state),
        _text("flap-count", peer.flaps),
        *(_session(neighbor) if peer.established else ()),
        style="detail",
    )


def _session(neighbor: Neighbor) -> list[str]:
    """Return what is told of a session that is up."""
    peer = neighbor.peer
    ribs = [
        _block(
            "bgp-rib",
            _text("name", rib.name),
            _text("bgp-rib-state", "BGP restart is complete"),
            _text("send-state", "in sync"),
            *_rib_counts(rib),
            _text("advertised-prefix-count", rib.advertised),
            style="detail",
        )
        for rib in peer.ribs
    ]
    return [
        _text("peer-id", neighbor.peer_id),
        _text("local-id", neighbor.local_id),
        _text("peer-restart-nlri-configured", " ".join(neighbor.nlri)),
        _text("nlri-type-peer", " ".join(neighbor.nlri)),
        _text("nlri-type-session", " ".join(neighbor.nlri)),
        *_restart(neighbor),
        *ribs,
        _text("input-messages", peer.input_messages),
        _text("output-messages", peer.output_messages),
    ]


def _restart(neighbor: Neighbor) -> list[str]:
    """Return what was negotiated about graceful restart."""
    if not neighbor.restarting:
        return ["<peer-no-restart/>\n"]
    families = " ".join(neighbor.restarting)
    return [
        _text("peer-restart-time-received", neighbor.restart_time),
        _text("peer-restart-nlri-received", families),
        _text("peer-restart-nlri-negotiated", families),
        _text("peer-end-of-rib-received", " ".join(neighbor.complete)),
    ]


def _information(*content: str) -> str:
    return f'<bgp-information xmlns="{ROUTING}">\n{"".join(content)}</bgp-information>\n'


def _block(name: str, *content: str, style: str) -> str:
    return f'<{name} junos:style="{style}">\n{"".join(content)}</{name}>\n'


def _text(name: str, value: object, attributes: str = "") -> str:
    """Return an element with a text, which devices put between newlines."""
    return f"<{name}{attributes}>\n{escape(str(value))}\n</{name}>\n"
