"""Hosts in memory, for a cluster that is moved between two etcds: units of systemd, Puppet, files that name an etcd.

What the library asks and orders over SSH is answered here at the level of its functions; orders take time.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fleet.adapters.hosts.probe import HostState
from fleet.adapters.hosts.puppet import PuppetResult
from fleet.adapters.hosts.services import ServiceState
from fleet.adapters.hosts.textfile import Missing, TextFile
from fleet.execution import Result, Unreachable
from worlds.hosts import Time, rule

BOOT = "00000000-0000-0000-0000-000000000001"
API, CONTROLLERS, SCHEDULER = "kube-apiserver.service", "kube-controller-manager.service", "kube-scheduler.service"
CALICO, KUBELET = "calico-node.service", "kubelet.service"
OLD, NEW = "https://old1:2379", "https://new1:2379"
DEFAULTS, CALICO_FILE = "/etc/default/kube-apiserver", "/etc/calico/calicoctl.cfg"
PLUGIN = "PodSecurityPolicy"
BY_HAND = "by hand"
ORGANISATION = ("initialize", "components", "deploy", "check")
"""The commands of the organisation that need the API."""


@dataclass
class Service:
    """A unit of systemd; ``text`` is its host's file of flags as it was when it was started."""

    active: bool = True
    loaded: bool = True
    number: int = 1
    started: float = 0.0
    jobs: int = 0
    text: str = ""
    registered: str = ""


@dataclass
class Host:
    """A host over SSH: its units, its Puppet and its files."""

    services: dict[str, Service]
    files: dict[str, str]
    puppet: str | None = None
    reachable: bool = True


def endpoint_of(text: str) -> str:
    """Return the etcd that a file names, or a command line."""
    return OLD if OLD in text else NEW


