"""sre.etcd.restart over the lab's members, with writers and watchers of its own at each of them."""

import json
import re
import signal

import pytest

from fleet_lab.guest.kubelet.api import TROUBLE, ApiError
from support.etcd_clients import Load, leader
from support.haproxy import servers, wait_until_in_service
from support.rehearsal import LEASE, RESTART_CALICO, RESTART_ETCD, Rehearsal, end_silences, eventually

HOSTS = ["etcd1", "etcd2", "etcd3"]
LOCK = '. /usr/local/share/bash/puppet-common.sh; cat "$PUPPET_DISABLEDLOCK" 2>/dev/null; true'
RUNS = "/var/backups/etcd"


@pytest.fixture(scope="module", autouse=True)
def _in_order_afterwards(lab):
    """Whatever the last test leaves is put in order for the next module."""
    yield
    put_in_order(lab)


@pytest.fixture
def rehearsal(lab, tmp_path):
    """etcd in order."""
    put_in_order(lab)
    return Rehearsal(lab, tmp_path, RESTART_ETCD)


def put_in_order(lab):
    """Undo all that a test and its runs have left."""
    lab.heal()
    eventually(lambda: bool(leader(lab)), within=60)
    for host in HOSTS:
        enable = '. /usr/local/share/bash/puppet-common.sh; rm -f "$PUPPET_DISABLEDLOCK"'
        lab.enter(host, "bash", "-c", f"{enable}; rm -rf {RUNS}")
    end_silences(lab)
    # An apiserver may still wait for a member that was paused.
    eventually(lambda: is_forgotten(lab), within=60)


def is_forgotten(lab):
    """Delete the Lease of a run that was not ended; say whether none is left."""
    try:
        lab.api().request("DELETE", LEASE)
    except TROUBLE as error:
        return isinstance(error, ApiError) and error.status == 404
    return True


@pytest.fixture
def ranks(rehearsal, lab):
    """The followers in the order in which they are restarted, then the leader."""
    leads = leader(lab)
    return [*(host for host in HOSTS if host != leads), leads]


def starts(lab):
    """The invocation of etcd on each host, as its systemd has it."""
    show = ("systemctl", "show", "--property=InvocationID", "--value", "etcd")
    return {host: lab.enter(host, *show).strip() for host in HOSTS}


def puppet(lab):
    """The reasons for which Puppet is disabled, by host."""
    locks = {host: lab.enter(host, "bash", "-c", LOCK) for host in HOSTS}
    return {host: json.loads(lock)["disabled_message"] for host, lock in locks.items() if lock.strip()}


def plan(output):
    """What is going to be done, as it is printed."""
    lines = output.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("1. snapshot"))
    end = next(number for number, line in enumerate(lines) if line.endswith("leads, and goes last."))
    return lines[begin : end + 1]


def assert_nothing_left(rehearsal):
    """Nothing of any run is left but its snapshot."""
    assert puppet(rehearsal.lab) == {}
    assert rehearsal.silences() == []
    assert not rehearsal.lab.api().request("GET", LEASE)["spec"].get("holderIdentity")


def assert_no_write_was_missed(load):
    """A quorum was there at any moment, and has kept all that it acknowledged."""
    assert len(load.acknowledged()) > 100
    assert load.lost() == {host: set() for host in HOSTS}
    assert load.longest_gap() < 2
    assert len(load.most_down()) <= 1, load.most_down()
    load.clean()


def outages(load):
    """How often each member was away."""
    return {host: len(watcher.outages()) for host, watcher in load.watchers.items()}


def test_every_member_is_restarted_once_and_no_write_is_missed(rehearsal, lab, ranks):
    before = starts(lab)
    planned = rehearsal.cookbook("--dry-run", RESTART_ETCD, "--cluster", "lab", "-r", "rehearsal")
    assert planned.code == 0, planned.output
    assert f"etcd: {', '.join(ranks)}" in planned.output
    assert starts(lab) == before
    assert leader(lab) == ranks[-1]
    assert not rehearsal.state_dir.exists()
    assert lab.enter(ranks[0], "sh", "-c", f"ls {RUNS} 2>/dev/null | wc -l") == "0\n"

    with Load(lab) as load:
        outcome = rehearsal.start("-t", "T123")
    assert outcome.code == 0, outcome.output
    assert plan(outcome.output) == plan(planned.output)

    assert outages(load) == dict.fromkeys(HOSTS, 1)
    assert_no_write_was_missed(load)
    after = starts(lab)
    assert all(after[host] != before[host] for host in HOSTS)
    gone = {host: watcher.outages()[0] for host, watcher in load.watchers.items()}
    assert sorted(HOSTS, key=lambda host: gone[host][1]) == ranks
    for host, (last, _, _) in gone.items():
        assert not last.leads, f"{host} led when it was taken down"
        said = lab.enter(host, "journalctl", "--no-pager", "-o", "cat", f"_SYSTEMD_INVOCATION_ID={before[host]}")
        assert "skipped leadership transfer for stopping non-leader member" in said
    assert len(load.terms()) == 2, "there was an election beside the one of the move"
    assert leader(lab) != ranks[-1]

    assert_nothing_left(rehearsal)
    assert len(rehearsal.ended_silences()) == 3
    taken, *members = rehearsal.report()["units"]
    assert [unit["unit"] for unit in members] == ranks
    told = re.fullmatch(r"(\S+) on (\S+): revision (\d+), (\d+) keys, hash ([0-9a-f]+)", taken["facts"]["snapshot"])
    assert told, taken
    path, host, revision, keys, digest = told.groups()
    assert lab.enter(host, "stat", "-c", "%a %U", path) == "600 root\n"
    status = json.loads(lab.exec(host, f"etcdctl snapshot status -w json {path}").stdout)
    assert (status["revision"], status["totalKey"], f"{status['hash']:x}") == (int(revision), int(keys), digest)


