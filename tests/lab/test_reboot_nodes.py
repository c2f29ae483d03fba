"""sre.k8s.reboot-nodes over the whole fleet: the promises it makes, watched from outside."""

import re
import signal

import pytest

from fleet_lab.workload import DEPLOYMENTS, budgets_path
from support.rehearsal import DEADLINES, LEASE, REBOOT, Rehearsal, Watcher, eventually, heal_one

WORKERS = [f"worker{number}" for number in range(1, 7)]


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


@pytest.fixture
def untouched(lab, tmp_path):
    """For what ends before it begins: nothing has to be put in order."""
    rehearsal = Rehearsal(lab, tmp_path)
    yield rehearsal
    assert not rehearsal.state_dir.exists()
    rehearsal.assert_untouched(*WORKERS)


@pytest.fixture
def open_budgets(lab):
    """Budgets that ask for nothing: where an apiserver dies in an eviction, a tight one would allow none for 2 minutes.

    So long the disruption controller waits for a pod that it was told would go (its DeletionTimeout).
    """
    api = lab.api()
    wanted = {name: deployment.min_available for name, deployment in DEPLOYMENTS.items() if deployment.min_available}
    path = budgets_path(api)
    for name in wanted:
        api.patch(f"{path}/{name}", {"spec": {"minAvailable": 0}})
    eventually(lambda: all(api.request("GET", f"{path}/{name}")["status"]["desiredHealthy"] == 0 for name in wanted))
    yield
    for name, number in wanted.items():
        api.patch(f"{path}/{name}", {"spec": {"minAvailable": number}})


@pytest.fixture
def with_puppet(rehearsal, lab, tmp_path):
    """The same, with Puppet's gate."""
    return Rehearsal(lab, tmp_path)


def test_a_whole_fleet_is_rebooted_as_promised(with_puppet, lab):
    rehearsal = with_puppet
    rehearsal.cordon("worker4", on=True)
    boots = {name: rehearsal.boot_id(name) for name in WORKERS}
    planned = rehearsal.cookbook("--dry-run", REBOOT, "--cluster", "lab", "-r", "rehearsal", "--max-unavailable", "3")
    assert planned.code == 0, planned.output
    assert {name: rehearsal.boot_id(name) for name in WORKERS} == boots
    assert not rehearsal.state_dir.exists()

    with Watcher(lab) as seen:
        outcome = rehearsal.start("--max-unavailable", "3", "-t", "T123")
    assert outcome.code == 0, outcome.output

    assert seen.looks > 50
    assert len(seen.most_unavailable) == 3, seen.most_unavailable
    assert len(seen.most_rows) == 1, seen.most_rows
    for name, deployment in DEPLOYMENTS.items():
        if deployment.min_available is not None:
            assert seen.least_ready[name] >= deployment.min_available, f"the budget {name} was violated"
    assert all(len(boots) == 2 for boots in seen.boots.values()), "every node was rebooted exactly once"
    assert all(rehearsal.boot_id(name) != boots[name] for name in WORKERS)
    movable = sum(deployment.replicas for deployment in DEPLOYMENTS.values()) + 2
    print(f"{len(seen.evicted)} evictions of {movable} pods: {len(seen.evicted) / movable:.2f} each")
    assert len(seen.evicted) <= 1.7 * movable, "the soft taint does not keep pods off nodes still to be done"
    rehearsal.assert_untouched(*[name for name in WORKERS if name != "worker4"])
    assert rehearsal.node("worker4")["spec"]["unschedulable"], "somebody's cordon was undone"
    assert "fleet-cookbooks/maintenance" not in rehearsal.node("worker4")["metadata"]["annotations"]
    assert rehearsal.silences() == []

    def order(output):
        rows = [line.split() for line in output.splitlines() if "worker" in line and "│" in line]
        return [row[2] for row in rows if row[0].isdigit()]

    assert order(planned.output) == order(outcome.output) == WORKERS
    report = rehearsal.report()
    assert report["status"] == "done"
    assert report["run"]["task"] == "T123"
    for unit in report["units"]:
        assert set(unit["steps"]) == {
            *("bgp baseline", "silence", "cordon", "drain", "bgp routes", "reboot", "puppet", "ready", "bgp"),
            *("alerts", "uncordon", "unsilence", "baseline", "volumes", "daemons", "workloads"),
        }


