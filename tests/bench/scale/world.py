"""The process beside the API: kubelets, hosts, routers and Alertmanagers, all simulated, in real time."""

import heapq
import itertools
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from bench.scale import drawn, wire, workload
from bench.scale.kubelets import Api, Kubelets
from fleet.execution import Result
from support.replies import elapsed
from worlds.alertmanager import Alertmanagers, Kept
from worlds.kubernetes import is_ready
from worlds.machines import Machine, Machines
from worlds.network import ASN
from worlds.timeline import Time

ROUTERS = ("cr1", "cr2")
SUMMARY = "get-bgp-summary-information"
UNREACHABLE = 3.1
"""Seconds until the kernel says that there is no route to a host that is down."""


FANOUT = 64
"""Hosts that ClusterShell talks to at once."""


class RealTime(Time):
    """Time that passes by itself."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    @property
    def now(self) -> float:  # type: ignore[override]
        return time.time()

    def advance(self, seconds: float) -> None:
        time.sleep(seconds)

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._number), action))
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._due or (wait := self._due[0][0] - time.monotonic()) > 0:
                    self._changed.wait(wait if self._due else None)
                action = heapq.heappop(self._due)[2]
            action()


@dataclass
class Hosts(Machines):
    """The hosts, over connections that take their time and break now and then."""

    times: Mapping[str, drawn.Times] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    executions: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(drawn.SEED + 1)
        for name, machine in self.machines.items():
            machine.delay, machine.lasts = self.times[name].leaves, self.times[name].boots

    def query(self, query: str) -> list[str]:
        return sorted(self.machines) if query == "w*" else ["cp1"]

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        self.executions += 1
        for start in range(0, len(hosts), FANOUT):
            time.sleep(self._random.uniform(*drawn.ANSWER) + 0.02 * min(10, len(hosts) - start))
        puppet = command.startswith("run-puppet-agent")
        if puppet:
            time.sleep(max(self.times[host].puppet for host in hosts))
        results = {}
        give_up = time.monotonic() + UNREACHABLE
        for host in hosts:
            machine = self.machines[host]
            while not machine.is_up and time.monotonic() < give_up:
                time.sleep(0.05)
            if not machine.is_up:
                results[host] = Result(None, f"ssh: connect to host {host} port 22: No route to host")
            elif puppet and self.failed.get(host, 0) < self.times[host].fails:
                self.failed[host] = self.failed.get(host, 0) + 1
                results[host] = Result(1, "Could not retrieve catalog from remote server")
            else:
                results[host] = self._run(machine, command)
            if self._random.random() < 0.001:
                results[host] = Result(None, "the connection ended without an answer")
        return results


class Routers:
    """The core routers, which answer as Junos does."""

    def __init__(self, addresses: Mapping[str, Sequence[str]]) -> None:
        self._addresses = addresses
        self._since = {name: time.time() - 90_000 for name in addresses}
        self._up = set(addresses)
        self._flaps = dict.fromkeys(addresses, 1)
        self._random = random.Random(drawn.SEED + 2)
        self.asked = 0

    def go_down(self, node: str) -> None:
        if node in self._up:
            self._up.remove(node)
            self._since[node] = time.time()
            self._flaps[node] += 1

    def come_up(self, node: str) -> None:
        self._up.add(node)
        self._since[node] = time.time()

    def ask(self, rpc: str) -> bytes | None:
        """Return an answer without namespaces; None if there is none in time."""
        self.asked += 1
        time.sleep(self._random.uniform(0.16, 0.28) if rpc == SUMMARY else self._random.uniform(0.05, 0.1))
        if self._random.random() < 0.002:
            return None
        if rpc != SUMMARY:
            return b"<bgp-information/>"
        now = time.time()
        peers = (
            self._peer(address, node, int(now - self._since[node]))
            for node, addresses in self._addresses.items()
            for address in addresses
        )
        return f"<bgp-information>{''.join(peers)}</bgp-information>".encode()

    def _peer(self, address: str, node: str, age: int) -> str:
        is_up = node in self._up
        table = "inet6.0" if ":" in address else "inet.0"
        rib = (
            f"<bgp-rib><name>{table}</name><active-prefix-count>2</active-prefix-count>"
            "<received-prefix-count>2</received-prefix-count><accepted-prefix-count>2</accepted-prefix-count>"
            "<suppressed-prefix-count>0</suppressed-prefix-count></bgp-rib>"
        )
        return (
            f"<bgp-peer><peer-address>{address}</peer-address><peer-as>{ASN}</peer-as>"
            "<input-messages>4711</input-messages><output-messages>4712</output-messages>"
            f"<route-queue-count>0</route-queue-count><flap-count>{self._flaps[node]}</flap-count>"
            f'<elapsed-time seconds="{age}">{elapsed(age)}</elapsed-time>'
            f"<peer-state>{'Established' if is_up else 'Active'}</peer-state>{rib if is_up else ''}</bgp-peer>"
        )


@dataclass
class Silences(Alertmanagers):
    """The Alertmanagers, which have thousands of silences that ended: each is written once."""

    written: dict[tuple[int, bool], tuple[Kept, str]] = field(default_factory=dict)

    def listed(self, base: str) -> str:
        """Return the JSON of a member's silences."""
        member, now = self.members[base], self.time.now
        texts = []
        for silence in member.silences.values():
            key = (id(silence), silence.ends_at > now)
            if key not in self.written:
                self.written[key] = (silence, json.dumps(self._shown(silence, member)))
            texts.append(self.written[key][1])
        return f"[{','.join(texts)}]"


