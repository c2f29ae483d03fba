"""Two Alertmanagers in a mesh, which gossips silences and no alerts: both are asked, and silences are at both."""

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest

from fleet.adapters.alertmanager.silences import Silences
from fleet_lab.lab import Lab
from fleet_lab.roles.alertmanager import PORT
from support.rehearsal import Rehearsal, eventually


@pytest.fixture(scope="module", autouse=True)
def _in_order_afterwards(lab, tmp_path_factory):
    """Whatever the last test leaves is put in order for the next module."""
    yield
    Rehearsal(lab, tmp_path_factory.mktemp("afterwards")).restore()


@pytest.fixture
def rehearsal(lab, running_workload, tmp_path):
    """A fleet in order; without Puppet's gate, which takes its time."""
    rehearsal = Rehearsal(lab, tmp_path, puppet={"enabled": False}, reinitialize=None)
    rehearsal.restore()
    return rehearsal


def url(lab: Lab, member: str) -> str:
    return f"http://{lab.hosts[member].ipv4}:{PORT}"


def fire(lab: Lab, member: str, instance: str, *, minutes: float) -> None:
    """Have one member told of an alert, as by a Prometheus that does not reach the other one; it ends in time."""
    now = datetime.now(UTC)
    alert = {
        "labels": {"alertname": "DiskFailing", "instance": instance},
        "startsAt": (now - timedelta(minutes=1)).isoformat(),
        "endsAt": (now + timedelta(minutes=minutes)).isoformat(),
    }
    request = urllib.request.Request(
        f"{url(lab, member)}/api/v2/alerts", json.dumps([alert]).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=5):
        pass


@contextmanager
def stopped(lab: Lab, member: str) -> Iterator[None]:
    """Keep a member from answering for a while; it answers again afterwards."""

    def answers() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{url(lab, member)}/-/ready", timeout=5):
            return True
        return False

    lab.exec(member, "systemctl stop prometheus-alertmanager")
    try:
        yield
    finally:
        lab.exec(member, "systemctl start prometheus-alertmanager")
        eventually(answers)


def told(lab: Lab, member: str) -> str:
    """What is said of a member that is stopped."""
    return f"1 of 2 members of Alertmanager could not be asked: {url(lab, member)}: connection refused"


def test_what_only_the_second_one_knows_holds_the_node_and_so_does_its_absence(rehearsal, lab):
    first, second = lab.names("alertmanager")
    rehearsal.hurry(alerts="5s")
    with rehearsal.in_background("--query", "worker6") as process:
        rehearsal.wait_for_event("worker6", "reboot", "applied", timeout=120)
        with stopped(lab, second):
            rehearsal.wait_for_event("worker6", "alerts", "held")
        outcome = rehearsal.end(process)
    assert outcome.code == 1, outcome.output
    assert f"worker6: HELD: alerts: not within 5 s: {told(lab, second)}" in outcome.output
    rehearsal.assert_held("worker6")

    run = rehearsal.folder().name
    fire(lab, second, "worker6:9100", minutes=5)
    assert not Silences([url(lab, first)]).alerts(["worker6"])
    outcome = rehearsal.resume(run)
    assert outcome.code == 1, outcome.output
    assert "worker6: HELD: alerts: not within 5 s: firing: DiskFailing" in outcome.output
    rehearsal.assert_held("worker6")

    fire(lab, second, "worker6:9100", minutes=0)
    outcome = rehearsal.resume(run)
    assert outcome.code == 0, outcome.output
    rehearsal.assert_untouched("worker6")


def test_one_that_cannot_be_reached_stops_the_run(rehearsal, lab):
    _, second = lab.names("alertmanager")
    with stopped(lab, second):
        outcome = rehearsal.start("--query", "worker1")
    assert outcome.code == 2, outcome.output
    assert "[stop] Not everything could be looked at" in outcome.output
    assert told(lab, second) in outcome.output
    assert "Traceback" not in outcome.output
    rehearsal.assert_untouched("worker1")


def test_a_silence_is_at_both_members_whatever_the_mesh_does(lab: Lab, healed: Lab) -> None:
    urls = [url(lab, member) for member in lab.names("alertmanager")]
    silences = Silences(urls)

    def known(comment: str) -> list[set[str]]:
        return [{silence.id for silence in Silences([one]).find(comment_contains=comment)} for one in urls]

    silence_id = silences.create(["nobody"], comment="whole", author="test", duration=600)
    assert known("whole") == [{silence_id}, {silence_id}]
    silences.expire(silence_id)
    assert known("whole") == [set(), set()]

    lab.inject("alertmanager-mesh-cut", lab.names("alertmanager")[1])
    silence_id = silences.create(["nobody"], comment="cut", author="test", duration=600)
    one, other = known("cut")
    assert len(one) == len(other) == 1
    assert one != other, "each has it under an id of its own"

    lab.heal()
    started = time.monotonic()
    eventually(lambda: known("cut") in ([one, one], [other, other]), within=90)
    print(f"the mesh was whole again after {time.monotonic() - started:.1f} s")
    silences.expire(silence_id)
    assert known("cut") == [set(), set()]
