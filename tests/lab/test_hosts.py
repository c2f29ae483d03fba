"""The hosts library against real hosts: over SSH, with real reboots, a real Puppet and a real Alertmanager."""

import time
from collections.abc import Iterator

import pytest
import yaml
from spicerack import Spicerack

from fleet.adapters.alertmanager.silences import Silences
from fleet.adapters.hosts import puppet
from fleet.adapters.hosts.probe import HostState, probe
from fleet.adapters.hosts.reboot import reboot
from fleet.adapters.hosts.remote import Remote
from fleet.clock import CLOCK, THREADS
from fleet.execution import Unreachable
from fleet_lab.lab import Lab

REASON = """it's "a" $(id) `id` \\ ü - anna@mgmt1 - T1"""


@pytest.fixture
def spicerack(lab: Lab) -> Spicerack:
    params = yaml.safe_load(lab.spicerack_config.read_text())["instance_params"]
    return Spicerack(dry_run=False, **params)


@pytest.fixture
def remote(spicerack: Spicerack) -> Remote:
    return Remote(spicerack)


def state(remote: Remote, host: str) -> HostState:
    found = probe(remote, [host])[host]
    assert isinstance(found, HostState), found
    return found


def wait_for(remote: Remote, host: str, *, within: float = 60.0) -> HostState:
    deadline = time.monotonic() + within
    while True:
        found = probe(remote, [host], timeout=5)[host]
        if isinstance(found, HostState):
            return found
        assert time.monotonic() < deadline, found


def test_all_hosts_answer_one_probe(lab: Lab, remote: Remote) -> None:
    hosts = remote.query("A:lab")
    started = time.monotonic()

    states = probe(remote, hosts)

    print(f"{len(hosts)} hosts in {time.monotonic() - started:.2f} s")
    assert sorted(hosts) == sorted([*lab.names("worker"), *lab.names("control-plane")])
    found = [answer for answer in states.values() if isinstance(answer, HostState)]
    assert len(found) == len(hosts), states
    assert len({answer.boot_id for answer in found}) == len(hosts)
    assert all(answer.puppet_installed and answer.uptime > 0 for answer in found)


def test_a_reboot_that_is_ordered_twice_happens_once(lab: Lab, remote: Remote, healed: Lab) -> None:
    host = lab.names("worker")[-1]
    before = state(remote, host)

    assert reboot(remote, {host: before.boot_id})[host].ok
    deadline = time.monotonic() + 30
    while not isinstance(down := probe(remote, [host], timeout=3)[host], Unreachable):
        assert down.boot_id == before.boot_id, "it was back before it was seen down"
        assert time.monotonic() < deadline
    assert down.reason
    after = wait_for(remote, host)
    assert after.boot_id != before.boot_id
    assert after.uptime < 120

    again = reboot(remote, {host: before.boot_id})[host]

    assert again.ok
    assert "not rebooted" in again.output
    assert state(remote, host).boot_id == after.boot_id
    lab.wait_for_nodes([host], timeout=60)


@pytest.fixture
def ours(lab: Lab, remote: Remote) -> Iterator[str]:
    """Give a host whose Puppet is enabled, before and after."""
    host = lab.names("worker")[0]
    yield host
    lab.exec(host, ". /usr/local/share/bash/puppet-common.sh; rm -f $PUPPET_DISABLEDLOCK")


def test_puppet_keeps_the_reason_as_it_is(lab: Lab, remote: Remote, ours: str) -> None:
    assert puppet.disable(remote, [ours], REASON)[ours] == puppet.PuppetResult(disabled=REASON, error=None)
    assert state(remote, ours).puppet_disabled == REASON
    assert puppet.disable(remote, [ours], "another")[ours].disabled == REASON
    assert puppet.enable(remote, [ours], "another")[ours].disabled == REASON

    refused = puppet.run(remote, [ours], timeout=60)[ours]

    assert (refused.disabled, bool(refused.error)) == (REASON, True)
    assert puppet.run(remote, [ours], timeout=60, enable_reason=REASON)[ours] == puppet.PuppetResult(None, None)
    after = state(remote, ours)
    assert not after.puppet_failed
    assert after.puppet_last_success == pytest.approx(after.now, abs=30)


def test_what_puppet_itself_disabled_is_somebody_elses(lab: Lab, remote: Remote, ours: str) -> None:
    assert lab.exec(ours, "puppet agent --disable 'disk \"swap\" - bob'").returncode == 0

    assert puppet.disable(remote, [ours], REASON)[ours].disabled == 'disk "swap" - bob'
    assert puppet.enable(remote, [ours], REASON)[ours].disabled == 'disk "swap" - bob'


def test_what_the_wrapper_disabled_puppet_respects(lab: Lab, remote: Remote, ours: str) -> None:
    puppet.disable(remote, [ours], REASON)

    said = lab.exec(ours, "puppet agent --test --noop 2>&1")

    assert "administratively disabled" in said.stdout
    assert REASON in said.stdout


def test_spicerack_reads_the_same(lab: Lab, spicerack: Spicerack, remote: Remote, ours: str) -> None:
    puppet.disable(remote, [ours], "ours")
    hosts = spicerack.puppet(spicerack.remote().query(ours))

    hosts.check_disabled()
    hosts.enable(spicerack.admin_reason("not ours"))
    hosts.check_disabled()
    assert state(remote, ours).puppet_disabled == "ours"
    puppet.enable(remote, [ours], "ours")
    hosts.check_enabled()


def test_a_host_without_ssh_is_unreachable_and_the_others_answer(lab: Lab, remote: Remote, healed: Lab) -> None:
    good, bad = lab.names("worker")[:2]
    lab.inject("ssh-refused", bad)

    states = probe(remote, [good, bad])

    assert isinstance(states[good], HostState)
    refused = states[bad]
    assert isinstance(refused, Unreachable)
    assert "refused" in refused.reason


def test_a_silence_on_the_labs_alertmanager(lab: Lab, spicerack: Spicerack) -> None:
    silences = Silences.from_spicerack(spicerack, clock=CLOCK, threads=THREADS)
    silence_id = silences.create(["nobody"], comment="test", author="anna", duration=60)

    assert silences.extend(silence_id, 120) == silence_id
    silences.expire(silence_id)
    assert silences.get(silence_id).state == "expired"
