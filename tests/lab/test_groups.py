"""sre.hosts.roll-restart and sre.hosts.roll-reboot over the lab's group of hosts without Kubernetes."""

import json

import pytest
import yaml

from fleet_lab.roles.web import BUSY
from support.rehearsal import Rehearsal, end_silences, eventually

HOSTS = ["web1", "web2", "web3"]
RESTART, REBOOT = "sre.hosts.roll-restart", "sre.hosts.roll-reboot"
UNIT = ("--units", "web.service")
LOCK = '. /usr/local/share/bash/puppet-common.sh; cat "$PUPPET_DISABLEDLOCK" 2>/dev/null; true'


@pytest.fixture
def rehearsal(lab, tmp_path):
    """The group in order, before and after."""
    put_in_order(lab)
    ready = Rehearsal(lab, tmp_path, RESTART)
    ready.scope = ("--group", "web")
    data = yaml.safe_load(ready.config.read_text())
    data["groups"]["web"]["deadlines"] |= {"ready": "10s", "blocked": "10s"}
    data["groups"]["web"]["lock"] = "10s"
    ready.config.write_text(yaml.safe_dump(data))
    yield ready
    put_in_order(lab)


def put_in_order(lab):
    """Undo all that a test and its runs have left."""
    lab.heal()
    enable = '. /usr/local/share/bash/puppet-common.sh; rm -f "$PUPPET_DISABLEDLOCK"'
    for host in HOSTS:
        lab.enter(host, "bash", "-c", f"{enable}; rm -f {BUSY}; systemctl reset-failed; systemctl start web")
    end_silences(lab)


def group(rehearsal, cookbook, *arguments, **options):
    """Run a cookbook over the group to its end."""
    return rehearsal.cookbook(cookbook, "--group", "web", "-r", "rehearsal", "--unattended", *arguments, **options)


def starts(lab):
    """The invocation of the unit on each host, as its systemd has it."""
    show = ("systemctl", "show", "--property=InvocationID", "--value", "web")
    return {host: lab.enter(host, *show).strip() for host in HOSTS}


def boots(lab):
    """The boot of each host."""
    return {host: lab.enter(host, "cat", "/proc/sys/kernel/random/boot_id").strip() for host in HOSTS}


def puppet(lab):
    """The reasons for which Puppet is disabled, by host."""
    locks = {host: lab.enter(host, "bash", "-c", LOCK) for host in HOSTS}
    return {host: json.loads(lock)["disabled_message"] for host, lock in locks.items() if lock.strip()}


def assert_nothing_left(rehearsal):
    """Nothing of any run is left."""
    assert puppet(rehearsal.lab) == {}
    assert rehearsal.silences() == []


def test_a_unit_is_restarted_on_each_host_once(rehearsal, lab):
    before = starts(lab)
    planned = rehearsal.cookbook("--dry-run", RESTART, "--group", "web", "-r", "rehearsal", *UNIT)
    assert planned.code == 0, planned.output
    assert starts(lab) == before
    assert not rehearsal.state_dir.exists()

    outcome = group(rehearsal, RESTART, *UNIT)
    assert outcome.code == 0, outcome.output
    step_line = next(line for line in planned.output.splitlines() if line.startswith("Each host"))
    assert step_line in outcome.output
    after = starts(lab)
    assert all(after[host] != before[host] for host in HOSTS)
    assert_nothing_left(rehearsal)
    assert len(rehearsal.ended_silences()) == 3

    again = group(rehearsal, RESTART, *UNIT)  # The lock was given back.
    assert again.code == 0, again.output


def test_a_reboot_that_is_killed_is_resumed_and_no_host_is_rebooted_twice(rehearsal, lab):
    rehearsal.procedure = REBOOT
    before = boots(lab)
    rehearsal.kill_at("web1", "reboot", "applied")
    refused = group(rehearsal, RESTART, *UNIT)
    assert refused.code == 2
    assert "was interrupted; in flight: web1" in refused.output

    resumed = rehearsal.resume(rehearsal.folder().name)
    assert resumed.code == 0, resumed.output
    assert set(rehearsal.statuses().values()) == {"done"}
    after = boots(lab)
    assert all(after[host] != before[host] for host in HOSTS)
    assert_nothing_left(rehearsal)


def test_a_host_that_does_not_serve_afterwards_is_held_and_the_next_one_is_left_alone(rehearsal, lab):
    before = starts(lab)
    lab.enter("web1", "bash", "-c", "mkdir -p /etc/systemd/system/web.service.d")
    broken = "/etc/systemd/system/web.service.d/broken.conf"
    lab.enter("web1", "bash", "-c", f"printf '[Service]\\nExecStart=\\nExecStart=/bin/sleep 1000\\n' > {broken}")
    lab.enter("web1", "systemctl", "daemon-reload")
    try:
        outcome = group(rehearsal, RESTART, *UNIT, "--query", "web[1-2]", timeout=120)
        assert outcome.code == 1, outcome.output
        assert rehearsal.statuses() == {"web1": "held", "web2": "pending"}
        assert starts(lab)["web2"] == before["web2"]
        assert set(puppet(lab)) == {"web1"}
        assert len(rehearsal.silences()) == 1
    finally:
        lab.enter("web1", "bash", "-c", f"rm -f {broken}; systemctl daemon-reload; systemctl restart web")
    resumed = rehearsal.resume(outcome.run)
    assert resumed.code == 0, resumed.output
    assert_nothing_left(rehearsal)


def test_a_host_that_is_busy_is_not_touched_and_an_abort_leaves_nothing(rehearsal, lab):
    before = starts(lab)
    lab.enter("web1", "touch", BUSY)
    outcome = group(rehearsal, RESTART, *UNIT, timeout=240)
    assert outcome.code == 1, outcome.output
    assert starts(lab) == before
    aborted = rehearsal.abort(outcome.run)
    assert aborted.code == 0, aborted.output
    assert_nothing_left(rehearsal)


def test_a_host_that_another_one_cannot_do_without_counts(rehearsal, lab):
    lab.enter("web3", "systemctl", "stop", "web")
    outcome = group(rehearsal, RESTART, *UNIT, "--query", "web[1-2]")
    assert outcome.code == 2, outcome.output
    assert "web3 does not serve" in outcome.output
    assert "Nothing can start: web3 unavailable" in outcome.output
    lab.enter("web3", "systemctl", "start", "web")
    eventually(lambda: lab.enter("web3", "systemctl", "is-active", "web").strip() == "active", within=10)


def test_hosts_of_a_cluster_are_refused(rehearsal):
    for host, cookbook in (("cp1", "sre.k8s.restart-control-plane"), ("etcd1", "sre.etcd.restart")):
        outcome = group(rehearsal, REBOOT, "--query", host)
        assert outcome.code == 2
        assert cookbook in outcome.output, outcome.output
