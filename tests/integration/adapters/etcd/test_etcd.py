"""etcd's members: what is read of a real cluster with TLS, its leadership, its snapshots, and how it is restarted."""

import base64
import hashlib
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
import requests

from fleet.adapters.etcd import health, members
from fleet.adapters.etcd.health import Answer, NoAnswer, View
from support.apiserver import eventually
from support.etcd import HOSTS, Etcd, Writer
from support.ports import free_port


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    cluster = Etcd(tmp_path_factory.mktemp("etcd"))
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def etcd(cluster: Etcd) -> Iterator[Etcd]:
    """Give the cluster with all members well."""
    cluster.wait()
    yield cluster
    cluster.dry_run = False


def answer(view: View, host: str) -> Answer:
    found = view[host]
    assert isinstance(found, Answer), found
    return found


def followers(view: View) -> tuple[str, str]:
    first, second, _ = health.order(view)
    return first, second


def test_the_members_of_a_cluster_that_is_well(etcd: Etcd) -> None:
    view = etcd.view()

    assert health.problem(view) == ""
    assert [health.restart_problem(view, host) for host in HOSTS] == ["", "", ""]
    first = answer(view, "etcd1")
    assert [(member.name, member.started, member.learner) for member in sorted(first.members, key=str)] == [
        (host, True, False) for host in HOSTS
    ]
    assert {answer(view, host).status.member_id for host in HOSTS} == {member.id for member in first.members}
    assert health.quorum(first.members) == 2
    assert first.status.version.startswith("3.")
    assert first.status.db_size > 0
    assert health.index(view) >= first.status.raft_applied_index > 0


def test_leadership_moves_to_the_successor(etcd: Etcd) -> None:
    view = etcd.view()
    before = health.leader(view)
    assert health.order(view) == [*sorted(set(HOSTS) - {before}), before]
    successor = health.successor(view, before)
    assert successor is not None
    etcd.dry_run = True
    members.move_leader(etcd, before, etcd.config, successor.member_id)
    assert health.leader(etcd.view()) == before
    etcd.dry_run = False

    members.move_leader(etcd, before, etcd.config, successor.member_id)

    after = etcd.view()
    assert health.leader(after) == successor.host != before
    assert health.problem(after) == ""
    with pytest.raises(members.EtcdError, match=f"{before} did not hand etcd's leadership over .*no leader"):
        members.move_leader(etcd, before, etcd.config, successor.member_id)


def test_a_member_that_hangs_is_seen_in_time(etcd: Etcd) -> None:
    paused, other = followers(etcd.view())
    etcd.pause(paused)

    started = time.monotonic()
    view = etcd.view()

    assert time.monotonic() - started < members.TIMEOUT
    assert isinstance(view[paused], NoAnswer)
    assert f"{paused} does not answer: " in health.restart_problem(view, other)
    assert "deadline exceeded" in health.restart_problem(view, other)
    assert health.restart_problem(view, paused) == ""


def test_a_member_that_is_down_keeps_the_others_up(etcd: Etcd) -> None:
    leader = health.leader(etcd.view())
    etcd.stop(leader, signal.SIGKILL)
    rest = [host for host in HOSTS if host != leader]
    eventually(lambda: health.leader(etcd.view()))

    view = etcd.view()
    assert health.leader(view) in rest
    for host in rest:
        assert f"{leader} does not answer: " in health.restart_problem(view, host)
    assert health.restart_problem(view, leader) == ""

    other = next(host for host in rest if host != health.leader(view))
    etcd.stop(other, signal.SIGKILL)
    view = etcd.view()
    assert [host for host in HOSTS if isinstance(view[host], Answer) and not health.problem({host: view[host]})] == []


def test_an_alarm_stops_restarts(etcd: Etcd) -> None:
    alarmed = answer(etcd.view(), "etcd2").status.member_id
    alarm = {"memberID": str(alarmed), "alarm": "NOSPACE"}
    etcd.post("etcd1", "maintenance/alarm", {"action": "ACTIVATE", **alarm})
    try:
        view = etcd.view()
        assert "NOSPACE" in health.restart_problem(view, "etcd1")
        assert "NOSPACE" in health.caught_up(view, "etcd2", 0)
        assert health.successor(view, "etcd1") is None
    finally:
        etcd.post("etcd1", "maintenance/alarm", {"action": "DEACTIVATE", **alarm})
    assert health.problem(etcd.view()) == ""


