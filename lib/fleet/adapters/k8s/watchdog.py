"""A watchdog over the API's address: what its clients would have seen while a run works on the control plane.

It lists, writes and watches a ConfigMap of its own all the time, and tries nothing twice: a connection that is refused
or reset, an answer that does not come within 5 s and every status that is no success count as failures. So does 429:
the few requests a second that are made here are no load, so an API that turns them away turns its clients away as well.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fleet.adapters.k8s.client import JSON, Api
from fleet.adapters.k8s.errors import ApiError, KubernetesError, WatchBroken
from fleet.adapters.k8s.tally import Report, Tally

NAME = "fleet-watchdog"
"""The ConfigMap, in the namespace of the run's Lease."""

_TIMEOUT = 5.0  # seconds to connect, and for an answer
_LISTS = 0.2  # seconds from one list to the next
_WRITES = 0.5  # seconds from one write to the next
_KEPT = 4  # writes over one connection: an idle one may be closed by its server in the moment that it is used
_WINDOW = 300.0  # seconds of one watch, unless it ends with its apiserver
_RETRY = 0.2  # seconds from the end of a watch, or an attempt at one, to the next
_FAREWELL = 1.0  # seconds to remove the ConfigMap
_STEADY = ("list", "write")
_GONE = 410
_OURS = {"fieldSelector": f"metadata.name={NAME}"}
_LABELS = {"app.kubernetes.io/managed-by": "fleet-cookbooks"}

logger = logging.getLogger(__name__)


def left_behind(api: Api, namespace: str, run: str) -> str:
    """Return the uid of the ConfigMap that the watchdog of a killed run has left; nothing if there is none.

    Args:
        api: the cluster's API.
        namespace: where its ConfigMap is kept.
        run: the run's id.

    Raises:
        KubernetesError: the API did not answer.
    """
    found = api.find(_path(namespace))
    if found is None:
        return ""
    ours = _is_watchdogs(found) and (found.get("data") or {}).get("run") == run
    return str(found["metadata"]["uid"]) if ours else ""


def remove(api: Api, namespace: str, uid: str) -> None:
    """Remove a watchdog's ConfigMap.

    Args:
        api: the cluster's API.
        namespace: where it is kept.
        uid: that of the ConfigMap; another one of that name is left alone.

    Raises:
        KubernetesError: it is still there, or the API did not answer.
    """
    api.delete(_path(namespace), {"preconditions": {"uid": uid}})


def _path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/{NAME}"


def _is_watchdogs(found: JSON) -> bool:
    return _LABELS.items() <= (found["metadata"].get("labels") or {}).items()


