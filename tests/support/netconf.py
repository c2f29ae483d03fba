"""Routers on the loopback interface: the lab's NETCONF server over recorded answers of FRR, and what misbehaves."""

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import asyncssh

import fleet_lab.guest
from fleet.adapters.bgp.junos import Routers
from fleet.config.model import BgpConfig
from support.places import DATA

USER = "fleet"
PASSWORD = "open sesame"

_GUEST = Path(fleet_lab.guest.__file__).parent
_RECORDED = DATA / "frr"

# Stands in for vtysh: logs each question, waits if it is told to, and answers from a file.
_VTYSH = """#!/bin/sh
echo "$2" >> questions
[ -e delay ] && sleep "$(cat delay)"
case "$2" in
"show bgp summary json") exec cat summary.json ;;
"show bgp neighbors json") exec cat neighbors.json ;;
"show bgp neighbors "*" json") exec python3 -c "$ONE" $2 ;;
esac
exit 1
"""

_ONE = """\
import json, sys
peers = json.load(open("neighbors.json"))
address = sys.argv[4]
print(json.dumps({address: peers[address]} if address in peers else {"bgpNoSuchNeighbor": True}))
"""


@dataclass(frozen=True)
class Keys:
    """Key pairs, as paths of the private keys."""

    folder: Path

    def path(self, name: str, kind: str = "ssh-ed25519") -> Path:
        """Return the path of a key, made at its first use; the public one is beside it."""
        path = self.folder / name
        if not path.exists():
            key = asyncssh.generate_private_key(kind)
            key.write_private_key(str(path))
            key.write_public_key(f"{path}.pub")
        return path

    def public(self, name: str) -> str:
        """Return a public key, without its comment."""
        return " ".join(self.path(name).with_suffix(".pub").read_text().split()[:2])


