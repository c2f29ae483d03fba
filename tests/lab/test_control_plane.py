"""sre.k8s.restart-control-plane in the lab: watched by clients that do not forgive, at HAProxy, systemd and Puppet."""

import json
import re
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from fleet_lab import operator
from fleet_lab.guest.kubelet.api import ApiError
from fleet_lab.lab import Lab
from fleet_lab.roles.load_balancer import BACKEND, SOCKET
from support.haproxy import servers, wait_until_in_service
from support.load import Load
from support.rehearsal import DEADLINES, LEASE, RESTART_CONTROL_PLANE, Rehearsal, end_silences, eventually, heal_one

API = "kube-apiserver"
MANAGER, SCHEDULER = LED = ("kube-controller-manager", "kube-scheduler")
HOSTS = ("cp1", "cp2")
PATIENT = {**DEADLINES, "restart": "3m", "ready": "2m"}
"""An apiserver waits for its watchers when it is stopped, and its start takes long on a busy machine."""
PUPPET_LOCK = "/var/cache/puppet/state/agent_disabled.lock"
WATCHDOG = "/api/v1/namespaces/kube-system/configmaps/fleet-watchdog"


@pytest.fixture(scope="module", autouse=True)
def _in_order_afterwards(lab: Lab) -> Iterator[None]:
    """Whatever the last test leaves is put in order for the next module."""
    yield
    restore(lab)


@pytest.fixture
def rehearsal(lab: Lab, tmp_path) -> Rehearsal:
    """A control plane in order."""
    restore(lab)
    return Rehearsal(lab, tmp_path, RESTART_CONTROL_PLANE, deadlines=PATIENT)


def restore(lab: Lab) -> None:
    """Put the control plane in order, whatever a test has left."""
    lab.heal()
    end_silences(lab)
    for host in HOSTS:
        if told := servers(lab)[host]["status"] != "UP":
            tell_haproxy(lab, f"enable health {BACKEND}/{host}; set server {BACKEND}/{host} state ready")
        lab.exec(host, f"rm -f {PUPPET_LOCK}")
        if told:
            lab.exec(host, "systemctl reset-failed kube-apiserver; systemctl start kube-apiserver")
    wait_until_in_service(lab)
    for path in (LEASE, WATCHDOG):
        with suppress(ApiError):
            lab.api().request("DELETE", path)


def tell_haproxy(lab: Lab, order: str) -> None:
    lab.exec("lb1", f"echo '{order}' | socat - {SOCKET}")


def starts(lab: Lab, *units: str) -> dict[tuple[str, str], str]:
    """The invocations of units on all control-plane hosts, as their systemd has them."""
    show = ("systemctl", "show", "--property=InvocationID", "--value")
    return {(host, unit): lab.enter(host, *show, unit).strip() for host in HOSTS for unit in units}


def is_in_state(lab: Lab, state: str) -> bool:
    """Whether the unit of cp1's apiserver is in a state."""
    return lab.enter("cp1", "systemctl", "show", "--property=ActiveState", "--value", API).strip() == state


def puppet_lock(lab: Lab, host: str) -> str:
    """The message that Puppet is disabled with on a host; empty if it is not."""
    text = lab.exec(host, f"cat {PUPPET_LOCK} 2>/dev/null").stdout
    return json.loads(text)["disabled_message"] if text.strip() else ""


def is_drained(lab: Lab, host: str) -> bool:
    return "DRAIN" in servers(lab)[host]["status"] or "MAINT" in servers(lab)[host]["status"]


def assert_given_back(rehearsal: Rehearsal) -> None:
    """Everything is as before the run."""
    wait_until_in_service(rehearsal.lab, within=30)
    assert [puppet_lock(rehearsal.lab, host) for host in HOSTS] == ["", ""]
    assert rehearsal.silences() == []
    with pytest.raises(ApiError, match="404"):
        rehearsal.lab.api().request("GET", WATCHDOG)


def assert_held(rehearsal: Rehearsal, host: str, run: str, output: str) -> None:
    """A host is out of service, silenced, with Puppet disabled in the name of the run; and what is next is named."""
    assert run in puppet_lock(rehearsal.lab, host)
    assert any(comment.endswith(f"run {run} - {host}") for comment in rehearsal.silences())
    assert f"cookbook {RESTART_CONTROL_PLANE} --resume {run}" in output
    assert f"cookbook {RESTART_CONTROL_PLANE} --abort {run}" in output


