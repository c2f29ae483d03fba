"""Silences and alerts of a real Alertmanager (Debian's prometheus-alertmanager), on the loopback interface."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.adapters.alertmanager.alertmanager import NoSuchSilenceError, SilenceError
from fleet.adapters.alertmanager.silences import Silences
from fleet.clock import SystemClock
from fleet.config.matchers import parse_matcher
from support.alertmanager import fire, running_alertmanager
from support.ports import free_port

HOSTS = ["worker1.example.org", "worker2"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_alertmanager(tmp_path_factory.mktemp("alertmanager")) as url:
        yield url


@pytest.fixture
def silences(url: str) -> Silences:
    return Silences([url])


def create(silences: Silences, *, comment: str = "reboot, run 42", duration: float = 600) -> str:
    return silences.create(HOSTS, comment=comment, author="anna@mgmt1", duration=duration)


def test_a_silence_is_in_force_at_once(silences: Silences) -> None:
    silence = silences.get(create(silences))

    assert silence.state == "active"
    assert (silence.comment, silence.author) == ("reboot, run 42", "anna@mgmt1")
    assert silence.ends_at == pytest.approx(time.time() + 600, abs=5)
    assert silence.starts_at == pytest.approx(time.time(), abs=5)


def test_extending_keeps_the_id_and_the_matchers(silences: Silences) -> None:
    first = silences.get(create(silences))

    extended = silences.get(silences.extend(first.id, 3600))

    assert extended.id == first.id
    assert extended.matchers == first.matchers
    assert extended.starts_at == first.starts_at
    assert extended.ends_at == pytest.approx(time.time() + 3600, abs=5)


def test_extending_never_shortens(silences: Silences) -> None:
    silence = silences.get(create(silences))

    assert silences.extend(silence.id, 60) == silence.id
    assert silences.get(silence.id).ends_at == silence.ends_at


def test_an_expired_silence_is_made_anew(silences: Silences) -> None:
    first = create(silences, comment="run 43")
    silences.expire(first)

    second = silences.extend(first, 60)

    assert second != first
    assert [silence.id for silence in silences.find(comment_contains="run 43")] == [second]
    assert silences.get(second).matchers == silences.get(first).matchers


def test_expiring_is_idempotent(silences: Silences) -> None:
    silence_id = create(silences)

    silences.expire(silence_id)
    silences.expire(silence_id)

    assert silences.get(silence_id).state == "expired"


def test_unknown_silences(silences: Silences) -> None:
    unknown = "00000000-0000-4000-8000-000000000000"

    silences.expire(unknown)
    with pytest.raises(NoSuchSilenceError, match=unknown):
        silences.get(unknown)
    with pytest.raises(NoSuchSilenceError):
        silences.extend(unknown, 60)


def test_find_leaves_out_the_expired(silences: Silences) -> None:
    here, gone = create(silences, comment="run 44 a"), create(silences, comment="run 44 b")
    create(silences, comment="run 45")
    silences.expire(gone)

    assert [silence.id for silence in silences.find(comment_contains="run 44")] == [here]


def test_alerts_of_hosts_and_of_no_others(silences: Silences, url: str) -> None:
    for instance in (
        *("host1.example.org:9100", "host1", "host1.example.org", "host1.other.org:9100"),
        *("host11", "xhost1", "host2.any.where:80", "host1xexample.org"),
    ):
        fire(url, instance, severity="critical")

    alerts = silences.alerts(["host1.example.org", "host2"])

    assert sorted((alert.host, alert.instance) for alert in alerts) == [
        ("host1.example.org", "host1"),
        ("host1.example.org", "host1.example.org"),
        ("host1.example.org", "host1.example.org:9100"),
        ("host2", "host2.any.where:80"),
    ]
    assert {(alert.name, alert.severity, alert.silenced) for alert in alerts} == {("HostDown", "critical", False)}
    assert alerts[0].starts_at == pytest.approx(time.time(), abs=30)


def test_a_silence_silences_its_hosts_alerts_alone(silences: Silences, url: str) -> None:
    hosts = ["quiet-1.example.org", "quiet-2"]
    silences.create(hosts, comment="c", author="a", duration=60, matchers=[parse_matcher('site="x y\\"z"')])
    for instance in ("quiet-1:1", "quiet-2.lan"):
        fire(url, instance, site='x y"z')
        fire(url, instance, name="Other", site="elsewhere")
    deadline = time.monotonic() + 10

    while True:
        silenced = {(alert.host, alert.name) for alert in silences.alerts(hosts) if alert.silenced}
        if len(silenced) == 2 or time.monotonic() > deadline:
            break

    assert silenced == {("quiet-1.example.org", "HostDown"), ("quiet-2", "HostDown")}


def test_alerts_of_a_thousand_hosts(silences: Silences, url: str) -> None:
    fire(url, "many999.example.org")

    alerts = silences.alerts([f"many{number}.example.org" for number in range(1000)])

    assert [alert.host for alert in alerts] == ["many999.example.org"]


def test_a_silence_of_a_thousand_hosts(silences: Silences) -> None:
    hosts = [f"crowd{number}.example.org" for number in range(1000)]

    assert silences.get(silences.create(hosts, comment="c", author="a", duration=60)).state == "active"


def test_a_member_that_does_not_answer_makes_it_unknown_unless_the_others_suffice(url: str) -> None:
    urls = [f"http://127.0.0.1:{free_port()}", url + "/"]

    assert Silences(urls, needed=1).get(create(Silences(urls, needed=1), comment="run 47")).state == "active"
    with pytest.raises(SilenceError, match=rf"^1 of 2 members .* asked: {urls[0]}: connection refused\. Repair it"):
        Silences(urls).find(comment_contains="run 47")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Run two members of one cluster."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    first, second = (tmp_path_factory.mktemp("member") for _ in addresses)
    with (
        running_alertmanager(first, mesh=addresses[0]) as one,
        running_alertmanager(second, mesh=addresses[1], peer=addresses[0]) as two,
    ):
        yield [one, two]


@pytest.fixture
def apart(url: str, tmp_path: Path) -> Iterator[list[str]]:
    """Run two members whose mesh is broken."""
    with running_alertmanager(tmp_path) as other:
        yield [url, other]


def ids(urls: list[str], comment: str) -> list[list[str]]:
    """Return the ids of a silence that is in force, by member."""
    return [[silence.id for silence in Silences([url]).find(comment_contains=comment)] for url in urls]


def test_the_mesh_brings_a_silence_to_the_other_member_and_its_end(mesh: list[str]) -> None:
    silences = Silences(mesh)

    silence_id = create(silences, comment="run 48")

    assert ids(mesh, "run 48") == [[silence_id]] * 2
    assert silences.extend(silence_id, 3600) == silence_id
    assert [Silences([url]).get(silence_id).ends_at > time.time() + 3500 for url in mesh] == [True, True]
    silences.expire(silence_id)
    assert ids(mesh, "run 48") == [[], []]


def test_without_a_mesh_a_silence_is_at_both_members_and_is_one(apart: list[str]) -> None:
    silences = Silences(apart)

    silence_id = create(silences, comment="run 49")

    (one,), (two,) = ids(apart, "run 49")
    assert one != two
    assert silence_id in (one, two)
    (found,) = silences.find(comment_contains="run 49")
    assert not found.lacking
    assert silences.extend(two, 3600) == two
    assert [silence.ends_at > time.time() + 3500 for silence in (silences.get(one), silences.get(two))] == [True, True]
    silences.expire(one)
    assert ids(apart, "run 49") == [[], []]


def test_a_silence_and_an_alert_that_only_the_second_member_has_are_found(apart: list[str]) -> None:
    first, second = apart
    silence_id = create(Silences([second]), comment="run 50")
    fire(second, "host3:9100", name="DiskBroken")

    assert not Silences([first]).alerts(["host3"])
    assert [alert.name for alert in Silences(apart).alerts(["host3"])] == ["DiskBroken"]
    (found,) = Silences(apart).find(comment_contains="run 50")
    assert (found.id, found.lacking) == (silence_id, (first,))
    assert create(Silences(apart), comment="run 50") == silence_id
    assert [len(found) for found in ids(apart, "run 50")] == [1, 1]


def test_our_clock_decides_nothing(silences: Silences, url: str) -> None:
    class Behind(SystemClock):
        def time(self) -> float:
            return super().time() - 3 * 3600

    skewed = Silences([url], clock=Behind())

    silence_id = create(skewed, comment="run 51", duration=60)
    assert silences.get(silence_id).ends_at == pytest.approx(time.time() + 60, abs=3)
    skewed.extend(silence_id, 600)
    assert silences.get(silence_id).ends_at == pytest.approx(time.time() + 600, abs=3)
    assert skewed.get(silence_id).ends_at == pytest.approx(time.time() + 600 - 3 * 3600, abs=3)


def test_nobody_answers() -> None:
    urls = [f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"]

    with pytest.raises(SilenceError) as caught:
        create(Silences(urls))

    assert str(caught.value) == (
        f"2 of 2 members of Alertmanager could not be asked: {urls[0]}: connection refused; {urls[1]}: connection"
        " refused. Repair it, or correct its URL in alertmanager/config.yaml."
    )


def test_a_dry_run_reads_and_changes_nothing(silences: Silences, url: str) -> None:
    silence = silences.get(create(silences, comment="run 46"))
    dry = Silences([url], dry_run=True)

    assert create(dry, comment="run 46") == ""
    assert dry.extend(silence.id, 7200) == silence.id
    dry.expire(silence.id)

    assert dry.find(comment_contains="run 46") == [silence]