def test_an_environment_that_leads_elsewhere_is_no_answer(etcd: Etcd) -> None:
    one, all_of_them = (f"https://127.0.0.1:{etcd.ports[host][0]}" for host in HOSTS[:2])

    def view(endpoints: str) -> View:
        environment = {**etcd.config.environment, "ETCDCTL_ENDPOINTS": endpoints}
        return members.view(etcd, HOSTS[:2], etcd.config.model_copy(update={"environment": environment}))

    assert health.problem(view(one)).startswith("etcd1 and etcd2 are the same member, ")
    assert "leads to 2 members" in health.problem(view(f"{one},{all_of_them}"))
    assert "etcd1 does not answer: " in health.problem(view("https://127.0.0.1:1/$(exit 7)"))


@pytest.fixture
def learner(etcd: Etcd) -> Iterator[str]:
    """Give a cluster with one member more, which has no vote."""
    host = "etcd4"
    etcd.ports[host] = (free_port(), free_port())
    body = {"peerURLs": [f"https://127.0.0.1:{etcd.ports[host][1]}"], "isLearner": True}

    def add() -> str:
        try:
            return str(etcd.post("etcd1", "cluster/member/add", body)["member"]["ID"])
        except requests.HTTPError:  # Members that have just met are no healthy cluster yet.
            return ""

    added = eventually(add, 30)
    etcd.start(host, state="existing")
    try:
        eventually(lambda: isinstance(etcd.view(host)[host], Answer), 30)
        yield host
    finally:
        etcd.post("etcd1", "cluster/member/remove", {"ID": added})
        etcd.stop(host, signal.SIGKILL)
        del etcd.ports[host]


def test_a_learner_is_one_of_the_members_and_has_no_vote(etcd: Etcd, learner: str) -> None:
    eventually(lambda: not health.problem(etcd.view(learner)), 30)
    view = etcd.view(learner)
    assert answer(view, learner).status.is_learner
    assert health.quorum(answer(view, "etcd1").members) == 2
    assert [health.restart_problem(view, host) for host in view] == [""] * 4
    assert health.caught_up(view, learner, health.index(view) - health.MAX_LAG) == ""
    assert "etcd.hosts must find" in health.restart_problem(etcd.view(), "etcd1"), "nobody asks the learner"
    successor = health.successor(view, health.leader(view))
    assert successor is not None
    assert successor.host != learner
    etcd.pause(learner)
    try:
        assert f"{learner} does not answer: " in health.restart_problem(etcd.view(learner), "etcd1")
    finally:
        etcd.resume(learner)


def restart(etcd: Etcd, writer: Writer, host: str) -> None:
    """Restart a member as a procedure does: when all others are well, not as the leader, until it has caught up."""
    eventually(lambda: not health.restart_problem(etcd.view(), host))
    view = etcd.view()
    if health.leader(view) == host:
        successor = health.successor(view, host)
        assert successor is not None
        members.move_leader(etcd, host, etcd.config, successor.member_id)
        assert health.leader(etcd.view()) == successor.host
    etcd.stop(host)
    written = len(writer.written)
    eventually(lambda: len(writer.written) > written + 20)
    down = etcd.view()
    target = health.index(down)
    assert health.caught_up(down, host, target).startswith(f"{host} does not answer: ")
    etcd.start(host)
    eventually(lambda: not health.caught_up(etcd.view(), host, target))


def test_a_rolling_restart_loses_no_write_and_no_quorum(etcd: Etcd) -> None:
    with Writer(etcd) as writer:
        eventually(lambda: len(writer.written) > 20)
        for host in health.order(etcd.view()):
            restart(etcd, writer, host)
    print(f"{len(writer.written)} writes, longest gap {writer.longest:.2f} s")
    assert writer.longest < 15
    key = {"key": base64.b64encode(b"number-").decode(), "range_end": base64.b64encode(b"number.").decode()}
    assert int(etcd.post("etcd1", "kv/range", {**key, "count_only": True})["count"]) >= len(writer.written)


