"""The core routers, asked over NETCONF: all at once, over connections that are kept."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from fleet.bgp import summary, values
from fleet.bgp.summary import ESTABLISHED, Address, Summary
from fleet.config import BgpConfig
from fleet.errors import FleetError

if TYPE_CHECKING:
    from fleet.bgp.netconf import Connection

T = TypeVar("T")

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
            reply, _ = connection.ask(_NEIGHBORS)
            try:
                return restarting_peers(reply)
            except ValueError as error:
                raise RouterError(f"{connection.router} answered with no BGP neighbors: {error}") from error

        return self._round(_NEIGHBORS, ask)

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


def restarting_peers(reply: Any) -> frozenset[Address]:
    """Return the peers whose routes stay while they restart.

    A device says ``peer-restart-nlri-negotiated`` also of a peer that merely helps others to restart; then it says
    ``peer-no-restart`` as well (seen from Junos 18 on).

    Args:
        reply: ``<bgp-information>`` of ``get-bgp-neighbor-information``, without namespaces.

    Raises:
        ValueError: it is something else.
    """
    if reply.tag != "bgp-information":
        raise ValueError(f"<{reply.tag}> instead of <bgp-information>")
    return frozenset(
        values.address((peer.findtext("peer-address") or "").strip())
        for peer in reply.iterfind("bgp-peer")
        if _may_restart(peer)
    )


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

    threads = [threading.Thread(target=make, args=(name,), name=f"router {name}", daemon=True) for name in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {name: answers[name] for name in calls}
