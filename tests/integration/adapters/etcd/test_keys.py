"""etcd's keys, and whether hosts reach it, with a real cluster."""

import base64
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.adapters.etcd import health, keys, reach
from fleet.adapters.etcd.keys import Fingerprint
from fleet.adapters.etcd.members import EtcdError
from fleet.config.certificates import Certificates
from fleet_lab.pki import Authority
from support.etcd import HOSTS, Etcd
from support.plain_etcd import plain_etcd
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
    """Give the cluster with all members well, and empty."""
    cluster.wait()
    everything = {"key": base64.b64encode(b"\0").decode(), "range_end": base64.b64encode(b"\0").decode()}
    cluster.post("etcd1", "kv/deleterange", everything)
    yield cluster
    cluster.dry_run = False


def put(etcd: Etcd, key: str, value: bytes = b"value") -> None:
    body = {"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(value).decode()}
    etcd.post("etcd2", "kv/put", body)


def compact(etcd: Etcd, revision: int) -> None:
    etcd.post("etcd3", "kv/compaction", {"revision": revision, "physical": True})


def test_keys_are_counted_and_named(etcd: Etcd) -> None:
    assert keys.count(etcd, "etcd1", etcd.config) == 0
    assert keys.some(etcd, "etcd1", etcd.config, 5) == []
    names = [f"/registry/pods/{number}" for number in range(30)]
    for name in names:
        put(etcd, name)
    for host in HOSTS:
        assert keys.count(etcd, host, etcd.config) == 30
    assert keys.some(etcd, "etcd1", etcd.config, 3) == sorted(names)[:3]


def test_a_value_comes_back_as_it_was_written(etcd: Etcd) -> None:
    key, value = "/odd 'key' $(exit 3)", bytes(range(256)) * 100
    assert keys.read(etcd, "etcd1", etcd.config, key) is None
    put(etcd, key, value)
    put(etcd, "/empty", b"")
    etcd.dry_run = True
    assert keys.read(etcd, "etcd1", etcd.config, key) == value
    assert keys.read(etcd, "etcd1", etcd.config, "/empty") == b""


def test_only_a_folder_is_deleted(etcd: Etcd) -> None:
    for key in ("/registry/a", "/registry/b/c", "/registry-of-others/a", "/registry", "/calico/a"):
        put(etcd, key)
    etcd.dry_run = True
    assert keys.delete_prefix(etcd, "etcd1", etcd.config, "/registry") is None
    etcd.dry_run = False
    assert keys.count(etcd, "etcd1", etcd.config) == 5

    assert keys.exists(etcd, "etcd1", etcd.config, "/registry")
    assert keys.exists(etcd, "etcd1", etcd.config, "/registry/b/")
    assert not keys.exists(etcd, "etcd1", etcd.config, "/registry/a"), "that is a key, and no folder"
    assert keys.delete_prefix(etcd, "etcd1", etcd.config, "/registry") == 2
    assert not keys.exists(etcd, "etcd1", etcd.config, "/registry")

    assert keys.some(etcd, "etcd1", etcd.config, 9) == ["/calico/a", "/registry", "/registry-of-others/a"]
    assert keys.delete_prefix(etcd, "etcd1", etcd.config, "/registry") == 0


def test_keys_that_expire_by_themselves_do_not_last(etcd: Etcd) -> None:
    assert keys.lasting(etcd, "etcd1", etcd.config) == 0
    for number in range(20):
        put(etcd, f"/registry/{number}", b'{"lease": {"key": 1}}')
    lease = etcd.post("etcd1", "lease/grant", {"TTL": 600})["ID"]
    event = {"key": base64.b64encode(b"/registry/events/a").decode(), "lease": lease}
    etcd.post("etcd1", "kv/put", event)
    etcd.dry_run = True
    assert keys.lasting(etcd, "etcd2", etcd.config) == 20
    unusable = etcd.config.model_copy(update={"environment": {**etcd.config.environment, "ETCDCTL_CERT": "/none"}})
    with pytest.raises(EtcdError, match="etcdctl failed on etcd1"):
        keys.lasting(etcd, "etcd1", unusable)


def test_a_fingerprint_shows_every_write_and_no_compaction(etcd: Etcd) -> None:
    def fingerprint() -> Fingerprint:
        return keys.fingerprint(etcd, "etcd1", etcd.config)

    for number in range(5):
        put(etcd, "/registry/a", b"%d" % number)
        put(etcd, f"/registry/{number}")
    before = fingerprint()
    assert keys.touched(before, fingerprint()) == ""

    compact(etcd, before.revision - 3)
    compacted = fingerprint()
    assert compacted.hash != before.hash
    assert (compacted.revision, compacted.compacted) == (before.revision, before.revision - 3)
    assert keys.touched(before, compacted) == ""

    keys.count(etcd, "etcd1", etcd.config)
    assert keys.touched(compacted, fingerprint()) == ""
    put(etcd, "/registry/a", b"4")  # The value that it has already.
    assert keys.touched(before, fingerprint()) == f"its revision is {before.revision + 1}, and was {before.revision}"


def test_a_member_that_lags_does_not_answer_for_the_cluster(etcd: Etcd) -> None:
    others = HOSTS[1:]
    for host in others:
        etcd.pause(host)
    started = time.monotonic()
    with pytest.raises(EtcdError, match="etcdctl failed on etcd1"):
        keys.fingerprint(etcd, "etcd1", etcd.config)
    assert time.monotonic() - started < keys.TIMEOUT


def certificates(etcd: Etcd) -> Certificates:
    return Certificates(etcd.authority, etcd.certificate, etcd.key)


def endpoints(etcd: Etcd) -> list[str]:
    return [f"https://127.0.0.1:{etcd.ports[host][0]}" for host in HOSTS]


def test_an_etcd_that_is_well_is_reached(etcd: Etcd) -> None:
    etcd.dry_run = True
    assert reach.reachable(etcd, HOSTS[:2], endpoints(etcd), certificates(etcd)) == dict.fromkeys(HOSTS[:2], "")


def test_members_that_are_away_or_hang_are_named_together_and_in_time(etcd: Etcd) -> None:
    follower, *_, leader = health.order(etcd.view())
    well, paused = (f"https://127.0.0.1:{etcd.ports[host][0]}" for host in (leader, follower))
    stopped = f"https://127.0.0.1:{free_port()}"
    etcd.pause(follower)
    started = time.monotonic()

    problem = reach.reachable(etcd, ["etcd1"], [well, paused, stopped], certificates(etcd))["etcd1"]

    assert time.monotonic() - started < 8
    about_paused, about_stopped = problem.split("; ")
    assert about_paused.startswith(f"{paused}: curl: (28) ")
    assert about_stopped.startswith(f"{stopped}: curl: (7) ")
    assert well not in problem


def test_the_certificates_have_to_be_right(etcd: Etcd, tmp_path: Path) -> None:
    other = Authority(tmp_path / "pki", "other")
    credential = other.issue("stranger", names=["localhost"])
    (tmp_path / "cert.pem").write_text(credential.certificate)
    (tmp_path / "key.pem").write_text(credential.key)
    right, url = certificates(etcd), endpoints(etcd)[0]
    for wrong, why in (
        (Certificates(other.path, right.cert, right.key), r"curl: \(60\) SSL certificate problem: .*"),
        (Certificates(right.ca, tmp_path / "cert.pem", tmp_path / "key.pem"), r"curl: \(\d+\) .*bad certificate.*"),
        (Certificates(tmp_path / "none", right.cert, right.key), r"curl: \(77\) .*"),
        (Certificates(right.ca, right.cert, tmp_path / "none"), r"curl: \(58\) .*"),
        (None, r"curl: \(60\) .*"),
    ):
        problem = reach.reachable(etcd, ["etcd1"], [url], wrong)["etcd1"]
        assert re.fullmatch(f"{url}: {why}", problem), problem


def test_an_etcd_without_tls_is_reached(etcd: Etcd, tmp_path: Path) -> None:
    with plain_etcd(tmp_path / "plain") as url:
        assert reach.reachable(etcd, ["etcd1"], [url], None) == {"etcd1": ""}
