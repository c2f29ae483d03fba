"""The core routers, asked over NETCONF: all at once, over connections that are kept."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from fleet import members
from fleet.adapters.bgp import summary
from fleet.adapters.bgp.errors import RouterError
from fleet.adapters.bgp.summary import ESTABLISHED, Address, Summary
from fleet.adapters.bgp.verify import ROUTERS
from fleet.clock import THREADS, Threads
from fleet.config.model import BgpConfig
from fleet.text import count

if TYPE_CHECKING:
    from fleet.adapters.bgp.netconf import Connection

T = TypeVar("T")

logger = logging.getLogger(__name__)

_SUMMARY = "get-bgp-summary-information"
_NEIGHBORS = "get-bgp-neighbor-information"


@dataclass(frozen=True, slots=True)
class Restarts:
    """What a router knows of the graceful restarts of its peers.

    Attributes:
        negotiated: those whose routes stay while they restart: their session is up, and graceful restart was negotiated
            for all its address families.
        incomplete: those that negotiated it and have not sent End-of-RIB since they went up: until then the router
            counts prefixes that it merely kept.
    """

    negotiated: frozenset[Address]
    incomplete: frozenset[Address]


class RoutersView(Protocol):
    """What is asked of the core routers of a cluster, all at once."""

    def summaries(self) -> Mapping[str, Summary | RouterError]:
        """Return all sessions of every router, or why a router could not be asked."""

    def restarts(self, addresses: Collection[Address] | None = None) -> Mapping[str, Restarts | RouterError]:
        """Return what every router knows of its peers' graceful restarts, or why it could not be asked.

        Args:
            addresses: the peers to ask for; all if None.
        """


class Routers:
    """The core routers of a cluster; may be used from several threads.

    Nothing is connected to before the first question. A router that cannot be asked never keeps the others' answers
    back, and takes no longer than the timeouts for connecting and for an answer together.

    Args:
        config: where they are, and how to log in.
        threads: how to ask them at the same time.
    """

    def __init__(self, config: BgpConfig, *, threads: Threads = THREADS) -> None:
        self._config = config
        self._threads = threads
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
                return summary.read_xml(reply, taken=taken)
            except summary.SummaryError as error:
                raise RouterError(f"{connection.router} answered with no BGP summary: {error}") from error

        return self._round(_SUMMARY, ask)

    def restarts(self, addresses: Collection[Address] | None = None) -> dict[str, Restarts | RouterError]:
        """Return what every router knows of its peers' graceful restarts, or why it could not be asked.

        Args:
            addresses: the peers to ask for, each on its own, as a router has many more; all if None.
        """

        def ask(connection: "Connection") -> Restarts:
            if addresses is None:
                return restarts_of([_neighbors(connection)])
            end = time.monotonic() + self._config.connect_timeout + self._config.rpc_timeout
            replies = []
            for address in addresses:
                if time.monotonic() > end:
                    raise RouterError(f"{connection.router} takes too long to tell of {count(addresses, 'neighbor')}.")
                replies.append(_neighbors(connection, neighbor_address=str(address)))
            return restarts_of(replies)

        with self._lock:
            connections = self._connect()
            return _at_once({name: _bind(ask, connections[name]) for name in self.names}, self._threads)

    def close(self) -> None:
        """End all connections, also those that are waited on. A question afterwards makes new ones."""
        connections, self._connections = self._connections, {}
        _at_once({name: connection.close for name, connection in connections.items()}, self._threads)

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
                answers = _at_once({name: _bind(ask, connections[name]) for name in self.names}, self._threads)
                self._rounds[kind] = (began, answers)
            return dict(answers)

    def _connect(self) -> "dict[str, Connection]":
        if not self._connections:
            # Not before it is needed: junos-eznc is slow to import.
            from fleet.adapters.bgp.netconf import Connection

            self._connections = {name: Connection(name, self._config) for name in self.names}
        return self._connections


def _neighbors(connection: "Connection", **arguments: str) -> Any:
    """Return ``<bgp-information>``, without namespaces.

    Raises:
        RouterError: the router answered with something else, or not.
    """
    reply, _ = connection.ask(_NEIGHBORS, **arguments)
    # Devices with several routing engines wrap it.
    found = reply if reply.tag == "bgp-information" else reply.find(".//bgp-information")
    if found is None:
        raise RouterError(f"{connection.router} answered with no BGP neighbors: <{reply.tag}>.")
    return found


def restarts_of(replies: Iterable[Any]) -> Restarts:
    """Read ``<bgp-information>`` of ``get-bgp-neighbor-information``, without namespaces.

    A device says ``peer-restart-nlri-negotiated`` also of a peer that merely helps others to restart; then it says
    ``peer-no-restart`` as well (seen from Junos 18 on).

    Raises:
        RouterError: an address in it is none.
    """
    peers = [peer for reply in replies for peer in reply.iterfind("bgp-peer") if _restarts(peer)]
    return Restarts(
        negotiated=frozenset(_address(peer) for peer in peers if _negotiated_all(peer)),
        incomplete=frozenset(_address(peer) for peer in peers if not _is_complete(peer)),
    )


def _address(peer: Any) -> Address:
    # Established peers have their port behind a plus, link-local ones their interface behind a percent sign.
    text = " ".join(_words(peer, "peer-address"))
    try:
        return ip_address(text.partition("+")[0].partition("%")[0])
    except ValueError as error:
        raise RouterError(f"A router answered with a BGP neighbor without an address: {text!r}.") from error


def _restarts(peer: Any) -> bool:
    return peer.find("peer-no-restart") is None and bool(_words(peer, "peer-restart-nlri-negotiated"))


def _negotiated_all(peer: Any) -> bool:
    families = set(_words(peer, "nlri-type-session"))
    return _words(peer, "peer-state") == [ESTABLISHED] and set(_words(peer, "peer-restart-nlri-negotiated")) >= families


def _is_complete(peer: Any) -> bool:
    return set(_words(peer, "peer-end-of-rib-received")) >= set(_words(peer, "peer-restart-nlri-negotiated"))


def _words(peer: Any, name: str) -> list[str]:
    return (peer.findtext(name) or "").split()


def _bind(ask: Callable[[T], Any], argument: T) -> Callable[[], Any]:
    return lambda: ask(argument)


def _at_once(calls: dict[str, Callable[[], Any]], threads: Threads) -> dict[str, Any]:
    """Make all calls at the same time; return what each returned, or the RouterError that it raised."""

    def make(name: str) -> Any:
        try:
            return calls[name]()
        except RouterError:
            raise
        except Exception as error:
            logger.debug("%s could not be asked", name, exc_info=True)
            raise RouterError(f"{name} could not be asked: {type(error).__name__}: {error} (a defect).") from error

    answers = members.ask(ROUTERS, list(calls), make, threads=threads)
    return {name: answers.failed.get(name) or answers.given[name] for name in calls}