def test_hosts_that_ask_for_a_reboot_and_a_run_that_is_killed_while_getting_ready(rehearsal, lab):
    lab.exec("worker5", "touch /run/reboot-required")
    rehearsal.kill_at("prepare", "taint", "intent", "--only-if-required")
    outcome = rehearsal.resume(rehearsal.folder().name)
    assert outcome.code == 0, outcome.output
    assert rehearsal.statuses() == {"worker5": "done"}
    rehearsal.assert_untouched("worker5")
    again = rehearsal.start("--only-if-required")
    assert (again.code, "no host asks for a reboot" in again.output) == (0, True)


def test_hosts_that_do_not_answer_are_held_and_resumed(rehearsal, lab):
    """One does not come back from its reboot; the other one does not even hear of it."""
    lab.inject("ssh-refused", "worker2")
    refused = rehearsal.start("--query", "worker[1-2]")
    assert refused.code == 2, refused.output
    assert "[stop] No answer over SSH from worker2" in refused.output
    assert not rehearsal.state_dir.exists()
    lab.heal()

    # Nothing has to be back in this time.
    rehearsal.hurry(reboot="8s")
    lab.inject("host-stays-down", "worker1")
    boots = {name: rehearsal.boot_id(name) for name in WORKERS}
    with rehearsal.in_background("--query", "worker[1-2]", "--max-unavailable", "2") as process:
        rehearsal.wait_for_event("worker2", "cordon", "intent")
        lab.inject("ssh-refused", "worker2")
        outcome = rehearsal.end(process)
    assert outcome.code == 1, outcome.output
    assert rehearsal.statuses() == {"worker1": "held", "worker2": "held"}
    assert "worker1: HELD: reboot: not within 8 s" in outcome.output
    assert "worker2: HELD: reboot: not within 8 s: worker2 does not answer" in outcome.output
    assert f"cookbook {REBOOT} --resume {outcome.run}" in outcome.output
    rehearsal.assert_held("worker1")
    rehearsal.assert_held("worker2")

    lab.heal()
    rehearsal.hurry(reboot=DEADLINES["reboot"])
    assert rehearsal.boot_id("worker2") == boots["worker2"]
    boots["worker1"] = rehearsal.boot_id("worker1")
    resumed = rehearsal.resume(outcome.run)
    assert resumed.code == 0, resumed.output
    assert set(rehearsal.statuses().values()) == {"done"}
    assert rehearsal.boot_id("worker1") == boots["worker1"], "a rebooted host was rebooted again"
    assert {name for name in WORKERS if rehearsal.boot_id(name) != boots[name]} == {"worker2"}
    rehearsal.assert_untouched(*WORKERS)
    assert rehearsal.silences() == []


@pytest.mark.long
def test_an_abort_leaves_a_host_that_stays_down(rehearsal, lab):
    lab.inject("host-stays-down", "worker1")
    rehearsal.kill_at("worker1", "reboot", "applied", "--query", "worker1")
    run = rehearsal.folder().name
    aborted = rehearsal.abort(run)
    assert aborted.code == 1, aborted.output
    assert "worker1 stays out of service and silenced" in aborted.output
    rehearsal.assert_held("worker1")
    lab.heal()
    aborted = rehearsal.abort(run)
    assert aborted.code == 0, aborted.output
    rehearsal.assert_untouched("worker1")
    assert rehearsal.silences() == []