def test_the_leader_goes_last_and_is_held_as_long_as_it_hangs(rehearsal, lab):
    # First in this module: a leader whose apiserver was restarted may just be about to lose its Lease.
    before = starts(lab, MANAGER)
    lab.inject("leader-stuck", *HOSTS)
    rehearsal.hurry(ready="10s")
    outcome = rehearsal.start("--components", MANAGER)
    assert outcome.code == 1, outcome.output
    assert "HELD: leader: not within 10 s: its " in outcome.output
    told = re.search(rf"{MANAGER} is led by (\w+)\.", outcome.output)
    assert told, outcome.output
    leader = told[1]
    assert rehearsal.statuses() == {host: "held" if host == leader else "done" for host in HOSTS}
    assert_held(rehearsal, leader, outcome.run, outcome.output)
    assert all(start != before[key] for key, start in starts(lab, MANAGER).items())
    lab.heal()
    rehearsal.hurry(ready=PATIENT["ready"])
    resumed = rehearsal.resume(outcome.run)
    assert resumed.code == 0, resumed.output
    assert rehearsal.statuses() == dict.fromkeys(HOSTS, "done")
    assert_given_back(rehearsal)


def test_no_request_fails_while_every_apiserver_is_restarted(rehearsal, lab):
    before = starts(lab, API, *LED)
    new = (RESTART_CONTROL_PLANE, "--cluster", "lab", "-r", "rehearsal")
    planned = rehearsal.cookbook("--dry-run", *new)
    assert planned.code == 0, planned.output
    assert starts(lab, API, *LED) == before
    assert not rehearsal.state_dir.exists()
    for component in (API, *LED):
        assert f"{component}: " in planned.output

    # Who has a leader serves no request: one of them has its turn below.
    with Load(lab) as load:
        outcome = rehearsal.start("--components", API, "-t", "T123", timeout=600)
    assert outcome.code == 0, outcome.output
    assert load.report
    assert load.report.failed == 0, str(load.report)
    assert load.report.rate > 50, load.report.headline
    assert load.report.cut_watches > 0, "no apiserver was restarted under the load"
    assert all(start != before[key] for key, start in starts(lab, API).items())
    assert_given_back(rehearsal)

    report = rehearsal.report()
    assert [(unit["unit"], unit["status"]) for unit in report["units"]] == [(host, "done") for host in HOSTS]
    (watchdog,) = report["watchdog"]
    assert watchdog["failed"] == watchdog["events_lost"] == 0
    assert watchdog["requests"] > 3 * report["seconds"]
    steps = next(line for line in planned.output.splitlines() if "depool" in line)
    assert steps in outcome.output, "the dry run showed another plan"


def test_what_is_restarted_is_what_is_on_disk(rehearsal, lab):
    """Somebody has changed a unit's file, and has not run daemon-reload."""
    unit = f"{SCHEDULER}.service"
    file = f"/etc/systemd/system/{unit}"
    environment = f"tr '\\0' '\\n' </proc/$(systemctl show --property=MainPID --value {unit})/environ | grep ^MARK="
    lab.exec("cp1", f"sed -i '/^.Service/a Environment=MARK=new' {file}")
    try:
        before = starts(lab, SCHEDULER)
        refused = rehearsal.start("--components", SCHEDULER)
        assert refused.code == 2, refused.output
        assert f"[stop] {unit} on cp1 was changed on disk, and nobody ran systemctl daemon-reload." in refused.output
        assert starts(lab, SCHEDULER) == before
        assert lab.exec("cp1", environment).stdout == "", "it runs what it was started with"

        rehearsal.change_config(lambda cluster: cluster.update(systemd={"daemon_reload": "reload"}))
        outcome = rehearsal.start("--components", SCHEDULER)
        assert outcome.code == 0, outcome.output
        assert lab.exec("cp1", environment).stdout == "MARK=new\n"
        lab.exec("cp1", f"mv {file} /run/saved; ln -s /dev/null {file}; systemctl daemon-reload")
        masked = rehearsal.start("--components", SCHEDULER, "--hosts", "cp1")
        assert masked.code == 2, masked.output
        assert f"{unit} on cp1 is masked: it could not be started again." in masked.output
    finally:
        lab.exec("cp1", f"[ ! -e /run/saved ] || mv /run/saved {file}; sed -i /MARK=new/d {file}")
        lab.exec("cp1", f"systemctl daemon-reload; systemctl restart {unit}")