class Router:
    """The lab's NETCONF server, and where it is.

    Args:
        folder: for its files.
        keys: its host keys are ``host`` and ``other``; ``user`` may log in.
        settings: of the server, beside those that are needed.
    """

    def __init__(self, folder: Path, keys: Keys, **settings: Any) -> None:
        self.folder = folder
        self.keys = keys
        self.port = 0
        self._settings = settings
        self._process: subprocess.Popen[str] | None = None
        (folder / "faults").mkdir(parents=True)
        (folder / "vtysh").write_text(_VTYSH.replace("$ONE", _ONE.replace('"', '\\"')))
        (folder / "vtysh").chmod(0o755)
        self.reset()

    def start(self) -> None:
        """Start it; at the port that it had before, if any."""
        settings = {
            "listen": ["127.0.0.1"],
            "port": self.port,
            "host_key": str(self.keys.path("host")),
            "other_host_key": str(self.keys.path("other")),
            "users": {USER: {"authorized_keys": f"{self.keys.path('user')}.pub", "password": PASSWORD}},
            "vtysh": ["sh", "-c", f'cd {self.folder} && ./vtysh "$@"', "vtysh"],
            "faults": str(self.folder / "faults"),
            "router_id": "10.64.0.1",
            "local_as": 64600,
            "groups": {"10.64.0.18": "transit"},
            **self._settings,
        }
        (self.folder / "config.json").write_text(json.dumps(settings))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "netconf", str(self.folder / "config.json")],
            cwd=_GUEST,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line.startswith("listening on "), line
        self.port = int(line.split()[-1])

    def stop(self) -> None:
        """End it, and with it all connections."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def reset(self) -> None:
        """Forget what a test did."""
        for path in (*(self.folder / "faults").iterdir(), self.folder / "delay", self.folder / "questions"):
            path.unlink(missing_ok=True)
        for name in ("summary.json", "neighbors.json"):
            shutil.copy(_RECORDED / name, self.folder)

    def change(self, name: str, change: Callable[[Any], object]) -> None:
        """Change what FRR says."""
        said = json.loads((self.folder / name).read_text())
        change(said)
        (self.folder / name).write_text(json.dumps(said))

    def inject(self, fault: str) -> None:
        """Break it."""
        (self.folder / "faults" / fault).touch()

    def heal(self, fault: str) -> None:
        """End a fault."""
        (self.folder / "faults" / fault).unlink()

    def questions(self) -> int:
        """Return how often FRR was asked."""
        with contextlib.suppress(FileNotFoundError):
            return len((self.folder / "questions").read_text().splitlines())
        return 0


class Network:
    """Some routers, and what a client must know about them.

    Args:
        folder: for all files.
        keys: of routers and users.
        shared: a router that is running, as starting one takes a while.
    """

    def __init__(self, folder: Path, keys: Keys, shared: Router) -> None:
        self.folder = folder
        self.keys = keys
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.touch()
        self.ports: dict[str, int] = {}
        self._shared = shared
        self._routers: list[Router] = []
        self._clients: list[Routers] = []

    def router(self, name: str = "cr1") -> Router:
        """Return the shared router, whose host key is known from now on."""
        self._shared.reset()
        self.know(name, self._shared.port)
        return self._shared

    def another_router(self, name: str = "cr1", **settings: Any) -> Router:
        """Start a router whose host key is known."""
        router = Router(self.folder / name, self.keys, **settings)
        self._routers.append(router)
        router.start()
        self.know(name, router.port)
        return router

    def know(self, name: str, port: int, key: str = "host") -> None:
        """Add what listens on a port, and its host key."""
        self.ports[name] = port
        with self.known_hosts.open("a") as file:
            file.write(f"[127.0.0.1]:{port} {self.keys.public(key)}\n")

    def config(self, **values: Any) -> BgpConfig:
        """Return a client's configuration."""
        defaults = {
            "routers": {name: {"address": "127.0.0.1", "port": port} for name, port in self.ports.items()},
            "username": USER,
            "known_hosts": str(self.known_hosts),
            "asn": 64601,
            "connect_timeout": "20s",
            "rpc_timeout": "20s",
        }
        if "password_file" not in values:
            defaults["ssh_key"] = str(self.keys.path("user"))
        return BgpConfig.model_validate(defaults | values)

    def client(self, **values: Any) -> Routers:
        """Return a client, which the network closes."""
        client = Routers(self.config(**values))
        self._clients.append(client)
        return client

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for router in self._routers:
            router.stop()


@contextmanager
def silent(*, full: bool = False) -> Iterator[int]:
    """Listen on a port and never say a word; with ``full`` not even take connections."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        if full:
            for _ in range(2):  # the queue has one place more than its length
                filler = waiting.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@contextmanager
def says(text: bytes) -> Iterator[int]:
    """Listen on a port, say something to whoever connects, and hang up."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(text)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


Behaviour = Callable[["asyncssh.SSHServerProcess[bytes]"], Any]

HELLO = (
    b'<hello xmlns="urn:ietf:params:xml:ns:netconf:base:1.0"><capabilities>'
    b"<capability>urn:ietf:params:netconf:base:1.0</capability></capabilities><session-id>7</session-id></hello>]]>]]>"
)


@contextmanager
def rogue(keys: Keys, behave: Behaviour | None, *, host_key: str = "host") -> Iterator[int]:
    """Run an SSH server that lets everyone in and does what a coroutine does with a session; without one, lets wait."""

    class Login(asyncssh.SSHServer):
        def password_auth_supported(self) -> bool:
            return True

        def public_key_auth_supported(self) -> bool:
            return True

        async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
            if behave is None:
                await asyncio.Event().wait()
            return True

    ready: SimpleQueue[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = SimpleQueue()

    async def serve() -> None:
        async with asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=Login,
            server_host_keys=[str(keys.path(host_key))],
            process_factory=behave,
            encoding=None,
        ) as listener:
            over = asyncio.Event()
            ready.put((listener.sockets[0].getsockname()[1], asyncio.get_running_loop(), over))
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    port, loop, over = ready.get(timeout=10)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Wait for something that is about to come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)
