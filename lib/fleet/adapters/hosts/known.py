"""Whether anybody knows a host of that name: Cumin finds ``worker99`` whenever somebody writes it.

A host is known if its name resolves (DNS, /etc/hosts), if an alias of Cumin or a query of this project's configuration
finds it, or if an alert of it is firing.
"""

import socket
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from spicerack import Spicerack

from fleet.adapters.hosts.remote import Remote
from fleet.clock import THREADS, Threads
from fleet.config.loading import load
from fleet.config.queries import all_queries
from fleet.errors import FleetError
from fleet.execution import RemoteError
from fleet.paths import default_path


def unknown(
    hosts: Sequence[str],
    *,
    resolves: Callable[[str], bool],
    inventory: Callable[[], Collection[str]],
    threads: Threads = THREADS,
) -> list[str]:
    """Return the hosts that nobody knows.

    Args:
        hosts: their names, as Cumin has them.
        resolves: whether a name resolves.
        inventory: returns the hosts that are kept in lists; only called if a name does not resolve.
        threads: how to resolve names at the same time.
    """
    answers = threads.map(resolves, hosts, "resolve")
    without = [host for host, answer in zip(hosts, answers, strict=True) if not answer]
    listed = inventory() if without else ()
    return [host for host in without if host not in listed]


def resolves(host: str) -> bool:
    """Return whether the resolver of this machine knows a name."""
    try:
        return bool(socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False


def inventory(spicerack: Spicerack, remote: Remote) -> frozenset[str]:
    """Return the hosts that Cumin's aliases and this project's configuration find; what cannot be read finds none.

    Args:
        spicerack: for the configuration.
        remote: for Cumin.
    """
    asked = {f"A:{alias}" for alias in remote.aliases()}
    with suppress(FleetError):
        asked |= set(all_queries(load(default_path(spicerack.config_dir))))
    found: set[str] = set()
    for query in asked:
        try:
            found.update(remote.query(query))
        except RemoteError:
            continue
    return frozenset(found)


def check(hosts: Sequence[str], known: Collection[str], spicerack: Spicerack, remote: Remote) -> None:
    """Make sure that all hosts are known.

    Args:
        hosts: their names, as Cumin has them.
        known: those that are known for another reason.
        spicerack: for the configuration.
        remote: for Cumin.

    Raises:
        FleetError: nobody knows one of them.
    """
    asked = [host for host in hosts if host not in known]
    if strangers := unknown(asked, resolves=resolves, inventory=lambda: inventory(spicerack, remote)):
        raise FleetError(
            f"Nobody knows {', '.join(strangers)}: the name does not resolve, no alias of Cumin and no query of the"
            " configuration finds it, and Alertmanager has nothing of it. Correct the query, or say --unknown if it is"
            " meant; nothing was done."
        )
