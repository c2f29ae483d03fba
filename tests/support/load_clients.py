"""The clients of a load: each makes one request after the other, and none of them tries again."""

import itertools
import json
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Timeout

TIMEOUT = 10.0
"""Seconds for an answer, and without any event of a watch."""

EVERY = 0.4
"""Seconds from one request of a client to its next one."""

LAST = "the-last-one"
"""The ConfigMap that ends the watches: whoever has seen it has seen all before it."""

Revision = tuple[str, str, str]
"""Type of an event, name, resource version (none for a deletion: its answer has none)."""


class Refused(Exception):
    """An answer that is not the expected one."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that failed."""

    at: float
    """Seconds since the load began."""
    client: str
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.at:6.2f} s: {self.kind} of {self.client}: {self.reason}"


@dataclass(slots=True)
class Target:
    """What the clients work on."""

    address: str
    tls: ssl.SSLContext
    path: str
    """Of the ConfigMaps that are written and watched."""
    working: threading.Event = field(default_factory=threading.Event)
    """Set as long as reads and writes go on."""
    begun: float = 0.0
    """When the load began, on the monotonic clock."""

    def connect(self) -> urllib3.HTTPSConnectionPool:
        """Return one connection to the load balancer, opened when it is used, that never tries anything again."""
        return urllib3.HTTPSConnectionPool(
            self.address, 6443, maxsize=1, retries=False, timeout=Timeout(total=TIMEOUT), ssl_context=self.tls
        )


class Client(threading.Thread):
    """One of the load's clients, with a connection of its own.

    Args:
        target: what it works on.
        name: what it is called in the report.
        keep: the seconds after which it closes a connection; 0 for a new one with each request.
    """

    def __init__(self, target: Target, name: str, keep: float) -> None:
        super().__init__(name=name, daemon=True)
        self.latencies: dict[str, list[float]] = defaultdict(list)
        self.failures: list[Failure] = []
        self.gap = 0.0
        self._target = target
        self._keep = keep
        self._opened: float | None = None
        self._pool = target.connect()
        self._due = self._succeeded = 0.0

    def begin(self, due: float) -> None:
        """Start, with the first request at a time of the monotonic clock."""
        self._due = self._succeeded = due
        self.start()

    def _turns(self) -> Iterator[int]:
        """Wait for each next request's time; what is late is not made up for."""
        for turn in itertools.count():
            time.sleep(max(0.0, self._due - time.monotonic()))
            if not self._target.working.is_set():
                return
            yield turn
            self._due = max(self._due + EVERY, time.monotonic())

    def _call(self, kind: str, method: str, path: str, expected: int, body: object = None) -> dict[str, Any] | None:
        """Make a request and note how it went; None if it failed."""
        begun = time.monotonic()
        self._opened = self._opened or begun
        headers = {"Content-Type": "application/json"}
        if begun - self._opened >= self._keep:
            headers["Connection"] = "close"
            self._opened = None
        try:
            response = self._pool.request(method, path, body=json.dumps(body) if body else None, headers=headers)
            answer: dict[str, Any] = json.loads(response.data)
            if response.status != expected:
                raise Refused(f"{response.status} {answer.get('message')}")
        except (HTTPError, ValueError, Refused) as error:
            self._failed(kind, error, begun)
            return None
        self.latencies[kind].append(time.monotonic() - begun)
        self._note_gap()
        self._succeeded = time.monotonic()
        return answer

    def _failed(self, kind: str, error: Exception, begun: float) -> None:
        now = time.monotonic()
        connection = "kept" if self._keep else "new"
        reason = f"{type(error).__name__}: {error} (after {now - begun:.2f} s, {connection} connection)"
        self.failures.append(Failure(now - self._target.begun, self.name, kind, reason))
        self._note_gap()

    def _note_gap(self) -> None:
        self.gap = max(self.gap, time.monotonic() - self._succeeded)


class Reader(Client):
    """Gets an object from etcd and lists some from the apiserver's cache, in turn."""

    def run(self) -> None:
        for turn in self._turns():
            if turn % 2:
                self._call("list", "GET", "/api/v1/nodes?resourceVersion=0", 200)
            else:
                self._call("get", "GET", "/api/v1/namespaces/default/services/kubernetes", 200)


class Writer(Client):
    """Creates, updates and deletes one ConfigMap after the other, and remembers what was acknowledged."""

    def __init__(self, target: Target, name: str, keep: float) -> None:
        super().__init__(target, name, keep)
        self.written: list[Revision] = []

    def run(self) -> None:
        exists = False  # What was not created can be neither updated nor deleted: its failure would count three times.
        for turn in self._turns():
            name = f"{self.name}-{turn // 3}"
            path = f"{self._target.path}/{name}"
            meta = {"metadata": {"name": name}}
            match turn % 3:
                case 0:
                    exists = self._note("ADDED", name, self._call("create", "POST", self._target.path, 201, meta))
                case 1 if exists:
                    changed = {**meta, "data": {"is": "new"}}
                    self._note("MODIFIED", name, self._call("update", "PUT", path, 200, changed))
                case 2 if exists:
                    self._note("DELETED", name, self._call("delete", "DELETE", path, 200))

    def _note(self, event: str, name: str, answer: dict[str, Any] | None) -> bool:
        if answer is not None:
            self.written.append(_revision(event, name, answer["metadata"]))
        return answer is not None


class Watcher(Client):
    """Follows what the writers write, over as many watches as it takes; it never lists anew."""

    def __init__(self, target: Target, name: str) -> None:
        super().__init__(target, name, keep=0)
        self.version = ""
        self.seen: set[Revision] = set()
        self._done = False

    def run(self) -> None:
        while not self._done:
            response = self._open()
            if response is None:
                time.sleep(EVERY)
                continue
            begun = time.monotonic()
            try:
                for line in response:
                    self._take(json.loads(line))
                    if self._done:
                        break
            except ReadTimeoutError as error:
                self._failed("watch", error, begun)
            except HTTPError:
                pass  # It was cut.
            except Refused as error:
                self._failed("watch", error, begun)
                self._done = True
            finally:
                response.close()

    def _open(self) -> urllib3.BaseHTTPResponse | None:
        begun = time.monotonic()
        query = f"watch=1&allowWatchBookmarks=true&resourceVersion={self.version}"
        try:
            # An apiserver that ends closes the connection when it has ended the watch: the next one is not made on it.
            headers = {"Connection": "close"}
            response = self._pool.request("GET", f"{self._target.path}?{query}", headers=headers, preload_content=False)
            if response.status != 200:
                raise Refused(f"{response.status} {response.data.decode(errors='replace')}")
        except (HTTPError, Refused) as error:
            self._failed("watch", error, begun)
            return None
        self.latencies["watch"].append(time.monotonic() - begun)
        return response

    def _take(self, event: dict[str, Any]) -> None:
        if event["type"] == "ERROR":  # Its version is too old, say: what came after it is lost.
            raise Refused(str(event["object"].get("message")))
        meta = event["object"]["metadata"]
        self.version = meta["resourceVersion"]
        if event["type"] == "BOOKMARK":
            return
        self.seen.add(_revision(event["type"], meta["name"], meta))
        self._done = self._done or meta["name"] == LAST
        self._note_gap()
        self._succeeded = time.monotonic()


def _revision(event: str, name: str, meta: dict[str, Any]) -> Revision:
    """Return an object's revision: that of a deletion has no version, as its answer has none."""
    return event, name, "" if event == "DELETED" else meta["resourceVersion"]