def test_whatever_is_wrong_with_a_host_it_is_held_and_nothing_is_restarted_twice(rehearsal, lab):
    """A run that is ended by a signal, and three faults that are healed one by one: each stops it at another gate."""
    for fault in ("apiserver-bad-flag", "apiserver-etcd-cut", "lb-unreachable"):
        lab.inject(fault, "cp1")
    before = starts(lab, API)
    with rehearsal.in_background("--components", API) as process:
        rehearsal.wait_for_event("cp1", "restart", "applied")
        process.send_signal(signal.SIGTERM)
        outcome = rehearsal.end(process)
    run = outcome.run
    assert outcome.code == 3, outcome.output
    assert "in flight: cp1" in outcome.output
    assert is_drained(lab, "cp1")
    shown = rehearsal.cookbook("--dry-run", RESTART_CONTROL_PLANE, "--resume", run)
    assert "would continue with cp1" in shown.output
    other = rehearsal.start("--components", API)
    assert other.code == 2, other.output
    assert f"--resume {run}" in other.output

    # It takes its time to end. Only then: what is waited for in vain is waited for shortly.
    eventually(lambda: is_in_state(lab, "activating"), within=120)
    rehearsal.hurry(restart="4s")
    outcome = rehearsal.resume(run)
    assert outcome.code == 1, outcome.output
    assert "cp1: HELD: active: not within 4 s: kube-apiserver.service is " in outcome.output
    assert_held(rehearsal, "cp1", run, outcome.output)
    assert servers(lab)["cp1"]["status"] != "UP"
    assert servers(lab)["cp1"]["check_status"] != "", "nobody looks after the health of a held host"
    assert starts(lab, API)["cp2", API] == before["cp2", API], "the last apiserver was restarted"
    assert lab.api().request("GET", "/api/v1/nodes")["items"]
    refused = rehearsal.abort(run)
    assert refused.code == 1, "a host that is not well was given back"
    assert "cp1 stays out of service and silenced: active: " in refused.output

    heal_one(lab, "cp1", "apiserver-bad-flag")
    eventually(lambda: is_in_state(lab, "active"), within=120)
    mended = starts(lab, API)["cp1", API]
    rehearsal.hurry(restart=PATIENT["restart"], ready="10s")
    outcome = rehearsal.resume(run)
    assert outcome.code == 1, outcome.output
    assert "cp1: HELD: ready: not within 10 s: kube-apiserver on cp1 is not ready: etcd" in outcome.output
    assert_held(rehearsal, "cp1", run, outcome.output)

    heal_one(lab, "cp1", "apiserver-etcd-cut")
    eventually(lambda: lab.exec("cp1", "curl -ksf -m 10 https://localhost:6443/readyz").returncode == 0, within=120)
    outcome = rehearsal.resume(run)
    assert outcome.code == 1, outcome.output
    assert rehearsal.statuses() == {"cp1": "held", "cp2": "pending"}
    assert "cp1: HELD: pool: not within 10 s: lb1: " in outcome.output
    assert_held(rehearsal, "cp1", run, outcome.output)
    assert servers(lab)["cp2"]["status"] == "UP"
    assert lab.api().request("GET", "/api/v1/nodes")["items"]

    lab.heal()
    rehearsal.hurry(ready=PATIENT["ready"])
    given = rehearsal.abort(run)
    assert given.code == 0, given.output
    assert starts(lab, API) == {("cp1", API): mended, ("cp2", API): before["cp2", API]}, "one was restarted again"
    assert_given_back(rehearsal)


def test_a_run_that_is_killed_before_the_restart_gives_all_back(rehearsal, lab):
    """Conftool decides here, as PyBal follows it."""
    section = operator.conftool(lab.context)
    rehearsal.change_config(lambda cluster: cluster["control_plane"].update(load_balancer=section))
    before = starts(lab, API)
    rehearsal.kill_at("cp1", "connections", "pending", "--components", API)
    assert is_drained(lab, "cp1")
    run = rehearsal.folder().name
    whole = rehearsal.config.read_text()
    rehearsal.change_config(lambda cluster: cluster["control_plane"].pop("load_balancer"))
    for again in (rehearsal.resume(run), rehearsal.abort(run)):
        assert again.code == 2, again.output
        assert "has started with the steps depool, pool, which the configuration has no more" in again.output
    rehearsal.config.write_text(whole)
    aborted = rehearsal.abort(run)
    assert aborted.code == 0, aborted.output
    assert starts(lab, API) == before
    assert_given_back(rehearsal)