@pytest.fixture
def stacked(lab):
    """Each kube-apiserver has one member alone."""
    file, saved = "/etc/default/kube-apiserver", "/run/kube-apiserver.saved"
    members = {"cp1": "etcd1", "cp2": "etcd2"}
    try:
        for plane, member in members.items():
            server = f"https://{lab.hosts[member].ipv4}:2379"
            lab.exec(plane, f"cp {file} {saved}; sed -i 's#--etcd-servers=[^\"]*#--etcd-servers={server}#' {file}")
            restart_apiserver(lab, plane)
        yield members
    finally:
        for plane in members:
            lab.exec(plane, f"[ ! -e {saved} ] || mv {saved} {file}")
            restart_apiserver(lab, plane)


def restart_apiserver(lab, host):
    """Restart the apiserver of a host, and wait until the load balancer uses it."""
    lab.exec(host, "systemctl restart kube-apiserver", timeout=120)
    wait_until_in_service(lab)


def test_an_apiserver_with_one_member_is_out_of_use_while_that_is_restarted(rehearsal, lab, stacked):
    with Load(lab) as load:
        outcome = rehearsal.start(timeout=420)
    assert outcome.code == 0, outcome.output
    for plane, member in stacked.items():
        told = f"kube-apiserver on {plane} uses the member on {member} alone: it is out of the load balancer while"
        assert told in outcome.output
    assert outages(load) == dict.fromkeys(HOSTS, 1)
    assert_no_write_was_missed(load)
    (watchdog,) = rehearsal.report()["watchdog"]
    assert watchdog["failed"] == watchdog["events_lost"] == 0
    assert watchdog["requests"] > 100
    assert all(server["status"] == "UP" for server in servers(lab).values())


def test_a_member_that_does_not_come_back_is_held(rehearsal, lab, ranks):
    first, second, last = ranks
    rehearsal.hurry(restart="5s")
    lab.inject("etcd-fails", first)
    before = starts(lab)
    outcome = rehearsal.start("--hosts", f"{first},{second}")
    assert outcome.code == 1, outcome.output
    assert f"{first}: HELD: restart: not within 5 s: not restarted yet: etcd.service is inactive" in outcome.output
    assert f"cookbook {RESTART_ETCD} --resume {outcome.run}" in outcome.output
    reasons = puppet(lab)
    assert list(reasons) == [first]
    assert f"rehearsal - run {outcome.run} - " in reasons[first]
    assert [comment.rsplit(" - ", 1)[1] for comment in rehearsal.silences()] == [first]
    assert {host: starts(lab)[host] == before[host] for host in (second, last)} == {second: True, last: True}

    lab.heal()
    eventually(lambda: bool(leader(lab)), within=60)
    before = starts(lab)
    again = rehearsal.resume(outcome.run)
    assert again.code == 0, again.output
    assert {host for host, start in starts(lab).items() if start != before[host]} == {second}
    assert_nothing_left(rehearsal)


@pytest.mark.parametrize("fault", ["etcd-stopped", "etcd-slow"])
def test_nothing_is_begun_while_a_member_is_away(rehearsal, lab, ranks, fault):
    first, second, _ = ranks
    lab.exec(first, "disable-puppet 'looking into $(hostname) - ann'")
    lab.inject(fault, second)
    before = starts(lab)
    outcome = rehearsal.start("--hosts", first)
    assert outcome.code == 2, outcome.output
    assert f"{second} does not answer: " in outcome.output
    # On a member that is paused the API may hang: then it is said why, and nothing else is looked at.
    if "The etcd behind it: " not in outcome.output:
        assert f"[stop] 1 of 3 members of etcd could not be asked: {second} does not answer: " in outcome.output
        assert f"[ask] Puppet is disabled on {first}: 'looking into $(hostname) - ann'" in outcome.output
    assert not rehearsal.state_dir.exists()
    assert starts(lab) == before
    assert puppet(lab) == {first: "looking into $(hostname) - ann"}
    assert rehearsal.silences() == []


