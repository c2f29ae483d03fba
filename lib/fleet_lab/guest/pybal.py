"""Stands for PyBal before HAProxy: ``pybal.py SETTINGS``.

It follows the objects of conftool in etcd (v2 API), and tells HAProxy over its runtime socket when one has changed;
what others say there stays until then. It answers as PyBal's instrumentation does, from HAProxy's own state: the
servers of the pool, a line each.

What PyBal has besides is left out: LVS and its weights, monitors of its own (HAProxy's health checks are what is seen,
which are paused for a server that is not pooled), the depool threshold, BGP, answers in JSON, metrics and alerts.
"""

import csv
import json
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_TIMEOUT = 5.0
_WATCH = 60.0
"""Seconds that a watch waits for a change before it is begun again."""
_RETRY = 1.0

# The health checks of a server are paused while it is not pooled: HAProxy would cut the sessions of one that stops.
_OUT = "disable health {0}; set server {0} state drain"
_IN = "set server {0} health stopping; enable health {0}; set server {0} state ready"


class Haproxy:
    """HAProxy's runtime socket.

    Args:
        path: the socket.
        backend: the backend of the servers.
    """

    def __init__(self, path: str, backend: str) -> None:
        self._path = path
        self._backend = backend

    def set_pooled(self, server: str, *, pooled: bool) -> None:
        """Give a server new connections, or no more of them."""
        said = self._say((_IN if pooled else _OUT).format(f"{self._backend}/{server}")).strip()
        print(f"{server}: pooled={pooled} {said}", flush=True)

    def servers(self) -> dict[str, tuple[bool, bool]]:
        """Return of each server whether its health is good, and whether it gets new connections."""
        _, _, table = self._say("show stat -1 4 -1").partition("# ")
        rows = csv.DictReader(line for line in table.splitlines() if line)
        states = {row["svname"]: row["status"] for row in rows if row["pxname"] == self._backend}
        return {name: (status.startswith(("UP", "DRAIN")), status.startswith("UP")) for name, status in states.items()}

    def _say(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(self._path)
            connection.sendall(command.encode() + b"\n")
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
        return b"".join(parts).decode()


@dataclass
class Pool:
    """What conftool's objects say, as far as it was followed."""

    haproxy: Haproxy
    said: dict[str, str] = field(default_factory=dict)
    """``yes``, ``no`` or ``inactive`` of each server."""

    def update(self, name: str, pooled: str) -> None:
        """Take note of an object; tell HAProxy if it has changed. One that is new and pooled is left as it is."""
        if (self.said.get(name, "yes") == "yes") != (pooled == "yes"):
            self.haproxy.set_pooled(name, pooled=pooled == "yes")
        self.said[name] = pooled

    def lines(self) -> dict[str, str]:
        """Return what PyBal says of each server."""
        found = {}
        for name, (up, used) in self.haproxy.servers().items():
            pooled = self.said.get(name, "inactive")
            if pooled != "inactive":
                parts = ("enabled" if pooled == "yes" else "disabled", "up" if up else "down")
                found[name] = "/".join((*parts, "pooled" if used else "not pooled"))
        return found


class Follower:
    """Follows the objects.

    Args:
        settings: ``etcd`` (a URL), ``objects`` (the folder's key), and the files ``ca``, ``certificate`` and ``key``.
        pool: told of them.
    """

    def __init__(self, settings: dict[str, Any], pool: Pool) -> None:
        self._url = f"{settings['etcd']}/v2/keys{settings['objects']}?recursive=true"
        self._tls = ssl.create_default_context(cafile=settings["ca"])
        self._tls.load_cert_chain(settings["certificate"], settings["key"])
        self._pool = pool

    def run(self) -> None:
        """Follow for ever; after any trouble all objects are read again."""
        while True:
            try:
                self._follow()
            except (OSError, ValueError, KeyError) as error:
                print(f"The objects cannot be followed: {error!r}", flush=True)
                time.sleep(_RETRY)

    def _follow(self) -> None:
        with urllib.request.urlopen(self._url, timeout=_TIMEOUT, context=self._tls) as answer:  # noqa: S310
            index = int(answer.headers["X-Etcd-Index"])
            for node in json.load(answer)["node"].get("nodes", []):
                self._take(node)
        while True:
            try:
                with urllib.request.urlopen(  # noqa: S310
                    f"{self._url}&wait=true&waitIndex={index + 1}", timeout=_WATCH, context=self._tls
                ) as answer:
                    node = json.load(answer)["node"]
            except TimeoutError:
                return  # nothing changed, or the connection died: the objects are read again
            self._take(node)
            index = node["modifiedIndex"]

    def _take(self, node: dict[str, Any]) -> None:
        if node.get("dir"):
            return
        pooled = json.loads(node["value"])["pooled"] if "value" in node else "inactive"  # it was deleted
        self._pool.update(node["key"].rsplit("/", 1)[-1], pooled)


def handler(name: str, pool: Pool) -> type[BaseHTTPRequestHandler]:
    """Return the class that answers HTTP requests.

    Args:
        name: the pool's.
        pool: the pool.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT

        def do_GET(self) -> None:
            try:
                body = self._answer()
            except OSError as error:
                self.send_error(503, f"HAProxy cannot be asked: {error}")
                return
            if body is None:
                self.send_error(404, "The desired url was not found")
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def _answer(self) -> str | None:
            parts = self.path.strip("/").split("/")
            if parts == ["pools"]:
                return f"{name}\n"
            if parts[:2] != ["pools", name] or len(parts) > 3:
                return None
            lines = pool.lines()
            if len(parts) == 2:
                return "".join(f"{server}:\t{text}\n" for server, text in lines.items())
            return f"{lines[parts[2]]}\n" if parts[2] in lines else None

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def main() -> None:
    """Follow and answer for ever."""
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    pool = Pool(Haproxy(settings["socket"], settings["backend"]))
    threading.Thread(target=Follower(settings, pool).run, daemon=True).start()
    address = (settings["listen"], settings["port"])
    ThreadingHTTPServer(address, handler(settings["pool"], pool)).serve_forever()


if __name__ == "__main__":
    main()
