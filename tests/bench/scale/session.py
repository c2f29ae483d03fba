"""The process that is measured: a whole session of the cookbook, over other edges than a management host's."""

import cProfile
import json
import pstats
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

from lxml import etree
from rich.console import Console

from bench.scale.cluster import use_of_self
from bench.scale.wire import Wire
from fleet.adapters.alertmanager.alertmanager import Reply
from fleet.adapters.alertmanager.silences import Silences
from fleet.adapters.bgp import junos
from fleet.adapters.bgp.errors import RouterError
from fleet.adapters.k8s.client import Api
from fleet.config.model import AlertsConfig, BgpConfig, Config
from fleet.edges import SystemEdges
from fleet.engine import decide, journal, report
from fleet.execution import Result
from fleet.procedures.nodes import Selection
from fleet.procedures.reboot_nodes import RebootNodes
from fleet.session import Request, Session
from support.spicerack import Ann
from worlds.alertmanager import URLS


class Hosts:
    """The hosts, in the other process."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def query(self, query: str) -> list[str]:
        return list(self._wire.call("query", query))

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        return dict(self._wire.call("run", hosts, command, timeout=timeout, safe=safe))


class Router:
    """A connection to a router in the other process."""

    def __init__(self, name: str, wire: Wire) -> None:
        self.router, self._wire = name, wire

    def ask(self, rpc: str, **arguments: str) -> tuple[Any, float]:
        answer = self._wire.call("ask", rpc)
        if answer is None:
            raise RouterError(f"{self.router} did not answer in time.")
        return etree.fromstring(answer), time.monotonic()

    def close(self) -> None:
        """Keep it."""


class Routers(junos.Routers):
    """The routers, with the real code around their connections."""

    def __init__(self, config: BgpConfig, wire: Wire) -> None:
        super().__init__(config)
        self._routers: Any = {name: Router(name, wire) for name in config.routers}

    def _connect(self) -> Any:
        return self._routers


class Shown(Console):
    """A console that notes when something was shown first: that is the plan."""

    first = 0.0

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        self.first = self.first or time.time()


class Edges(SystemEdges):
    """What the session reaches: the real API, everything else in the other process. Counts requests to the API."""

    def __init__(self, wire: Wire, log: Path) -> None:
        super().__init__(Ann())
        self.requests: Counter[str] = Counter()
        self.console = self.shown = Shown(file=log.open("w"), width=160)
        self._wire = wire

    def view(self) -> AbstractContextManager[report.LogView]:
        return nullcontext(report.LogView())

    def remote(self) -> Any:
        return Hosts(self._wire)

    def api(self, kubeconfig: Path) -> Api:
        api = super().api(kubeconfig)
        connection: Any = api._connection
        send = connection.send

        def counted(method: str, path: str, query: Mapping[str, Any], *rest: Any, **options: Any) -> Any:
            self.requests[_kind(method, path, query)] += 1
            return send(method, path, query, *rest, **options)

        connection.send = counted
        return api

    def routers(self, config: BgpConfig) -> AbstractContextManager[Routers]:
        return closing(Routers(config, self._wire))

    def silences(self, config: AlertsConfig) -> Silences:
        def ask(method: str, url: str, *, params: Mapping[str, str] | None = None, json: Any = None) -> Reply:
            status, text, reason, date = self._wire.call("alert", method, url, json)
            return Reply(status, _json.loads(text), reason, date)

        return Silences(URLS, transport=ask, clock=self.clock, threads=self.threads)

    def start_lock(self, cluster: str) -> AbstractContextManager[None]:
        return nullcontext()


_json = json
"""Where an argument has its name."""


def _kind(method: str, path: str, query: Mapping[str, Any]) -> str:
    """Return what a request is about: ``GET pods``, ``WATCH nodes``, ``POST pods/eviction``."""
    words = path.strip("/").split("/")
    words = words[2:] if words[0] == "api" else words[3:]
    if words[:1] == ["namespaces"] and len(words) > 2:
        words = words[2:]
    verb = "WATCH" if query.get("watch") else "LIST" if method == "GET" and len(words) == 1 else method
    return f"{verb} {'/'.join(words[:1] + words[2:]) or path.strip('/')}"


def timed(call: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
    """Return a call that notes how long it took, by the thread's own clock: the machine has other work meanwhile."""

    def measured(*arguments: Any) -> Any:
        begin = time.thread_time()
        try:
            return call(*arguments)
        finally:
            times.append(time.thread_time() - begin)

    return measured


def profile_threads() -> Callable[[Path], None]:
    """Profile all threads from now on, by their own clocks; return what writes the sum of it to a file."""
    profiles: list[cProfile.Profile] = []

    def begin(*_event: Any) -> None:
        profiles.append(cProfile.Profile(time.thread_time))
        profiles[-1].enable()

    def write(path: Path) -> None:
        threading.setprofile(None)
        sys.setprofile(None)
        known = [profile for profile in profiles if profile.getstats()]
        pstats.Stats(*known).dump_stats(path)

    threading.setprofile(begin)
    begin()
    return write


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder = Path(settings["state"])
    config = Config.model_validate({"state_dir": folder, "clusters": {"bench": settings["cluster"]}})
    edges = Edges(Wire(Path(settings["socket"])), Path(settings["log"]))
    session = Session(Ann(), config, RebootNodes(Selection()), unattended=True, edges=edges)
    decisions: list[float] = []
    decide.decide = timed(decide.decide, decisions)
    write = profile_threads() if settings["profile"] else None
    before, begin = use_of_self(), time.time()
    code = session.start(Request("bench", "kernel"))
    end, after = time.time(), use_of_self()
    if write:
        write(Path(settings["profile"]))
    record = journal.read(folder / session.run)
    data = report.summary(record, {})
    steps: dict[str, list[float]] = {}
    for unit in data["units"]:
        for step, seconds in unit["steps"].items():
            steps.setdefault(step, []).append(seconds)
    starts = [event.at for event in record.events if event.kind == "start"]
    found = {
        "code": code,
        "wall": end - begin,
        "work": end - min(starts, default=end),
        "plan": edges.shown.first - settings["started"],
        "cpu": after.cpu - before.cpu,
        "memory": after.memory,
        "decisions": {"count": len(decisions), "longest": max(decisions), "sum": sum(decisions)},
        "requests": dict(edges.requests.most_common()),
        "steps": {step: sum(times) / len(times) for step, times in steps.items()},
        "held": {unit["unit"]: unit["detail"] for unit in data["units"] if unit["status"] == "held"},
    }
    Path(settings["answer"]).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
