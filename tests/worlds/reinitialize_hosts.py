"""Hosts in memory, for a cluster that is moved between two etcds: units of systemd, Puppet, files that name an etcd.

What is asked and ordered here are the real commands of the library; orders take time.
"""

import base64
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from fleet.adapters.hosts import probe, puppet
from fleet.execution import Result
from support import answers
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
_ORDER = re.compile(
    r"^(?: *(?P<named>\S+)\) )?(?:current && )?systemctl (?P<verb>\w+) --no-block -- (?P<units>.*?)(?: ;;)?$",
    re.MULTILINE,
)


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
        self.puppet_edits = False
        """Whether Puppet changes nothing but the etcd in the file of flags, instead of writing it anew."""
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
        if not safe:
            self.moment()
        away = Result(None, "no route to host")
        silent = {host for host, known in self.hosts.items() if not known.reachable}
        results = {host: away if host in silent else self._answer(host, command) for host in hosts}
        if not safe:
            self.moment()
        return results

    def _answer(self, host: str, command: str) -> Result:
        known = self.hosts[host]
        if command == probe._COMMAND:
            boot = f"fleet-boot-id={BOOT}\nfleet-uptime=5000\nfleet-now={self.now}\nfleet-reboot-host=yes\n"
            return Result(0, boot + _puppet(known))
        if command == puppet._RUNNING:
            return Result(0 if host in self.puppet_runs else 1, "")
        if found := re.search(r"show .* -- (\S+); }", command):
            return Result(0, self._state(known, found[1]))
        if found := re.search(
            r"^( *(\S+)\) )?(?:current && )?systemctl (\w+) --no-block -- (.*?)(?: ;;)?$", command, re.M
        ):
            return self._order(host, found[3], found[4].split(), named=found[2])
        if found := re.search(r"property=MainPID --value -- (\S+)\)", command):
            service = known.services[found[1]]
            words = service.text.split('"')[1].split() if service.active else []
            return Result(0, f"fleet-arguments={_encoded(''.join(word + chr(0) for word in words))}\n")
        if found := re.search(r"^if \[ -e (\S+) \]", command):
            text = known.files.get(found[1])
            return Result(0, f"fleet-file={'absent' if text is None else _encoded(text)}\n")
        if found := re.search(r"^file=(\S+) backup=(\S+)$", command, re.MULTILINE):
            return _write(known.files, found[1], found[2], command)
        return self._run_words(host, shlex.split(command.splitlines()[0]))

    def _run_words(self, host: str, words: Sequence[str]) -> Result:
        known = self.hosts[host]
        match words[0]:
            case "hostname":
                return Result(0, f"10.0.0.{10 + self.planes.index(host)} fd00::{host[2:]}\n")
            case "command":
                return Result(0 if words[-1] in self.programs else 1, "")
            case "rm":
                known.files.pop(words[-1], None)
                return Result(0, "")
            case "disable-puppet":
                known.puppet = known.puppet or words[1]
            case "enable-puppet":
                self._enable(words[1], known)
            case "run-puppet-agent":
                self._enable(words[words.index("--enable") + 1] if "--enable" in words else None, known)
                if known.puppet is not None:
                    return Result(1, f"Puppet is disabled\n{_puppet(known)}")
                self._run_puppet(host)
            case _:
                raise AssertionError(words)
        return Result(0, _puppet(known))

    def _enable(self, reason: str | None, known: Host) -> None:
        if known.puppet is not None and known.puppet == reason:
            rule("Puppet is enabled with the code of the other etcd", holds=self.merged is not self.going_back)
            known.puppet = None

    def _run_puppet(self, host: str) -> None:
        known = self.hosts[host]
        for path in known.files.keys() & {CALICO_FILE, DEFAULTS}:
            if self.puppet_edits and path == DEFAULTS:
                known.files[path] = known.files[path].replace(*((OLD, NEW) if self.merged else (NEW, OLD)))
            else:
                known.files[path] = self.file_of(path)
        for unit, service in known.services.items() if self.puppet_starts else ():
            if not service.active:
                self.begin(host, unit)

    def _state(self, known: Host, unit: str) -> str:
        it = known.services.get(unit, Service(active=False, loaded=False))
        return answers.of_unit(
            boot_id=BOOT,
            uptime=5000.0,
            started=5000.0 - (self.now - it.started),
            invocation=_invocation(it),
            load="loaded" if it.loaded else "not-found",
            active="active" if it.active else "inactive",
            in_transition=it.jobs > 0,
        )

    def _order(self, host: str, verb: str, units: Sequence[str], *, named: str | None) -> Result:
        known = self.hosts[host]
        for unit in units:
            if named and _invocation(known.services[unit]) not in named.split("|"):
                return Result(0, "not restarted: it was started again already")
            known.services[unit].jobs += 1
            self.at(1.0, partial(self._carry_out, host, unit, verb))
        return Result(0, "")

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


def _invocation(service: Service) -> str:
    return f"{service.number:032x}"


def _puppet(known: Host) -> str:
    """Return what a host tells of its Puppet."""
    reason = known.puppet
    lock = "" if reason is None else f"fleet-puppet-lock={json.dumps({'disabled_message': reason})}\n"
    return f"fleet-puppet=installed\n{lock}"


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _write(files: dict[str, str], path: str, backup: str, command: str) -> Result:
    """Replace a file, or restore it from its backup."""
    if found := re.search(r"<<'fleet-end' \|\| exit\n(.*?)fleet-end$", command, re.MULTILINE | re.DOTALL):
        content = base64.b64decode(found[1]).decode()
        if files[path] != content:
            rule("a backup is overwritten", holds=files.setdefault(backup, files[path]) == files[path])
            files[path] = content
    else:
        files[path] = files.pop(backup, files[path])
    return Result(0, "")
