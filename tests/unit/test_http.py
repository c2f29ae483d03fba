"""What is told of requests that got no answer: real ones, on the loopback interface."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import requests

from fleet.http import explain


@contextmanager
def listening(serve: Callable[[socket.socket], object]) -> Iterator[str]:
    """Give the address of a server that does something with its first connection."""
    kept: list[socket.socket] = []

    def accept() -> None:
        connection, _ = server.accept()
        kept.append(connection)
        serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(5)
    for connection in kept:
        connection.close()


def why(url: str, **options: object) -> str:
    with pytest.raises(requests.RequestException) as caught:
        requests.get(url, **{"timeout": 5, **options})  # type: ignore[arg-type]
    return explain(caught.value)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_port_where_nobody_listens() -> None:
    assert why(f"http://127.0.0.1:{closed_port()}/api/v2/alerts?filter=a%5E%28b") == "connection refused"


def test_a_name_that_there_is_not() -> None:
    assert why("http://nobody.invalid/").startswith("its name cannot be resolved")


def test_a_server_that_hangs() -> None:
    with listening(lambda connection: None) as address:
        assert why(f"http://{address}/", timeout=0.2) == "connected, but no answer in time"


def test_a_server_that_hangs_up() -> None:
    def hang_up(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.close()

    with listening(hang_up) as address:
        assert why(f"http://{address}/") == "Remote end closed connection without response"


def test_a_server_without_tls() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.close()

    with listening(answer) as address:
        assert why(f"https://{address}/").startswith("its TLS certificate or its TLS is not accepted: ")


def test_a_proxy_that_is_away() -> None:
    proxy = f"http://127.0.0.1:{closed_port()}"

    assert why("http://alerts1/", proxies={"http": proxy}) == "the proxy cannot be used: connection refused"


@pytest.mark.parametrize("url", ["http://", "alerts1"])
def test_what_is_no_url(url: str) -> None:
    assert why(url) == "this is no URL"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (requests.ConnectTimeout("HTTPConnectionPool(host='a', port=1): Max retries"), "no connection in time"),
        (requests.TooManyRedirects("x"), "it redirects again and again"),
        (requests.ConnectionError("Max retries exceeded with url: /api"), "ConnectionError"),
        (requests.ConnectionError(OSError(113, "No route to host")), "no route to host"),
        (requests.RequestException("something else"), "something else"),
    ],
)
def test_others(error: requests.RequestException, text: str) -> None:
    assert explain(error) == text
