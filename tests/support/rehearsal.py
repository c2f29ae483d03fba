"""Running cookbooks in the lab, and watching the fleet beside them with eyes of their own.

Nothing here uses the library's view of the cluster: what it claims is compared with what the API, the hosts and
Alertmanager say.
"""

import json
import os
import secrets
import signal
import subprocess
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import yaml

from fleet.engine import folders, journal
from fleet_lab import workload
from fleet_lab.errors import LabError
from fleet_lab.faults import FAULTS
from fleet_lab.guest.kubelet.api import TROUBLE, ApiError
from fleet_lab.lab import Lab
from fleet_lab.roles.alertmanager import PORT
from fleet_lab.workload import DEPLOYMENTS, NAMESPACE
from support.cookbook_process import CookbookProcess

# Enough for what works, also where two labs share two cores. What waits for one of them to pass makes it shorter.
DEADLINES = {"drain": "90s", "reboot": "60s", "puppet": "2m", "ready": "60s", "alerts": "60s", "blocked": "10s"}
DEADLINES |= {"restart": "30s", "bgp": "30s"}
REBOOT = "sre.k8s.reboot-nodes"
RESTART_CALICO = "sre.k8s.restart-calico"
RESTART_ETCD = "sre.etcd.restart"
RESTART_CONTROL_PLANE = "sre.k8s.restart-control-plane"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/fleet-maintenance"
_ANNOTATION = "fleet-cookbooks/maintenance"
_LOOK = 0.2
"""Seconds between two looks at the fleet: what is watched for lasts longer, and looks cost a part of a core."""
_CLEAN: dict[str, dict[str, Any]] = {
    "metadata": {"annotations": {_ANNOTATION: None}},
    "spec": {"unschedulable": None, "taints": None},
}


@dataclass(frozen=True)
class Outcome:
    """How a cookbook ended."""

    code: int
    output: str

    @property
    def run(self) -> str:
        """The id of the run that it began."""
        line = next(line for line in self.output.splitlines() if line.startswith("Run "))
        return line.split()[1].rstrip(";,")