def test_the_last_apiserver_that_serves_is_put_back_at_once(rehearsal, lab):
    """The other one dies while this one is out of the load balancer: then nobody serves, because of the run."""
    before = starts(lab, API)
    rehearsal.change_config(lambda cluster: cluster["control_plane"]["load_balancer"].update(drain="60s"))
    with rehearsal.in_background("--components", API) as process:
        rehearsal.wait_for_event("cp1", "connections", "pending")
        lab.inject("apiserver-stopped", "cp2")
        outcome = rehearsal.end(process)
    assert outcome.code == 1, outcome.output
    assert "cp1: HELD: connections: " in outcome.output
    assert "cp1 was not restarted, and is back in the load balancer." in outcome.output
    eventually(lambda: servers(lab)["cp1"]["status"] == "UP", within=20)
    assert starts(lab, API)["cp1", API] == before["cp1", API]
    assert lab.api().request("GET", "/api/v1/nodes")["items"]

    refused = rehearsal.start("--components", API)
    assert refused.code == 2, refused.output
    assert f"--abort {outcome.run}" in refused.output
    aborted = rehearsal.abort(outcome.run)
    assert aborted.code == 0, aborted.output
    refused = rehearsal.start("--components", API)
    assert refused.code == 2, refused.output
    assert "[stop] kube-apiserver on cp2: " in refused.output
    assert rehearsal.silences() == []


def test_what_others_have_taken_away_is_asked_about_and_left(rehearsal, lab):
    """What somebody has taken out of the load balancer is nothing to go on without; a disabled Puppet stays so."""
    lab.exec("cp2", "disable-puppet 'the disk is being looked at'")
    asked = rehearsal.start("--components", SCHEDULER)
    assert asked.code == 2, asked.output
    assert "[ask] Puppet is disabled on cp2: 'the disk is being looked at'" in asked.output

    tell_haproxy(lab, f"set server {BACKEND}/cp1 state drain")
    refused = rehearsal.start("--components", API)
    assert refused.code == 2, refused.output
    assert "[stop] cp1 gets no connections from the load balancer: lb1: DRAIN" in refused.output
    tell_haproxy(lab, f"set server {BACKEND}/cp1 state ready")
    assert puppet_lock(lab, "cp2") == "the disk is being looked at"


def test_other_units_and_the_only_host_are_restarted_if_the_operator_says_so(rehearsal, lab):
    extra = {
        "sshd": {"unit": "ssh.service", "check": "test -e /run/checked"},
        "bird": {"unit": "calico-node.service", "check": "true"},
    }
    rehearsal.change_config(lambda cluster: cluster["control_plane"].update(components=extra))
    unknown = rehearsal.start("--components", "kube-proxy")
    assert unknown.code == 2
    assert "there is no kube-proxy. There are kube-apiserver, " in unknown.output
    failing = rehearsal.start("--components", "sshd")
    assert failing.code == 2, failing.output
    assert "[stop] the check on cp1 fails: it says nothing." in failing.output

    rehearsal.change_config(lambda cluster: cluster["hosts"].update(control_plane="cp1"))
    lab.exec("cp1", "touch /run/checked")
    refused = rehearsal.start("--components", "sshd")
    assert refused.code == 2, refused.output
    assert "[stop] cp1 is the only control-plane host, and nothing serves without it" in refused.output
    before = starts(lab, "ssh", "calico-node", API)
    allowed = rehearsal.start("--components", "sshd,bird", "--allow-outage")
    lab.exec("cp1", "rm /run/checked")
    assert allowed.code == 0, allowed.output
    after = starts(lab, "ssh", "calico-node", API)
    assert [key for key in after if after[key] != before[key]] == [("cp1", "ssh"), ("cp1", "calico-node")]
    units = rehearsal.report()["units"]
    assert {(unit["stage"], unit["status"]) for unit in units} == {("sshd", "done"), ("bird", "done")}
    assert_given_back(rehearsal)
    lab.wait_for_sessions()
