"""What is read of etcdctl's answers, of versions 3.4 and 3.5, and what hosts are told to run."""

import json
import subprocess
from pathlib import Path

import pytest

from fleet.adapters.etcd import members
from fleet.adapters.etcd.health import Answer, Member, NoAnswer, Status
from fleet.config.reinitialize import EtcdConfig
from fleet.execution import Result

CONFIG = EtcdConfig(hosts="A:lab-etcd", environment={"ETCDCTL_CACERT": "/a b/$(reboot)'ca.pem"})

# A follower of 3.4.23 and its cluster, as its own etcdctl prints them, and one of 3.5.1.
STATUS_34 = (
    '[{"Endpoint":"https://127.0.0.1:2379","Status":{"header":{"cluster_id":17237436991929493444,'
    '"member_id":9372538179322589801,"revision":812,"raft_term":3},"version":"3.4.23","dbSize":1961984,'
    '"leader":10501334649042878790,"raftIndex":1201,"raftTerm":3,"raftAppliedIndex":1201,"dbSizeInUse":1949696}}]'
)
STATUS_35 = (
    '[{"Endpoint":"http://127.0.0.1:22379","Status":{"header":{"cluster_id":14443903163313418560,'
    '"member_id":11417610130673999598,"raft_term":2},"version":"3.5.1","dbSize":20480,"raftIndex":5,"raftTerm":2,'
    '"raftAppliedIndex":5,"errors":["etcdserver: no leader","memberID:11417610130673999598 alarm:NOSPACE "],'
    '"dbSizeInUse":16384,"isLearner":true}}]'
)
MEMBERS = (
    '{"header":{"cluster_id":1,"member_id":2,"raft_term":3},"members":[{"ID":18249187646912138824,"name":"b",'
    '"peerURLs":["https://b:2380"],"clientURLs":["https://b:2379"]},{"ID":9372538179322589801,"name":"a",'
    '"peerURLs":["https://a:2380"],"clientURLs":["https://a:2379"],"isLearner":true},'
    '{"ID":18446744073709551615,"peerURLs":["https://c:2380"]}]}'
)
HEALTHY = '[{"endpoint":"https://127.0.0.1:2379","health":true,"took":"10.159813ms"}]'
ILL = '[{"endpoint":"https://127.0.0.1:2379","health":false,"took":"3.0s","error":"context deadline exceeded"}]'


def answer(status: str = STATUS_34, listed: str = MEMBERS, health: str = HEALTHY) -> Answer | NoAnswer:
    noise = '{"level":"warn","msg":"a log line"}'
    output = f"Hello\nfleet-etcd-status={status}\n{noise}\nfleet-etcd-members={listed}\nfleet-etcd-health={health}\nbye"
    return members.parse("etcd1", Result(0, output))


def test_a_member_of_3_4() -> None:
    status = Status("etcd1", 9372538179322589801, 10501334649042878790, 3, 1201, 1201, 1961984, False, (), "3.4.23")
    listed = (
        Member(9372538179322589801, "a", ("https://a:2379",), True),
        Member(18249187646912138824, "b", ("https://b:2379",), False),
        Member(18446744073709551615, "", (), False),
    )
    assert answer() == Answer(status, listed, "")
    assert [member.started for member in listed] == [True, True, False]


def test_a_member_of_3_5_with_errors() -> None:
    found = answer(STATUS_35.replace(',"isLearner":true', ""), health=ILL)
    assert isinstance(found, Answer)
    assert found.status.errors == ("etcdserver: no leader", "memberID:11417610130673999598 alarm:NOSPACE")
    assert (found.status.leader, found.status.is_learner, found.unhealthy) == (0, False, "context deadline exceeded")


def test_a_learner_is_a_learner_though_it_serves_nothing_else() -> None:
    found = members.parse("etcd1", Result(0, f"fleet-etcd-status={STATUS_35}\n"))
    assert isinstance(found, Answer)
    assert (found.status.is_learner, found.members, found.unhealthy) == (True, (), "")


def test_a_member_of_3_6() -> None:
    more = ',"storageVersion":"3.6.0","dbSizeQuota":2147483648,"downgradeInfo":{}}}]'
    found = answer(STATUS_34.replace("3.4.23", "3.6.16").removesuffix("}}]") + more)
    assert isinstance(found, Answer)
    assert (found.status.version, found.status.db_size) == ("3.6.16", 1961984)


