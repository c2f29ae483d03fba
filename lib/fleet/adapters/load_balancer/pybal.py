"""What PyBal says of a pool's servers, over the HTTP of its instrumentation.

A pool is a line a server: its name, a colon, a tab and ``enabled/up/pooled``. The parts are ``enabled`` or ``disabled``
(what conftool says), ``up``, ``partially up`` or ``down`` (what its monitors say), and ``pooled`` or ``not pooled``
(whether LVS has it). A server that is ``inactive`` in conftool is not there. Facts: PyBal's ``instrumentation.py``, and
``Server.textStatus`` in its ``server.py``.
"""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import requests

from fleet import members
from fleet.adapters.load_balancer.model import LoadBalancerError
from fleet.clock import THREADS, Threads
from fleet.http import explain

UP = "enabled/up/pooled"
"""Of a server that gets connections."""
ABSENT = "not there"
"""Stands for what is said of a server that the pool does not have."""

_TIMEOUT = (3.05, 10.0)
"""Seconds to connect, and to wait for data."""
_LINE = re.compile(r"([^\s:]+):\s+((?:enabled|disabled)/(?:up|partially up|down)/(?:pooled|not pooled))")


def ask(url: str) -> dict[str, str]:
    """Ask a PyBal for a pool.

    Args:
        url: the pool's.

    Returns:
        What it says of each server, by its name.

    Raises:
        LoadBalancerError: it does not answer, or not as PyBal does; why, in half a sentence.
    """
    try:
        response = requests.get(url, headers={"Accept": "text/plain"}, timeout=_TIMEOUT)
    except requests.RequestException as error:
        raise LoadBalancerError(explain(error)) from error
    if not response.ok:
        raise LoadBalancerError(f"{response.status_code} {response.reason}: is there such a pool?")
    try:
        return parse(response.text)
    except ValueError as error:
        raise LoadBalancerError(str(error)) from error


def ask_all(urls: Sequence[str], *, threads: Threads = THREADS) -> dict[str, dict[str, str]]:
    """Ask all PyBals for a pool, at the same time.

    Args:
        urls: the pool's at each of them.
        threads: how to ask them.

    Returns:
        What each says of each server, by the PyBal's URL and the server's name.

    Raises:
        LoadBalancerError: one could not be asked; which, and why.
    """
    answers = members.ask("PyBals", urls, ask, threads=threads)
    if answers.problem:
        raise LoadBalancerError(f"{answers.problem}. See load_balancer.conftool.pybal.")
    return dict(answers.given)


def parse(text: str) -> dict[str, str]:
    """Read a pool.

    Args:
        text: all of PyBal's answer.

    Raises:
        ValueError: it is no pool.
    """
    servers = {}
    for line in text.splitlines():
        found = _LINE.fullmatch(line.strip())
        if not found:
            raise ValueError(f"this is no line of a pool: {line.strip()[:100]!r}")
        servers[found[1]] = found[2]
    return servers


def is_out(said: Mapping[str, str]) -> bool:
    """Say whether no PyBal gives a server new connections, by what each of them says of it."""
    return all(text.endswith("/not pooled") or text == ABSENT for text in said.values())


def is_up(said: Mapping[str, str]) -> bool:
    """Say whether every PyBal gives a server new connections, by what each of them says of it."""
    return all(text == UP for text in said.values())


def names(urls: Sequence[str]) -> dict[str, str]:
    """Return how PyBals are called in reports, by their URLs: their hosts, or the URLs where two have the same host."""
    hosts = {url: urlsplit(url).hostname or url for url in urls}
    return hosts if len(set(hosts.values())) == len(hosts) else {url: url for url in urls}
