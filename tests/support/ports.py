"""Ports for servers that tests start."""

import fcntl
import itertools
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

# Not those that the kernel gives to outgoing connections, from 32768 on.
_FIRST, _LAST, _EACH = 20_000, 32_767, 250
_claims: list[TextIO] = []  # kept open: the locks last as long as the process


def _ranges() -> Iterator[range]:
    """Claim one range of ports after the other for this process: other sessions of tests may run beside it."""
    for first in range(_FIRST, _LAST - _EACH, _EACH):
        claim = Path(tempfile.gettempdir(), f"fleet-tests-ports-{first}.lock").open("w", encoding="ascii")  # noqa: SIM115
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            claim.close()
            continue
        _claims.append(claim)
        yield range(first, first + _EACH)


_ports = itertools.chain.from_iterable(_ranges())


def free_port() -> int:
    """Return a port that nobody else takes, also while the server that listens there is down for a while."""
    for port in _ports:
        with socket.socket() as listener:
            try:
                listener.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("all ranges of ports are claimed by other sessions of tests")
