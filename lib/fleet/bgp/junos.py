"""The core routers, asked over NETCONF: all at once, over connections that are kept."""

import logging
import threading
import time
from collections.abc import Callable, Collection
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar

from fleet.bgp import summary
from fleet.bgp.summary import ESTABLISHED, Address, Summary
from fleet.config import BgpConfig
from fleet.errors import FleetError

if TYPE_CHECKING:
    from fleet.bgp.netconf import Connection

T = TypeVar("T")

logger = logging.getLogger(__name__)

_SUMMARY = "get-bgp-summary-information"
_NEIGHBORS = "get-bgp-neighbor-information"


class RouterError(FleetError):
    """One router could not be asked."""


class Routers:
    """The core routers of a cluster; may be used from several threads.

    Nothing is connected to before the first question. A router that cannot be asked never keeps the others' answers
    back, and takes no longer than the timeouts for connecting and for an answer together.

    Args:
        config: where they are, and how to log in.
    """

    def __init__(self, config: BgpConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._connections: dict[str, Connection] = {}
        self._rounds: dict[str, tuple[float, dict[str, Any]]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The routers, in the configuration's order."""
        return tuple(self._config.routers)

    def summaries(self) -> dict[str, Summary | RouterError]:
        """Return all sessions of every router, or why a router could not be asked."""

        def ask(connection: "Connection") -> Summary:
            reply, taken = connection.ask(_SUMMARY)
            try:
                return summary.parse_xml(reply, taken=taken)
            except summary.SummaryError as error:
                raise RouterError(f"{connection.router} answered with no BGP summary: {error}") from error

        return self._round(_SUMMARY, ask)

    def restarting(self) -> dict[str, frozenset[Address] | RouterError]:
        """Return the peers at every router whose routes stay while they restart, or why a router could not be asked.

        That is: the session is up, and graceful restart was negotiated for all its address families.
        """

        def ask(connection: "Connection") -> frozenset[Address]:
            return restarting_peers(_neighbors(connection))

        return self._round(_NEIGHBORS, ask)

    def incomplete(self, addresses: Collection[Address]) -> dict[str, frozenset[Address] | RouterError]:
        """Return which of some peers have not told all their routes since they went up, at every router.

        Those are the ones that negotiated graceful restart and have not sent End-of-RIB: until then the router counts
        prefixes that it merely kept. Of a peer that negotiated none, nothing is kept.

        Args:
            addresses: the peers'; each is asked for on its own, as a router has many more.
        """

        def ask(connection: "Connection") -> frozenset[Address]:
            replies = [_neighbors(connection, neighbor_address=str(address)) for address in addresses]
            return frozenset(address for reply in replies for address in incomplete_peers(reply))

        with self._lock:
            connections = self._connect()
            return _at_once({name: _bind(ask, connections[name]) for name in self.names})

    def close(self) -> None:
        """End all connections. A question afterwards makes new ones."""
        with self._lock:
            _at_once({name: connection.close for name, connection in self._connections.items()})
            self._connections = {}

    def _round(self, kind: str, ask: "Callable[[Connection], T]") -> dict[str, T | RouterError]:
        """Ask every router.

        Who had to wait for another's round takes that round's answers if it began after the call: they are no older
        than those of a round of its own would be.
        """
        called = time.monotonic()
        with self._lock:
            began, answers = self._rounds.get(kind, (float("-inf"), {}))
            if began < called:
                began = time.monotonic()
                connections = self._connect()
                answers = _at_once({name: _bind(ask, connections[name]) for name in self.names})
                self._rounds[kind] = (began, answers)
            return dict(answers)

    def _connect(self) -> "dict[str, Connection]":
        if not self._connections:
            # Not before it is needed: junos-eznc is slow to import.
            from fleet.bgp.netconf import Connection

            self._connections = {name: Connection(name, self._config) for name in self.names}
        return self._connections


def _neighbors(connection: "Connection", **arguments: str) -> Any:
    """Return ``<bgp-information>``, without namespaces.

    Raises:
        RouterError: the router answered with something else, or not.
    """
    reply, _ = connection.ask(_NEIGHBORS, **arguments)
    if reply.tag != "bgp-information":
        raise RouterError(f"{connection.router} answered with no BGP neighbors: <{reply.tag}>.")
    return reply


def restarting_peers(reply: Any) -> frozenset[Address]:
    """Return the peers whose routes stay while they restart.

    A device says ``peer-restart-nlri-negotiated`` also of a peer that merely helps others to restart; then it says
    ``peer-no-restart`` as well (seen from Junos 18 on).

    Args:
        reply: ``<bgp-information>`` of ``get-bgp-neighbor-information``, without namespaces.

    Raises:
        RouterError: an address in it is none.
    """
    return frozenset(_address(peer) for peer in reply.iterfind("bgp-peer") if _may_restart(peer))


def incomplete_peers(reply: Any) -> frozenset[Address]:
    """Return the peers that negotiated graceful restart, and have not sent End-of-RIB for all that it is for.

    Args:
        reply: as for :func:`restarting_peers`.

    Raises:
        RouterError: an address in it is none.
    """
    return frozenset(
        _address(peer)
        for peer in reply.iterfind("bgp-peer")
        if peer.find("peer-no-restart") is None
        and not set(_words(peer, "peer-end-of-rib-received")) >= set(_words(peer, "peer-restart-nlri-negotiated"))
    )


def _address(peer: Any) -> Address:
    # Established peers have their port behind a plus, link-local ones their interface behind a percent sign.
    text = " ".join(_words(peer, "peer-address"))
    try:
        return ip_address(text.partition("+")[0].partition("%")[0])
    except ValueError as error:
        raise RouterError(f"A router answered with a BGP neighbor without an address: {text!r}.") from error


def _may_restart(peer: Any) -> bool:
    negotiated = _words(peer, "peer-restart-nlri-negotiated")
    return (
        _words(peer, "peer-state") == [ESTABLISHED]
        and peer.find("peer-no-restart") is None
        and bool(negotiated)
        and set(negotiated) >= set(_words(peer, "nlri-type-session"))
    )


def _words(peer: Any, name: str) -> list[str]:
    return (peer.findtext(name) or "").split()


def _bind(ask: Callable[[T], Any], argument: T) -> Callable[[], Any]:
    return lambda: ask(argument)


def _at_once(calls: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Make all calls at the same time; return what each returned, or the RouterError that it raised."""
    answers: dict[str, Any] = {}

    def make(name: str) -> None:
        try:
            answers[name] = calls[name]()
        except RouterError as error:
            answers[name] = error
        except Exception as error:
            logger.debug("%s could not be asked", name, exc_info=True)
            answers[name] = RouterError(f"{name} could not be asked: {type(error).__name__}: {error} (a defect).")

    threads = [threading.Thread(target=make, args=(name,), name=f"router {name}", daemon=True) for name in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {name: answers[name] for name in calls}
