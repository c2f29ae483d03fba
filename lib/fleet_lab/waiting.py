"""Waits for conditions."""

import contextlib
import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from fleet_lab.errors import LabError

_INTERVAL = 0.2


def is_listening(address: IPv4Address | IPv6Address, port: int) -> bool:
    """Whether a connection to a port is accepted."""
    try:
        with socket.create_connection((str(address), port), timeout=1.0):
            return True
    except OSError:
        return False


def answers_ssh(address: IPv4Address | IPv6Address, port: int = 22, *, tries: int = 3) -> bool:
    """Whether a server of SSH greets: a connection alone is accepted by the kernel, whatever became of the server."""
    for _ in range(tries):
        with contextlib.suppress(OSError), socket.create_connection((str(address), port), timeout=2.0) as connection:
            if connection.recv(4) == b"SSH-":
                return True
        time.sleep(_INTERVAL)
    return False


def wait_for(
    missing: Callable[[], str],
    *,
    what: str,
    timeout: float,
    trouble: tuple[type[Exception], ...] = (OSError,),
) -> None:
    """Wait until nothing is missing any more.

    Args:
        missing: returns what is still missing; an empty string when all is there.
        what: what is waited for, for the error's text.
        timeout: seconds.
        trouble: exceptions of ``missing`` that mean that it cannot be told yet.

    Raises:
        LabError: something is still missing.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            last = missing()
        except trouble as error:
            last = str(error)
        if not last:
            return
        if time.monotonic() > deadline:
            raise LabError(f"Waited {timeout:.0f} s for {what}: {last}")
        time.sleep(_INTERVAL)
