"""NETCONF's framing of messages: base:1.0 ends each with ``]]>]]>``, base:1.1 sends chunks (RFC 6242)."""

import re
from collections.abc import Iterator

END = b"]]>]]>"
"""What ends a message in base:1.0, and both hellos always."""

_CHUNK = re.compile(rb"\n#(?:([1-9][0-9]{0,9})|(#))\n")
_BEGINNING = re.compile(rb"\n(?:#(?:[1-9][0-9]{0,9}|#)?)?")
"""What may still become a chunk's header."""


class FramingError(Exception):
    """What came is no chunk where one was due."""


class Framing:
    """The messages of one direction of a session each: takes in pieces as they come, frames what is to be sent.

    Attributes:
        chunked: whether base:1.1 was agreed on; to be set once the hellos are exchanged.
    """

    def __init__(self) -> None:
        self.chunked = False
        self._received = b""
        self._message = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Take in what was received; return the messages that are complete with it.

        The framing may be switched between two messages.

        Raises:
            FramingError: the other side does not keep to the framing.
        """
        self._received += piece
        while (message := self._take_chunked() if self.chunked else self._take()) is not None:
            yield message

    def frame(self, message: bytes) -> bytes:
        """Return a message as it is to be sent."""
        return b"\n#%d\n%s\n##\n" % (len(message), message) if self.chunked else message + END

    def _take(self) -> bytes | None:
        message, end, rest = self._received.partition(END)
        if not end:
            return None
        self._received = rest
        return message

    def _take_chunked(self) -> bytes | None:
        while self._received:
            header = _CHUNK.match(self._received)
            if header is None:
                if not _BEGINNING.fullmatch(self._received):
                    raise FramingError(f"no chunk: {self._received[:40]!r}")
                return None
            if header[2]:
                self._received = self._received[header.end() :]
                message, self._message = self._message, b""
                return message
            end = header.end() + int(header[1])
            if len(self._received) < end:
                return None
            self._message += self._received[header.end() : end]
            self._received = self._received[end:]
        return None