class Watchdog:
    """Probes a cluster's API from :meth:`start` to :meth:`stop`, in threads of its own.

    Args:
        kubeconfig: leads to the address that clients use.
        namespace: where its ConfigMap is kept.
        run: the run's id, which the ConfigMap names. One run at a time may have a watchdog: the one with the lock.

    Raises:
        KubernetesError: the kubeconfig is not usable.
    """

    def __init__(self, kubeconfig: Path, namespace: str, run: str) -> None:
        self._run = run
        self._collection = f"/api/v1/namespaces/{namespace}/configmaps"
        self._namespace = namespace
        self._path = _path(namespace)
        self._main = Api.from_kubeconfig(kubeconfig, timeout=_TIMEOUT)
        self._lister, self._writer, self._watcher = (
            Api.from_kubeconfig(kubeconfig, timeout=_TIMEOUT, patience=0.0) for _ in range(3)
        )
        self._last = Api.from_kubeconfig(kubeconfig, timeout=_FAREWELL, patience=0.0)
        self._tally = Tally(_STEADY)
        self._stop = threading.Event()
        self._cut = threading.Event()  # ends the watch that is open
        self._uid = ""
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Make the ConfigMap, or take over the one that a crashed run has left, and begin.

        Raises:
            KubernetesError: the API cannot be used, or there is a ConfigMap of that name that is not a watchdog's.
        """
        made = self._prepare(self._main)
        self._uid = made["metadata"]["uid"]
        self._tally = Tally(_STEADY)
        loops: dict[str, Callable[[], None]] = {
            "list": lambda: self._repeat("list", _LISTS, self._list),
            "write": lambda: self._repeat("write", _WRITES, self._write),
            "watch": lambda: self._follow(made["metadata"]["resourceVersion"]),
            "overdue": self._look_after_the_watch,
        }
        self._threads = [
            threading.Thread(target=loop, name=f"watchdog-{name}", daemon=True) for name, loop in loops.items()
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the probes and remove the ConfigMap if possible; both take a second or so at most."""
        self._tally.end()
        self._stop.set()
        self._cut.set()
        give_up = time.monotonic() + 0.5
        for thread in self._threads:  # one that waits for an answer ends with it, and counts nothing
            thread.join(max(0.0, give_up - time.monotonic()))
        if self._uid:
            try:
                remove(self._last, self._namespace, self._uid)
            except KubernetesError as error:
                if isinstance(error, ApiError) and error.status == 404:
                    return  # Somebody has removed it already.
                logger.warning("The watchdog's ConfigMap %s is left behind: %s", self._path, error)

    def report(self) -> Report:
        """Return what was seen since the start."""
        return self._tally.report()

    def clean_for(self) -> float:
        """Return the seconds since the last failure, or since the start; 0 while answers fail to come."""
        return self._tally.clean_for()

    def _prepare(self, api: Api) -> JSON:
        """Return the ConfigMap, made or taken over."""
        data = {"run": self._run, "write": "0"}
        found = api.find(self._path)
        if found is None:
            return api.create(self._collection, {"metadata": {"name": NAME, "labels": _LABELS}, "data": data})
        if not _is_watchdogs(found):
            raise KubernetesError(
                f"The ConfigMap {self._path} is not the watchdog's: it lacks the label "
                "app.kubernetes.io/managed-by=fleet-cookbooks. Rename it, or set lease.namespace to another namespace."
            )
        return api.patch(self._path, {"data": data})

    def _repeat(self, kind: str, pause: float, probe: Callable[[int], None]) -> None:
        """Probe at a fixed rate; what was missed while an answer was waited for is not made up for."""
        number, due = 0, time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + pause, time.monotonic())
            number += 1
            try:
                probe(number)
            except Exception as error:
                self._failed(kind, error)
            else:
                self._tally.succeeded(kind)

    def _list(self, _: int) -> None:
        self._lister.disconnect()
        if not self._lister.get(self._collection, **_OURS).get("items"):
            raise KubernetesError(f"the list of {self._collection} lacks {NAME}")

    def _write(self, number: int) -> None:
        if number % _KEPT == 0:
            self._writer.disconnect()
        self._writer.patch(self._path, {"data": {"run": self._run, "write": str(number)}})
        self._tally.wrote(number)

    def _look_after_the_watch(self) -> None:
        """End a watch that does not show what it should; the next one may."""
        while not self._stop.wait(0.5):
            if self._tally.overdue():
                self._cut.set()

    def _follow(self, version: str) -> None:
        """Watch, from the last resource version seen if a watch ends; list only if that version has expired."""
        while True:
            self._cut.clear()
            if self._stop.is_set():  # which is set before the watch is cut
                return
            try:
                version = version or self._list_anew()
                for event_version, item in self._events(version):
                    version = event_version
                    self._show(item)
            except Exception as error:
                if isinstance(error, ApiError) and error.status == _GONE:
                    version = ""
                else:
                    self._failed("watch", error)
            self._stop.wait(_RETRY)

    def _events(self, version: str) -> Iterator[tuple[str, JSON]]:
        """Return the events of one watch, and count it; that it ends is no failure."""
        began = time.monotonic()
        try:
            for _, item in self._watcher.watch(self._collection, version, self._cut, window=_WINDOW, **_OURS):
                yield item["metadata"]["resourceVersion"], item
        except WatchBroken as error:
            logger.debug("The watchdog's watch ended: %s", error)
        self._tally.succeeded("watch")
        if time.monotonic() - began < _WINDOW:
            self._tally.reconnected()

    def _list_anew(self) -> str:
        found = self._watcher.get(self._collection, **_OURS)
        for item in found["items"]:
            self._show(item)
        return str(found["metadata"]["resourceVersion"])

    def _show(self, item: JSON) -> None:
        data = item.get("data") or {}  # a bookmark has none
        if data.get("run") == self._run:
            self._tally.showed(int(data["write"]))

    def _failed(self, kind: str, error: Exception) -> None:
        self._tally.failed(kind, str(error) if isinstance(error, KubernetesError) else repr(error))
        logger.info("The watchdog's %s failed: %s", kind, error)
