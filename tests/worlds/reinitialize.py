"""A cluster between two etcds, in memory, for sessions of the real engine and stages that let time pass.

Two key spaces; hosts with units of systemd, Puppet and the files that name an etcd; an API that serves what the etcd of
the running kube-apiservers has; discovery records; an organisation's commands. The world watches over the rules that
never bend, at the moment that they count.
"""

import base64
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from fleet.adapters.alertmanager.silence_model import Alert, Silence
from fleet.adapters.calico import contents
from fleet.adapters.calico.contents import Contents, Resource
from fleet.adapters.k8s import client
from fleet.adapters.k8s.apiserver import Health
from fleet.adapters.k8s.client import JSON
from fleet.adapters.k8s.errors import ApiError, ApiUnreachable
from fleet.adapters.load_balancer.model import ServerState
from fleet.config.certificates import Certificates
from fleet.config.model import ClusterConfig
from fleet.execution import Result, Unreachable
from worlds.hosts import rule
from worlds.reinitialize_hosts import API, KUBELET, NEW, OLD, PLUGIN, Hosts, endpoint_of

MANAGED, SERVICES = ("shop", "search"), ("shop", "search")
ALL_CALICO = contents.gather(
    [
        Resource(contents.CONFIGURATION, "default", {"asNumber": 64601, "nodeToNodeMeshEnabled": False}),
        Resource(contents.PEER, "cr1", {"peerIP": "10.0.0.1", "asNumber": 64600}),
    ]
)
_NODES = "/api/v1/nodes"


def config(**changes: Any) -> ClusterConfig:
    """Return the configuration, with another section ``reinitialize`` where something is to be different."""
    reinitialize: dict[str, Any] = {
        "etcds": {"new": {"hosts": "new", "endpoints": [NEW]}},
        "kubeconfig": "/etc/kubernetes/admin.config",
        "puppet_change": {"merged": "merged {change}", "merge": "merge {change}", "revert": "revert {change}"},
        "discovery": {"datacenter": "here", "services": SERVICES, "traffic": "idle {service}"},
        "admission_plugins": [PLUGIN],
        "managed": MANAGED,
        "initialize": "initialize {cluster}",
        "initialized": ["/apis/policy/v1beta1/podsecuritypolicies/privileged"],
        "components": {"command": "components {cluster}", "namespaces": ["kube-system"]},
        "services": {"names": SERVICES, "deploy": "deploy {service}", "check": "check {service}", "parallel": 2},
        "silences": [['team="sre"']],
    }
    return ClusterConfig.model_validate(
        {
            "kubeconfig": "/etc/kubernetes/lab.config",
            "hosts": {"workers": "workers", "control_plane": "planes"},
            "deadlines": {"blocked": "60s", "restart": "60s", "ready": "60s", "puppet": "60s"},
            "etcd": {"hosts": "old", "endpoints": [OLD]},
            "reinitialize": reinitialize | changes,
        }
    )


CONFIG = config()
BY_PEOPLE = config(puppet_change={"merged": "merged {change}"})
"""A configuration with which people merge the Puppet change, and revert it."""


@dataclass
class Etcd:
    """A key space: keys of etcd's own, and what Calico has in it."""

    endpoint: str
    keys: set[str] = field(default_factory=set)
    calico: Contents = field(default_factory=Contents)
    revision: int = 1
    deleting: set[str] = field(default_factory=set)


