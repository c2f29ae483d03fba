"""Runs the kubelet: ``python3 -m kubelet SETTINGS``.

One thread reads the watch; everything else happens in the main thread, in the order of due times.
"""

import heapq
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

from . import faults
from .api import TROUBLE, Api, ApiError, Json
from .faults import Faults
from .node import Node
from .pods import Pods

_LEASE = 3.0
_STATUS = 10.0
_FAULTS = 1.0
_RETRY = 1.0
_RUNTIME = 2.0
"""Seconds from the kubelet's start until the node is Ready: a container runtime takes its time as well."""

_FAULTS_FOLDER = Path("/run/fleet-lab/faults")
_STATE = Path("/run/kubelet/pods")

Event = tuple[str, Json]


class Kubelet:
    """The main loop.

    Args:
        settings: see :class:`~.node.Node` and :class:`~.pods.Pods`.
    """

    def __init__(self, settings: Json) -> None:
        self._settings = settings
        self._api = Api(settings)
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._faults = Faults(_FAULTS_FOLDER)
        self._node = Node(self._api, settings)
        self._pods = Pods(self._api, settings, self._faults, _STATE, self._later, time.monotonic)
        self._runtime_up = False

    def run(self) -> None:
        """Register the node, then work for ever."""
        self._faults.refresh()
        self._until_done(self._node.register)
        self._until_done(self._report)
        threading.Thread(target=self._watch, daemon=True).start()
        self._every(_LEASE, self._node.renew_lease)
        self._every(_STATUS, self._report)
        self._every(_FAULTS, self._look_at_faults)
        self._later(_RUNTIME, self._runtime_is_up)
        while True:
            try:
                kind, body = self._events.get(timeout=max(0.0, self._due[0][0] - time.monotonic()))
            except Empty:
                heapq.heappop(self._due)[2]()
                continue
            if kind == "LIST":
                self._pods.replace(body["items"])
            elif kind == "DELETED":
                self._pods.remove(body)
            else:
                self._pods.update(body)

    def _until_done(self, work: Callable[[], None]) -> None:
        while not self._try(work):
            time.sleep(_RETRY)

    def _try(self, work: Callable[[], None]) -> bool:
        try:
            work()
        except TROUBLE as error:
            print(f"{getattr(work, '__name__', work)}: {error}", flush=True)
            return False
        return True

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._number), work))

    def _every(self, seconds: float, work: Callable[[], None]) -> None:
        def again() -> None:
            self._later(seconds if self._try(work) else min(seconds, _RETRY), again)

        self._later(0, again)

    def _runtime_is_up(self) -> None:
        self._runtime_up = True
        self._until_done(self._report)

    def _report(self) -> None:
        if faults.NOT_READY in self._faults:
            self._node.report(ready=False, message="container runtime is down (injected fault)")
        elif not self._runtime_up:
            self._node.report(ready=False, message="container runtime is starting")
        else:
            self._node.report(ready=True, message="kubelet is posting ready status")

    def _look_at_faults(self) -> None:
        if self._faults.refresh():
            self._report()
            self._pods.resync()

    def _watch(self) -> None:
        api = Api(self._settings)
        path = f"/api/v1/pods?fieldSelector=spec.nodeName={self._settings['node']}"
        version = ""
        while True:
            try:
                if not version:
                    answer = api.request("GET", path)
                    self._events.put(("LIST", answer))
                    version = answer["metadata"]["resourceVersion"]
                for event in api.watch(path, version):
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._events.put((event["type"], event["object"]))
            except TROUBLE as error:
                if isinstance(error, ApiError):
                    version = ""
                print(f"watch: {error}", flush=True)
                time.sleep(_RETRY)


if __name__ == "__main__":
    Kubelet(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))).run()