def test_a_member_that_goes_away_meanwhile_keeps_the_next_one_up(rehearsal, lab, ranks):
    first, second, last = ranks
    rehearsal.hurry(restart="6s")
    before = starts(lab)
    with rehearsal.in_background("--hosts", f"{first},{last}") as process:
        rehearsal.wait_for_event(first, "puppet off", "intent")
        lab.inject("etcd-stopped", second)
        outcome = rehearsal.end(process)
    assert outcome.code == 1, outcome.output
    told = f"1 of 3 members of etcd could not be asked: {second} does not answer: "
    assert f"{first}: HELD: restart: not within 6 s: not now: {told}" in outcome.output
    assert {host for host, start in starts(lab).items() if start != before[host]} <= {second}
    assert list(puppet(lab)) == [first]

    lab.heal()
    eventually(lambda: bool(leader(lab)), within=60)
    aborted = rehearsal.abort(outcome.run)
    assert aborted.code == 0, aborted.output
    assert {host for host, start in starts(lab).items() if start != before[host]} == {second}
    assert_nothing_left(rehearsal)


def test_a_run_that_is_ended_again_and_again_restarts_each_member_once(rehearsal, lab, ranks):
    first, other, last = ranks
    before = starts(lab)
    with Load(lab) as load:
        with rehearsal.in_background("--hosts", f"{last},{first}") as process:
            rehearsal.wait_for_event(first, "puppet off", "done")
            process.send_signal(signal.SIGTERM)
            outcome = rehearsal.end(process)
        assert outcome.code == 3, outcome.output
        assert f"in flight: {first}" in outcome.output
        assert f"cookbook {RESTART_ETCD} --resume {outcome.run}" in outcome.output
        assert list(puppet(lab)) == [first]
        lab.exec(last, "disable-puppet 'looking into $(hostname) - ann'")
        with rehearsal.resumed(outcome.run):
            rehearsal.wait_for_event(first, "restart", "intent")
        with rehearsal.resumed(outcome.run):
            rehearsal.wait_for_event(last, "hand over", "intent")
        over = rehearsal.resume(outcome.run)
    assert over.code == 0, over.output
    assert rehearsal.statuses() == {"database": "done", first: "done", last: "done"}
    assert outages(load) == {first: 1, other: 0, last: 1}
    assert_no_write_was_missed(load)
    assert starts(lab)[other] == before[other]
    assert leader(lab) != last
    assert puppet(lab) == {last: "looking into $(hostname) - ann"}
    assert rehearsal.silences() == []


def test_a_run_that_is_killed_at_the_hand_over_is_aborted(rehearsal, lab, ranks):
    last = ranks[-1]
    before = starts(lab)
    rehearsal.kill_at(last, "hand over", "intent", "--hosts", last)
    run = rehearsal.folder().name
    assert list(puppet(lab)) == [last]
    other = rehearsal.cookbook(RESTART_CALICO, "--resume", run)
    assert other.code == 2, other.output
    assert f"Run {run} is one of {RESTART_ETCD}: resume it with that cookbook." in other.output
    aborted = rehearsal.abort(run)
    assert aborted.code == 0, aborted.output
    assert f"given back: {last}." in aborted.output
    assert starts(lab) == before
    assert_nothing_left(rehearsal)


@pytest.mark.parametrize(
    ("hosts", "config", "message"),
    [
        (
            "nosuchhost,worker1,etcd1",
            {},
            "--hosts gives nosuchhost, worker1, which the configuration does not have: it has etcd1, etcd2, etcd3.",
        ),
        ("etcd1", {"etcd": None, "reinitialize": None}, "The cluster lab has no section etcd in the configuration."),
        ("etcd1", {"etcd": {"unit": "etcdd.service"}}, "[stop] etcd1 has no etcdd.service."),
        (
            "etcd1",
            {"etcd": {"unit": "puppet.service"}},
            "etcd answers on etcd1, where puppet.service is inactive: ",
        ),
        ("etcd1", {"etcd": {"hosts": "etcd1,etcd2"}}, "etcd.hosts must find the hosts of all members."),
    ],
)
def test_bad_input_is_one_clear_message(lab, tmp_path, hosts, config, message):
    rehearsal = Rehearsal(lab, tmp_path, RESTART_ETCD)
    rehearsal.change_config(lambda cluster: cluster.update({k: v and {**cluster[k], **v} for k, v in config.items()}))
    outcome = rehearsal.start("--hosts", hosts)
    assert outcome.code == 2, outcome.output
    assert message in outcome.output
    assert "Traceback" not in outcome.output
    assert not rehearsal.state_dir.exists()
