"""A client of the Kubernetes API that speaks plain JSON.

Authentication, TLS and kubeconfig files are those of the official client; its models are not used, as building them
takes longer than everything else on a large cluster.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar, overload

from fleet.adapters.k8s import kubeconfig
from fleet.adapters.k8s.connection import Connection, Query
from fleet.adapters.k8s.errors import ApiError, KubernetesError
from fleet.clock import CLOCK, Clock

__all__ = ["JSON", "Api", "ApiError", "KubernetesError"]

JSON = dict[str, Any]
T = TypeVar("T")

PAGE = 500
"""Objects asked for at once; the limit that kubectl uses."""

_GONE = 410

logger = logging.getLogger(__name__)


class Api:
    """A cluster's API. May be used from several threads at once.

    Args:
        client: the official client, which holds the server's address and the credentials.
        timeout: seconds a call may take to connect, and between two pieces of its answer.
        patience: seconds for which calls are repeated when the API cannot be reached or is too busy.
        clock: the time.
        page: how many objects are asked for at once.
    """

    def __init__(
        self,
        client: Any,
        *,
        timeout: float = 10.0,
        patience: float = 10.0,
        clock: Clock = CLOCK,
        page: int = PAGE,
    ) -> None:
        self._connection = Connection(client, timeout=timeout, patience=patience, clock=clock)
        self.clock = clock
        self._page = page
        self.server = self._connection.server

    @classmethod
    def from_kubeconfig(
        cls,
        path: Path,
        *,
        server: str | None = None,
        timeout: float = 10.0,
        patience: float = 10.0,
        page: int = PAGE,
    ) -> "Api":
        """Make a client from a kubeconfig file and its current context.

        Args:
            path: the file.
            server: the URL to ask instead of the file's; its certificate must be for this one.
            timeout: seconds a call may take to connect, and between two pieces of its answer.
            patience: seconds for which calls are repeated when the API cannot be reached or is too busy.
            page: how many objects are asked for at once.

        Raises:
            KubernetesError: the file is missing, unreadable or no kubeconfig.
        """
        return cls(kubeconfig.load(path, server), timeout=timeout, patience=patience, page=page)

    def get(self, path: str, **query: Query) -> JSON:
        """Return what is at a path, such as ``/api/v1/nodes/worker1``.

        Raises:
            ApiError: the API refused, 404 included.
            ApiUnreachable: there was no answer within the client's patience.
        """
        return self._connection.call("GET", path, query)

    def find(self, path: str) -> JSON | None:
        """Return what is at a path, or None where there is nothing.

        Raises:
            ApiError: the API refused, otherwise than by 404.
            ApiUnreachable: there was no answer within the client's patience.
        """
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    @overload
    def list_all(self, path: str, *, convert: None = None, **query: Query) -> tuple[list[JSON], str]: ...

    @overload
    def list_all(self, path: str, *, convert: Callable[[JSON], T], **query: Query) -> tuple[list[T], str]: ...

    def list_all(
        self, path: str, *, convert: Callable[[JSON], Any] | None = None, **query: Query
    ) -> tuple[list[Any], str]:
        """Return a whole collection, read page by page, and its resource version.

        Items of a list carry neither ``kind`` nor ``apiVersion``.

        Args:
            path: the collection, such as ``/api/v1/pods``.
            convert: applied to each item as its page arrives, so that a large collection's JSON is never held whole.
            query: ``fieldSelector``, ``labelSelector`` and the like.

        Raises:
            ApiError: the API refused.
            ApiUnreachable: there was no answer within the client's patience.
        """
        limit = self._page
        while True:
            try:
                return self._list_pages(path, query, limit, convert)
            except ApiError as error:
                if error.status != _GONE or not limit:
                    raise
                # The pages' snapshot was compacted away meanwhile. All at once cannot expire.
                logger.info("The list of %s expired while it was read, reading it at once", path)
                limit = 0

    def _list_pages(
        self, path: str, query: Mapping[str, Query], limit: int, convert: Callable[[JSON], Any] | None
    ) -> tuple[list[Any], str]:
        items: list[Any] = []
        token = ""
        while True:
            page = self._connection.call("GET", path, {**query, "limit": limit, "continue": token})
            found = page.get("items") or []
            items.extend(map(convert, found) if convert else found)
            token = page["metadata"].get("continue", "")
            if not token:
                return items, str(page["metadata"]["resourceVersion"])

    def watch(
        self, path: str, resource_version: str, stop: threading.Event, *, window: float = 30.0, **query: Query
    ) -> Iterator[tuple[str, JSON]]:
        """Follow a collection's changes over one connection, for a while.

        Ends without an error when ``stop`` is set (within half a second or so) and when the window is over; then a new
        watch may go on from the last resource version seen. ``BOOKMARK`` events carry nothing but one.

        Args:
            path: the collection.
            resource_version: where to start; changes after it are reported.
            stop: ends the watch early.
            window: seconds after which the server ends the watch.
            query: ``fieldSelector``, ``labelSelector`` and the like.

        Yields:
            The type (``ADDED``, ``MODIFIED``, ``DELETED``, ``BOOKMARK``) and the object.

        Raises:
            ApiError: the API refused; status 410 if the resource version is too old, so that a new list is needed.
            WatchBroken: the connection broke after the API had accepted the watch.
            ApiUnreachable: the API could not be asked.
        """
        parameters: dict[str, Query] = {
            **query,
            "watch": True,
            "resourceVersion": resource_version,
            "allowWatchBookmarks": True,
            "timeoutSeconds": max(1, round(window)),
        }
        return self._connection.watch(path, parameters, stop, window=window)

    def create(self, path: str, body: JSON, **query: Query) -> JSON:
        """Create an object; ``path`` is its collection, or a subresource such as ``…/pods/p/eviction``.

        A creation is not repeated once it may have reached the API.

        Raises:
            ApiError: the API refused.
            ApiUnreachable: there was no answer; the object may exist nevertheless.
        """
        return self._connection.call("POST", path, query, body)

    def patch(self, path: str, body: JSON, **query: Query) -> JSON:
        """Apply a JSON merge patch; with ``metadata.resourceVersion`` in it, only to that version (409 otherwise).

        Raises:
            ApiError: the API refused.
            ApiUnreachable: there was no answer within the client's patience.
        """
        return self._connection.call("PATCH", path, query, body)

    def replace(self, path: str, body: JSON, **query: Query) -> JSON:
        """Replace an object.

        Raises:
            ApiError: the API refused.
            ApiUnreachable: there was no answer within the client's patience.
        """
        return self._connection.call("PUT", path, query, body)

    def delete(self, path: str, body: JSON | None = None, **query: Query) -> JSON:
        """Delete an object; ``body`` may be ``DeleteOptions``.

        Raises:
            ApiError: the API refused.
            ApiUnreachable: there was no answer within the client's patience.
        """
        return self._connection.call("DELETE", path, query, body)

    def version(self) -> str:
        """Return the server's version, such as ``v1.20.2``."""
        return str(self.get("/version")["gitVersion"])

    def clock_difference(self) -> float | None:
        """Return by how many seconds this host's clock is ahead of the server's, to about one; negative if behind.

        By the ``Date`` of an answer, which has whole seconds; None if an answer has none.

        Raises:
            ApiUnreachable: there was no answer; it is asked for once only.
        """
        before = self.clock.time()
        answer = self._connection.send("GET", "/version", {})
        ours = (before + self.clock.time()) / 2
        try:
            return ours - parsedate_to_datetime(answer.headers["Date"]).timestamp() - 0.5
        except (KeyError, TypeError, ValueError):
            return None

    def readyz(self) -> tuple[int, tuple[str, ...]]:
        """Return the HTTP status of ``/readyz``, 200 if the server is ready, and the names of its checks that fail.

        Raises:
            ApiUnreachable: there was no answer; it is asked for once only.
        """
        answer = self._connection.send("GET", "/readyz", {"verbose": True})
        lines = answer.data.decode(errors="replace").splitlines()
        return answer.status, tuple(line[3:].split(" ")[0] for line in lines if line.startswith("[-]"))

    def not_ready(self) -> str:
        """Return the checks of ``/readyz`` that fail, or an empty string if the server is ready.

        Raises:
            ApiUnreachable: there was no answer.
        """
        status, failing = self.readyz()
        return "" if status == 200 else ", ".join(failing) or f"status {status}"

    def disconnect(self) -> None:
        """Close the connections that are kept for further calls, so that the next one makes a new connection."""
        self._connection.close()

    def serves(self, group_version: str) -> bool:
        """Tell whether the server has a version of an API group, such as ``policy/v1``."""
        return self.find(f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}") is not None
