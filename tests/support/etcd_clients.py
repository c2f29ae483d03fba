"""Clients of etcd's members that forgive nothing: some write and remember, some watch; each asks one member alone.

They speak etcd's gateway for JSON over TLS, so that nothing of the library, and no etcdctl, stands between.
"""

import itertools
import json
import ssl
import threading
import time
from base64 import b64decode, b64encode
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.util import Timeout

from fleet_lab.lab import Lab

EVERY = 0.05
"""Seconds from one request of a client to its next one."""

WRITE_TIMEOUT, READ_TIMEOUT = 1.0, 3.0
"""Seconds for an answer. What was sent to a leader that gives leadership away is lost, and never answered."""

_PREFIX = "/fleet-test/"
_TROUBLE = (HTTPError, OSError, ValueError)


class Gateway:
    """One member's gateway, over one connection that never tries anything again; for one thread."""

    def __init__(self, lab: Lab, host: str, timeout: float = READ_TIMEOUT) -> None:
        pki = lab.context.paths.operator / "etcd"
        tls = ssl.create_default_context(cafile=pki / "ca.pem")
        tls.load_cert_chain(pki / "spicerack.pem")
        self._pool = urllib3.HTTPSConnectionPool(
            str(lab.hosts[host].ipv4), 2379, retries=False, timeout=Timeout(total=timeout), ssl_context=tls
        )

    def ask(self, what: str, **words: Any) -> dict[str, Any]:
        """Ask for one thing; one of :data:`_TROUBLE` is raised if it is not done."""
        response = self._pool.request("POST", f"/v3/{what}", body=json.dumps(words))
        answer: dict[str, Any] = json.loads(response.data)
        if response.status != 200:
            raise ValueError(f"{response.status}: {answer}")
        return answer

    def keys(self) -> set[str]:
        """The keys of all writers in this member's own database."""
        found = self.ask("kv/range", **_all(), keys_only=True, serializable=True).get("kvs", [])
        return {b64decode(item["key"]).decode() for item in found}


class _Client(threading.Thread):
    """Does something many times a second, until it is told to end."""

    def __init__(self, over: threading.Event, gateway: Gateway, host: str) -> None:
        super().__init__(name=f"{type(self).__name__} {host}", daemon=True)
        self.host = host
        self._over = over
        self._gateway = gateway


class Writer(_Client):
    """Writes one key after the other through one member."""

    def __init__(self, over: threading.Event, gateway: Gateway, host: str) -> None:
        super().__init__(over, gateway, host)
        self.acknowledged: dict[str, float] = {}
        self.failed = 0

    def run(self) -> None:
        for number in itertools.count():
            key = f"{_PREFIX}{self.host}/{number}"
            try:
                self._gateway.ask("kv/put", key=_encode(key), value=_encode(str(number)))
                self.acknowledged[key] = time.monotonic()
            except _TROUBLE:
                self.failed += 1
            if self._over.wait(EVERY):
                return


@dataclass(frozen=True)
class Look:
    """What a member said about itself."""

    at: float
    """On the monotonic clock, before it was asked."""
    until: float
    """When it had answered, or had not."""
    answered: bool
    leads: bool = False
    term: int = 0


class Watcher(_Client):
    """Asks one member for its state, which it tells without asking the others."""

    def __init__(self, over: threading.Event, gateway: Gateway, host: str) -> None:
        super().__init__(over, gateway, host)
        self.looks: list[Look] = []

    def run(self) -> None:
        while not self._over.wait(EVERY):
            at = time.monotonic()
            try:
                said = self._gateway.ask("maintenance/status")
            except _TROUBLE:
                self.looks.append(Look(at, time.monotonic(), answered=False))
                continue
            leads = said["header"]["member_id"] == said.get("leader")
            self.looks.append(Look(at, time.monotonic(), answered=True, leads=leads, term=int(said["raftTerm"])))

    def outages(self) -> list[tuple[Look, float, float]]:
        """The times without an answer: the last look before, the beginning and the end."""
        found = []
        before = self.looks[0]
        for answered, group in itertools.groupby(self.looks, lambda look: look.answered):
            looks = list(group)
            if not answered:
                found.append((before, looks[0].at, looks[-1].until))
            before = looks[-1]
        return found


class Load:
    """A writer and a watcher for each member, for as long as the context lasts."""

    def __init__(self, lab: Lab) -> None:
        hosts = lab.names("etcd")
        self._over = threading.Event()
        self._own = {host: Gateway(lab, host) for host in hosts}
        self.writers = [Writer(self._over, Gateway(lab, host, WRITE_TIMEOUT), host) for host in hosts]
        self.watchers = {host: Watcher(self._over, Gateway(lab, host), host) for host in hosts}
        self._begun = self._ended = 0.0

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        for client in (*self.writers, *self.watchers.values()):
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._ended = time.monotonic()
        for client in (*self.writers, *self.watchers.values()):
            client.join(timeout=2 * READ_TIMEOUT)

    def longest_gap(self) -> float:
        """The longest time, in seconds, in which no member acknowledged a write."""
        times = sorted(at for writer in self.writers for at in writer.acknowledged.values())
        return max(later - earlier for earlier, later in pairwise([self._begun, *times, max(self._ended, *times)]))

    def acknowledged(self) -> set[str]:
        """The keys of all acknowledged writes."""
        return {key for writer in self.writers for key in writer.acknowledged}

    def lost(self) -> dict[str, set[str]]:
        """The acknowledged writes that are not in the members' own databases, by member."""
        return {host: self.acknowledged() - gateway.keys() for host, gateway in self._own.items()}

    def most_down(self) -> set[str]:
        """The members that did not answer at the same moment, when they were most."""
        times = [(host, begin, end) for host, watcher in self.watchers.items() for _, begin, end in watcher.outages()]
        moments = ({host for host, begin, end in times if begin <= at <= end} for _, at, _ in times)
        return max(moments, key=len, default=set())

    def terms(self) -> set[int]:
        """The terms that the members told."""
        return {look.term for watcher in self.watchers.values() for look in watcher.looks if look.answered}

    def clean(self) -> None:
        """Delete what was written."""
        next(iter(self._own.values())).ask("kv/deleterange", **_all())


def leader(lab: Lab) -> str:
    """The member that all members follow, as they say themselves; nothing as long as they do not."""
    names: dict[str, str] = {}
    followed: set[str] = set()
    for host in lab.names("etcd"):
        try:
            said = Gateway(lab, host).ask("maintenance/status")
        except _TROUBLE:
            return ""
        names[said["header"]["member_id"]] = host
        followed.add(said.get("leader", ""))
    return names.get(followed.pop(), "") if len(followed) == 1 else ""


def _all() -> dict[str, str]:
    return {"key": _encode(_PREFIX), "range_end": _encode(f"{_PREFIX[:-1]}0")}


def _encode(text: str) -> str:
    return b64encode(text.encode()).decode()
