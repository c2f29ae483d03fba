"""TCP connections that are made in time, and that end in time whatever is done with them."""

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any


class Unreachable(Exception):
    """There is no connection; the text says why, in half a sentence."""


class TooLate(Unreachable):
    """There was no connection when the time was over."""


class Deadline:
    """Shuts a socket down when the time is over, which wakes up whoever waits for it.

    To be used as a context, which calls it off at its end.

    Attributes:
        expired: whether it did.

    Args:
        connected: the socket.
        seconds: how long it may be used from the context's beginning on.
    """

    def __init__(self, connected: socket.socket, seconds: float) -> None:
        self.expired = False
        self._socket = connected
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def _expire(self) -> None:
        self.expired = True
        shut_down(self._socket)

    def __enter__(self) -> "Deadline":
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()


def shut_down(connected: socket.socket) -> None:
    """Shut a socket down, if it is not yet: all who share it read its end, also of copies of its descriptor."""
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def connect(host: str, port: int, *, end: float) -> socket.socket:
    """Return a connection to the first of a host's addresses that takes one.

    Args:
        host: a name or an address.
        port: the port.
        end: when to give up, by the monotonic clock.

    Raises:
        TooLate: the time is over.
        Unreachable: no address takes a connection, or there is none.
    """
    failure = Unreachable("it has no address")
    found = _resolve(host, port, end)
    for position, (family, kind, protocol, _, address) in enumerate(found):
        try:
            connecting = socket.socket(family, kind, protocol)
        except OSError as error:  # the machine has no such family
            failure = Unreachable(error.strerror or str(error))
            continue
        try:
            # A share of what is left: an address that swallows packets must not use up the others' time.
            connecting.settimeout(max(0.001, (end - time.monotonic()) / (len(found) - position)))
            connecting.connect(address)
        except TimeoutError:
            connecting.close()
            failure = TooLate("there is no answer at all")
        except OSError as error:
            connecting.close()
            failure = Unreachable(error.strerror or str(error))
        else:
            connecting.settimeout(None)
            return connecting
    raise failure


def _resolve(host: str, port: int, end: float) -> list[Any]:
    """Look a host up, in a thread of its own: the resolver cannot be interrupted."""
    found: list[Any] = []
    failures: list[str] = []

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            failures.append(error.strerror or str(error))
        except UnicodeError:
            failures.append("that is no host name")

    thread = threading.Thread(target=look_up, name=f"resolve {host}", daemon=True)
    thread.start()
    thread.join(max(0.0, end - time.monotonic()))
    if thread.is_alive():
        raise TooLate("the name server does not answer")
    if failures:
        raise Unreachable(failures[0])
    return found
