"""What Junos would answer, written from the model: XML and text of a BGP summary."""

from collections.abc import Iterable
from xml.sax.saxutils import escape

from fleet.adapters.bgp.summary import Peer, Rib

ROUTING = "http://xml.juniper.net/junos/18.4R1/junos-routing"
HEADER = (
    "Groups: 3 Peers: 12 Down peers: 1\n"
    "Table          Tot Paths  Act Paths Suppressed    History Damp State    Pending\n"
    "inet.0               \n"
    "                    1366        682          0          0          0          0\n"
    "Peer                     AS      InPkt     OutPkt    OutQ   Flaps Last Up/Dwn "
    "State|#Active/Received/Accepted/Damped...\n"
)


def elapsed(seconds: int) -> str:
    """Write a time as Junos does."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    weeks, day = divmod(days, 7)
    if days:
        return f"{f'{weeks}w' if weeks else ''}{day}d {hour}:{minute:02}:{second:02}"
    if hours:
        return f"{hour}:{minute:02}:{second:02}"
    return f"{minute}:{second:02}" if minutes else str(second)


def asdot(asn: int) -> str:
    """Write an AS number in its halves."""
    return f"{asn >> 16}.{asn & 0xFFFF}"


def xml(peers: Iterable[Peer], *, namespaces: bool = True, seconds: bool = True, dotted: bool = False) -> str:
    """Write the answer to ``get-bgp-summary-information``.

    Args:
        peers: what it tells of.
        namespaces: as the router sends it, or as PyEZ hands it on.
        seconds: with the seconds of times as an attribute.
        dotted: with AS numbers in halves.
    """
    junos = "junos:" if namespaces else ""
    attribute = f' {junos}seconds="{{}}"' if seconds else ""

    def of(peer: Peer) -> str:
        return (
            f'<bgp-peer {junos}style="terse">\n<peer-address>\n{peer.address}\n</peer-address>\n'
            f"<peer-as>\n{asdot(peer.asn) if dotted else peer.asn}\n</peer-as>\n"
            f"<input-messages>{peer.input_messages}</input-messages>\n"
            f"<output-messages>{peer.output_messages}</output-messages>\n"
            f"<route-queue-count>{peer.queue}</route-queue-count>\n<flap-count>\n{peer.flaps}\n</flap-count>\n"
            f"<elapsed-time{attribute.format(peer.elapsed)}>\n{elapsed(peer.elapsed)}\n</elapsed-time>\n"
            f"<description>{escape(peer.description)}</description>\n"
            f"<peer-state>\n{peer.state}\n</peer-state>\n{''.join(map(rib, peer.ribs))}</bgp-peer>\n"
        )

    def rib(rib: Rib) -> str:
        return (
            f'<bgp-rib {junos}style="terse">\n<name>\n{rib.name}\n</name>\n'
            f"<active-prefix-count>{rib.active}</active-prefix-count>\n"
            f"<received-prefix-count>\n{rib.received}\n</received-prefix-count>\n"
            f"<accepted-prefix-count>{rib.accepted}</accepted-prefix-count>\n"
            f"<suppressed-prefix-count>{rib.suppressed}</suppressed-prefix-count>\n</bgp-rib>\n"
        )

    body = "".join(map(of, peers))
    if not namespaces:
        return f"<bgp-information>\n{body}</bgp-information>"
    return (
        '<rpc-reply xmlns="urn:ietf:params:xml:ns:netconf:base:1.0" '
        'xmlns:junos="http://xml.juniper.net/junos/18.4R1/junos">\n'
        f'<bgp-information xmlns="{ROUTING}">\n{body}</bgp-information>\n</rpc-reply>\n'
    )


def text(
    peers: Iterable[Peer], *, header: bool = True, counts: bool = True, alone: bool = False, dotted: bool = False
) -> str:
    """Write what ``show bgp summary`` prints; descriptions are not in it.

    Args:
        peers: what it tells of.
        header: with everything above the peers.
        counts: with the counts of the only table in the peer's line, where that is the one of its address's family.
        alone: with addresses that are too long for their column in a line of their own.
        dotted: with AS numbers in halves.
    """
    lines = []
    for peer in peers:
        only = "inet.0" if peer.address.version == 4 else "inet6.0"
        inline = counts and [rib.name for rib in peer.ribs] == [only]
        state = _counts(peer.ribs[0]) if inline else "Establ" if peer.established else peer.state
        address = f"{peer.address!s:<15}" + ("\n" + " " * 15 if alone and len(str(peer.address)) > 15 else "")
        lines.append(
            f"{address} {asdot(peer.asn) if dotted else peer.asn:>11} {peer.input_messages:>10}"
            f" {peer.output_messages:>10} {peer.queue:>7} {peer.flaps:>7} {elapsed(peer.elapsed):>11} {state}\n"
        )
        if not inline:
            lines += [f"  {rib.name}: {_counts(rib)}\n" for rib in peer.ribs]
    return (HEADER if header else "") + "".join(lines)


def _counts(rib: Rib) -> str:
    return f"{rib.active}/{rib.received}/{rib.accepted}/{rib.suppressed}"