class World:
    """All of it.

    Args:
        settings: ``port`` and ``token`` of the API server, ``folder``, ``nodes``, ``row``, ``pods``, ``budgets``,
            ``boot``.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        count = settings["nodes"]
        names = [f"w{number:04}" for number in range(1, count + 1)]
        rows = {name: f"row-{index // settings['row'] + 1}" for index, name in enumerate(names)}
        self.times = dict(zip(names, drawn.times(count, settings["boot"]), strict=True))
        self.kubelets = Kubelets(self._api, rows, Path(settings["folder"]))
        self.time = RealTime()
        machines = {
            name: Machine(name, index, booted=time.time() - 1e6, ran=time.time() - 900)
            for index, name in enumerate(names)
        }
        for name, kubelet in self.kubelets.nodes.items():
            kubelet.boot(machines[name].boot_id)
        self.hosts = Hosts(
            self.time,
            machines,
            lambda: None,
            lambda _host: None,
            self._down,
            self._up,
            lambda _host, _up: None,
            times=self.times,
        )
        addresses = {name: [str(ip_address(a)) for a in k.addresses] for name, k in self.kubelets.nodes.items()}
        self.routers = Routers(addresses)
        self.alertmanagers = Silences(self.time, lambda: None, lambda _silence, _end: None)
        self.alerting = threading.Lock()
        self.alerts_asked = 0

    def _api(self) -> Api:
        return Api(self.settings["port"], self.settings["token"])

    def fill(self) -> None:
        """Create nodes and workloads, and wait until all pods are Ready."""
        self.kubelets.start()
        settings = self.settings
        apis = [self._api() for _ in range(4)]
        workload.create(apis, nodes=settings["nodes"], pods=settings["pods"], budgets=settings["budgets"])
        give_up = time.monotonic() + 900
        while (ready := sum(ready for _, ready in list(self.kubelets.phases.values()))) < settings["pods"]:
            assert time.monotonic() < give_up, f"{ready} of {settings['pods']} pods are Ready"
            time.sleep(0.5)
        while unsettled := [*self._unsettled(apis[0])]:
            assert time.monotonic() < give_up, f"not settled: {unsettled[:9]}"
            time.sleep(1)
        self.kubelets.termination.clear()

    @staticmethod
    def _unsettled(api: Api) -> Iterator[str]:
        """Yield the budgets that allow nothing, and the nodes that are not Ready."""
        for budget in api.request("GET", f"{workload.budgets_of(api)}/poddisruptionbudgets")["items"]:
            if budget.get("status", {}).get("disruptionsAllowed", 0) < 1:
                yield str(budget["metadata"]["name"])
        for node in api.request("GET", "/api/v1/nodes")["items"]:
            if node["spec"].get("taints") or not is_ready(node):
                yield str(node["metadata"]["name"])

    def _down(self, host: str) -> None:
        self.kubelets.nodes[host].down()
        self.routers.go_down(host)

    def _up(self, host: str) -> None:
        times = self.times[host]
        self.kubelets.nodes[host].up(self.hosts.machines[host].boot_id, times.ready)
        self.time.at(times.routes, lambda: self.routers.come_up(host))

    # What the other process calls.

    def alert(self, method: str, url: str, body: Any) -> tuple[int, str, str, float | None]:
        """Return an Alertmanager's answer: status, JSON, reason and date."""
        self.alerts_asked += 1
        time.sleep(0.005)
        with self.alerting:
            member, _, path = url.partition("/api/v2/")
            if (method, path) == ("GET", "silences"):
                return 200, self.alertmanagers.listed(member), "", float(int(time.time()))
            reply = self.alertmanagers(method, url, json=body)
        return reply.status, json.dumps(reply.data), reply.reason, reply.date

    def own(self) -> dict[str, Any]:
        """Return the hosts' own times, and what was asked of them."""
        return {
            "own": {name: self.kubelets.termination.get(name, 0.0) + t.own for name, t in self.times.items()},
            "rows": {name: kubelet.row for name, kubelet in self.kubelets.nodes.items()},
            "reboots": dict(self.hosts.acts),
            "executions": self.hosts.executions,
            "router_rpcs": self.routers.asked,
            "alertmanager_calls": self.alerts_asked,
        }


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    world = World(settings)
    world.fill()
    calls: dict[str, Callable[..., Any]] = {
        "query": world.hosts.query,
        "run": world.hosts.run,
        "ask": world.routers.ask,
        "alert": world.alert,
        "own": world.own,
    }
    wire.serve(Path(settings["socket"]), calls)


if __name__ == "__main__":
    main()
