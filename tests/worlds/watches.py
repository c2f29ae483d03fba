"""Live views of collections, as watches bring them: a little late, and not at all while the API is away."""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from fleet.adapters.k8s.client import JSON, Api
from fleet.adapters.k8s.model import Node, parse_node
from worlds.kubernetes import NODES, Kubernetes
from worlds.timeline import Time

T = TypeVar("T")


class Watch(Generic[T]):
    """A view of a collection of an API in memory."""

    def __init__(
        self,
        time: Time,
        kubernetes: Kubernetes,
        resource: str,
        convert: Callable[[JSON], T],
        key: Callable[[JSON], str],
        *,
        lag: float,
        keep: Callable[[JSON], bool] = lambda item: True,
    ) -> None:
        self._time, self._kubernetes, self._resource = time, kubernetes, resource
        self._convert, self._key, self._keep, self._lag = convert, key, keep, lag
        self._changes = kubernetes.changes.setdefault(resource, [])
        self._seen = len(self._changes)
        self._current = time.now
        items = kubernetes.objects.get(resource, {}).items()
        self._keys = {name: key(item) for name, item in items if keep(item)}
        self._objects = {key(item): convert(item) for _, item in items if keep(item)}

    def __enter__(self) -> "Watch[T]":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self, *, wait: bool = True) -> None:
        """End it."""

    def age(self) -> float:
        if self._kubernetes.is_up:
            self._current = self._time.now
        return self._time.now - max(self._current, self._kubernetes.last_up)

    def snapshot(self) -> Mapping[str, T]:
        """Return what a watch has brought until now."""
        if not self._kubernetes.is_up:
            return dict(self._objects)
        until = self._time.now - self._lag
        while self._seen < len(self._changes) and self._changes[self._seen][0] <= until:
            _, name, item = self._changes[self._seen]
            self._seen += 1
            if (old := self._keys.pop(name, None)) is not None:
                self._objects.pop(old, None)
            if item is not None and self._keep(item):
                self._keys[name] = self._key(item)
                self._objects[self._keys[name]] = self._convert(item)
        return dict(self._objects)


def nodes(time: Time, kubernetes: Kubernetes, *, lag: float) -> Watch[Node]:
    """Return a watch of all nodes."""
    return Watch(time, kubernetes, NODES, parse_node, lambda node: str(node["metadata"]["name"]), lag=lag)


class Following:
    """How steps follow collections of such an API."""

    def __init__(self, time: Time, kubernetes: Kubernetes, *, lag: float) -> None:
        self._time, self._kubernetes, self._lag = time, kubernetes, lag

    def __call__(
        self,
        api: Api,
        path: str,
        convert: Callable[[JSON], T],
        *,
        key: Callable[[JSON], str],
        **query: str | int | bool,
    ) -> Watch[T]:
        api.list_all(path, convert=convert, **query)  # It may be refused, as a real first list may.
        field, _, value = str(query.get("fieldSelector", "")).partition("=")
        resource = path.rpartition("/")[2]

        def keep(item: JSON) -> bool:
            return not field or str(item.get("spec", {}).get(field.removeprefix("spec."), "")) == value

        return Watch(self._time, self._kubernetes, resource, convert, key, lag=self._lag, keep=keep)
