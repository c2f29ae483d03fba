"""The official Kubernetes client, whose requests are answered in memory instead of by a server."""

from collections.abc import Callable, Mapping
from typing import Any

import urllib3
from kubernetes.client import ApiClient, Configuration

SERVER = "https://api:6443"


def answer(status: int, data: bytes, headers: Mapping[str, str] | None = None) -> urllib3.HTTPResponse:
    """Return an answer as urllib3 hands it over once it has read it."""
    return urllib3.HTTPResponse(data, headers, status)


class Connections(urllib3.PoolManager):
    """Connections to a server in memory.

    Args:
        handle: called with a method, a URL and perhaps a body; what it raises is an answer that never came.
    """

    def __init__(self, handle: Callable[[str, str, bytes | None], urllib3.HTTPResponse]) -> None:
        super().__init__()
        self._handle = handle

    def request(self, method: str, url: str, body: Any = None, *_args: Any, **_options: Any) -> urllib3.HTTPResponse:
        return self._handle(method, url, body)


def client(handle: Callable[[str, str, bytes | None], urllib3.HTTPResponse], *, server: str = SERVER) -> ApiClient:
    """Return the official client of such a server; the argument is that of :class:`Connections`."""
    configuration = Configuration()
    configuration.host = server
    made = ApiClient(configuration)
    made.rest_client.pool_manager = Connections(handle)
    return made
