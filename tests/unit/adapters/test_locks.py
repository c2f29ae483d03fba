"""Spicerack's lock: what is wrong with it is said in a sentence, before spicerack itself stumbles over it."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import etcd
import pytest
from spicerack.exceptions import SpicerackError
from spicerack.locking import LockError

from fleet.adapters import locks
from support.plain import NAME, Operator
from support.spicerack import Ann

NO_LOCKS = "cookbook --no-locks"


class Lock:
    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def get(self, name: str) -> None:
        if self.error:
            raise self.error


class Locked(Ann):
    """Spicerack, whose lock fails with an error if there is one."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self._error = error

    def lock(self) -> Any:
        return Lock(self._error)


def caused(error: Exception) -> LockError:
    made = LockError("Failed to get key /spicerack/locks/x")
    made.__cause__ = error
    return made


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (caused(etcd.EtcdConnectionFailed("HTTPConnectionPool(host='x')")), "its etcd does not answer."),
        (caused(etcd.EtcdInsufficientPermissions("no")), "its etcd refuses the login"),
        (caused(etcd.EtcdException("Bad response: 404 page not found")), "its etcd does not answer as etcd's API v2"),
        (TypeError("unexpected keyword argument 'hots'"), "its configuration cannot be used: unexpected keyword"),
        (SpicerackError("Lock already taken"), "another cookbook has it, or did not give it back: Lock already taken"),
    ],
)
def test_a_sentence_says_what_is_wrong_and_what_to_do(error: Exception, why: str) -> None:
    with pytest.raises(locks.LockStoreError) as caught:
        locks.check(Locked(error))

    said = str(caught.value)
    assert said.startswith(f"Spicerack's lock cannot be had: {why}")
    assert said.endswith(NO_LOCKS)
    assert "HTTPConnectionPool" not in said


def test_a_store_that_answers() -> None:
    locks.check(Locked(None))


@pytest.mark.parametrize("dry_run", [True, False])
def test_nothing_is_done_without_the_lock(tmp_path: Path, dry_run: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = str(unused.getsockname()[1])
    operator = Operator(tmp_path, locks=port)
    command = operator.work()
    if dry_run:
        command.insert(command.index(NAME), "--dry-run")

    result = operator.run(command)

    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if "Spicerack's lock" in line]
    assert line.endswith(NO_LOCKS)
    assert "Traceback" not in result.stderr
    assert "START" not in result.stderr
    assert not [said for said in result.stderr.splitlines() if "HTTPConnectionPool" in said or "Retry" in said]
    assert operator.done == []

    command.insert(command.index(NAME), "--no-locks")
    assert operator.run(command).returncode == 0


class WithoutV2(BaseHTTPRequestHandler):
    """An etcd that knows no paths of the old API."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_an_etcd_of_another_api(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), WithoutV2)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    operator = Operator(tmp_path, locks=str(server.server_port))

    result = operator.run(operator.work())

    assert result.returncode == 2
    assert "its etcd does not answer as etcd's API v2 does" in result.stderr
    assert "Traceback" not in result.stderr
