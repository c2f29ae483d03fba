"""What PyBal says of a pool's servers, over the HTTP of its instrumentation.

A pool is a line a server: its name, a colon, a tab and ``enabled/up/pooled``. The parts are ``enabled`` or ``disabled``
(what conftool says), ``up``, ``partially up`` or ``down`` (what its monitors say), and ``pooled`` or ``not pooled``
(whether LVS has it). A server that is ``inactive`` in conftool is not there. Facts: PyBal's ``instrumentation.py``, and
``Server.textStatus`` in its ``server.py``.
"""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import requests

from fleet.load_balancer.model import LoadBalancerError

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
        LoadBalancerError: it does not answer, or not as PyBal does.
    """
    try:
        response = requests.get(url, headers={"Accept": "text/plain"}, timeout=_TIMEOUT)
        response.raise_for_status()
        return parse(response.text)
    except (requests.RequestException, ValueError) as error:
        raise LoadBalancerError(f"PyBal cannot be asked at {url}: {error}") from error


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


def name(url: str) -> str:
    """Return how a PyBal is called in reports."""
    return urlsplit(url).hostname or url