class World(Hosts):
    """Two etcds, and what stands around the hosts."""

    def __init__(self, planes: int = 2, workers: int = 2) -> None:
        super().__init__(planes, workers)
        self.old, self.new = Etcd(OLD, calico=ALL_CALICO), Etcd(NEW)
        self.lies = False
        self.pooled = dict.fromkeys(SERVICES, True)
        self.elsewhere = dict(self.pooled)
        self.was_pooled = dict(self.pooled)
        self.silenced: dict[str, Silence] = {}
        self.typed: list[str] = []
        self.said = StringIO()
        self.declines: set[str] = set()
        self.broken: Counter[str] = Counter()
        """How many times a command of the organisation is still to fail."""
        self.begun = -1
        self.when: dict[int, list[Callable[[], None]]] = {}
        self.ill: dict[str, str] = {}
        """What is wrong with an etcd, by its endpoint."""
        self.unreached: dict[str, str] = {}
        """Why a host does not reach the new etcd."""
        self.reached_with: list[tuple[tuple[str, ...], Certificates | None]] = []
        """Which hosts were told to reach it, with which certificates."""
        self.firing: list[Alert] = []
        self.holder = ""
        """Who has the cluster's Lease."""
        self.answering: dict[str, Health | Unreachable] = {}
        """What kube-apiservers answer that do not answer as they should."""
        self.unused: set[str] = set()
        """Hosts that the load balancer does not use."""
        self.mute: set[str] = set()
        """Nodes whose kubelet does not register."""
        self.lazy: set[str] = set()
        """Commands of the organisation that succeed, and do nothing."""
        self.strangers: set[str] = set()
        """Apiservers on hosts that the configuration does not have."""
        self.leaks = False
        """Whether each etcd has what is written to the other one."""
        self.outliving = False
        """Whether a command has outlived the process that ran it."""
        self.unready: list[str] = []
        """Workloads of the components that are not Ready."""
        self.newest = 0
        """The revision in which the key of the old etcd was written that was written last."""
        self.refuses_deletion = False
        self.frozen = self.deleted = self.is_agreed = False
        self.ran: Counter[str] = Counter()
        namespaces = ("default", "kube-system", "others", *MANAGED)
        self.old.keys |= {f"/registry/api/v1/namespaces/{name}" for name in namespaces}
        self.old.keys |= {f"/registry/deployed/{name}" for name in SERVICES}
        self.old.keys |= {f"/registry{_NODES}/{name}" for name in self.workers}

    def began(self, stage: str, unfinished: Sequence[str]) -> None:
        """Take note that a unit begins a stage, while stages before it are unfinished."""
        if stage.startswith("abort "):
            # After stage 19 there is no rollback any more.
            self.going_back, self.frozen = self.begun < 20, False
            loose = [name for name, host in self.hosts.items() if host.reachable and host.puppet is None]
            rule(f"Puppet may start what is stopped on {loose}", holds=stage != "abort stop" or not loose)
        elif stage[0].isdigit():
            rule(f"{stage} begins before {unfinished} are done", holds=not unfinished)
            rule("the run goes on although it was rolled back", holds=not self.going_back)
            self.begun = max(self.begun, int(stage.split()[0]))
            self.frozen = self.begun >= 8
            for act in self.when.pop(self.begun, ()):
                act()

    def at_begin(self, stage: int, act: Callable[[], None]) -> None:
        """Let something happen when a stage begins."""
        self.when.setdefault(stage, []).append(act)

    # The etcds.

    def store(self, endpoint: str) -> Etcd:
        return self.old if endpoint == OLD else self.new

    def write(self, store: Etcd, key: str, *, gone: bool = False) -> None:
        """Write a key, or delete it."""
        rule(f"the old etcd is written to in stage {self.begun}: {key}", holds=store is self.new or not self.frozen)
        store.revision += 1
        if gone:
            store.keys.discard(key)
        else:
            store.keys.add(key)

    def serving(self, host: str) -> Etcd | None:
        """Return the etcd that a host's kube-apiserver serves."""
        service = self.hosts[host].services[API]
        return self.store(endpoint_of(service.text)) if service.active else None

    def served(self) -> Etcd:
        """Return the etcd that the API serves."""
        stores = [store for host in self.planes if (store := self.serving(host))]
        rule("apiservers serve different etcds", holds=len({store.endpoint for store in stores}) < 2)
        if not stores:
            raise ApiUnreachable("The Kubernetes API does not answer.")
        return stores[0]

    # What their members answer to etcdctl, and hosts to curl.

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        if "curl --disable" in command:
            paths = [
                found[1] for name in ("cacert", "cert", "key") if (found := re.search(rf"--{name} (\S+)", command))
            ]
            self.reached_with.append((tuple(hosts), Certificates(*map(Path, paths)) if paths else None))
        return super().run(hosts, command, timeout=timeout, safe=safe)

    def _answer(self, host: str, command: str) -> Result:
        if host in ("old1", "new1"):
            return self._etcdctl(host, self.old if host == "old1" else self.new, command)
        if "curl --disable" in command:
            why = self.unreached.get(host)
            asked = re.findall(r"^check (\d+) ", command, re.MULTILINE)
            lines = [f'fleet-etcd-{number}={{"health":"true"}}' for number in asked]
            return Result(None, why) if why else Result(0, "\n".join(lines))
        return super()._answer(host, command)

    def _etcdctl(self, host: str, store: Etcd, command: str) -> Result:
        if why := self.ill.get(store.endpoint):
            return Result(None, why)
        if "member list" in command:
            return _said(
                status=[{"Status": {"header": {"member_id": 1}, "leader": 1, "raftTerm": 1, "version": "3.5.1"}}],
                members={"members": [{"ID": 1, "name": host}]},
                health=[{"health": True}],
            )
        if "snapshot save" in command:
            return _said(snapshot={"hash": 0, "revision": store.revision, "totalKey": len(store.keys), "totalSize": 1})
        if "endpoint hashkv" in command:
            header = {"cluster_id": 1, "revision": store.revision}
            return _said(answer=[{"HashKV": {"header": header, "hash": 1, "compact_revision": -1}}])
        if "awk" in command:
            return _said(answer=len(store.keys))
        if "--sort-by=MODIFY" in command:
            return _said(answer={"kvs": [{"mod_revision": self.newest}]})
        (asked,) = re.findall(r"^answer=\$\(ask \d+ (.*)\) \|\| exit$", command, re.MULTILINE)
        words = shlex.split(asked)
        if words[0] == "del":
            return _said(answer={"deleted": self._delete(store, words[-1])})
        if "--from-key" in words:
            limit = next(int(word.partition("=")[2]) for word in words if word.startswith("--limit="))
            return _said(answer={"count": len(store.keys), "kvs": _kvs(sorted(store.keys)[:limit])})
        if "--prefix" in words:
            return _said(answer={"kvs": _kvs(key for key in store.keys if key.startswith(words[-1]))})
        path = f"/registry/api/v1/namespaces/kube-system/configmaps/{words[-1].rpartition('/')[2]}"
        return _said(answer={"kvs": _kvs([words[-1]] if self.leaks or path in store.keys else [])})

    def _delete(self, store: Etcd, folder: str) -> int:
        rule("the old etcd is wiped", holds=store is self.new)
        gone = {key for key in store.keys if key.startswith(folder)}
        store.keys -= gone
        store.calico = Contents() if folder == "/calico/" else store.calico
        return len(gone)

    def datastore(self, world: Any, *, new: bool) -> Any:
        return Calico(self, self.new if new else self.old)

    def apiserver_started(self) -> None:
        self.write(self.served(), "/registry/api/v1/namespaces/kube-system")

    # What stands around the cluster.

    def query(self, query: str) -> list[str]:
        return {"workers": self.workers, "planes": self.planes}.get(query, [f"{query}1"])

    def examine(self, hosts: Sequence[str]) -> Mapping[str, Health | Unreachable]:
        usual = {h: Health(True, (), True) if self.serving(h) else Unreachable("refused") for h in hosts}
        return {host: self.answering.get(host, health) for host, health in usual.items()}

    def states(self, hosts: Sequence[str]) -> dict[str, ServerState]:
        return {h: ServerState(("lb",), False, bool(self.serving(h)) and h not in self.unused, 0, "") for h in hosts}

    def pooled_at(self, services: Sequence[str]) -> dict[str, dict[str, bool]]:
        return {service: {"here": self.pooled[service], "there": self.elsewhere[service]} for service in services}

    def set_pooled(self, service: str, datacenter: str, *, pooled: bool) -> None:
        self.moment()
        rule(f"{service} is pooled, and was not", holds=not pooled or self.was_pooled[service])
        answers = self.command(f"check {service}") == 0
        rule(f"{service} is pooled, and does not answer", holds=not pooled or answers)
        self.pooled[service] = pooled
        self.moment()

    def alerts(self, hosts: Sequence[str]) -> list[Alert]:
        return self.firing

    def find(self, *, comment_contains: str) -> list[Silence]:
        return [silence for silence in self.silenced.values() if comment_contains in silence.comment]

    def create(
        self, hosts: Sequence[str], *, comment: str, author: str, duration: float, matchers: Sequence[Any]
    ) -> str:
        self.moment()
        name = f"s{len(self.silenced)}"
        rule("a silence of no host and no matcher", holds=bool(hosts or matchers))
        self.silenced[name] = Silence(name, "active", comment, author, self.now, self.now + duration, ())
        self.moment()
        return name

    def extend(self, silence_id: str, duration: float) -> str:
        return silence_id

    def expire(self, silence_id: str) -> None:
        self.moment()
        self.silenced.pop(silence_id, None)

    def export(self, api: Any, path: Any, *, without: Sequence[str]) -> Any:
        self.moment()
        path.write_text("all objects")
        return type("Exported", (), {"objects": 1, "kinds": 1, "problems": ()})

    def answer(self, question: str, *, choices: Sequence[str], validator: Callable[[str], None]) -> None:
        """Type what is asked for, unless the operator does not want to."""
        self.moment()
        word = question.split('"')[1]
        if word in self.declines:
            raise EOFError
        if word == "done" and not self.lies:
            self.merged = not self.going_back
        self.typed.append(word)
        self.is_agreed = self.is_agreed or word == "lab"
        validator(word)
        self.moment()

    def organisation(self, command: str, **options: Any) -> int:
        """Run one of the organisation's commands."""
        if command.split()[0] in ("merged", "idle", "check"):
            return self.command(command)
        self.moment()
        code = self.command(command)
        self.moment()
        return code

    def asked(self, command: str, *, timeout: float) -> tuple[int, str]:
        """Answer a command that only tells something, as bash would."""
        words = shlex.split(command)
        if words[:2] == ["bash", "-n"]:
            return (2, "unexpected EOF") if words[-1].count("'") % 2 else (0, "")
        if words[0] == "type":
            return (0 if words[3] in self.programs else 1), ""
        return self.command(command), ""

    def command(self, command: str) -> int:
        verb, name = command.split()
        if self.broken[verb] > 0:
            self.broken[verb] -= 1
            return 7
        if verb == "merged":
            return 0 if self.merged else 1
        self.ran[verb] += 1
        if verb in self.lazy:
            return 0
        if verb in ("merge", "revert"):
            self.merged = verb == "merge"
        elif verb == "idle":
            return int(self.pooled[name])
        else:
            return self._in_the_api(verb, name)
        return 0

    def _in_the_api(self, verb: str, name: str) -> int:
        try:
            store = self.served()
        except ApiUnreachable:
            return 1
        if verb == "check":
            return 0 if f"/registry/deployed/{name}" in store.keys else 1
        if verb == "initialize":
            if any(PLUGIN in self.hosts[host].services[API].text for host in self.planes if self.serving(host)):
                return 1
            self.write(store, "/registry/apis/policy/v1beta1/podsecuritypolicies/privileged")
        if verb == "deploy":
            if name in store.deleting:
                return 1
            self.write(store, f"/registry/api/v1/namespaces/{name}")
            self.write(store, f"/registry/deployed/{name}")
        return 0


