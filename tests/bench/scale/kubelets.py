"""The kubelets of all nodes in one process: heartbeats, pods that start and end, boots.

The lives of pods are those of the lab's kubelet; here many nodes share a few threads and connections.
"""

import contextlib
import heapq
import http.client
import ipaddress
import itertools
import json
import queue
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fleet_lab.guest.kubelet.api import TROUBLE, ApiError
from fleet_lab.guest.kubelet.faults import Faults
from fleet_lab.guest.kubelet.node import now
from fleet_lab.guest.kubelet.pods import Pods

LEASE, STATUS = 10.0, 300.0
"""Seconds between two renewals of a node's Lease, and two reports of its status, as the real kubelet has them."""
_THREADS, _HEARTS = 16, 4

Json = dict[str, Any]


class Api:
    """A connection to the API server; for one thread.

    Args:
        port: of the API server on this machine.
        token: to log in with.
    """

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {token}"}
        self._tls = ssl._create_unverified_context()
        self._connection = self._connect()

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self._port, timeout=60, context=self._tls)

    def request(self, method: str, path: str, body: Json | None = None, kind: str = "application/json") -> Json:
        content = None if body is None else json.dumps(body)
        try:
            response, answer = self._exchange(method, path, content, kind)
        except http.client.RemoteDisconnected:  # it was closed while it was not used
            response, answer = self._exchange(method, path, content, kind)
        if response.status >= 400:
            raise ApiError(response.status, str(answer.get("message")))
        return answer

    def _exchange(
        self, method: str, path: str, content: str | None, kind: str
    ) -> tuple[http.client.HTTPResponse, Json]:
        try:
            self._connection.request(method, path, content, {**self._headers, "Content-Type": kind})
            response = self._connection.getresponse()
            return response, json.loads(response.read())
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise

    def patch(self, path: str, body: Json) -> Json:
        return self.request("PATCH", path, body, "application/strategic-merge-patch+json")

    def lines(self, path: str) -> Any:
        """Yield the lines of a watch until it ends."""
        connection = self._connect()
        with contextlib.closing(connection):
            connection.request("GET", path, headers=self._headers)
            yield from connection.getresponse()


class Worker:
    """A thread that does the work of some kubelets, in the order in which it is due."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        threading.Thread(target=self._work, daemon=True).start()

    def do(self, call: Callable[[], None]) -> None:
        """Have a call made in this thread, soon; from any thread."""
        self._queue.put(call)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Have a call made after some seconds; from this thread."""
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._number), call))

    def _work(self) -> None:
        while True:
            wait = self._due[0][0] - time.monotonic() if self._due else 60.0
            try:
                call = self._queue.get(timeout=wait) if wait > 0 else heapq.heappop(self._due)[2]
            except queue.Empty:
                continue
            try:
                call()
            except TROUBLE as error:
                print(f"{call}: {error!r}", flush=True)


class Kubelet:
    """One node; everything but :meth:`down`, :meth:`up` and the heartbeats happens in its worker's thread.

    Heartbeats have threads of their own: whatever else is to be done, they are in time.
    """

    def __init__(self, worker: Worker, heart: Worker, name: str, index: int, row: str, folder: Path) -> None:
        self.name = name
        self.addresses = (
            f"10.{64 + index // 65536}.{index // 256 % 256}.{index % 256}",
            f"2620:0:861:{index // 65536 + 1:x}::{index % 65536 + 1:x}",
        )
        self.row = row
        self._worker, self._heart, self._boot_id = worker, heart, ""
        self._path = f"/api/v1/nodes/{name}"
        self._since = now()
        self._is_up = self._is_ready = True
        self._lease: Json | None = None
        self._manifests: dict[str, Json] = {}
        faults = folder / "faults"
        faults.mkdir(parents=True, exist_ok=True)
        settings = {"addresses": self.addresses, "pods_ipv4": ipaddress.ip_network("10.128.0.0/24")}
        self._pods = Pods(worker.api, settings, Faults(faults), folder / name, worker.later, time.monotonic)  # type: ignore[arg-type]

    def boot(self, boot_id: str) -> None:
        """Note the boot that the host runs, before anything else."""
        self._boot_id = boot_id

    def register(self) -> None:
        labels = {"kubernetes.io/hostname": self.name, "topology.kubernetes.io/zone": self.row}
        self._worker.api.request("POST", "/api/v1/nodes", {"metadata": {"name": self.name, "labels": labels}})
        self._report()

    def beat(self, offset: float) -> None:
        """Begin to renew the Lease, and to report; ``offset`` keeps nodes from doing it all at once."""
        self._heart.do(lambda: self._heart.later(LEASE * offset, self._keep_renewing))
        self._worker.later(STATUS * offset, self._keep_reporting)

    def take(self, kind: str, manifest: Json) -> None:
        """Take in what the watch tells of a pod."""
        uid = manifest["metadata"]["uid"]
        if kind == "DELETED":
            self._manifests.pop(uid, None)
            self._pods.remove(manifest)
        else:
            self._manifests[uid] = manifest
            if self._is_up:
                self._pods.update(manifest)

    def down(self) -> None:
        """End with the host, from any thread."""
        self._worker.do(self._down)

    def up(self, boot_id: str, ready: float) -> None:
        """Start with the host, from any thread; Ready after some seconds."""
        self._worker.do(lambda: self._up(boot_id, ready))

    def _down(self) -> None:
        self._is_up = False
        self._pods.replace([])

    def _up(self, boot_id: str, ready: float) -> None:
        self._boot_id, self._is_up = boot_id, True
        self._turn(ready=False)
        self._pods.replace(self._manifests.values())

        def is_ready() -> None:
            if self._is_up and self._boot_id == boot_id:
                self._turn(ready=True)

        self._worker.later(ready, is_ready)

    def _turn(self, *, ready: bool) -> None:
        if ready != self._is_ready:
            self._is_ready, self._since = ready, now()
        self._report()

    def _report(self) -> None:
        def condition(kind: str, value: bool) -> Json:
            since = self._since if kind == "Ready" else "2026-01-01T00:00:00Z"
            return {
                "type": kind,
                "status": str(value),
                "reason": "Simulated",
                "message": "",
                "lastHeartbeatTime": now(),
                "lastTransitionTime": since,
            }

        pressures = ("MemoryPressure", "DiskPressure", "PIDPressure")
        resources = {"cpu": "64", "memory": "256Gi", "pods": "110"}
        status = {
            "addresses": [{"$patch": "replace"}, *({"type": "InternalIP", "address": each} for each in self.addresses)],
            "allocatable": resources,
            "capacity": resources,
            "conditions": [condition("Ready", self._is_ready), *(condition(kind, False) for kind in pressures)],
            "nodeInfo": {
                "machineID": "",
                "systemUUID": "",
                "bootID": self._boot_id,
                "kernelVersion": "6.1",
                "osImage": "Debian",
                "containerRuntimeVersion": "simulated://1",
                "kubeletVersion": "v1.36.0",
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
        }
        self._worker.api.patch(f"{self._path}/status", {"status": status})

    def _keep_renewing(self) -> None:
        self._heart.later(LEASE, self._keep_renewing)
        if self._is_up:
            self._renew()

    def _keep_reporting(self) -> None:
        self._worker.later(STATUS, self._keep_reporting)
        if self._is_up:
            self._report()

    def _renew(self) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        lease, self._lease = self._lease, None  # read again after any failure
        renewed = {"renewTime": time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())}
        if lease is None:
            spec = {"holderIdentity": self.name, "leaseDurationSeconds": 40, **renewed}
            try:
                self._lease = self._heart.api.request("POST", path, {"metadata": {"name": self.name}, "spec": spec})
            except ApiError as error:
                if error.status != 409:
                    raise
                self._lease = self._heart.api.request("GET", f"{path}/{self.name}")
            return
        lease["spec"] |= renewed
        self._lease = self._heart.api.request("PUT", f"{path}/{self.name}", lease)


