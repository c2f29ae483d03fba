"""Requests to one server of the Kubernetes API, over connections that are kept, and what may safely be repeated.

What may be repeated is repeated when the connection breaks, on a new connection: the API's address moves when one of
its servers dies. Every request has a timeout.
"""

import json
import logging
import random
import ssl
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import urllib3

from fleet.adapters.k8s.errors import (
    ApiUnreachable,
    KubernetesError,
    UntrustedCertificate,
    WatchBroken,
    is_busy,
    refusal,
    status_error,
)
from fleet.clock import Clock
from fleet.text import network

Query = str | int | bool

logger = logging.getLogger(__name__)


class Connection:
    """The way to one server; may be used from several threads at once.

    Args:
        client: the official client, which holds the server's address and the credentials.
        timeout: seconds a request may take to connect, and between two pieces of its answer.
        patience: seconds for which requests are repeated when the server cannot be reached or is too busy.
        clock: the time.
    """

    def __init__(self, client: Any, *, timeout: float, patience: float, clock: Clock) -> None:
        self._client = client
        self._pool: urllib3.PoolManager = client.rest_client.pool_manager
        self._timeout = timeout
        self._patience = patience
        self._clock = clock
        self.server: str = client.configuration.host.rstrip("/")

    def close(self) -> None:
        """Close the connections that are kept, so that the next request makes a new one."""
        self._pool.clear()

    def call(
        self, method: str, path: str, query: Mapping[str, Query], body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Make a call, and repeat it within the patience if that is safe and may help.

        Raises:
            ApiError: the API refused.
            ApiUnreachable: there was no answer.
        """
        give_up = self._clock.monotonic() + self._patience
        pause = 0.1
        while True:
            try:
                response = self.send(method, path, query, body)
            except ApiUnreachable as error:
                if self._clock.monotonic() + pause > give_up or (method == "POST" and not _never_sent(error.__cause__)):
                    raise
                wait = pause
                logger.debug("%s, trying again", error)
            else:
                if 200 <= response.status < 300:
                    return _decode(f"{method} {path}", response)
                refused = refusal(f"{method} {path}", response)
                wait = max(pause, refused.retry_after or 0)
                if method == "POST" or not is_busy(refused) or self._clock.monotonic() + wait > give_up:
                    raise refused
            self._clock.sleep(wait * random.uniform(0.7, 1.3))  # noqa: S311 (spreads clients, no secret)
            pause = min(pause * 2, 2.0)

    def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Query],
        body: Mapping[str, Any] | None = None,
        *,
        stream_for: float | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request once, and return the answer whatever its status is.

        Args:
            method: of HTTP.
            path: such as ``/version``.
            query: without those whose value is an empty string.
            body: what is sent as JSON.
            stream_for: seconds for which an answer is read as it arrives; None to read it whole.

        Raises:
            ApiUnreachable: there was no answer.
        """
        headers = {**self._client.default_headers, "Accept": "application/json"}
        fields = [(key, _query_value(value)) for key, value in query.items() if value != ""]
        token = self._client.configuration.auth_settings().get("BearerToken")  # renewed here if it has expired
        if token:
            headers[token["key"]] = token["value"]
        data = None
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
            data = json.dumps(body).encode()
        try:
            return self._pool.request(
                method,
                f"{self.server}{path}" + (f"?{urllib.parse.urlencode(fields)}" if fields else ""),
                body=data,
                headers=headers,
                timeout=urllib3.Timeout(connect=self._timeout, read=self._timeout + (stream_for or 0)),
                retries=False,
                preload_content=stream_for is None,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self.close()  # the others lead to the same server
            if isinstance(error, urllib3.exceptions.SSLError) and (untrusted := _untrusted(error)):
                raise UntrustedCertificate(self.server, untrusted) from error
            raise ApiUnreachable(
                f"The Kubernetes API at {self.server} did not answer {method} {path}: {network(error)}"
            ) from error

    def watch(
        self, path: str, query: Mapping[str, Query], stop: threading.Event, *, window: float
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Return the events of a watch as they arrive; see :meth:`fleet.adapters.k8s.client.Api.watch`."""
        call = f"watch {path}"
        response = self.send("GET", path, query, stream_for=window)
        finished = threading.Event()
        stopper = threading.Thread(
            target=_shut_down_on, args=(stop, finished, response), name="watch-stopper", daemon=True
        )
        try:
            if response.status != 200:
                raise refusal(call, response)
            stopper.start()
            for line in _lines(response):
                if stop.is_set():
                    return
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise status_error(call, event["object"])
                yield event["type"], event["object"]
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if not stop.is_set():
                self.close()
                raise WatchBroken(f"The Kubernetes API at {self.server} broke off {call}: {network(error)}") from error
        finally:
            finished.set()
            if stopper.is_alive():
                stopper.join()
            response.close()


def _query_value(value: Query) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _never_sent(error: BaseException | None) -> bool:
    """Tell whether a request cannot have reached the server."""
    exceptions = urllib3.exceptions
    return isinstance(error, exceptions.ConnectTimeoutError | exceptions.ClosedPoolError)


def _untrusted(error: urllib3.exceptions.SSLError) -> ssl.SSLCertVerificationError | None:
    """Tell a wrong certificate from a server that went away during the handshake."""
    return next((part for part in error.args if isinstance(part, ssl.SSLCertVerificationError)), None)


def _decode(call: str, response: urllib3.BaseHTTPResponse) -> dict[str, Any]:
    try:
        decoded = json.loads(response.data)
    except ValueError:
        decoded = None
    if not isinstance(decoded, dict):
        raise KubernetesError(f"What answered {call} is no Kubernetes API: {response.data[:100]!r}")
    return decoded


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Return the lines of an answer as they arrive."""
    rest = b""
    while piece := response.read1():
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines


def _shut_down_on(stop: threading.Event, finished: threading.Event, response: urllib3.BaseHTTPResponse) -> None:
    """Wake up whoever reads a response once ``stop`` is set."""
    while not finished.wait(0.2):
        if stop.is_set():
            try:
                response.shutdown()
            except (OSError, ValueError, RuntimeError):
                logger.debug("The watch had ended by itself")
            return