def test_a_snapshot_is_verified_and_taken_once(etcd: Etcd) -> None:
    etcd.post("etcd1", "kv/put", {"key": base64.b64encode(b"k").decode(), "value": ""})
    etcd.dry_run = True
    assert members.snapshot(etcd, "etcd1", etcd.config, "before.db") is None
    etcd.dry_run = False
    assert not etcd.config.snapshots.exists()

    taken = members.snapshot(etcd, "etcd1", etcd.config, "before.db")

    assert taken is not None
    assert (taken.path, taken.host) == (etcd.config.snapshots / "before.db", "etcd1")
    assert taken.revision >= 2
    assert taken.keys > 0
    assert 0 < taken.size <= taken.path.stat().st_size
    assert stat.S_IMODE(taken.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(taken.path.parent.stat().st_mode) == 0o700
    assert [path.name for path in taken.path.parent.iterdir()] == ["before.db"]
    made = taken.path.stat().st_mtime_ns
    assert members.snapshot(etcd, "etcd1", etcd.config, "before.db") == taken
    assert taken.path.stat().st_mtime_ns == made


def test_a_snapshot_that_is_damaged_is_refused(etcd: Etcd) -> None:
    taken = members.snapshot(etcd, "etcd1", etcd.config, "damaged.db")
    assert taken is not None
    whole, nonsense = taken.path.read_bytes(), b"nonsense" * 4096
    position = whole.index(b"alarm")  # a name in it, which no structure depends on
    for content, why in (
        (whole[:position] + b"A" + whole[position + 1 :], "checksum is wrong"),
        (whole[:-32], "not complete"),
        (b"", "not complete"),
        (nonsense, "not complete"),
        (nonsense + hashlib.sha256(nonsense).digest(), "etcdutl cannot read it: "),
    ):
        taken.path.write_bytes(content)
        with pytest.raises(members.EtcdError, match=f"there is such a file already, and .*{why}"):
            members.snapshot(etcd, "etcd1", etcd.config, "damaged.db")
        assert taken.path.read_bytes() == content


@pytest.fixture
def only(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give what leaves only some of etcd's tools on the hosts, of which etcdctl reads no snapshots, as that of 3.6."""

    def leave(*tools: str, otherwise: str = "echo 'USAGE: etcdctl snapshot'; exit 0") -> None:
        folder = etcd.directory / f"only {' '.join(tools)}"
        folder.mkdir()
        for tool in tools:
            real = shutil.which(tool, path=etcd.path)
            assert real
            stub = f'case "$*" in *"snapshot status"*) {otherwise} ;; esac\n' if tool == "etcdctl" else ""
            (folder / tool).write_text(f'#!/bin/sh\n{stub}exec {real} "$@"\n')
            (folder / tool).chmod(0o755)
        monkeypatch.setattr(etcd, "path", f"{folder}:/usr/bin:/bin")

    return leave


def test_a_snapshot_that_nothing_can_read_never_has_its_name(etcd: Etcd, only: Callable[..., None]) -> None:
    before = set(etcd.config.snapshots.iterdir()) if etcd.config.snapshots.exists() else set()
    only("etcdctl")
    with pytest.raises(
        members.EtcdError, match=r"it was saved, and there is no etcdutl there .* install etcdutl"
    ) as found:
        members.snapshot(etcd, "etcd1", etcd.config, "unread.db")
    assert "snapshot status" not in str(found.value), "that is what has just failed"
    assert set(etcd.config.snapshots.iterdir()) == before


def test_a_snapshot_is_read_by_etcdutl_where_it_is_there(etcd: Etcd, only: Callable[..., None]) -> None:
    only("etcdctl", "etcdutl", otherwise="echo nonsense; exit 1")
    taken = members.snapshot(etcd, "etcd1", etcd.config, "etcdutl.db")
    assert taken is not None
    assert taken.keys > 0


def test_a_snapshot_needs_room_a_name_and_a_folder_of_its_own(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = etcd.config.snapshots
    before = set(folder.iterdir()) if folder.exists() else set()
    with pytest.raises(members.EtcdError, match="is no name for a snapshot"):
        members.snapshot(etcd, "etcd1", etcd.config, "../x")
    full = etcd.directory / "full"
    full.mkdir()
    (full / "df").write_text("#!/bin/sh\necho Avail; echo 1000\n")
    (full / "df").chmod(0o755)
    monkeypatch.setattr(etcd, "path", f"{full}:{etcd.path}")
    with pytest.raises(members.EtcdError, match="room for 1000 bytes, which is less than twice the database's"):
        members.snapshot(etcd, "etcd1", etcd.config, "no-room.db")
    monkeypatch.undo()
    with subprocess.Popen(["flock", str(folder), "cat"], stdin=subprocess.PIPE) as other:
        eventually(lambda: subprocess.run(["flock", "--nonblock", str(folder), "true"], check=False).returncode)
        with pytest.raises(members.EtcdError, match="another snapshot is being taken"):
            members.snapshot(etcd, "etcd1", etcd.config, "busy.db")
        other.communicate()
    etcd.stop("etcd1")
    with pytest.raises(members.EtcdError, match=r"No snapshot of etcd on etcd1 could be taken to .*down.db"):
        members.snapshot(etcd, "etcd1", etcd.config, "down.db")
    assert set(folder.iterdir()) == before