def _said(**values: Any) -> Result:
    """Return what a host prints of etcdctl's answers."""
    return Result(0, "\n".join(f"fleet-etcd-{name}={json.dumps(value)}" for name, value in values.items()))


def _kvs(keys: Iterable[str]) -> list[JSON]:
    return [{"key": _base64(key), "value": _base64("{}")} for key in keys]


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@dataclass
class Calico:
    """What Calico has in an etcd."""

    world: World
    store: Etcd

    def read(self) -> Contents:
        return self.store.calico

    def write(self, wanted: Contents) -> None:
        self.world.moment()
        self.world.write(self.store, "/calico/resources")
        self.store.calico = wanted
        self.world.moment()


class Client:
    """The API, at one host or at any that answers."""

    def __init__(self, world: World, host: str = "") -> None:
        self._world = world
        self._host = host
        self.server = f"https://{host or 'api'}:6443"

    def _store(self) -> Etcd:
        store = self._world.serving(self._host) if self._host else self._world.served()
        if store is None:
            raise ApiUnreachable(f"{self.server} does not answer")
        return store

    find = client.Api.find

    def get(self, path: str) -> dict[str, Any]:
        store = self._store()
        name = path.rpartition("/")[2]
        if path.endswith("/endpoints/kubernetes"):
            serving = [*self._world.strangers, *(host for host in self._world.planes if self._world.serving(host))]
            return {"subsets": [{"addresses": [{"ip": host} for host in serving]}]}
        if path in ("/api", "/apis"):
            return {"versions": [], "groups": []}
        if f"/registry{path}" not in store.keys:
            raise ApiError(f"GET {path}", 404, "NotFound", f"{name} not found")
        terminating = name in store.deleting and path == f"/api/v1/namespaces/{name}"
        return {"metadata": {"name": name, **({"deletionTimestamp": "now"} if terminating else {})}}

    def list_all(self, path: str, convert: Callable[[Any], Any] = lambda item: item) -> tuple[list[Any], str]:
        store = self._store()
        if path != _NODES:
            names = [key.rpartition("/")[2] for key in sorted(store.keys) if key.startswith(f"/registry{path}/")]
            return [convert({"metadata": {"name": name}}) for name in names], "1"
        registered = [name for name in self._world.workers if self._registered(store, name)]
        others = [key.rpartition("/")[2] for key in sorted(store.keys) if key.startswith(f"/registry{_NODES}/")]
        return [convert(self._node(store, name)) for name in dict.fromkeys((*registered, *others))], "1"

    def _registered(self, store: Etcd, name: str) -> bool:
        kubelet = self._world.hosts[name].services[KUBELET]
        if kubelet.active and not kubelet.registered and name not in self._world.mute:
            kubelet.registered = store.endpoint
            self._world.write(store, f"/registry{_NODES}/{name}")
        return f"/registry{_NODES}/{name}" in store.keys

    def _node(self, store: Etcd, name: str) -> dict[str, Any]:
        host = self._world.hosts.get(name)
        kubelet = host.services.get(KUBELET) if host else None
        alive = kubelet is None or kubelet.registered == store.endpoint
        ready = {"type": "Ready", "status": "True" if alive else "Unknown"}
        heartbeat = datetime.fromtimestamp(self._world.now if alive else 0, UTC).isoformat()
        labels = {"topology.kubernetes.io/zone": "a"}
        status = {"conditions": [{**ready, "lastHeartbeatTime": heartbeat}]}
        return {"metadata": {"name": name, "labels": labels}, "status": status}

    def create(self, path: str, body: Mapping[str, Any]) -> None:
        self._world.moment()
        key = f"/registry{path}/{body['metadata']['name']}"
        if key in self._store().keys:
            raise ApiError(f"POST {path}", 409, "AlreadyExists", "it is there")
        self._world.write(self._store(), key)
        self._world.moment()

    def delete(self, path: str) -> None:
        self._world.moment()
        self.get(path)
        store, name = self._store(), path.rpartition("/")[2]
        if path.startswith("/api/v1/namespaces/") and path.count("/") == 4:
            self._delete_namespace(store, name)
        else:
            self._world.write(store, f"/registry{path}", gone=True)
        self._world.moment()

    def _delete_namespace(self, store: Etcd, name: str) -> None:
        world = self._world
        if world.refuses_deletion:
            raise ApiError(f"DELETE {name}", 500, "InternalError", "a webhook refuses it")
        rule(f"{name} is deleted, and not managed", holds=name in MANAGED)
        away = not any(world.pooled.values())
        rule(f"{name} is deleted while services are pooled", holds=away)
        rule(f"{name} is deleted from {store.endpoint}", holds=store is world.old and not world.frozen)
        rule(f"{name} is deleted before the cluster's name was typed", holds=world.is_agreed)
        world.deleted = True
        store.deleting.add(name)
        world.write(store, f"/registry/deployed/{name}", gone=True)
        world.at(20.0, partial(self._finish, store, name))

    def _finish(self, store: Etcd, name: str) -> None:
        store.deleting.discard(name)
        store.keys.discard(f"/registry/api/v1/namespaces/{name}")

    def version(self) -> str:
        self._store()
        return "v1.20.2"

    def not_ready(self) -> str:
        self._store()
        return ""

    def disconnect(self) -> None:
        """Do nothing: there is no connection."""
