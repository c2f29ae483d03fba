"""Control-plane hosts in memory, for tests that let time pass: units, Puppet, silences, a load balancer, a Lease.

What is asked and ordered here are the real commands of the library; what they do takes time, and may be lost on its
way. The world itself watches over the rules that never bend, at the moment that they count.
"""

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from fleet.adapters.alertmanager.silence_model import Alert, Silence
from fleet.adapters.hosts import probe
from fleet.adapters.k8s.apiserver import Health
from fleet.adapters.k8s.client import Api
from fleet.adapters.load_balancer.model import LoadBalancerError, ServerState
from fleet.config.model import ClusterConfig
from fleet.engine.journal import RunInfo
from fleet.execution import Result, Unreachable
from fleet.steps.cluster import Cluster
from fleet.steps.control_plane_health import API, LED
from support import answers
from worlds.timeline import AtOnce as AtOnce
from worlds.timeline import Killed as Killed
from worlds.timeline import Time as Time
from worlds.timeline import rule as rule

BOOT = "00000000-0000-0000-0000-000000000001"
LB = "lb1"
NOTICES = 1.0
"""Seconds until the load balancer takes notice of what has changed."""


@dataclass
class Service:
    """A unit of systemd."""

    number: int = 1
    active: str = "active"
    started: float = 0.0
    transitioning: bool = False
    stale: bool = False
    """Whether its files were changed and nobody ran daemon-reload."""

    @property
    def invocation(self) -> str:
        return f"{self.number:032x}"


@dataclass
class Host:
    """A host: its units, its Puppet, and its kube-apiserver."""

    services: dict[str, Service]
    puppet: str | None = None
    ready: bool = True
    ready_since: float = -1e9
    reachable: bool = True
    comes_back: bool = True
    closed_by_us: bool = False


