"""The lock of a group of hosts in a real etcd, by python-etcd: it is one run's, and expires by etcd's own clock."""

import json
import signal
import threading
import time
from collections.abc import Iterator

import etcd
import pytest

from fleet.adapters.locks import GroupLock, GroupTaken, LockStoreError, group_holder
from fleet.engine.protocols import Holder
from support.apiserver import eventually
from support.etcd_v2 import EtcdV2
from support.ports import free_port

KEY = "/spicerack/locks/fleet/web"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdV2]:
    made = EtcdV2(tmp_path_factory.mktemp("etcd"))
    try:
        eventually(made.ready)
        yield made
    finally:
        made.process.kill()
        made.process.wait()


@pytest.fixture
def client(server: EtcdV2) -> etcd.Client:
    return etcd.Client(host="127.0.0.1", port=server.port)


def lock(client: etcd.Client, run: str = "r1", *, duration: float = 4.0) -> tuple[GroupLock, threading.Event]:
    changed = threading.Event()
    return GroupLock(client, "web", duration, Holder(run, "cumin1", "ann@cumin1", "disks"), changed.set), changed


def test_it_is_held_and_renewed_and_given_back(client: etcd.Client) -> None:
    assert group_holder(client, "web") == ""
    held, _ = lock(client, duration=2.0)
    held.acquire()
    assert json.loads(client.read(KEY).value)["run"] == "r1"
    assert group_holder(client, "web") == "run r1 on cumin1 (ann@cumin1: disks)"
    time.sleep(3.0)  # longer than it lasts
    assert held.problem() == ""
    assert client.read(KEY).ttl >= 1
    held.release()
    assert group_holder(client, "web") == ""


def test_another_run_does_not_get_it(client: etcd.Client) -> None:
    held, _ = lock(client)
    held.acquire()
    other, _ = lock(client, "r2")
    with pytest.raises(GroupTaken, match=r"web is being worked on by run r1 on cumin1 \(ann@cumin1: disks\)"):
        other.acquire()
    held.release()
    other.acquire()
    other.release()


def test_one_of_many_that_come_at_once_gets_it(client: etcd.Client) -> None:
    got, barrier = [], threading.Barrier(8)

    def take(run: str) -> None:
        mine, _ = lock(client, run)
        barrier.wait()
        try:
            mine.acquire()
        except GroupTaken:
            return
        got.append(mine)

    threads = [threading.Thread(target=take, args=(f"r{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    got[0].release()


def test_that_of_a_dead_run_is_its_own_again_at_once_and_everybodys_when_it_expires(client: etcd.Client) -> None:
    value = json.dumps({"host": "cumin1", "operator": "ann@cumin1", "reason": "disks", "run": "r1"}, sort_keys=True)
    client.write(KEY, value, ttl=2)
    assert group_holder(client, "web", dead=["r1"]) == ""
    other, _ = lock(client, "r2")
    with pytest.raises(GroupTaken):
        other.acquire()
    resumed, _ = lock(client)
    resumed.acquire()
    resumed.release()
    client.write(KEY, value, ttl=1)
    eventually(lambda: group_holder(client, "web") == "")
    other.acquire()
    other.release()


def test_one_that_another_run_has_taken_is_lost_and_left_to_it(client: etcd.Client) -> None:
    held, changed = lock(client, duration=1.0)
    held.acquire()
    theirs = json.dumps({"run": "r2", "host": "cumin2", "operator": "bob@cumin2", "reason": "kernel"})
    client.write(KEY, theirs, ttl=60)
    assert changed.wait(5)
    assert held.lost
    assert "run r2 on cumin2 (bob@cumin2: kernel)" in held.problem()
    held.release()
    assert client.read(KEY).value == theirs
    client.delete(KEY)


def test_an_etcd_that_does_not_answer_is_named_and_one_that_goes_away_is_a_problem_in_time(client: etcd.Client) -> None:
    nowhere = etcd.Client(host="127.0.0.1", port=free_port())
    lost, _ = lock(nowhere)
    with pytest.raises(LockStoreError, match="its etcd does not answer"):
        lost.acquire()
    with pytest.raises(LockStoreError, match="its etcd does not answer"):
        group_holder(nowhere, "web")


def test_an_etcd_that_hangs_is_a_problem_before_others_may_have_the_lock(server: EtcdV2, client: etcd.Client) -> None:
    held, _ = lock(client, duration=3.0)
    held.acquire()
    server.process.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: "could not be renewed" in held.problem(), seconds=3.0)
    finally:
        server.process.send_signal(signal.SIGCONT)
    held.release()