def test_what_comes_back_and_is_not_well_is_held_and_resumed(rehearsal, lab):
    """The kubelet stays NotReady; when it is mended, sessions are missing that the node had before."""
    rehearsal.hurry(ready="7s")
    lab.inject("bgp-ipv6-down", "worker2")
    with rehearsal.in_background("--query", "worker2") as process:
        rehearsal.wait_for_event("worker2", "drain", "done")
        lab.inject("kubelet-not-ready", "worker2")
        outcome = rehearsal.end(process)
    assert outcome.code == 1, outcome.output
    assert "worker2: HELD: ready: not within 7 s: NotReady" in outcome.output
    rehearsal.assert_held("worker2")
    refused = rehearsal.start("--query", "worker2")
    assert refused.code == 2
    assert "[stop] worker2 is NotReady" in refused.output
    assert f"[stop] worker2 is under the maintenance of run {outcome.run}" in refused.output
    boot_id = rehearsal.boot_id("worker2")
    lab.exec("worker2", "reboot-host")  # What a colleague tries first.
    eventually(lambda: rehearsal.boot_id("worker2") not in ("", boot_id), within=60)
    lab.wait_for_ssh(["worker2"], timeout=60)
    boot_id = rehearsal.boot_id("worker2")

    heal_one(lab, "worker2", "kubelet-not-ready")
    rehearsal.hurry(ready=DEADLINES["ready"], bgp="5s")
    again = rehearsal.resume(outcome.run)
    assert again.code == 1, again.output
    assert f"worker2: HELD: bgp: not within 5 s: cr1 {lab.hosts['worker2'].ipv6}" in again.output
    rehearsal.assert_held("worker2")
    lab.heal()
    rehearsal.hurry(bgp=DEADLINES["bgp"])
    assert rehearsal.resume(outcome.run).code == 0
    assert rehearsal.boot_id("worker2") == boot_id
    rehearsal.assert_untouched("worker2")
    lab.wait_for_sessions(timeout=60)


def test_a_pod_that_never_terminates_keeps_its_node_from_the_reboot(rehearsal, lab):
    """A signal ends the run orderly while it waits for the pod; the deadline holds the node."""
    node = rehearsal.busiest()
    lab.inject("pod-never-terminates", node)
    boot_id = rehearsal.boot_id(node)
    with rehearsal.in_background("--query", node) as process:
        rehearsal.wait_for_event(node, "drain", "intent")
        process.send_signal(signal.SIGTERM)
        outcome = rehearsal.end(process, timeout=60)
    assert outcome.code == 3, outcome.output
    assert f"in flight: {node}" in outcome.output
    assert f"cookbook {REBOOT} --resume {outcome.run}" in outcome.output

    rehearsal.hurry(drain="6s")
    held = rehearsal.resume(outcome.run)
    assert held.code == 1, held.output
    assert re.search(f"{node}: HELD: drain: not within 6 s: .*demo/", held.output), held.output
    assert rehearsal.boot_id(node) == boot_id, "rebooted although it was not drained"
    rehearsal.assert_held(node)
    rehearsal.hurry(drain=DEADLINES["drain"])
    lab.heal()
    assert rehearsal.resume(outcome.run).code == 0
    assert rehearsal.boot_id(node) != boot_id
    rehearsal.assert_untouched(node)


def test_an_apiserver_that_dies_in_the_middle_does_no_harm(rehearsal, lab, open_budgets):
    node = rehearsal.busiest()
    with rehearsal.in_background("--query", node) as process:
        rehearsal.wait_for_event(node, "drain", "intent")
        lab.inject("apiserver-stopped", "cp1")
        rehearsal.wait_for_event(node, "reboot", "done", timeout=190)
        lab.heal()
        outcome = rehearsal.end(process)
    assert outcome.code == 0, outcome.output
    rehearsal.assert_untouched(node)


def test_puppet_that_others_disabled_stops_the_run_or_holds_the_node(with_puppet, lab):
    lab.exec("worker4", "disable-puppet 'looking into $(hostname) - ann'")
    refused = with_puppet.start("--query", "worker4")
    assert refused.code == 2, refused.output
    assert "[stop] Puppet is disabled on worker4: 'looking into $(hostname) - ann'" in refused.output
    lab.exec("worker4", "enable-puppet 'looking into $(hostname) - ann'")
    with with_puppet.in_background("--query", "worker4") as process:
        with_puppet.wait_for_event("worker4", "reboot", "intent")
        lab.exec("worker4", "disable-puppet 'ann again'")
        outcome = with_puppet.end(process)
    lab.exec("worker4", "enable-puppet 'ann again'")
    assert outcome.code == 1, outcome.output
    assert "worker4: HELD: puppet: Puppet is disabled: 'ann again'; enable it, then resume" in outcome.output
    with_puppet.assert_held("worker4")

    boot_id = with_puppet.boot_id("worker4")
    with with_puppet.resumed(outcome.run):  # It is killed while Puppet runs.
        with_puppet.wait_for_event("worker4", "puppet", "intent")
    assert with_puppet.resume(outcome.run).code == 0
    assert with_puppet.boot_id("worker4") == boot_id
    with_puppet.assert_untouched("worker4")