def test_a_health_check_that_hung_is_no_health() -> None:
    found = answer(health="")
    assert isinstance(found, Answer)
    assert found.unhealthy == "no answer within 5 s"


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (Result(None, "no answer within 20 s"), "no answer within 20 s"),
        (Result(127, "timeout: failed to run command 'etcdctl'"), "timeout: failed to run command 'etcdctl'"),
        (Result(0, ""), "its answer is cut off"),
        (Result(1, f"fleet-etcd-status={STATUS_34}\nError: context deadline exceeded"), "Error: context deadline"),
    ],
)
def test_a_member_that_cannot_be_asked(result: Result, reason: str) -> None:
    found = members.parse("etcd1", result)
    assert isinstance(found, NoAnswer)
    assert found.reason.startswith(reason)


@pytest.mark.parametrize(
    ("status", "listed", "health"),
    [
        ("{}", MEMBERS, HEALTHY),
        ("[{}]", MEMBERS, HEALTHY),
        ("[1]", MEMBERS, HEALTHY),
        ("[", MEMBERS, HEALTHY),
        (STATUS_34.replace('"version"', '"x"'), MEMBERS, HEALTHY),
        (STATUS_34, "{}", HEALTHY),
        (STATUS_34, "[]", HEALTHY),
        (STATUS_34, MEMBERS, "true"),
        (STATUS_34, MEMBERS, "[]"),
        (STATUS_34, MEMBERS, "[{}]"),
    ],
)
def test_what_cannot_be_read_is_no_answer(status: str, listed: str, health: str) -> None:
    assert isinstance(answer(status, listed, health), NoAnswer)


class Hosts:
    """Answers every command, and keeps it."""

    def __init__(self, output: str = "") -> None:
        self.output = output
        self.commands: list[tuple[str, float, bool]] = []

    def run(self, hosts, command, *, timeout, safe):
        self.commands.append((command, timeout, safe))
        return {host: Result(0, self.output) for host in hosts}


def run(folder: Path, command: str) -> str:
    """Run a command with an etcdctl that prints what it is given."""
    etcdctl = folder / "etcdctl"
    etcdctl.write_text('#!/bin/sh\nprintf "<%s>" "$@"; env | grep ETCDCTL_\n')
    etcdctl.chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "ETCDCTL_ENDPOINTS": "https://elsewhere:2379"}
    return subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=True, cwd=folder
    ).stdout


def test_etcdctl_gets_what_is_configured_and_nothing_else(tmp_path: Path) -> None:
    hosts = Hosts()
    members.move_leader(hosts, "etcd1", CONFIG, 0xABC)
    ((command, timeout, safe),) = hosts.commands
    assert (timeout, safe) == (members.MOVE_TIMEOUT, False)
    said = run(tmp_path, command)
    assert "<--cacert=/a b/$(reboot)'ca.pem>" in said
    assert "<--endpoints=127.0.0.1:2379>" in said
    assert said.endswith("<move-leader><abc>ETCDCTL_API=3\n")


def test_members_are_only_read(tmp_path: Path) -> None:
    hosts = Hosts()
    assert members.view(hosts, ["etcd1", "etcd2"], CONFIG) == dict.fromkeys(
        ["etcd1", "etcd2"], NoAnswer("its answer is cut off")
    )
    ((command, timeout, safe),) = hosts.commands
    assert (timeout, safe) == (members.TIMEOUT, True)
    said = run(tmp_path, command)
    assert [line.partition("=")[0] for line in said.splitlines() if line.startswith("fleet-")] == [
        "fleet-etcd-status",
        "fleet-etcd-members",
        "fleet-etcd-health",
    ]


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "$(id)", "a b", "a" * 300])
def test_snapshots_have_plain_names(name: str) -> None:
    hosts = Hosts()
    with pytest.raises(members.EtcdError, match="is no name for a snapshot"):
        members.snapshot(hosts, "etcd1", CONFIG, name)
    assert hosts.commands == []


def test_a_snapshot_is_read() -> None:
    said = {"hash": 2746014643, "revision": 7, "totalKey": 6, "totalSize": 20480}
    path = Path("/var/backups/etcd/a.db")
    hosts = Hosts(f"Deprecated: Use `etcdutl snapshot status` instead.\nfleet-etcd-snapshot={json.dumps(said)}\n")
    assert members.snapshot(hosts, "etcd1", CONFIG, "a.db") == members.Snapshot("etcd1", path, 2746014643, 7, 6, 20480)
    for output in ("", "fleet-etcd-snapshot=", 'fleet-etcd-snapshot={"hash":1}', "fleet-etcd-snapshot=[]"):
        with pytest.raises(members.EtcdError, match=r"with etcdutl, .*: snapshot status /var/backups/etcd/a.db"):
            members.snapshot(Hosts(output), "etcd1", CONFIG, "a.db")
