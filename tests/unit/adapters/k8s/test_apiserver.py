"""Where an apiserver is asked, and what its answers mean."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from fleet.adapters.k8s import apiserver
from fleet.adapters.k8s.apiserver import Apiservers, Health, url
from fleet.config.model import ControlPlaneConfig, LeaseConfig
from fleet.execution import Unreachable

CONFIG = ControlPlaneConfig.model_validate(
    {"port": 6444, "addresses": {"cp1.example.org": "10.0.0.2", "cp2.example.org": "2620:0:861::2"}}
)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("cp1.example.org", "https://10.0.0.2:6444"),
        ("cp2.example.org", "https://[2620:0:861::2]:6444"),
        ("cp3.example.org", "https://cp3.example.org:6444"),
    ],
)
def test_the_url_of_a_host(host, expected):
    assert url(host, CONFIG) == expected


class Server:
    """Answers /readyz and reads of a Lease over plain HTTP."""

    def __init__(self) -> None:
        self.readyz = (200, "[+]ping ok\n[+]etcd ok\nreadyz check passed\n")
        self.lease = (404, json.dumps({"reason": "NotFound", "message": 'leases "fleet-maintenance" not found'}))
        self.released = threading.Event()
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, text = answers.readyz if self.path.startswith("/readyz") else answers.lease
                if not status:
                    answers.released.wait(5)
                    return
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.released.set()
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def examine(server, tmp_path, monkeypatch):
    """Ask the server, and nothing else, as the apiserver of a host."""
    monkeypatch.setattr(apiserver, "url", lambda host, config: f"http://127.0.0.1:{server.http.server_port}")
    path = tmp_path / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "users": [{"name": "x", "user": {}}],
                "clusters": [{"name": "x", "cluster": {"server": "https://192.0.2.1:6443"}}],
            }
        )
    )
    return lambda: Apiservers(path, CONFIG, ["cp1.example.org"], LeaseConfig()).examine(["cp1.example.org"])[
        "cp1.example.org"
    ]


def test_a_server_that_is_ready(examine):
    assert examine() == Health(ready=True, failing=(), etcd=True)


@pytest.mark.parametrize(
    ("lines", "failing", "etcd"),
    [
        ("[+]ping ok\n[-]etcd failed: reason withheld\n", ("etcd",), False),
        ("[+]etcd ok\n[-]etcd-readiness failed: reason withheld\n", ("etcd-readiness",), False),
        ("[+]etcd ok\n[-]shutdown failed: reason withheld\n", ("shutdown",), True),
    ],
)
def test_a_server_that_is_not_ready(server, examine, lines, failing, etcd):
    server.readyz = (500, f"{lines}readyz check failed\n")
    assert examine() == Health(ready=False, failing=failing, etcd=etcd)


def test_a_lease_that_is_there_is_read_as_well(server, examine):
    server.lease = (200, "{}")
    assert examine() == Health(ready=True, failing=(), etcd=True)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, '{"reason": "NotFound", "message": "the server could not find the requested resource"}'),
        (429, '{"message": "too many requests"}'),
        (500, '{"message": "etcdserver: request timed out"}'),
        (504, '{"message": "the server was unable to return a response in the time allotted"}'),
    ],
)
def test_a_server_that_reads_nothing_from_etcd_is_not_ready_whatever_readyz_says(server, examine, status, text):
    server.lease = (status, text)
    found = examine()
    assert isinstance(found, Health)
    assert (found.ready, found.etcd) == (False, False)
    assert found.failing[0].startswith("etcd: ")
    assert json.loads(text)["message"] in found.failing[0]


def test_a_read_that_is_not_answered_makes_nobody_ready(server, examine, monkeypatch):
    monkeypatch.setattr(apiserver, "TIMEOUT", 0.2)
    server.lease = (0, "")  # for ever
    found = examine()
    assert isinstance(found, Health)
    assert (found.ready, found.etcd) == (False, False)
    assert found.failing[0].startswith("etcd, as it does not answer GET /apis/coordination.k8s.io/v1/namespaces/kube-")


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_that_may_not_read_prove_nothing(server, examine, status):
    server.lease = (status, '{"reason": "Forbidden", "message": "no"}')
    found = examine()
    assert isinstance(found, Unreachable)
    assert "/leases/fleet-maintenance" in found.reason


@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
def test_a_refusal_is_no_answer(server, examine, status):
    server.readyz = (status, "no")
    answer = examine()
    assert isinstance(answer, Unreachable)
    assert answer.reason.endswith(f"/readyz answers with status {status}, and names no check")


def test_nobody_listens(server, examine, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setattr(apiserver, "url", lambda host, config: closed)
        answer = examine()
    assert isinstance(answer, Unreachable)
    assert answer.reason.startswith(f"{closed} does not answer: ")
    assert "refused" in answer.reason