@pytest.mark.parametrize("step", ["drain", "reboot"])
def test_a_run_that_is_killed_is_aborted(rehearsal, step):
    node = rehearsal.busiest()
    boot_id = rehearsal.boot_id(node)
    rehearsal.kill_at(node, step, "intent", "--query", f"{node},worker6")
    outcome = rehearsal.abort(rehearsal.folder().name)
    assert outcome.code == 0, outcome.output
    rehearsal.assert_untouched(node, "worker6")
    assert rehearsal.silences() == []
    if step == "drain":
        assert rehearsal.boot_id(node) == boot_id
    over = rehearsal.resume(rehearsal.folder().name)
    assert (over.code, "is aborted already" in over.output) == (2, True)


def test_an_interrupt_finishes_what_is_in_flight(rehearsal):
    node = rehearsal.busiest()
    with rehearsal.in_background("--query", f"{node},worker6") as process:
        rehearsal.wait_for_event(node, "drain", "intent")
        process.send_signal(signal.SIGINT)
        outcome = rehearsal.end(process)
    assert outcome.code == 3, outcome.output
    assert rehearsal.statuses() == {node: "done", "worker6": "pending"}
    rehearsal.assert_untouched(node, "worker6")


def test_what_colleagues_do_meanwhile_is_noticed(rehearsal, lab):
    # Another run watches the Lease until it is renewed: here that must not take longer than this one's drain.
    rehearsal.change_config(lambda cluster: cluster.update(lease={"duration": "10s"}))
    node = rehearsal.busiest()
    lab.inject("pod-slow-to-terminate", node, seconds=4)
    with rehearsal.in_background("--query", node) as process:
        rehearsal.wait_for_event(node, "drain", "intent")
        rehearsal.end_silences()
        second = rehearsal.start("--query", "worker6")
        busy = rehearsal.resume(rehearsal.folder().name)
        outcome = rehearsal.end(process)
    assert outcome.code == 0, outcome.output
    assert second.code == 2, second.output
    assert "[stop] lab is being worked on by run" in second.output
    assert busy.code == 2, busy.output
    assert "is being worked on by another process" in busy.output
    assert len(rehearsal.ended_silences()) >= 2, "it was rebooted without a silence"
    assert rehearsal.report()["units"][0]["steps"]["drain"] > 3, "pods that take long to terminate were not waited for"

    node = rehearsal.busiest()
    boot_id = rehearsal.boot_id(node)
    lab.inject("pod-slow-to-terminate", node, seconds=4)
    with rehearsal.in_background("--query", node) as process:
        rehearsal.wait_for_event(node, "drain", "intent")
        rehearsal.cordon(node, on=False)
        outcome = rehearsal.end(process)
    assert outcome.code == 1, outcome.output
    assert f"{node}: HELD: drain: somebody has uncordoned it meanwhile" in outcome.output
    assert rehearsal.boot_id(node) == boot_id
    assert rehearsal.silences() == [], "a node in service is silenced"
    lab.heal()
    assert rehearsal.resume(outcome.run).code == 0
    assert rehearsal.boot_id(node) != boot_id
    rehearsal.assert_untouched(node)


def test_a_run_that_lost_its_lock_starts_nothing_new(lab, running_workload, tmp_path):
    rehearsal = Rehearsal(lab, tmp_path, puppet={"enabled": False}, reinitialize=None, lease={"duration": "10s"})
    api = lab.api()
    with rehearsal.in_background("--query", "worker[1-2]") as process:
        rehearsal.wait_for_event("worker1", "reboot", "applied")
        lease = api.request("GET", LEASE)
        lease["spec"] |= {"holderIdentity": "other@elsewhere", "renewTime": "2100-01-01T00:00:00.000000Z"}
        api.request("PUT", LEASE, lease)
        outcome = rehearsal.end(process)
    api.request("DELETE", LEASE)
    assert outcome.code == 1, outcome.output
    assert "the lock of the cluster was lost" in outcome.output
    assert rehearsal.statuses() == {"worker1": "done", "worker2": "pending"}
    rehearsal.assert_untouched("worker1", "worker2")


