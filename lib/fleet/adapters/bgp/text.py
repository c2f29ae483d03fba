"""What a router's command line prints for ``show bgp summary``, as plain data. Pure: no I/O."""

import re
from collections.abc import Iterator
from dataclasses import replace

from fleet.adapters.bgp import values
from fleet.adapters.bgp.summary import ESTABLISHED, Peer, Rib, Summary, refuse


def parse(text: str, *, taken: float) -> Summary:
    """Read what the command line prints for ``show bgp summary``, or lines of that without its header.

    Everything above the header of the peers is passed over; without that header every line must be of a peer. A peer
    whose state is counts (``3/3/3/0``: active, received, accepted, damped) is Established. Such a line does not name
    the table, which is taken as ``inet.0`` or ``inet6.0`` by the address's family; further counts are of ``inet.2`` or
    ``inet6.2``. After ``Establ`` the tables are named in lines of their own, which a ``| match`` may have taken away.
    No line at all is a summary without peers. The three counts of old releases do not tell what was accepted, and are
    refused.

    Args:
        text: what was printed.
        taken: when it was, by this host's monotonic clock.

    Raises:
        SummaryError: a line cannot be read.
    """
    peers: list[Peer] = []
    for line in _whole_lines(text):
        try:
            if match := _PEER.fullmatch(line):
                peers.append(_peer_of(*match.groups()))
            elif (match := _TABLE.fullmatch(line)) and peers and peers[-1].established:
                peers[-1] = replace(peers[-1], ribs=(*peers[-1].ribs, _counts(*match.groups())))
            else:
                refuse("has a line of no peer", line)
        except ValueError as error:
            refuse(f"has a line that cannot be read ({error})", line)
    return Summary(peers, taken)


def _whole_lines(text: str) -> Iterator[str]:
    """Yield the lines of peers and their tables; addresses that have a line of their own are put before the next."""
    lines = text.splitlines()
    header = next((index for index, line in enumerate(lines) if _HEADER.match(line)), -1)
    for line in lines[:header] if header > 0 else ():
        if _PEER.fullmatch(line):
            refuse("has a peer before the header", line)
    address = ""
    for line in lines[header + 1 :]:
        if not line.strip() or _PROMPT.fullmatch(line):
            continue
        if not address and _ALONE.fullmatch(line):
            address = line
            continue
        yield f"{address} {line}" if address else line
        address = ""
    if address:
        refuse("ends after an address", address)


def _peer_of(
    address: str, asn: str, received: str, sent: str, queue: str, flaps: str, elapsed: str, state: str
) -> Peer:
    of = values.address(address)
    ribs: tuple[Rib, ...] = ()
    if "/" in state:
        family = "inet" if of.version == 4 else "inet6"
        names = (f"{family}.0", f"{family}.2")
        ribs = tuple(_counts(name, counts) for name, counts in zip(names, state.split(), strict=False))
        state = ESTABLISHED
    elif state == "Establ":
        state = ESTABLISHED
    return Peer(
        address=of,
        asn=values.asn(asn),
        state=state,
        elapsed=values.elapsed(elapsed),
        flaps=int(flaps),
        input_messages=int(received),
        output_messages=int(sent),
        queue=int(queue),
        ribs=ribs,
    )


def _counts(name: str, counts: str) -> Rib:
    return Rib(name, *map(int, counts.split("/")))


_SPELLED = re.sub(r"\((?!\?)", "(?:", values.TIME)
_IP = r"[0-9A-Fa-f]*[.:][0-9A-Fa-f.:]*(?:%\S+?)?(?:\+\d+)?"
_FOUR = r"\d+/\d+/\d+/\d+"
_HEADER = re.compile(r"\s*Peer\s+AS\s+InPkt\b")
_PROMPT = re.compile(r"\s*\{\w+(?::\w+)*\}\s*")  # {master:0}
_ALONE = re.compile(rf"\s*{_IP}\s*")
_PEER = re.compile(
    rf"\s*({_IP})\s+([\d.]+)\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+({_SPELLED})"
    rf"\s+({_FOUR}(?:\s+{_FOUR})?|{values.STATE})\s*",
    re.ASCII,
)
_TABLE = re.compile(rf"\s*(\S+): ({_FOUR})\s*", re.ASCII)
