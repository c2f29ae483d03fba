"""Ports for servers that tests start."""

import itertools
import os
import socket

_EACH = 500
_ports = itertools.count(20_000 + _EACH * int(os.environ.get("PYTEST_XDIST_WORKER", "gw23").removeprefix("gw")))


def free_port() -> int:
    """Return a port that nobody else takes, also while the server that listens there is down for a while.

    Not one that the kernel gives to outgoing connections (from 32768 on), nor one of another process of the tests.
    """
    for port in _ports:
        with socket.socket() as listener:
            try:
                listener.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError
