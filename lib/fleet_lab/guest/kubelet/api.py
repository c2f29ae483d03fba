"""A small client of the Kubernetes API: JSON over one TLS connection, reopened when it breaks."""

import http.client
import json
import ssl
import urllib.parse
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

_TIMEOUT = 5.0
_WATCH_SECONDS = 10
"""How long one watch request lasts: a connection that died unnoticed is replaced not much later, and an apiserver that
stops, which waits for watches over HTTP/1.1, need not wait long."""


class ApiError(Exception):
    """The API answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


TROUBLE = (OSError, http.client.HTTPException, ApiError, ValueError)
"""What calls raise: nothing that lasts; the caller tries again later."""


class Api:
    """A connection to the API; for one thread.

    Args:
        settings: ``server``, and the files ``ca``, ``certificate`` and ``key``.
    """

    def __init__(self, settings: Json) -> None:
        self._tls = ssl.create_default_context(cafile=settings["ca"])
        self._tls.load_cert_chain(settings["certificate"], settings["key"])
        self._address = urllib.parse.urlsplit(settings["server"])
        self._connection: http.client.HTTPSConnection | None = None

    def _connect(self, timeout: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            str(self._address.hostname), self._address.port, timeout=timeout, context=self._tls
        )

    def request(self, method: str, path: str, body: Json | None = None, kind: str = "application/json") -> Json:
        """Make a call.

        Args:
            method: of HTTP.
            path: with the query.
            body: sent as JSON.
            kind: the body's content type.

        Raises:
            ApiError: the API refused.
            OSError: it could not be reached.
        """
        used_before = self._connection is not None
        try:
            status, answer = self._exchange(method, path, body, kind)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            if not used_before:
                raise
            status, answer = self._exchange(method, path, body, kind)  # it was closed while it was not used
        if status >= 400:
            raise ApiError(status, str(answer.get("message")))
        return answer

    def _exchange(self, method: str, path: str, body: Json | None, kind: str) -> tuple[int, Json]:
        if self._connection is None:
            self._connection = self._connect(_TIMEOUT)
        try:
            content = None if body is None else json.dumps(body)
            self._connection.request(method, path, content, {"Content-Type": kind})
            response = self._connection.getresponse()
            return response.status, dict(json.loads(response.read()))
        except (OSError, http.client.HTTPException, ValueError):
            self._connection.close()
            self._connection = None
            raise

    def patch(self, path: str, body: Json) -> Json:
        """Apply a strategic merge patch."""
        return self.request("PATCH", path, body, "application/strategic-merge-patch+json")

    def watch(self, path: str, resource_version: str) -> Iterator[Json]:
        """Yield the events of one watch request; it ends by itself.

        Args:
            path: with a query.
            resource_version: where to start.

        Raises:
            ApiError: the version is too old (410), or the API refused.
            OSError: the connection broke.
        """
        connection = self._connect(_WATCH_SECONDS + 10.0)
        try:
            connection.request(
                "GET",
                f"{path}&watch=1&allowWatchBookmarks=true&timeoutSeconds={_WATCH_SECONDS}"
                f"&resourceVersion={resource_version}",
            )
            response = connection.getresponse()
            if response.status >= 400:
                raise ApiError(response.status, response.read().decode(errors="replace"))
            for line in response:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError(int(event["object"].get("code", 500)), str(event["object"].get("message")))
                yield event
        finally:
            connection.close()
