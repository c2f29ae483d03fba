"""The BGP sessions of nodes as rows: for people, and for programs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fleet.adapters.bgp import verify
from fleet.adapters.bgp.summary import Address, Rib, Summary
from fleet.adapters.bgp.verify import Readings, Session, Speaker
from fleet.config.model import BgpConfig
from fleet.errors import FleetError
from fleet.text import count, verb


@dataclass(frozen=True, slots=True)
class Row:
    """A session of a node, or what is known instead of one.

    Attributes:
        node: the node's name.
        router: the router's name; empty if the node has no address that can be asked about.
        address: the node's.
        state: the router's word for it, or what is the matter.
        error: why nothing is known of it.
        up: whether it is known to be up.
        elapsed: seconds since it went up or down.
        flaps: how often it went down.
        ribs: the tables that the node contributes to.
    """

    node: str
    router: str
    address: Address | None
    state: str
    error: str = ""
    up: bool = False
    elapsed: int | None = None
    flaps: int | None = None
    ribs: tuple[Rib, ...] = ()


S = TypeVar("S", bound=Speaker)


def choose(nodes: Sequence[S], names: str) -> list[S]:
    """Return the nodes of these names, of all names if there are none, in the order of a NodeSet.

    Raises:
        FleetError: a name is no node's, or there are no nodes.
    """
    known = {node.name: node for node in nodes}
    there = NodeSet.fromlist(list(known), resolver=RESOLVER_NOGROUP)
    try:
        wanted = NodeSet(names, resolver=RESOLVER_NOGROUP) if names else there
    except NodeSetException as error:
        raise FleetError(f"--node {names!r} is no list of nodes such as worker1,worker[3-5]: {error}") from error
    if unknown := wanted - there:
        raise FleetError(f"Kubernetes knows no node {unknown}; it knows {there or 'none'}.")
    if not wanted:
        raise FleetError(f"--node {names!r} names no node." if names else "Kubernetes knows no nodes.")
    return [known[name] for name in wanted]


def rows_of(nodes: Iterable[Speaker], config: BgpConfig, readings: Readings) -> list[Row]:
    """Return the sessions that nodes must have, as the routers have them, by node, router and address.

    A peer that several routing instances of a router have gives a row for each.
    """
    rows = []
    for node in nodes:
        try:
            addresses = verify.addresses_of(node, config)
        except FleetError as error:
            rows.append(Row(node.name, "", None, "no address", str(error)))
            continue
        if not addresses:
            what = f"{node.name} has no address of {' or '.join(config.families)}; bgp.addresses may name one."
            rows.append(Row(node.name, "", None, "no address", what))
        for session in verify.expected(addresses, config.routers):
            rows += _rows_of(node.name, session, readings.get(session.router), config.asn)
    return rows


def _rows_of(node: str, session: Session, reading: Summary | FleetError | None, asn: int) -> list[Row]:
    if not isinstance(reading, Summary):
        error = str(reading) if reading else f"{session.router} was not asked"
        return [Row(node, session.router, session.address, "not known", error)]
    return [
        Row(node, session.router, peer.address, peer.state, "", peer.established, peer.elapsed, peer.flaps, peer.ribs)
        for peer in reading.find(session.address, asn)
    ] or [Row(node, session.router, session.address, "no such peer")]


def render(rows: Sequence[Row], console: Console) -> None:
    """Print rows as a table, and below it what could not be asked and how many sessions are up."""
    table = Table(show_edge=False)
    for column in ("node", "router", "address", "state", "age", "active/received/accepted prefixes", "flaps"):
        table.add_column(column, justify="right" if column in ("age", "flaps") else "left", no_wrap=column == "node")
    for row in rows:
        table.add_row(
            Text(row.node),
            Text(row.router),
            Text(str(row.address or "")),
            Text(row.state),
            "" if row.elapsed is None else verify.lasting(row.elapsed),
            Text(", ".join(f"{rib.active}/{rib.received}/{rib.accepted} {rib.name}" for rib in row.ribs)),
            "" if row.flaps is None else str(row.flaps),
            style="" if row.up else "bold red",
        )
    console.print(table)
    for error in dict.fromkeys(row.error for row in rows if row.error):
        console.print(error, markup=False)
    console.print(_total(len(rows), sum(not row.up for row in rows)))


def _total(sessions: int, down: int) -> str:
    """Return how many sessions are up, for people."""
    if not sessions:
        return "There are no sessions: none of these nodes has an address of a family that the configuration names."
    if down:
        return f"{down} of {count(sessions, 'session')} {verb(down, 'is', 'are')} not up, or not known."
    return "The only session is up." if sessions == 1 else f"All {sessions} sessions are up."


def as_json(rows: Iterable[Row]) -> list[Mapping[str, Any]]:
    """Return rows as plain JSON, a mapping for each; what is not known is null."""
    return [
        {
            "node": row.node,
            "router": row.router or None,
            "address": str(row.address) if row.address else None,
            "family": f"ipv{row.address.version}" if row.address else None,
            "state": row.state,
            "up": row.up,
            "seconds": row.elapsed,
            "flaps": row.flaps,
            "prefixes": {
                rib.name: {"active": rib.active, "received": rib.received, "accepted": rib.accepted} for rib in row.ribs
            },
            "error": row.error or None,
        }
        for row in rows
    ]
