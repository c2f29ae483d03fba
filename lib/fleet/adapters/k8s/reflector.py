"""A local, current copy of a collection of the API: listed once, then watched in a background thread."""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

from fleet.adapters.k8s.client import JSON, Api
from fleet.adapters.k8s.connection import Query
from fleet.adapters.k8s.errors import ApiUnreachable, KubernetesError

T = TypeVar("T")

_WINDOW = 10.0  # seconds
_RELIST = 300.0  # seconds: heals what a watch cannot see, such as an etcd that was restored
_MAX_PAUSE = 3.0  # seconds between attempts while the API cannot be reached

logger = logging.getLogger(__name__)

T_co = TypeVar("T_co", covariant=True)


class View(Protocol[T_co]):
    """What is known of a collection."""

    def snapshot(self) -> Mapping[str, T_co]:
        """Return all objects by key; the mapping never changes."""

    def age(self) -> float:
        """Return for how many seconds the snapshot may have missed changes."""

    def stop(self, *, wait: bool = True) -> None:
        """End it."""


class Follow(Protocol):
    """Begins to follow a collection, as :class:`Reflector` does; tests hand in others."""

    def __call__(
        self, api: Api, path: str, convert: Callable[[JSON], T], *, key: Callable[[JSON], str], **query: Query
    ) -> View[T]:
        """Return a view that is current already.

        Raises:
            KubernetesError: the collection could not be listed.
        """


def follow(
    api: Api, path: str, convert: Callable[[JSON], T], *, key: Callable[[JSON], str], **query: Query
) -> "Reflector[T]":
    """Begin to follow a collection, with a watch of its own.

    Raises:
        KubernetesError: the collection could not be listed.
    """
    return Reflector(api, path, convert, key=key, on_change=None, window=_WINDOW, **query)


class Reflector(Generic[T]):
    """Follows a collection until it is stopped, through restarts of the API server. Also a context manager.

    Args:
        api: the cluster.
        path: the collection, such as ``/api/v1/nodes``.
        convert: makes a value of an object's JSON.
        key: the key of an object in the snapshot, from its JSON.
        on_change: called after changes, from the background thread; it must be quick, such as ``Event.set``.
        window: seconds of one watch: how often the server proves that it is there.
        query: ``fieldSelector`` and the like.

    Raises:
        KubernetesError: the first list, which is read before the constructor returns, failed.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        convert: Callable[[JSON], T],
        *,
        key: Callable[[JSON], str],
        on_change: Callable[[], None] | None = None,
        window: float = _WINDOW,
        **query: Query,
    ) -> None:
        self._window = window
        self._api, self._path, self._query = api, path, query
        self._convert, self._key = convert, key
        self._on_change = on_change or (lambda: None)
        self._lock = threading.Lock()
        self._objects: dict[str, T] = {}
        self._frozen: Mapping[str, T] | None = None
        self._current = self._listed = 0.0
        self._stop = threading.Event()
        self._version = self._list()
        self._thread = threading.Thread(target=self._follow, name=f"watch {path}", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Reflector[T]":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def snapshot(self) -> Mapping[str, T]:
        """Return all objects by key; the mapping never changes."""
        with self._lock:
            if self._frozen is None:
                self._frozen = MappingProxyType(self._objects.copy())
            return self._frozen

    def age(self) -> float:
        """Return for how many seconds the snapshot may have missed changes.

        Stays below some ten seconds while the API answers, and grows while it does not.
        """
        return time.monotonic() - self._current

    def stop(self, *, wait: bool = True) -> None:
        """End the background thread; the snapshot stays as it is.

        Args:
            wait: until the thread has ended, a second at most.
        """
        self._stop.set()
        if wait:
            self._thread.join(timeout=1.0)

    def _list(self) -> str:
        asked = time.monotonic()

        def convert(item: JSON) -> tuple[str, T]:
            return self._key(item), self._convert(item)

        pairs, version = self._api.list_all(self._path, convert=convert, **self._query)
        with self._lock:
            self._objects = dict(pairs)
            self._frozen = None
        self._current = self._listed = asked
        return version

    def _follow(self) -> None:
        pause, listed = 0.1, True
        while not self._stop.is_set():
            try:
                if not listed or time.monotonic() - self._listed > _RELIST:
                    self._version = self._list()
                    listed = True
                    self._on_change()
                self._watch()
                self._current = time.monotonic()  # the server kept the watch to its end: nothing was missed
                pause = 0.1
            except Exception as error:
                # An expired version needs a new list; anything unexpected in an object must not end the thread either.
                listed = listed and isinstance(error, ApiUnreachable)
                level = logging.INFO if isinstance(error, KubernetesError) else logging.ERROR
                logger.log(level, "The watch of %s is interrupted: %s", self._path, error)
                self._stop.wait(pause * random.uniform(0.7, 1.3))  # noqa: S311 (spreads clients, no secret)
                pause = min(pause * 2, _MAX_PAUSE)

    def _watch(self) -> None:
        events = self._api.watch(self._path, self._version, self._stop, window=self._window, **self._query)
        for kind, item in events:
            if kind != "BOOKMARK":
                key = self._key(item)
                with self._lock:
                    if kind == "DELETED":
                        self._objects.pop(key, None)
                    else:
                        self._objects[key] = self._convert(item)
                    self._frozen = None
            self._version = item["metadata"]["resourceVersion"]
            self._current = time.monotonic()
            if kind != "BOOKMARK":
                self._on_change()
