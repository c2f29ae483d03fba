"""The SSH side: listens, lets users in, and runs a NETCONF session in the subsystem that they ask for."""

import asyncio
import hmac
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncssh

from . import HANGS, HOST_KEY, LOGIN
from .rpc import Rpcs
from .session import Session

_POLL = 0.2
_SUBSYSTEM = "netconf"


class Server:
    """Listens, and watches the faults.

    Attributes:
        users: who may log in, and how.
        listening: which time it listens, with which key.

    Args:
        settings: see the package.
        rpcs: answers what is asked.
    """

    def __init__(self, settings: dict[str, Any], rpcs: Rpcs) -> None:
        self._addresses: Sequence[str] = settings["listen"]
        self._port: int = settings["port"]
        self._keys = {False: settings["host_key"], True: settings["other_host_key"]}
        self._base_1_1: bool = settings.get("base_1_1", False)
        self._faults = Path(settings["faults"])
        self._rpcs = rpcs
        self._numbers = itertools.count(1)
        self._listeners: list[asyncssh.SSHAcceptor] = []
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self.listening = 0
        self.users: dict[str, dict[str, str]] = settings["users"]

    async def run(self) -> None:
        """Serve for ever."""
        active = self._active()
        await self._listen(other_key=HOST_KEY in active)
        for listener in self._listeners:
            for socket in listener.sockets:
                print("listening on {} port {}".format(*socket.getsockname()), flush=True)
        while True:
            await asyncio.sleep(_POLL)  # nothing in the standard library watches a folder
            before, active = active, self._active()
            if (HOST_KEY in active) != (HOST_KEY in before):
                await self._listen(other_key=HOST_KEY in active)
            if active - before:
                self.disconnect()

    def refuses(self) -> bool:
        """Return whether nobody may log in."""
        return self._has(LOGIN)

    def add(self, connection: asyncssh.SSHServerConnection) -> None:
        """Remember a connection whose user is in, to be closed by a fault; others meet the fault by themselves."""
        self._connections.add(connection)

    def remove(self, connection: asyncssh.SSHServerConnection) -> None:
        """Forget a connection that is gone."""
        self._connections.discard(connection)

    def disconnect(self) -> None:
        """Close all connections."""
        for connection in list(self._connections):
            connection.abort()

    async def serve(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        """Run a session; there is neither a shell nor a command."""
        if process.subsystem != _SUBSYSTEM:
            process.exit(1)
            return
        session = Session(next(self._numbers), base_1_1=self._base_1_1, rpcs=self._rpcs, hangs=lambda: self._has(HANGS))
        try:
            await session.run(process.stdin, process.stdout)
        except (OSError, asyncssh.Error):
            pass  # the client is gone
        finally:
            process.exit(0)

    def _active(self) -> set[str]:
        return {name for name in (HOST_KEY, LOGIN) if self._has(name)}

    def _has(self, fault: str) -> bool:
        return (self._faults / fault).exists()

    async def _listen(self, *, other_key: bool) -> None:
        """Listen with one of the keys from now on; the port stays what it was."""
        for listener in self._listeners:
            listener.close()
        self._listeners = []
        self.listening += 1
        for address in self._addresses:
            listener = await asyncssh.listen(
                address,
                self._port,
                server_host_keys=[self._keys[other_key]],
                server_factory=lambda number=self.listening: _Login(self, number),
                process_factory=self.serve,
                encoding=None,
                reuse_address=True,
            )
            self._listeners.append(listener)
            self._port = listener.sockets[0].getsockname()[1]


class _Login(asyncssh.SSHServer):
    """Lets the users of a connection in, or not.

    Args:
        server: who may, and the faults.
        listening: which key was shown, as of :attr:`Server.listening`.
    """

    def __init__(self, server: Server, listening: int) -> None:
        self._server = server
        self._listening = listening
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncssh calls it so)
        if self._connection is not None:
            self._server.remove(self._connection)

    def begin_auth(self, username: str) -> bool:
        keys = self._server.users.get(username, {}).get("authorized_keys")
        if keys and self._connection is not None and not self._server.refuses():
            self._connection.set_authorized_keys(keys)
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        expected = self._server.users.get(username, {}).get("password")
        if not expected or self._server.refuses():
            return False
        return hmac.compare_digest(expected.encode(), password.encode())

    def auth_completed(self) -> None:
        if self._connection is None:
            return
        if self._server.refuses() or self._listening != self._server.listening:
            self._connection.abort()  # a fault came in the middle
        else:
            self._server.add(self._connection)
