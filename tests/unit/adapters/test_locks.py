"""Spicerack's lock: what is wrong with it is said in a sentence, before spicerack itself stumbles over it."""

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import etcd
import pytest
from spicerack import locking
from spicerack.exceptions import SpicerackError
from spicerack.locking import LockError

from fleet.adapters import locks
from fleet.engine.protocols import Holder
from support.plain import NAME, Operator
from support.spicerack import Ann
from worlds.locks import Kept, LockStore
from worlds.timeline import AtOnce, Time

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


HOLDER = Holder("r1", "cumin1", "ann@cumin1", "disks")


@dataclass
class Shaky(LockStore):
    """An etcd whose client loses answers, gives up at something unforeseen, or is late.

    Attributes:
        loses: writes that are carried out, and then tried again by the client, as urllib3 does.
        fails: what it raises instead of reading.
        before_write: what happens between a look and a write.
    """

    loses: int = 0
    fails: Exception | None = None
    before_write: Callable[[], None] = lambda: None

    def read(self, key: str) -> Kept:
        if self.fails:
            raise self.fails
        return super().read(key)

    def write(self, key: str, value: str, *, ttl: int, prevExist: bool = True, prevValue: str = "") -> None:  # noqa: N803
        self.before_write()
        for _ in range(1 + self.loses):
            super().write(key, value, ttl=ttl, prevExist=prevExist, prevValue=prevValue)


def group_lock(store: Shaky) -> locks.GroupLock:
    time = store.time
    return locks.GroupLock(store, "web", 60.0, HOLDER, lambda: None, clock=time, threads=AtOnce(time))


def test_a_lock_whose_confirmation_was_lost_is_this_runs_own() -> None:
    lock = group_lock(Shaky(Time(), loses=1))
    lock.acquire()
    assert lock.problem() == ""


def test_what_the_client_did_not_foresee_is_no_answer_and_renewing_goes_on() -> None:
    store = Shaky(Time())
    lock = group_lock(store)
    lock.acquire()
    store.fails = ValueError("list.remove(x): x not in list")
    store.time.advance(50.0)
    assert "could not be renewed" in lock.problem()
    store.fails = None
    store.time.advance(15.0)
    assert lock.problem() == ""
    store.fails = ValueError("list.remove(x): x not in list")
    lock.release()


def test_a_lock_that_expires_while_it_is_renewed_is_not_taken_by_another_run() -> None:
    store = Shaky(Time())
    lock = group_lock(store)
    lock.acquire()
    store.before_write = store.keys.clear
    store.time.advance(15.0)
    assert not lock.lost
    store.before_write = lambda: None
    store.time.advance(15.0)
    assert lock.problem() == ""


def test_a_member_of_etcd_that_hangs_costs_less_than_the_lock_lasts() -> None:
    class Spice(Ann):
        def lock(self) -> Any:
            return locking.Lock(
                config={"host": "127.0.0.1", "port": 1}, prefix=locking.COOKBOOKS_CUSTOM_PREFIX, owner=self.owner
            )

    client: Any = locks.store(Spice())
    attempts = 4  # by urllib3's defaults
    assert attempts * client.read_timeout < 60.0 * 2 / 3 - 60.0 / 4