class Kubelets:
    """The kubelets of all nodes.

    Args:
        connect: makes a connection to the API server.
        nodes: the row of each node.
        folder: for what the kubelets keep.
    """

    def __init__(self, connect: Callable[[], Api], nodes: Mapping[str, str], folder: Path) -> None:
        self._connect = connect
        hearts = [Worker(connect()) for _ in range(_HEARTS)]
        self._workers = [Worker(connect()) for _ in range(_THREADS)]
        self.nodes = {
            name: Kubelet(self._workers[index % _THREADS], hearts[index % _HEARTS], name, index, row, folder)
            for index, (name, row) in enumerate(nodes.items())
        }
        self._worker_of = {name: self._workers[index % _THREADS] for index, name in enumerate(self.nodes)}
        self.phases: dict[str, tuple[str, bool]] = {}
        """By pod: its node, perhaps none, and whether it is Ready."""
        self.termination: dict[str, float] = {}
        """The longest that an evicted pod of a node takes to end, in seconds."""

    def start(self) -> None:
        """Register all nodes, and begin to look after their pods."""
        done: queue.SimpleQueue[None] = queue.SimpleQueue()
        for number, (name, kubelet) in enumerate(self.nodes.items()):
            worker = self._worker_of[name]

            def register(kubelet: Kubelet = kubelet, number: int = number) -> None:
                kubelet.register()
                kubelet.beat(number % 100 / 100)
                done.put(None)

            worker.do(register)
        for _ in self.nodes:
            done.get(timeout=120)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        api, version = self._connect(), ""
        while True:
            try:
                if not version:
                    answer = api.request("GET", "/api/v1/pods")
                    for item in answer.get("items") or ():
                        self._take("ADDED", item)
                    version = answer["metadata"]["resourceVersion"]
                path = f"/api/v1/pods?watch=1&allowWatchBookmarks=true&timeoutSeconds=300&resourceVersion={version}"
                for line in api.lines(path):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(410, str(event["object"]))
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._take(event["type"], event["object"])
            except TROUBLE as error:
                print(f"watch: {error!r}", flush=True)
                version = ""
                time.sleep(1)

    def _take(self, kind: str, manifest: Json) -> None:
        metadata, node = manifest["metadata"], manifest["spec"].get("nodeName", "")
        conditions = manifest.get("status", {}).get("conditions") or ()
        if kind == "DELETED":
            self.phases.pop(metadata["uid"], None)
        else:
            is_ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
            self.phases[metadata["uid"]] = (node, is_ready)
        if metadata.get("deletionTimestamp") and node:
            seconds = float((metadata.get("annotations") or {}).get("fleet-lab/termination-seconds", 0))
            self.termination[node] = max(seconds, self.termination.get(node, 0.0))
        if node in self.nodes:
            kubelet = self.nodes[node]
            self._worker_of[node].do(lambda: kubelet.take(kind, manifest))
