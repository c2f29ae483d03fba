"""A NETCONF session: hellos, then RPCs in order, until one side ends it."""

from collections.abc import Callable
from typing import Protocol
from xml.etree import ElementTree

from .framing import Framing, FramingError
from .rpc import BASE, Rpcs

_BASE_1_0 = "urn:ietf:params:netconf:base:1.0"
_BASE_1_1 = "urn:ietf:params:netconf:base:1.1"
_CAPABILITIES = (BASE, "http://xml.juniper.net/netconf/junos/1.0", "http://xml.juniper.net/dmi/system/1.0")
_PIECE = 65536


class Input(Protocol):
    """Where requests come from."""

    async def read(self, size: int) -> bytes:
        """Return some bytes, none at the end."""


class Output(Protocol):
    """Where replies go."""

    def write(self, data: bytes) -> None:
        """Send bytes, some time."""

    async def drain(self) -> None:
        """Wait until there is room for more."""


class Session:
    """One session.

    Args:
        number: the session's id.
        base_1_1: whether base:1.1 is offered.
        rpcs: answers what is asked.
        hangs: whether replies are to stop in the middle, asked for each.
    """

    def __init__(self, number: int, *, base_1_1: bool, rpcs: Rpcs, hangs: Callable[[], bool]) -> None:
        self._number = number
        self._capabilities = (_BASE_1_0, *((_BASE_1_1,) if base_1_1 else ()), *_CAPABILITIES)
        self._rpcs = rpcs
        self._hangs = hangs
        self._incoming = Framing()
        self._outgoing = Framing()

    async def run(self, incoming: Input, outgoing: Output) -> None:
        """Serve until the session ends. Who does not keep to the protocol is cut off."""
        outgoing.write(self._outgoing.frame(self._hello()))
        greeted = False
        while piece := await incoming.read(_PIECE):
            try:
                for message in self._incoming.feed(piece):
                    if greeted:
                        if await self._serve(message, incoming, outgoing):
                            return
                    else:
                        greeted = True
                        self._incoming.chunked = self._outgoing.chunked = self._agree(message)
            except (FramingError, ElementTree.ParseError):
                return

    def _hello(self) -> bytes:
        capabilities = "".join(f"<capability>{name}</capability>\n" for name in self._capabilities)
        return (
            f'<hello xmlns="{BASE}">\n<capabilities>\n{capabilities}</capabilities>\n'
            f"<session-id>{self._number}</session-id>\n</hello>\n"
        ).encode()

    def _agree(self, hello: bytes) -> bool:
        """Return whether the other side knows base:1.1 as well."""
        message = ElementTree.fromstring(hello.strip())  # noqa: S314 (whoever may log in is trusted)
        offered = {(element.text or "").strip() for element in message.iter() if element.tag.endswith("capability")}
        return _BASE_1_1 in offered and _BASE_1_1 in self._capabilities

    async def _serve(self, message: bytes, incoming: Input, outgoing: Output) -> bool:
        """Answer a request; return whether it was the last."""
        reply, closes = await self._rpcs.reply(message)
        framed = self._outgoing.frame(reply.encode())
        if self._hangs():
            outgoing.write(framed[: len(framed) // 2])
            while await incoming.read(_PIECE):
                pass  # nothing is answered any more; the connection stays as long as the client lets it
            return True
        outgoing.write(framed)
        await outgoing.drain()
        return closes