class Hosts(Time):
    """Control-plane hosts and workers, and time."""

    def __init__(self, planes: int, workers: int) -> None:
        super().__init__()
        self.merged = self.going_back = self.puppet_starts = False
        self.planes = [f"cp{number + 1}" for number in range(planes)]
        self.puppet_runs: set[str] = set()
        """Hosts with a run of Puppet that does not end."""
        self.programs = {"cd", "calicoctl", "bash", "merged", "merge", "revert", "idle", *ORGANISATION}
        self.workers = [f"w{number + 1}" for number in range(workers)]
        self.hosts = {name: self._host(name) for name in (*self.planes, *self.workers)}

    def _host(self, name: str) -> Host:
        files = {CALICO_FILE: self.file_of(CALICO_FILE)}
        units = [CALICO, KUBELET]
        if name in self.planes:
            files[DEFAULTS], units = self.file_of(DEFAULTS), [API, CONTROLLERS, SCHEDULER, CALICO]
        text = files.get(DEFAULTS, "") or files[CALICO_FILE]
        return Host({unit: Service(started=self.now - 1000, text=text, registered=OLD) for unit in units}, files)

    def file_of(self, path: str) -> str:
        """Return a file as Puppet has it now."""
        endpoint = NEW if self.merged else OLD
        if path == DEFAULTS:
            return f'DAEMON_ARGS="--etcd-servers={endpoint} --enable-admission-plugins=NodeRestriction,{PLUGIN}"\n'
        return f"kind: CalicoAPIConfig\nspec: {{datastoreType: etcdv3, etcdEndpoints: '{endpoint}'}}\n"

    def apiserver_started(self) -> None:
        """Take note that a kube-apiserver begins to serve."""

    # The hosts, over SSH.

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        words = shlex.split(command)
        if words[0] == "hostname":
            return {host: Result(0, f"10.0.0.{10 + self.planes.index(host)} fd00::{host[2:]}\n") for host in hosts}
        if words[0] == "command":
            return {host: Result(0 if words[-1] in self.programs else 1, "") for host in hosts}
        assert words[0] == "rm", command
        self.moment()
        for host in hosts:
            self.hosts[host].files.pop(words[-1], None)
        return dict.fromkeys(hosts, Result(0, ""))

    def ask(self, hosts: Sequence[str], answer: Callable[[str], Any]) -> dict[str, Any]:
        return {h: answer(h) if self.hosts[h].reachable else Unreachable("no route to host") for h in hosts}

    def probe(self, remote: Any, hosts: Sequence[str]) -> Mapping[str, HostState | Unreachable]:
        return self.ask(
            hosts, lambda h: HostState(BOOT, 5000, self.now, False, True, True, self.hosts[h].puppet, None, False)
        )

    def state(self, remote: Any, hosts: Sequence[str], unit: str) -> Mapping[str, ServiceState | Unreachable]:
        def answer(host: str) -> ServiceState:
            it = self.hosts[host].services.get(unit, Service(active=False, loaded=False))
            active, age = "active" if it.active else "inactive", self.now - it.started
            load = "loaded" if it.loaded else "not-found"
            return ServiceState(load, active, "success", f"{it.number:032x}", age, BOOT, it.jobs > 0)

        return self.ask(hosts, answer)

    def order(self, remote: Any, verb: str, units: Mapping[str, Sequence[str]], *, reload: bool) -> dict[str, Result]:
        return self._orders({(host, unit): verb for host, its in units.items() for unit in its})

    def restart(self, remote: Any, unit: str, invocations: Mapping[str, str], *, reload: bool) -> dict[str, Result]:
        now = {host: f"{self.hosts[host].services[unit].number:032x}" for host in invocations}
        orders = {(host, unit): "restart" for host, named in invocations.items() if now[host] == named}
        return {**dict.fromkeys(invocations, Result(0, "")), **self._orders(orders)}

    def _orders(self, orders: Mapping[tuple[str, str], str]) -> dict[str, Result]:
        self.moment()
        results = {}
        for (host, unit), verb in orders.items():
            known = self.hosts[host]
            results[host] = Result(0, "") if known.reachable else Result(None, "no route to host")
            if known.reachable:
                known.services[unit].jobs += 1
                self.at(1.0, partial(self._carry_out, host, unit, verb))
        self.moment()
        return results

    def _carry_out(self, host: str, unit: str, verb: str) -> None:
        service = self.hosts[host].services[unit]
        service.jobs -= 1
        if verb == "stop":
            service.active = False
        elif verb == "restart" or not service.active:
            self.begin(host, unit)

    def begin(self, host: str, unit: str) -> None:
        """Start a unit anew."""
        known = self.hosts[host]
        service = known.services[unit]
        service.text = known.files.get(DEFAULTS, "") or known.files[CALICO_FILE]
        service.active, service.number, service.started, service.registered = True, service.number + 1, self.now, ""
        if unit == API:
            self.apiserver_started()

    def puppet_of(self, host: str, act: Callable[[Host], str | None]) -> PuppetResult:
        known = self.hosts[host]
        if not known.reachable:
            return PuppetResult(None, "no route to host")
        error = act(known)
        return PuppetResult(known.puppet, error)

    def disable(self, remote: Any, hosts: Sequence[str], reason: str) -> dict[str, PuppetResult]:
        def act(known: Host) -> None:
            known.puppet = known.puppet or reason

        return self._puppet(hosts, act)

    def enable(self, remote: Any, hosts: Sequence[str], reason: str) -> dict[str, PuppetResult]:
        return self._puppet(hosts, partial(self._enable, reason))

    def _enable(self, reason: str | None, known: Host) -> None:
        if known.puppet is not None and known.puppet == reason:
            rule("Puppet is enabled with the code of the other etcd", holds=self.merged is not self.going_back)
            known.puppet = None

    def run_puppet(
        self, remote: Any, hosts: Sequence[str], *, timeout: float, enable_reason: str | None
    ) -> dict[str, PuppetResult]:
        def act(known: Host) -> str | None:
            self._enable(enable_reason, known)
            if known.puppet is not None:
                return "Puppet is disabled"
            known.files |= {path: self.file_of(path) for path in (CALICO_FILE, DEFAULTS) if path in known.files}
            return None

        results = self._puppet(hosts, act)
        for host in hosts if self.puppet_starts else ():
            for unit, service in self.hosts[host].services.items():
                if results[host].error is None and not service.active:
                    self.begin(host, unit)
        return results

    def running_puppet(self, remote: Any, hosts: Sequence[str]) -> dict[str, bool | None]:
        return {host: host in self.puppet_runs if self.hosts[host].reachable else None for host in hosts}

    def _puppet(self, hosts: Sequence[str], act: Callable[[Host], str | None]) -> dict[str, PuppetResult]:
        self.moment()
        results = {host: self.puppet_of(host, act) for host in hosts}
        self.moment()
        return results

    def read_file(self, remote: Any, hosts: Sequence[str], path: Any) -> dict[str, TextFile | Missing | Unreachable]:
        def answer(host: str) -> TextFile | Missing:
            files = self.hosts[host].files
            return TextFile(files[str(path)]) if str(path) in files else Missing()

        return self.ask(hosts, answer)

    def replace(self, remote: Any, host: str, path: Any, *, before: str, content: str, backup: Any) -> None:
        self.moment()
        files = self.hosts[host].files
        rule("a backup is overwritten", holds=files.setdefault(str(backup), files[str(path)]) == files[str(path)])
        files[str(path)] = content
        self.moment()

    def restore(self, remote: Any, host: str, path: Any, backup: Any) -> None:
        self.moment()
        files = self.hosts[host].files
        files[str(path)] = files.pop(str(backup), files[str(path)])
        self.moment()

    def arguments(self, remote: Any, hosts: Sequence[str], unit: str) -> dict[str, tuple[str, ...] | Unreachable]:
        def answer(host: str) -> tuple[str, ...]:
            service = self.hosts[host].services[unit]
            return tuple(service.text.split('"')[1].split()) if service.active else ()

        return self.ask(hosts, answer)