def test_a_budget_that_allows_nothing_is_found_before(rehearsal, lab):
    api = lab.api()
    budgets = budgets_path(api)
    spec = {"minAvailable": "100%", "selector": {"matchLabels": {"app": "batch"}}}
    api.request("POST", budgets, {"metadata": {"name": "closed"}, "spec": spec})
    try:
        eventually(lambda: api.request("GET", f"{budgets}/closed")["status"].get("expectedPods") == 4)
        outcome = rehearsal.start()
    finally:
        api.request("DELETE", f"{budgets}/closed")
    assert outcome.code == 2, outcome.output
    assert "[ask] The budget demo/closed can never allow a disruption (minAvailable 100%" in outcome.output
    assert not rehearsal.state_dir.exists()
    rehearsal.assert_untouched(*WORKERS)


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["-r", "x", "--query", "worker[1-2"], ["The Cumin query 'worker[1-2'"]),
        (
            ["-r", "x", "--query", "worker1,nosuchhost", "--exclude", "worker7"],
            ["no nodes of the cluster: nosuchhost", "--exclude names what the query does not give: worker7"],
        ),
        (["-r", "x", "--exclude", "worker["], ["is no list of hosts"]),
        (["-r", "x", "--max-unavailable", "1%"], ["1% of 6 is less than one"]),
        (["--resume", "nope"], ["There is no run 'nope'"]),
    ],
)
def test_bad_input_is_one_clear_message(untouched, arguments, messages):
    outcome = untouched.cookbook(REBOOT, "--cluster", "lab", *arguments, "--unattended")
    assert outcome.code == 2, outcome.output
    for message in messages:
        assert message in outcome.output
    assert "Traceback" not in outcome.output


def test_without_a_terminal_nobody_is_asked(untouched):
    outcome = untouched.cookbook(REBOOT, "--cluster", "lab", "-r", "x", "--query", "worker1")
    assert outcome.code == 2
    assert "There is no terminal to ask on; use --unattended" in outcome.output


def test_a_cluster_that_cannot_be_reached_is_one_clear_message(lab, tmp_path):
    text = lab.kubeconfig.read_text()
    nowhere = tmp_path / "nowhere.config"
    nowhere.write_text(re.sub(r"server: .*", "server: https://127.0.0.1:1", text))
    garbage = tmp_path / "garbage.config"
    garbage.write_text("no: kubeconfig")
    for path, message in [
        (tmp_path / "missing.config", "missing.config"),
        (garbage, "garbage.config"),
        (nowhere, "https://127.0.0.1:1"),
    ]:
        outcome = Rehearsal(lab, tmp_path, kubeconfig=str(path)).start("--query", "worker1")
        assert outcome.code == 2, outcome.output
        assert message in outcome.output
        assert "Traceback" not in outcome.output
    assert not (tmp_path / "runs").exists()


def test_ten_mistakes_are_ten_lines(untouched):
    untouched.config.write_text(
        """
        state_dir: runs
        clusters:
          lab:
            hosts: {workers: ""}
            limits: {max_unavailable: 0, max_domains: 0, max_failed: -1, max: 3}
            deadlines: {drain: soon, reboot: 5}
            drain: {bare_pods: delete}
        """
    )
    outcome = untouched.start()
    assert outcome.code == 2
    lines = [line for line in outcome.output.splitlines() if line.startswith(str(untouched.config))]
    keys = {line.split(": ")[1] for line in lines}
    assert keys == {
        "state_dir",
        *(f"clusters.lab.{key}" for key in ("kubeconfig", "hosts.workers", "hosts.control_plane", "drain.bare_pods")),
        *(f"clusters.lab.limits.{key}" for key in ("max_unavailable", "max_domains", "max_failed", "max")),
        *(f"clusters.lab.deadlines.{key}" for key in ("drain", "reboot")),
    }
    assert "Traceback" not in outcome.output
