"""A client of the Kubernetes API that speaks plain JSON.

Authentication, TLS and kubeconfig files are those of the official client; its models are not used, as building them
takes longer than everything else on a large cluster. Every call has a timeout. What may safely be repeated is repeated
when the connection breaks, on a new connection: the API's address moves when one of its servers dies.
"""

import json
import logging
import random
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar, overload

import urllib3
import yaml
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config
from kubernetes.config import kube_config

from fleet.clock import CLOCK, Clock
from fleet.errors import FleetError
from fleet.text import line, network

JSON = dict[str, Any]
Query = str | int | bool
T = TypeVar("T")

PAGE = 500
"""Objects asked for at once; the limit that kubectl uses."""

_CONNECTIONS = 64  # kept open for reuse: a drain has one in flight for every pod it is evicting
_BUSY = frozenset({429, 502, 503, 504})
_BUSY_CODES = ("etcdserver:", "leader changed", "apiserver is shutting down")
_GONE = 410
_LOADING = threading.Lock()  # the official loader keeps the names of its temporary files for all threads together
_MISMATCHES = frozenset({62, 64})  # OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH

logger = logging.getLogger(__name__)


class KubernetesError(FleetError):
    """The Kubernetes API could not be used."""


class ApiUnreachable(KubernetesError):
    """No answer: the connection was refused, broke or timed out. Whether the call had an effect is not known."""


class WatchBroken(ApiUnreachable):
    """A watch that the API had accepted broke off. A new one may go on from the last resource version seen."""


class UntrustedCertificate(KubernetesError):
    """What answered has not proven to be the API.

    Attributes:
        problem: what is wrong with its certificate, in OpenSSL's words.
        other_name: whether it is merely the certificate of another name or address, signed by the right authority.
    """

    def __init__(self, server: str, error: ssl.SSLCertVerificationError) -> None:
        super().__init__(f"The certificate of {server} cannot be trusted: {error.verify_message}")
        self.problem = error.verify_message
        self.other_name = error.verify_code in _MISMATCHES


@dataclass(frozen=True, slots=True)
class Cause:
    """One of the causes that the API gives for a refusal."""

    reason: str
    message: str