@dataclass
class World(Time):
    """Hosts, and time: the load balancer, the apiservers, the API and Alertmanager in one."""

    names: Sequence[str]
    units: Sequence[str] = (API, *LED)
    delay: float = 0.5
    """Seconds that an order to restart is on its way."""
    drains: float = 2.0
    """Seconds until the last connection to a host that is out has ended."""
    blocked: Callable[[], str] = str
    hosts: dict[str, Host] = field(default_factory=dict)
    pooled: dict[str, float] = field(default_factory=dict)
    """Who gets connections, and since when the load balancer was told so."""
    depooled: dict[str, float] = field(default_factory=dict)
    silenced: dict[str, Silence] = field(default_factory=dict)
    restarts: Counter[tuple[str, str]] = field(default_factory=Counter)
    leads: dict[str, str] = field(default_factory=dict)
    acquired: Counter[str] = field(default_factory=Counter)
    balancer_fails: bool = False
    told: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        for name in self.names:
            self.hosts[name] = Host({f"{unit}.service": Service(started=self.now - 1000) for unit in self.units})
            self.pooled[name] = -1e9
        self.leads = dict.fromkeys(LED, self.names[0])

    # What clients see.

    def serving(self, host: str) -> bool:
        """Say whether a host is well and gets connections."""
        return self.hosts[host].ready and self._up(host)

    def _up(self, host: str) -> bool:
        since = self.pooled.get(host)
        known = self.hosts[host]
        return since is not None and known.ready and self.now - max(since, known.ready_since) >= NOTICES

    def may_be_closed(self, host: str) -> None:
        """Check the rules at the moment when a host is taken out of service."""
        for other in self.names:
            if other != host:
                rule(f"{host} is closed while {other} does not serve", holds=self.serving(other))
                rule(f"{host} and {other} are both closed by us", holds=not self.hosts[other].closed_by_us)

    # The hosts, over SSH.

    def query(self, query: str) -> list[str]:
        return list(self.names)

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        if not safe:
            self.moment()
        results = {
            host: self._run(host, command) if self.hosts[host].reachable else Result(None, "no route to host")
            for host in hosts
        }
        if not safe:
            self.moment()
        return results

    def _run(self, host: str, command: str) -> Result:
        if command == probe._COMMAND:
            boot = f"fleet-boot-id={BOOT}\nfleet-uptime=5000\nfleet-now={self.now}\n"
            return Result(0, boot + self._puppet(host))
        if "systemctl restart" in command:
            return self._order(host, command)
        if found := re.search(r"show .* -- (\S+); }", command):
            return Result(0, self._service(host, found[1]))
        words = shlex.split(command.splitlines()[0])
        known = self.hosts[host]
        if words[0] == "disable-puppet":
            known.puppet = words[1] if known.puppet is None else known.puppet
        elif words[0] == "enable-puppet":
            known.puppet = None if known.puppet == words[1] else known.puppet
        else:
            raise AssertionError(command)
        return Result(0, self._puppet(host))

    def _puppet(self, host: str) -> str:
        reason = self.hosts[host].puppet
        lock = "" if reason is None else f"fleet-puppet-lock={json.dumps({'disabled_message': reason})}\n"
        return f"fleet-puppet=installed\n{lock}"

    def _service(self, host: str, unit: str) -> str:
        service = self.hosts[host].services[unit]
        return answers.of_unit(
            boot_id=BOOT,
            uptime=5000.0,
            started=5000.0 - (self.now - service.started),
            invocation=service.invocation,
            active=service.active,
            in_transition=service.transitioning,
            is_stale=service.stale,
        )

    def _order(self, host: str, command: str) -> Result:
        unit = re.findall(r"restart --no-block -- (\S+)", command)[0]
        named = re.findall(r"^ +(\S+)\) current && systemctl", command, re.MULTILINE)[0].split("|")
        known = self.hosts[host]
        if known.services[unit].invocation not in named:
            return Result(0, "not restarted: it was started again already")
        if known.services[unit].stale and "systemctl daemon-reload ||" not in command:
            return Result(1, "unit files were changed on disk: run systemctl daemon-reload")
        self.may_be_closed(host)
        rule("restarted while Puppet is enabled", holds=known.puppet is not None)
        rule("restarted while it is not silenced", holds=host in self.silenced)
        if unit == f"{API}.service":
            rule("restarted while it gets connections", holds=host not in self.pooled)
            rule("restarted while connections are open", holds=self.connections(host) == 0)
        self.at(self.delay, lambda: self._restart(host, unit, named))
        return Result(0, "") if self.delay < 1 else Result(None, "no answer within 30 s")

    def _restart(self, host: str, unit: str, named: Sequence[str]) -> None:
        known = self.hosts[host]
        service = known.services[unit]
        if service.transitioning or service.invocation not in named:
            return
        service.transitioning, service.active = True, "deactivating"
        self.restarts[host, unit.removesuffix(".service")] += 1
        if unit == f"{API}.service":
            rule("its restart comes while it gets connections", holds=host not in self.pooled)
            known.ready = False
        for component, leader in self.leads.items():
            if leader == host and unit == f"{component}.service":
                self.leads[component] = ""
                self.at(3.0, partial(self._elect, component))

        def begin() -> None:
            service.number += 1
            service.transitioning, service.active, service.started = False, "active", self.now
            if unit == f"{API}.service":
                self.at(1.5, lambda: self.recover(host) if known.comes_back else None)

        self.at(1.0, begin)

    def recover(self, host: str) -> None:
        """Let a host's kube-apiserver be ready."""
        self.hosts[host].ready, self.hosts[host].ready_since = True, self.now

    def _elect(self, component: str) -> None:
        self.leads[component] = next(
            name for name in self.names if self.hosts[name].services[f"{component}.service"].active == "active"
        )
        self.acquired[component] += 1

    # The API.

    def get(self, path: str) -> dict[str, Any]:
        component = path.rpartition("/")[2]
        leader = self.leads[component]
        spec = {
            "holderIdentity": f"{leader}_{self.acquired[component]}" if leader else "",
            "acquireTime": str(self.acquired[component]),
            "renewTime": str(self.now // 2),
        }
        return {"metadata": {"resourceVersion": "1"}, "spec": spec}

    # The apiservers.

    def examine(self, hosts: Sequence[str]) -> Mapping[str, Health | Unreachable]:
        ready = {host: self.hosts[host].ready for host in hosts}
        return {host: Health(ok, () if ok else ("etcd",), ok) for host, ok in ready.items()}

    # The load balancer.

    def connections(self, host: str) -> int:
        return 0 if host not in self.pooled and self.now - self.depooled.get(host, -1e9) >= self.drains else 3

    def states(self, hosts: Sequence[str]) -> dict[str, ServerState]:
        if self.balancer_fails:
            raise LoadBalancerError("the load balancer does not answer")
        return {
            host: ServerState(
                (LB,) if host in self.pooled else (),
                host not in self.pooled,
                self._up(host),
                self.connections(host),
                "UP" if self._up(host) else "NOLB",
            )
            for host in hosts
        }

    def depool(self, host: str, at: Sequence[str]) -> None:
        self.moment()
        self.told.append(("depool", host))
        if LB in at:
            self.may_be_closed(host)
            self.pooled.pop(host, None)
            self.depooled[host] = self.now
            self.hosts[host].closed_by_us = True
        self.moment()

    def pool(self, host: str, at: Sequence[str]) -> None:
        self.moment()
        self.told.append(("pool", host))
        if LB in at:
            # One that runs what it ran before is what it was; the load balancer looks at its health.
            proven = self.hosts[host].ready or not self.restarts[host, API]
            rule(f"{host} gets connections before it is ready", holds=proven)
            self.pooled[host] = self.now
            self.at(NOTICES, lambda: setattr(self.hosts[host], "closed_by_us", False))
        self.moment()

    def watch_again(self, host: str) -> None:
        self.told.append(("watch again", host))

    # Alertmanager.

    def find(self, path: str = "", *, comment_contains: str = "") -> Any:
        """Find silences, or an object of the API: this world is both."""
        if path:
            return Api.find(cast(Api, self), path)
        return [silence for silence in self.silenced.values() if comment_contains in silence.comment]

    def create(
        self, hosts: Sequence[str], *, comment: str, author: str, duration: float, matchers: Sequence[Any]
    ) -> str:
        self.moment()
        host = hosts[0]
        self.silenced[host] = Silence(f"s-{host}", "active", comment, author, self.now, self.now + duration, ())
        self.moment()
        return f"s-{host}"

    def extend(self, silence_id: str, duration: float) -> str:
        host = silence_id.removeprefix("s-")
        self.silenced[host] = replace(self.silenced[host], ends_at=self.now + duration)
        return silence_id

    def expire(self, silence_id: str) -> None:
        self.silenced.pop(silence_id.removeprefix("s-"), None)

    def alerts(self, hosts: Sequence[str]) -> list[Alert]:
        return []

    # The run.

    def cluster(self, targets: Sequence[str], **options: Any) -> Cluster:
        """Return the cluster as a run over some of the hosts sees it."""
        hosts = {host: host for host in targets}
        run = RunInfo("r1", "sre.k8s.restart-control-plane", "lab", "ann@here", "why", "T1", self.now, options)
        me: Any = self
        return Cluster(
            name="lab",
            config=CONFIG,
            api=me,
            nodes=me,
            remote=me,
            silences=me,
            hosts=hosts,
            run=run,
            clock=self,
            threads=AtOnce(self),
        )


CONFIG = ClusterConfig.model_validate(
    {
        "kubeconfig": "/etc/kubernetes/lab.config",
        "hosts": {"workers": "w[1-3]", "control_plane": "cp[1-3]"},
        "deadlines": {"blocked": "60s", "restart": "30s", "ready": "40s", "alerts": "20s"},
        "control_plane": {"settle": "3s", "load_balancer": {"drain": "4s"}},
    }
)
