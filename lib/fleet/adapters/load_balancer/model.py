"""What a procedure needs of a load balancer, whichever it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fleet.errors import FleetError


class LoadBalancerError(FleetError):
    """A load balancer could not be asked or told, or does not know a server."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """What the load balancers make of a server.

    Attributes:
        pooled_at: who is told to give it new connections: the load balancers' names, or ``conftool``.
        out: whether every load balancer itself says that it gives it no new connections.
        up: whether every load balancer itself says that it gives it new connections, and finds it well.
        connections: those that are open through all load balancers; None where that cannot be known.
        detail: the same for people, in a line.
    """

    pooled_at: tuple[str, ...]
    out: bool
    up: bool
    connections: int | None
    detail: str


class LoadBalancer(Protocol):
    """The load balancers before a cluster's apiservers, all of them as one. Hosts have the names Cumin has for them."""

    def states(self, hosts: Sequence[str]) -> Mapping[str, ServerState]:
        """Ask for the state of servers; nothing is changed, in a dry-run as well.

        Raises:
            LoadBalancerError: a load balancer did not answer, or does not know a server: then nothing is known.
        """

    def depool(self, host: str, at: Sequence[str]) -> None:
        """Have a server get no new connections; those that are open stay. It may be told twice.

        Args:
            host: the server.
            at: who is to be told, of what was :attr:`ServerState.pooled_at`.

        Raises:
            LoadBalancerError: one could not be told.
        """

    def pool(self, host: str, at: Sequence[str]) -> None:
        """Have a server get new connections again, once it is found well. It may be told twice.

        Args:
            host: the server.
            at: who is to be told: those that were told to depool it.

        Raises:
            LoadBalancerError: one could not be told.
        """

    def watch_again(self, host: str) -> None:
        """Have the health of a server looked at again that stays depooled; nothing where that goes on anyway.

        Raises:
            LoadBalancerError: one could not be told.
        """