class Rehearsal:
    """A lab, a cookbook, a configuration with deadlines of its own, and a state directory of its own."""

    def __init__(self, lab: Lab, folder: Path, procedure: str = REBOOT, **cluster: Any) -> None:
        self.lab = lab
        self.procedure = procedure
        self.scope = ("--cluster", "lab")
        self._beside: CookbookProcess | None = None
        self.state_dir = folder / "runs"
        data = yaml.safe_load(lab.fleet_config.read_text())
        data["state_dir"] = str(self.state_dir)
        data["clusters"]["lab"] |= {"deadlines": DEADLINES, **cluster}
        self.config = folder / "fleet.yaml"
        self.config.write_text(yaml.safe_dump(data))
        self.environment = {**os.environ, **lab.environment(), "FLEET_CONFIG": str(self.config)}

    def change_config(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the cluster's section of the configuration."""
        data = yaml.safe_load(self.config.read_text())
        change(data["clusters"]["lab"])
        self.config.write_text(yaml.safe_dump(data))

    def hurry(self, **deadlines: str) -> None:
        """Change deadlines, as of what a test keeps from happening."""
        self.change_config(lambda cluster: cluster["deadlines"].update(deadlines))

    def cookbook(self, *arguments: str, timeout: float = 240) -> Outcome:
        """Run a cookbook to its end."""
        return self.end(self._begin(*arguments), timeout=timeout)

    def start(self, *arguments: str, **options: Any) -> Outcome:
        """Start a new run, unattended."""
        new = (self.procedure, *self.scope, "-r", "rehearsal", "--unattended")
        return self.cookbook(*new, *arguments, **options)

    def resume(self, run: str) -> Outcome:
        """Resume a run."""
        return self.cookbook(self.procedure, "--resume", run)

    def abort(self, run: str) -> Outcome:
        """Abort a run."""
        return self.cookbook(self.procedure, "--abort", run)

    @contextmanager
    def in_background(self, *arguments: str) -> Iterator[CookbookProcess]:
        """Start a new run, unattended, and let it work beside the test."""
        new = (self.procedure, *self.scope, "-r", "rehearsal", "--unattended")
        self._beside = self._begin(*new, *arguments)
        try:
            yield self._beside
        finally:
            self._beside.kill()
            self._beside = None

    @contextmanager
    def resumed(self, run: str) -> Iterator[None]:
        """Resume a run beside the test, until it is killed in the end."""
        self._beside = self._begin(self.procedure, "--resume", run)
        try:
            yield
        finally:
            self._beside.kill()
            self._beside = None

    def _begin(self, *arguments: str) -> CookbookProcess:
        command = ("-c", str(self.lab.spicerack_config), *arguments)
        output = self.config.with_name(f"cookbook-{secrets.token_hex(8)}.txt")
        return CookbookProcess(command, self.environment, output)

    def end(self, process: CookbookProcess, *, timeout: float = 240) -> Outcome:
        """Wait for a cookbook's end."""
        return Outcome(*process.wait(timeout=timeout))

    def folder(self) -> Path:
        """The folder of the newest run."""
        return folders.list_runs(self.state_dir)[-1]

    def report(self) -> dict[str, Any]:
        """The report of the newest run."""
        return json.loads((self.folder() / "report.json").read_text())

    def statuses(self) -> dict[str, str]:
        """Where the nodes of the newest run stand."""
        return {unit["unit"]: unit["status"] for unit in self.report()["units"]}

    def wait_for_event(self, unit: str, step: str, kind: str, *, timeout: float = 60) -> None:
        """Wait until the newest run's journal has an event."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            runs = folders.list_runs(self.state_dir) if self.state_dir.exists() else []
            with suppress(folders.JournalError):  # It may be just being created.
                events = journal.read(runs[-1]).events if runs else []
                if any((event.target, event.step, event.kind) == (unit, step, kind) for event in events):
                    return
            if self._beside and not self._beside.is_alive:
                break
            time.sleep(0.05)
        said = self._beside.said if self._beside else ""
        raise AssertionError(f"{unit} never came to {step}: {kind}. The run said: {said}")

    def kill_at(self, unit: str, step: str, kind: str, *arguments: str, number: int = signal.SIGKILL) -> None:
        """Start a run and kill it when its journal has an event."""
        with self.in_background(*arguments) as process:
            self.wait_for_event(unit, step, kind)
            process.send_signal(number)
            self.end(process, timeout=30)

    # What the fleet itself says

    def node(self, name: str) -> dict[str, Any]:
        """A node, as the API has it."""
        return self.lab.api().request("GET", f"/api/v1/nodes/{name}")

    def cordon(self, name: str, *, on: bool) -> None:
        """Cordon or uncordon a node, as another operator would."""
        self.patch_node(name, {"spec": {"unschedulable": on or None}})

    def patch_node(self, name: str, patch: dict[str, Any]) -> None:
        """Change a node, as another operator would."""
        flags = ["node", name, "--type=merge", "-p", json.dumps(patch)]
        subprocess.run(["kubectl", "patch", *flags], env=self.environment, check=True, capture_output=True)

    def boot_id(self, host: str) -> str:
        """A host's boot id, as the host has it; empty if it is down."""
        with suppress(LabError):
            return self.lab.enter(host, "cat", "/proc/sys/kernel/random/boot_id").strip()
        return ""

    def busiest(self) -> str:
        """The worker with the most pods that a drain has to evict; not the last one, so that another comes after it."""
        pods = self.lab.api().request("GET", f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
        count = Counter(pod["spec"]["nodeName"] for pod in pods if pod["metadata"]["labels"]["app"] != "agent")
        workers = sorted(self.lab.names("worker"))[:-1]
        busiest = max(workers, key=lambda name: count[name])
        assert count[busiest], "there is nothing to drain"
        return busiest

    def silences(self) -> list[str]:
        """The comments of all active silences."""
        return [item["comment"] for item in _alertmanager(self.lab, "GET", "silences") if _is_active(item)]

    def restore(self) -> None:
        """Put the fleet in order, whatever a test has left: no fault, cordon, taint, silence; all workloads Ready."""
        self.lab.heal()
        self.lab.wait_for_nodes(self.lab.names("worker"), timeout=60)
        self.lab.wait_for_sessions(timeout=60)
        api = self.lab.api()
        for node in api.request("GET", "/api/v1/nodes")["items"]:
            if _is_marked(node):
                self.patch_node(node["metadata"]["name"], _CLEAN)
        self.end_silences()
        with suppress(ApiError):
            api.request("DELETE", LEASE)  # Of a run that was killed and not resumed.
        workload.create(self.lab)

    def end_silences(self) -> None:
        """End all silences, as a colleague would."""
        end_silences(self.lab)

    def ended_silences(self) -> list[str]:
        """The comments of the newest run's silences that have ended."""
        run = self.folder().name
        silences = _alertmanager(self.lab, "GET", "silences")
        return [item["comment"] for item in silences if not _is_active(item) and run in item["comment"]]

    def assert_untouched(self, *names: str) -> None:
        """Nothing of any run is left on nodes: no cordon, no taint, no annotation."""
        for name in names:
            node = self.node(name)
            assert not node["spec"].get("unschedulable"), f"{name} is cordoned"
            taints = [taint["key"] for taint in node["spec"].get("taints", [])]
            assert "fleet-cookbooks/pending-maintenance" not in taints, f"{name} is tainted"
            assert "fleet-cookbooks/maintenance" not in node["metadata"]["annotations"], f"{name} is annotated"

    def assert_held(self, name: str) -> None:
        """A node is closed and silenced, and says why."""
        node = self.node(name)
        assert node["spec"].get("unschedulable"), f"{name} is not cordoned"
        assert "fleet-cookbooks/maintenance" in node["metadata"]["annotations"]
        assert any(comment.endswith(f" - {name}") for comment in self.silences()), f"{name} is not silenced"


class Watcher:
    """Looks at the fleet several times a second, and remembers the worst it saw."""

    def __init__(self, lab: Lab) -> None:
        self._api = lab.api()
        self._rows = {host.name: str(host.row) for host in lab.hosts.values() if host.role == "worker"}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.looks = 0
        self.most_unavailable: set[str] = set()
        self.most_rows: set[str] = set()
        self.found_cordoned: set[str] = set()
        self.boots: dict[str, set[str]] = defaultdict(set)
        self.least_ready: dict[str, int] = {name: deployment.replicas for name, deployment in DEPLOYMENTS.items()}
        self.evicted: dict[str, str] = {}
        self.pods: set[str] = set()

    def __enter__(self) -> "Watcher":
        self.found_cordoned = {node["metadata"]["name"] for node in self._nodes() if _cordoned(node)}
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _nodes(self) -> list[dict[str, Any]]:
        return self._api.request("GET", "/api/v1/nodes")["items"]

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK):
            try:
                self._look()
            except TROUBLE:
                continue

    def _look(self) -> None:
        nodes = self._nodes()
        gone = {node["metadata"]["name"] for node in nodes if _cordoned(node) or not _ready(node)}
        if len(gone) > len(self.most_unavailable):
            self.most_unavailable = gone
        rows = {self._rows[name] for name in gone - self.found_cordoned}
        if len(rows) > len(self.most_rows):
            self.most_rows = rows
        for node in nodes:
            self.boots[node["metadata"]["name"]].add(node["status"]["nodeInfo"]["bootID"])
        ready: dict[str, int] = defaultdict(int)
        for pod in self._api.request("GET", f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]:
            app = pod["metadata"]["labels"]["app"]
            self.pods.add(pod["metadata"]["uid"])
            if app == "agent":
                continue
            if "deletionTimestamp" in pod["metadata"]:
                self.evicted[pod["metadata"]["uid"]] = pod["metadata"]["name"]
            elif _ready(pod):
                ready[app] += 1
        for app, least in self.least_ready.items():
            self.least_ready[app] = min(least, ready[app])
        self.looks += 1


class RouterWatcher:
    """Looks at the routers' own state several times a second, and remembers which nodes were without sessions."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._api = lab.api()
        self._workers = {
            str(address): host.name
            for host in lab.hosts.values()
            if host.role == "worker"
            for address in (host.ipv4, host.ipv6)
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.looks = 0
        self.most_without_sessions: set[str] = set()
        self.without_sessions_in_service: set[str] = set()

    def __enter__(self) -> "RouterWatcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK):
            try:
                self._look()
            except (*TROUBLE, LabError):
                continue

    def _look(self) -> None:
        without = self._without()
        if len(without) > len(self.most_without_sessions):
            self.most_without_sessions = without
        # Of sessions that were down the nodes are asked for afterwards, and the sessions once more: down all the while.
        nodes = self._api.request("GET", "/api/v1/nodes")["items"] if without else []
        serving = {node["metadata"]["name"] for node in nodes if not _cordoned(node)} & without
        if serving:
            self.without_sessions_in_service |= serving & self._without()
        self.looks += 1

    def _without(self) -> set[str]:
        return {
            self._workers[address]
            for (_, address), session in self._lab.sessions().items()
            if address in self._workers and session["state"] != "Established"
        }


def _is_active(silence: dict[str, Any]) -> bool:
    return bool(silence["status"]["state"] == "active")


def _is_marked(node: dict[str, Any]) -> bool:
    """Whether a run or a test has left something on a node."""
    return bool(node["spec"].keys() & _CLEAN["spec"].keys() or _ANNOTATION in node["metadata"]["annotations"])


def _cordoned(node: dict[str, Any]) -> bool:
    return bool(node["spec"].get("unschedulable"))


def _ready(item: dict[str, Any]) -> bool:
    conditions = item["status"].get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def end_silences(lab: Lab) -> None:
    """End all silences, as a colleague would."""
    for member in lab.names("alertmanager"):
        for item in _alertmanager(lab, "GET", "silences", member):
            if _is_active(item):
                with suppress(HTTPError):  # It has ended meanwhile: the other member has told of it.
                    _alertmanager(lab, "DELETE", f"silence/{item['id']}", member)


def heal_one(lab: Lab, host: str, fault: str) -> None:
    """Undo one fault of a host that has others, which it keeps."""
    (lab.paths.host(host).faults / fault).unlink()
    if FAULTS[fault].heal:
        lab.exec(host, FAULTS[fault].heal)


def _alertmanager(lab: Lab, method: str, path: str, member: str = "") -> Any:
    host = lab.hosts[member or lab.names("alertmanager")[0]]
    request = urllib.request.Request(f"http://{host.ipv4}:{PORT}/api/v2/{path}", method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read()
        return json.loads(text) if text else None


def eventually(check: Callable[[], bool], *, within: float = 60.0) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + within
    while not check():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.1)
