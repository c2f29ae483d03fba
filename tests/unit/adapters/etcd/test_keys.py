"""Keys of etcd: what is read of etcdctl's answers, what hosts are told to run, and what proves that nobody wrote."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.adapters.etcd import keys
from fleet.adapters.etcd.keys import Fingerprint
from fleet.adapters.etcd.members import EtcdError
from fleet.config.reinitialize import EtcdConfig
from fleet.execution import Result

CONFIG = EtcdConfig(hosts="A:lab-etcd")
HEADER = {"cluster_id": 8755557388251169362, "member_id": 18383211074953069713, "revision": 8, "raft_term": 2}

# As etcdctl 3.4.23 and 3.5.1 print it, who leave out what is zero or empty.
RANGE = {
    "header": HEADER,
    "kvs": [{"key": "L3JlZ2lzdHJ5L2E=", "create_revision": 2, "mod_revision": 6, "version": 3, "value": "djM="}],
    "more": True,
    "count": 3,
}
NOTHING = {"header": HEADER}
HASH = [{"Endpoint": "127.0.0.1:2379", "HashKV": {"header": HEADER, "hash": 48044859, "compact_revision": -1}}]

FINGERPRINTS = st.builds(
    Fingerprint,
    cluster=st.integers(1, 2),
    revision=st.integers(1, 3),
    hash=st.integers(0, 3),
    compacted=st.integers(-1, 2),
)


class Hosts:
    """Answers every command, and keeps it."""

    def __init__(self, answer: object, *, code: int | None = 0, dry_run: bool = False) -> None:
        text = answer if isinstance(answer, str) else f"Hello\nfleet-etcd-answer={json.dumps(answer)}\nBye"
        self.result = Result(code, text)
        self.dry_run = dry_run
        self.commands: list[str] = []

    def run(self, hosts, command, *, timeout, safe):
        if self.dry_run and not safe:
            return {}
        self.commands.append(command)
        return dict.fromkeys(hosts, self.result)


def words(folder: Path, command: str) -> list[str]:
    """Run a command with an etcdctl that writes down what it is given, and return that of the last run of it."""
    etcdctl = folder / "etcdctl"
    etcdctl.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" >{folder}/words; echo "{{}}"\n')
    etcdctl.chmod(0o755)
    bash = shutil.which("bash")
    assert bash
    subprocess.run([bash, "-c", command], env={"PATH": f"{folder}:/usr/bin:/bin"}, check=True, capture_output=True)
    said = (folder / "words").read_text().split("\0")[:-1]
    return [word for word in said if not word.startswith(("--endpoints=", "--write-out=", "--dial-timeout=", "--comm"))]


def test_keys_are_counted_and_shown():
    assert keys.count(Hosts(RANGE), "etcd1", CONFIG) == 3
    assert keys.count(Hosts(NOTHING), "etcd1", CONFIG) == 0
    assert keys.some(Hosts(RANGE), "etcd1", CONFIG, 1) == ["/registry/a"]
    assert keys.some(Hosts(NOTHING), "etcd1", CONFIG, 5) == []


def test_a_key_that_is_no_text_is_shown_nevertheless():
    answer = {**RANGE, "kvs": [{"key": "L/8="}]}
    assert keys.some(Hosts(answer), "etcd1", CONFIG, 1) == ["/\\xff"]


def test_a_value_is_read():
    assert keys.read(Hosts(RANGE), "etcd1", CONFIG, "/registry/a") == b"v3"
    assert keys.read(Hosts(NOTHING), "etcd1", CONFIG, "/registry/a") is None
    empty = {**RANGE, "kvs": [{"key": "L3JlZ2lzdHJ5L2E=", "version": 1}]}
    assert keys.read(Hosts(empty), "etcd1", CONFIG, "/registry/a") == b""


@pytest.mark.parametrize("key", ["--help", "/a b/$(reboot)'x", "/registry/a"])
def test_a_key_is_one_word(tmp_path, key):
    hosts = Hosts(NOTHING)
    keys.read(hosts, "etcd1", CONFIG, key)
    assert words(tmp_path, hosts.commands[0]) == ["get", "--", key]


def test_what_is_asked_for_all_keys(tmp_path):
    hosts = Hosts(NOTHING)
    keys.count(hosts, "etcd1", CONFIG)
    keys.some(hosts, "etcd1", CONFIG, 20)
    asked = [words(tmp_path, command) for command in hosts.commands]
    assert asked == [["get", "--from-key", "--keys-only", f"--limit={limit}", "--", ""] for limit in (1, 20)]


def test_a_fingerprint_is_read():
    found = keys.fingerprint(Hosts(HASH), "etcd1", CONFIG)
    assert found == Fingerprint(cluster=8755557388251169362, revision=8, hash=48044859, compacted=-1)


@pytest.mark.parametrize(
    "answer", ["", "fleet-etcd-answer=", "fleet-etcd-answer={", [], {}, [{}], [*HASH, *HASH], 7, None]
)
def test_what_cannot_be_read_is_no_fingerprint(answer):
    with pytest.raises(EtcdError, match="What etcdctl says on etcd1 cannot be read"):
        keys.fingerprint(Hosts(answer), "etcd1", CONFIG)


@pytest.mark.parametrize("answer", ["", "fleet-etcd-answer=x", [], 7, {"kvs": [{"key": "%"}]}])
def test_what_cannot_be_read_are_no_keys(answer):
    with pytest.raises(EtcdError, match="What etcdctl says on etcd1 cannot be read"):
        keys.some(Hosts(answer), "etcd1", CONFIG, 1)


def test_a_failure_is_told():
    hosts = Hosts('{"level":"warn"}\nError: context deadline exceeded', code=1)
    with pytest.raises(EtcdError, match=r"etcdctl failed on etcd1: Error: context deadline exceeded \(exit code 1\)"):
        keys.count(hosts, "etcd1", CONFIG)
    with pytest.raises(EtcdError, match=r"etcdctl failed on etcd1: no answer within 20 s"):
        keys.count(Hosts("no answer within 20 s", code=None), "etcd1", CONFIG)


@given(FINGERPRINTS)
@settings(deadline=None)
def test_nothing_is_touched_while_nothing_happens(before):
    assert keys.touched(before, before) == ""


@given(FINGERPRINTS, FINGERPRINTS)
@settings(deadline=None)
def test_only_a_compaction_may_change_the_hash(before, after):
    untouched = keys.touched(before, after) == ""
    same = (before.cluster, before.revision) == (after.cluster, after.revision)
    assert untouched == (same and (before.hash == after.hash or before.compacted != after.compacted))
    assert untouched == (keys.touched(after, before) == "")


def test_what_was_touched_is_told():
    before = Fingerprint(cluster=0xA, revision=8, hash=1, compacted=5)
    assert keys.touched(before, replace(before, cluster=0xB)) == "it is the etcd cluster b, and was a"
    assert keys.touched(before, replace(before, revision=9, hash=2)) == "its revision is 9, and was 8"
    assert keys.touched(before, replace(before, hash=2)) == "the hash of its keys is 2, and was 1, both at revision 8"


@pytest.mark.parametrize("prefix", ["", "/", "//", "registry", "a", "/a//b", "/a\n", "/a b", "/$(id)", "/registry/*"])
def test_a_prefix_that_is_none_deletes_nothing(prefix):
    hosts = Hosts({"header": HEADER, "deleted": 3})
    with pytest.raises(EtcdError, match="Nothing is deleted below"):
        keys.delete_prefix(hosts, "etcd1", CONFIG, prefix)
    assert hosts.commands == []


@pytest.mark.parametrize("prefix", ["/registry", "/registry/"])
def test_a_prefix_is_a_folder(tmp_path, prefix):
    hosts = Hosts({"header": HEADER, "deleted": 3})
    assert keys.delete_prefix(hosts, "etcd1", CONFIG, prefix) == 3
    assert words(tmp_path, hosts.commands[0]) == ["del", "--prefix", "--", "/registry/"]


def test_a_deletion_without_an_answer_is_none():
    for answer in ("", "fleet-etcd-answer=[]", "fleet-etcd-answer=7"):
        with pytest.raises(EtcdError, match="cannot be read"):
            keys.delete_prefix(Hosts(answer), "etcd1", CONFIG, "/registry")


def test_nothing_to_delete_and_a_dry_run_are_two_things():
    assert keys.delete_prefix(Hosts(NOTHING), "etcd1", CONFIG, "/registry") == 0
    assert keys.delete_prefix(Hosts(NOTHING, dry_run=True), "etcd1", CONFIG, "/registry") is None
    assert keys.count(Hosts(RANGE, dry_run=True), "etcd1", CONFIG) == 3