class ApiError(KubernetesError):
    """The API answered with an error.

    Attributes:
        status: the HTTP status, such as 404.
        reason: the API's word for it, such as ``NotFound``.
        message: the API's sentence.
        retry_after: seconds after which the API wants to be asked again, if it said so.
        causes: details, such as the disruption budget that forbids an eviction.
    """

    def __init__(
        self,
        call: str,
        status: int,
        reason: str,
        message: str,
        *,
        retry_after: float | None = None,
        causes: tuple[Cause, ...] = (),
    ) -> None:
        super().__init__(f"The Kubernetes API answered {call} with {status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.causes = causes


class Api:
    """A cluster's API. May be used from several threads at once.

    Args:
        client: the official client, which holds the server's address and the credentials.
        timeout: seconds a call may take to connect, and between two pieces of its answer.
        patience: seconds for which calls are repeated when the API cannot be reached or is too busy.
        clock: the time.
    """

    def __init__(self, client: Any, *, timeout: float = 10.0, patience: float = 10.0, clock: Clock = CLOCK) -> None:
        self._client = client
        self._pool: urllib3.PoolManager = client.rest_client.pool_manager
        self._timeout = timeout
        self._patience = patience
        self.clock = clock
        self.server: str = client.configuration.host.rstrip("/")

    @classmethod
    def from_kubeconfig(
        cls, path: Path, *, server: str | None = None, timeout: float = 10.0, patience: float = 10.0
    ) -> "Api":
        """Make a client from a kubeconfig file and its current context.

        Args:
            path: the file.
            server: the URL to ask instead of the file's; its certificate must be for this one.
            timeout: seconds a call may take to connect, and between two pieces of its answer.
            patience: seconds for which calls are repeated when the API cannot be reached or is too busy.

        Raises:
            KubernetesError: the file is missing, unreadable or no kubeconfig.
        """
        try:
            path.open("rb").close()
        except OSError as error:
            raise KubernetesError(f"The kubeconfig {path} cannot be read: {error.strerror}") from error
        configuration = kubernetes_client.Configuration()
        try:
            with _LOADING:
                kubernetes_config.load_kube_config(str(path), client_configuration=configuration, persist_config=False)
                configuration.host = server or configuration.host
                configuration.connection_pool_maxsize = _CONNECTIONS
                client = _with_certificates(kubernetes_client.ApiClient(configuration))
            return cls(client, timeout=timeout, patience=patience)
        except (kubernetes_config.ConfigException, yaml.YAMLError, UnicodeDecodeError) as error:
            raise KubernetesError(
                f"{path} is no usable kubeconfig: {line(error).rstrip('.')}. Try kubectl --kubeconfig {path} version."
            ) from error
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            # Broken certificates and oddly shaped YAML surface in the official loader as all of these.
            raise KubernetesError(
                f"{path} is no usable kubeconfig: its shape is wrong, or a certificate in it ({line(error)})."
                f" Try kubectl --kubeconfig {path} version."
            ) from error

    def get(self, path: str, **query: Query) -> JSON:
        """Return what is at a path, such as ``/api/v1/nodes/worker1``.

        Raises:
            ApiError: the API refused, 404 included.
            ApiUnreachable: there was no answer within the client's patience.
        """
        return self._call("GET", path, query)

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
        limit = PAGE
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
            page = self._call("GET", path, {**query, "limit": limit, "continue": token})
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
        call = f"watch {path}"
        response = self._send("GET", path, parameters, None, read_timeout=window + self._timeout, stream=True)
        finished = threading.Event()
        stopper = threading.Thread(
            target=_shut_down_on, args=(stop, finished, response), name="watch-stopper", daemon=True
        )
        try:
            if response.status != 200:
                raise _api_error(call, response)
            stopper.start()
            for line in _lines(response):
                if stop.is_set():
                    return
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise _status_error(call, event["object"])
                yield event["type"], event["object"]
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if not stop.is_set():
                self._pool.clear()
                raise WatchBroken(f"The Kubernetes API at {self.server} broke off {call}: {network(error)}") from error
        finally:
            finished.set()
            if stopper.is_alive():
                stopper.join()
            response.close()

    def create(self, path: str, body: JSON, **query: Query) -> JSON:
        """Create an object; ``path`` is its collection, or a subresource such as ``…/pods/p/eviction``.

        A creation is not repeated once it may have reached the API.

        Raises:
            ApiError: the API refused.
            ApiUnreachable: there was no answer; the object may exist nevertheless.
        """
        return self._call("POST", path, query, body)

    def patch(self, path: str, body: JSON, **query: Query) -> JSON:
        """Apply a JSON merge patch; with ``metadata.resourceVersion`` in it, only to that version (409 otherwise).

        Raises:
            ApiError: the API refused.
            ApiUnreachable: there was no answer within the client's patience.
        """
        return self._call("PATCH", path, query, body)

    def replace(self, path: str, body: JSON, **query: Query) -> JSON:
        """Replace an object.

        Raises:
            ApiError: the API refused.
            ApiUnreachable: there was no answer within the client's patience.
        """
        return self._call("PUT", path, query, body)

    def delete(self, path: str, body: JSON | None = None, **query: Query) -> JSON:
        """Delete an object; ``body`` may be ``DeleteOptions``.

        Raises:
            ApiError: the API refused.
            ApiUnreachable: there was no answer within the client's patience.
        """
        return self._call("DELETE", path, query, body)

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
        answer = self._send("GET", "/version", {}, None, read_timeout=self._timeout)
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
        answer = self._send("GET", "/readyz", {"verbose": True}, None, read_timeout=self._timeout)
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
        self._pool.clear()

    def serves(self, group_version: str) -> bool:
        """Tell whether the server has a version of an API group, such as ``policy/v1``."""
        try:
            self.get(f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def _call(self, method: str, path: str, query: Mapping[str, Query], body: JSON | None = None) -> JSON:
        """Make a call, and repeat it within the client's patience if that is safe and may help."""
        give_up = self.clock.monotonic() + self._patience
        pause = 0.1
        while True:
            try:
                response = self._send(method, path, query, body, read_timeout=self._timeout)
            except ApiUnreachable as error:
                if self.clock.monotonic() + pause > give_up or (method == "POST" and not _never_sent(error.__cause__)):
                    raise
                wait = pause
                logger.debug("%s, trying again", error)
            else:
                if 200 <= response.status < 300:
                    return _decode(f"{method} {path}", response)
                refusal = _api_error(f"{method} {path}", response)
                wait = max(pause, refusal.retry_after or 0)
                if method == "POST" or not _is_busy(refusal) or self.clock.monotonic() + wait > give_up:
                    raise refusal
            self.clock.sleep(wait * random.uniform(0.7, 1.3))  # noqa: S311 (spreads clients, no secret)
            pause = min(pause * 2, 2.0)

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Query],
        body: JSON | None,
        *,
        read_timeout: float,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request once."""
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
                timeout=urllib3.Timeout(connect=self._timeout, read=read_timeout),
                retries=False,
                preload_content=not stream,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self._unreachable(f"{method} {path}", error)

    def _unreachable(self, call: str, error: Exception) -> NoReturn:
        """Report a broken connection, and keep none of the others: they lead to the same server."""
        self._pool.clear()
        if isinstance(error, urllib3.exceptions.SSLError) and (refusal := _untrusted(error)):
            raise UntrustedCertificate(self.server, refusal) from error
        raise ApiUnreachable(f"The Kubernetes API at {self.server} did not answer {call}: {network(error)}") from error


def _with_certificates(client: Any) -> Any:
    """Return a client that has loaded what its kubeconfig names: broken files are noticed before the first call.

    What stands in the kubeconfig itself, the private key too, the official loader writes to temporary files. They are
    removed at once: a process that is killed would leave them.
    """
    configuration = client.configuration
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    if configuration.verify_ssl:
        settings = client.rest_client.pool_manager.connection_pool_kw
        for name in ("ca_certs", "cert_file", "key_file"):
            settings.pop(name, None)
        settings["ssl_context"] = context
        kube_config._cleanup_temp_files()
    return client


def _query_value(value: Query) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _never_sent(error: BaseException | None) -> bool:
    """Tell whether a request cannot have reached the server."""
    exceptions = urllib3.exceptions
    return isinstance(error, exceptions.ConnectTimeoutError | exceptions.ClosedPoolError)


def _untrusted(error: urllib3.exceptions.SSLError) -> ssl.SSLCertVerificationError | None:
    """Tell a wrong certificate from a server that went away during the handshake."""
    return next((part for part in error.args if isinstance(part, ssl.SSLCertVerificationError)), None)


def _is_busy(error: ApiError) -> bool:
    return error.status in _BUSY or (error.status == 500 and any(code in error.message for code in _BUSY_CODES))


def _decode(call: str, response: urllib3.BaseHTTPResponse) -> JSON:
    try:
        decoded = json.loads(response.data)
    except ValueError:
        decoded = None
    if not isinstance(decoded, dict):
        raise KubernetesError(f"What answered {call} is no Kubernetes API: {response.data[:100]!r}")
    return decoded


def _api_error(call: str, response: urllib3.BaseHTTPResponse) -> ApiError:
    """Read a refusal, which is a ``Status`` object unless something in between answered."""
    data = response.data
    header = response.headers.get("Retry-After", "")
    retry_after = float(header) if header.isdecimal() else None
    try:
        status = json.loads(data)
    except ValueError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        return _status_error(call, status, http_status=response.status, retry_after=retry_after)
    text = data.decode(errors="replace").strip()[:200] or "no text"
    return ApiError(call, response.status, response.reason or "", text, retry_after=retry_after)


def _status_error(
    call: str, status: JSON, *, http_status: int | None = None, retry_after: float | None = None
) -> ApiError:
    details = status.get("details") or {}
    if retry_after is None and details.get("retryAfterSeconds"):
        retry_after = float(details["retryAfterSeconds"])
    return ApiError(
        call,
        http_status or int(status.get("code") or 0),
        status.get("reason") or "",
        status.get("message") or "no text",
        retry_after=retry_after,
        causes=tuple(
            Cause(cause.get("reason") or "", cause.get("message") or "") for cause in details.get("causes") or ()
        ),
    )


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
