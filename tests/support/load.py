"""A load on the Kubernetes API through the load balancer, by clients that do not forgive: none of them tries again.

What counts as failed: a connection that is refused, reset or closed before the answer, a timeout, any status but the
expected one, an event that a watcher never saw. A watch that is cut when its apiserver exits is none, as long as it
can go on at once from its last resource version. A kept connection that the server closed while it was idle is none
either: urllib3 looks before it sends, as every pool of connections does.

No connection is kept for long, but for as long as one watch lasts. Over HTTP/1.1 a server may close an idle connection
at the very moment when its client sends (RFC 7230, section 6.3.1): whoever keeps connections for longer than a server
is drained, and does not try again, fails now and then whatever the server does. HTTP/2, which kubectl and controllers
speak, is told to go away before.
"""

import math
import secrets
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from urllib3.util import create_urllib3_context

from fleet_lab.lab import Lab
from support.load_clients import EVERY, LAST, TIMEOUT, Client, Failure, Reader, Revision, Target, Watcher, Writer

# A client each, by the seconds that it keeps a connection: 80 requests/s in all, 50 if answers take 0.6 s.
_READERS = 12 * (0.0,) + 12 * (1.5,)
_WRITERS = 4 * (0.0,) + 4 * (1.5,)
_WATCHERS = 3


@dataclass(frozen=True, slots=True)
class Report:
    """What a load has seen."""

    seconds: float
    latencies: Mapping[str, Sequence[float]]
    """Seconds of the requests that succeeded, sorted, by kind."""
    failures: Sequence[Failure]
    longest_gap: float
    """The longest time that one client was without a success, in seconds; 0.4 s if nothing happens."""
    longest_silence: float
    """The longest time that a watcher saw no event, in seconds."""
    cut_watches: int
    """Watches that ended, and went on."""
    lost: Sequence[tuple[str, Revision]]
    """What a watcher never saw of what was written."""
    cpu: float
    """What the load itself takes, in CPUs."""

    @property
    def requests(self) -> int:
        """Requests in all."""
        return sum(map(len, self.latencies.values())) + len(self.failures)

    @property
    def failed(self) -> int:
        """Requests that failed, and events that were lost."""
        return len(self.failures) + len(self.lost)

    @property
    def rate(self) -> float:
        """Requests in a second."""
        return self.requests / self.seconds

    @property
    def headline(self) -> str:
        """What matters, in a line."""
        return (
            f"{self.requests} requests in {self.seconds:.1f} s ({self.rate:.0f}/s, {self.cpu:.2f} CPUs),"
            f" {len(self.failures)} failed, {len(self.lost)} events lost; longest gap of a client"
            f" {self.longest_gap:.1f} s, of a watch {self.longest_silence:.1f} s; {self.cut_watches} watches cut"
        )

    def __str__(self) -> str:
        lines = [self.headline]
        for kind, latencies in sorted(self.latencies.items()):
            p99 = latencies[math.ceil(0.99 * len(latencies)) - 1]
            failed = sum(failure.kind == kind for failure in self.failures)
            lines.append(
                f"  {kind:6} {len(latencies) + failed:5} requests, {failed:3} failed,"
                f" p99 {p99 * 1000:4.0f} ms, slowest {latencies[-1] * 1000:5.0f} ms"
            )
        lines += [f"  {failure}" for failure in self.failures[:20]]
        lines += [f"  {watcher} never saw {' '.join(revision)}" for watcher, revision in self.lost[:10]]
        return "\n".join(lines)


class Load:
    """Reads, writes and watches from now on, until the ``with`` block ends; then :attr:`report` says how that went.

    Args:
        lab: a running lab.
    """

    def __init__(self, lab: Lab) -> None:
        self.report: Report | None = None
        self._api = lab.api()
        folder = lab.context.kubernetes_ca.path.parent
        tls = create_urllib3_context()
        tls.load_verify_locations(lab.context.kubernetes_ca.path)
        tls.load_cert_chain(folder / "admin.pem", folder / "admin.key")
        self._namespace = f"load-{secrets.token_hex(4)}"
        path = f"/api/v1/namespaces/{self._namespace}/configmaps"
        target = self._target = Target(str(lab.context.topology.api_host.ipv4), tls, path)
        self._readers = [Reader(target, f"reader-{number}", keep) for number, keep in enumerate(_READERS, 1)]
        self._writers = [Writer(target, f"writer-{number}", keep) for number, keep in enumerate(_WRITERS, 1)]
        self._watchers = [Watcher(target, f"watcher-{number}") for number in range(1, _WATCHERS + 1)]
        self._clients: list[Client] = [*self._readers, *self._writers, *self._watchers]
        self._cpu = 0.0

    def __enter__(self) -> "Load":
        self._api.request("POST", "/api/v1/namespaces", {"metadata": {"name": self._namespace}})
        version = self._api.request("GET", self._target.path)["metadata"]["resourceVersion"]
        self._target.begun, self._cpu = time.monotonic(), time.process_time()
        self._target.working.set()
        for watcher in self._watchers:
            watcher.version = version
        for number, client in enumerate(self._clients):
            client.begin(self._target.begun + EVERY * number / len(self._clients))
        return self

    def __exit__(self, *_: object) -> None:
        self._target.working.clear()
        for client in (*self._readers, *self._writers):
            client.join(timeout=3 * TIMEOUT)
        seconds, cpu = time.monotonic() - self._target.begun, time.process_time() - self._cpu
        self._api.request("POST", self._target.path, {"metadata": {"name": LAST}})
        for watcher in self._watchers:
            watcher.join(timeout=3 * TIMEOUT)
        self._api.request("DELETE", f"/api/v1/namespaces/{self._namespace}")
        self.report = self._sum_up(seconds, cpu / seconds)

    def _sum_up(self, seconds: float, cpu: float) -> Report:
        latencies: dict[str, list[float]] = defaultdict(list)
        for client in self._clients:
            for kind, some in client.latencies.items():
                latencies[kind] += some
        failures = [failure for client in self._clients for failure in client.failures]
        written = [revision for writer in self._writers for revision in writer.written]
        return Report(
            seconds=seconds,
            latencies={kind: sorted(some) for kind, some in latencies.items()},
            failures=sorted(failures, key=lambda failure: failure.at),
            longest_gap=max(client.gap for client in (*self._readers, *self._writers)),
            longest_silence=max(watcher.gap for watcher in self._watchers),
            cut_watches=sum(len(watcher.latencies["watch"]) - 1 for watcher in self._watchers),
            lost=[(watcher.name, it) for watcher in self._watchers for it in written if it not in watcher.seen],
            cpu=cpu,
        )
