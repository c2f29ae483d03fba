"""sre.k8s.reboot-nodes over the whole fleet: the promises it makes, watched from outside."""

import signal

import pytest

from fleet_lab import workload
from fleet_lab.workload import DEPLOYMENTS
from rehearsal import REBOOT, Rehearsal, Watcher, eventually

WORKERS = [f"worker{number}" for number in range(1, 7)]


@pytest.fixture(scope="module")
def running_workload(lab):
    workload.create(lab)
    yield
    workload.delete(lab)


@pytest.fixture
def rehearsal(lab, running_workload, tmp_path):
    """A fleet in order: whatever a test breaks is mended after it."""
    rehearsal = Rehearsal(lab, tmp_path)
    yield rehearsal
    lab.heal()
    lab.wait_for_nodes(WORKERS, timeout=60)
    for name in WORKERS:
        rehearsal.patch_node(
            name,
            {
                "metadata": {"annotations": {"fleet-cookbooks/maintenance": None}},
                "spec": {"unschedulable": None, "taints": None},
            },
        )
    workload.create(lab)  # waits until all of it is Ready again


def test_a_whole_fleet_is_rebooted_as_promised(rehearsal, lab):
    rehearsal.cordon("worker4", on=True)
    boots = {name: rehearsal.boot_id(name) for name in WORKERS}
    planned = rehearsal.cookbook("--dry-run", REBOOT, "--cluster", "lab", "-r", "rehearsal", "--max-unavailable", "3")
    assert planned.code == 0, planned.output
    assert {name: rehearsal.boot_id(name) for name in WORKERS} == boots
    assert not rehearsal.state_dir.exists()

    with Watcher(lab) as seen:
        outcome = rehearsal.reboot("--max-unavailable", "3", "-t", "T123")
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
            *("silence", "cordon", "drain", "reboot", "puppet", "ready", "alerts", "uncordon", "unsilence")
        }


def test_hosts_that_ask_for_a_reboot(rehearsal, lab):
    lab.exec("worker5", "touch /run/reboot-required")
    outcome = rehearsal.reboot("--only-if-required")
    assert outcome.code == 0, outcome.output
    assert rehearsal.statuses() == {"worker5": "done"}
    again = rehearsal.reboot("--only-if-required")
    assert (again.code, "nothing to do" in again.output) == (0, True)


def test_a_host_that_stays_down_is_held_and_resumed(rehearsal, lab):
    lab.inject("host-stays-down", "worker1")
    outcome = rehearsal.reboot("--query", "worker[1-3]", "--max-unavailable", "2")
    assert outcome.code == 1, outcome.output
    assert rehearsal.statuses() == {"worker1": "held", "worker2": "done", "worker3": "pending"}
    assert "worker1: HELD: reboot: not within 25 s" in outcome.output
    assert f"cookbook {REBOOT} --resume {outcome.run}" in outcome.output
    rehearsal.assert_held("worker1")
    rehearsal.assert_untouched("worker2", "worker3")

    lab.heal()
    boots = {name: rehearsal.boot_id(name) for name in WORKERS}
    resumed = rehearsal.cookbook(REBOOT, "--resume", outcome.run)
    assert resumed.code == 0, resumed.output
    assert set(rehearsal.statuses().values()) == {"done"}
    assert rehearsal.boot_id("worker1") == boots["worker1"], "a rebooted host was rebooted again"
    assert rehearsal.boot_id("worker3") != boots["worker3"]
    rehearsal.assert_untouched(*WORKERS)
    assert rehearsal.silences() == []


def test_a_host_that_is_slow_to_come_back_is_waited_for(rehearsal, lab):
    lab.inject("host-slow-boot", "worker2", seconds=10)
    outcome = rehearsal.reboot("--query", "worker2")
    assert outcome.code == 0, outcome.output
    assert rehearsal.report()["units"][0]["steps"]["reboot"] > 10


def test_a_kubelet_that_stays_notready_is_held_and_resumed(rehearsal, lab):
    with rehearsal.in_background("--query", "worker2") as process:
        rehearsal.wait_for_event("worker2", "drain", "done")
        lab.inject("kubelet-not-ready", "worker2")
        outcome = rehearsal.end(process)
    assert outcome.code == 1, outcome.output
    assert "worker2: HELD: ready: not within 20 s: NotReady" in outcome.output
    rehearsal.assert_held("worker2")
    refused = rehearsal.reboot("--query", "worker2")
    assert refused.code == 2
    assert "[stop] worker2 is NotReady" in refused.output
    assert f"[stop] worker2 is under the maintenance of run {outcome.run}" in refused.output
    lab.heal()
    assert rehearsal.cookbook(REBOOT, "--resume", outcome.run).code == 0
    rehearsal.assert_untouched("worker2")


def test_a_pod_that_takes_long_to_terminate_is_waited_for(rehearsal, lab):
    lab.inject("pod-slow-to-terminate", "worker3", seconds=12)
    outcome = rehearsal.reboot("--query", "worker3")
    assert outcome.code == 0, outcome.output
    assert rehearsal.report()["units"][0]["steps"]["drain"] > 11


def test_a_pod_that_never_terminates_keeps_its_node_from_the_reboot(rehearsal, lab):
    lab.inject("pod-never-terminates", "worker3")
    boot_id = rehearsal.boot_id("worker3")
    outcome = rehearsal.reboot("--query", "worker[3-4]")
    assert outcome.code == 1, outcome.output
    assert "worker3: HELD: drain: not drained within 25 s: demo/" in outcome.output
    assert rehearsal.statuses() == {"worker3": "held", "worker4": "pending"}
    assert rehearsal.boot_id("worker3") == boot_id, "rebooted although it was not drained"
    rehearsal.assert_held("worker3")
    lab.heal()
    assert rehearsal.cookbook(REBOOT, "--resume", outcome.run).code == 0
    assert rehearsal.boot_id("worker3") != boot_id
    rehearsal.assert_untouched("worker3", "worker4")


def test_a_host_without_ssh_is_found_before_and_held_within(rehearsal, lab):
    lab.inject("ssh-refused", "worker5")
    refused = rehearsal.reboot("--query", "worker[5-6]")
    assert refused.code == 2, refused.output
    assert "[stop] No answer over SSH from worker5" in refused.output
    assert not rehearsal.state_dir.exists()
    lab.heal()

    with rehearsal.in_background("--query", "worker5") as process:
        rehearsal.wait_for_event("worker5", "cordon", "intent")
        lab.inject("ssh-refused", "worker5")
        outcome = rehearsal.end(process)
    assert outcome.code == 1, outcome.output
    assert "worker5: HELD: reboot: not within 25 s: worker5 does not answer" in outcome.output
    rehearsal.assert_held("worker5")
    lab.heal()
    assert rehearsal.cookbook(REBOOT, "--resume", outcome.run).code == 0
    rehearsal.assert_untouched("worker5")


def test_an_apiserver_that_dies_in_the_middle_does_no_harm(rehearsal, lab):
    with rehearsal.in_background("--query", "worker[1-2]") as process:
        rehearsal.wait_for_event("worker1", "drain", "intent")
        lab.inject("apiserver-stopped", "cp1")
        rehearsal.wait_for_event("worker1", "reboot", "done")
        lab.heal()
        eventually(lambda: lab.exec("cp1", "systemctl is-active kube-apiserver").stdout.strip() == "active")
        outcome = rehearsal.end(process)
    assert outcome.code == 0, outcome.output
    rehearsal.assert_untouched("worker1", "worker2")


def test_a_run_that_is_killed_while_getting_ready_is_resumed(rehearsal):
    rehearsal.kill_at("prepare", "taint", "intent", "--query", "worker3")
    outcome = rehearsal.cookbook(REBOOT, "--resume", rehearsal.folder().name)
    assert outcome.code == 0, outcome.output
    assert rehearsal.statuses() == {"worker3": "done"}
    rehearsal.assert_untouched("worker3")


@pytest.mark.parametrize(
    ("step", "kind"),
    [("silence", "intent"), ("drain", "intent"), ("reboot", "intent"), ("puppet", "pending"), ("uncordon", "intent")],
)
def test_a_run_that_is_killed_is_resumed(rehearsal, step, kind):
    boot_id = rehearsal.boot_id("worker1")
    rehearsal.kill_at("worker1", step, kind, "--query", "worker[1-2]")
    run = rehearsal.folder().name
    refused = rehearsal.reboot("--query", "worker3")
    assert refused.code == 2
    assert f"[stop] Run {run} was interrupted; in flight: worker1" in refused.output

    outcome = rehearsal.cookbook(REBOOT, "--resume", run)
    assert outcome.code == 0, outcome.output
    assert rehearsal.statuses() == {"worker1": "done", "worker2": "done"}
    assert rehearsal.boot_id("worker1") != boot_id
    boots = [unit["facts"]["new_boot_id"] for unit in rehearsal.report()["units"]]
    assert boots == [rehearsal.boot_id("worker1"), rehearsal.boot_id("worker2")], "rebooted more than once"
    rehearsal.assert_untouched("worker1", "worker2")
    assert rehearsal.silences() == []


@pytest.mark.parametrize("step", ["drain", "reboot"])
def test_a_run_that_is_killed_is_aborted(rehearsal, step):
    boot_id = rehearsal.boot_id("worker3")
    rehearsal.kill_at("worker3", step, "intent", "--query", "worker[3-4]")
    outcome = rehearsal.cookbook(REBOOT, "--abort", rehearsal.folder().name)
    assert outcome.code == 0, outcome.output
    rehearsal.assert_untouched("worker3", "worker4")
    assert rehearsal.silences() == []
    if step == "drain":
        assert rehearsal.boot_id("worker3") == boot_id
    over = rehearsal.cookbook(REBOOT, "--resume", rehearsal.folder().name)
    assert (over.code, "is aborted already" in over.output) == (2, True)


def test_an_abort_leaves_a_node_closed_that_is_not_ready(rehearsal, lab):
    lab.inject("host-stays-down", "worker6")
    outcome = rehearsal.reboot("--query", "worker6")
    assert outcome.code == 1, outcome.output
    aborted = rehearsal.cookbook(REBOOT, "--abort", outcome.run)
    assert aborted.code == 1, aborted.output
    assert "worker6 stays cordoned and silenced" in aborted.output
    rehearsal.assert_held("worker6")
    lab.heal()
    lab.wait_for_nodes(["worker6"], timeout=60)
    assert rehearsal.cookbook(REBOOT, "--abort", outcome.run).code == 0
    rehearsal.assert_untouched("worker6")
    assert rehearsal.silences() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_orderly(rehearsal, number):
    with rehearsal.in_background("--query", "worker5") as process:
        rehearsal.wait_for_event("worker5", "drain", "intent")
        process.send_signal(number)
        outcome = rehearsal.end(process, timeout=25)
    assert outcome.code == 3, outcome.output
    assert "in flight: worker5" in outcome.output
    assert f"cookbook {REBOOT} --resume {outcome.run}" in outcome.output
    assert rehearsal.cookbook(REBOOT, "--resume", outcome.run).code == 0
    rehearsal.assert_untouched("worker5")


def test_an_interrupt_finishes_what_is_in_flight(rehearsal):
    with rehearsal.in_background("--query", "worker[5-6]") as process:
        rehearsal.wait_for_event("worker5", "drain", "intent")
        process.send_signal(signal.SIGINT)
        outcome = rehearsal.end(process)
    assert outcome.code == 1, outcome.output
    assert rehearsal.statuses() == {"worker5": "done", "worker6": "pending"}
    rehearsal.assert_untouched("worker5", "worker6")


def test_two_runs_on_a_cluster_do_not_meet(rehearsal):
    with rehearsal.in_background("--query", "worker1") as process:
        rehearsal.wait_for_event("worker1", "drain", "intent")
        second = rehearsal.reboot("--query", "worker3")
        assert second.code == 2, second.output
        assert "[stop] The cluster is being worked on by run" in second.output
        busy = rehearsal.cookbook(REBOOT, "--resume", rehearsal.folder().name)
        assert busy.code == 2
        assert "is being worked on by another process" in busy.output
        assert rehearsal.end(process).code == 0


def test_a_run_that_lost_its_lock_starts_nothing_new(lab, running_workload, tmp_path):
    rehearsal = Rehearsal(lab, tmp_path, lease={"duration": "4s"})
    api = lab.api()
    path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/fleet-maintenance"
    with rehearsal.in_background("--query", "worker[1-2]") as process:
        rehearsal.wait_for_event("worker1", "reboot", "applied")
        lease = api.request("GET", path)
        lease["spec"] |= {"holderIdentity": "other@elsewhere", "renewTime": "2100-01-01T00:00:00.000000Z"}
        api.request("PUT", path, lease)
        outcome = rehearsal.end(process)
    api.request("DELETE", path)
    assert outcome.code == 1, outcome.output
    assert "the lock of the cluster was lost" in outcome.output
    assert rehearsal.statuses() == {"worker1": "done", "worker2": "pending"}
    rehearsal.assert_untouched("worker1", "worker2")


def test_a_budget_that_allows_nothing_is_found_before(rehearsal, lab):
    api = lab.api()
    budgets = "/apis/policy/v1beta1/namespaces/demo/poddisruptionbudgets"
    spec = {"minAvailable": "100%", "selector": {"matchLabels": {"app": "batch"}}}
    api.request("POST", budgets, {"metadata": {"name": "closed"}, "spec": spec})
    try:
        eventually(lambda: api.request("GET", f"{budgets}/closed")["status"].get("expectedPods") == 4)
        outcome = rehearsal.reboot()
    finally:
        api.request("DELETE", f"{budgets}/closed")
    assert outcome.code == 2, outcome.output
    assert "[stop] The budget demo/closed can never allow a disruption (minAvailable 100%" in outcome.output
    assert not rehearsal.state_dir.exists()
    rehearsal.assert_untouched(*WORKERS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cluster", "nope", "-r", "x"], "There is no cluster 'nope' in the configuration. It has: lab."),
        (["--cluster", "lab"], "A new run needs -r/--reason."),
        (["--cluster", "lab", "-r", "x", "--query", "D{}"], "The Cumin query 'D{}'"),
        (["--cluster", "lab", "-r", "x", "--query", "worker1,nosuchhost"], "no nodes of the cluster: nosuchhost"),
        (["--cluster", "lab", "-r", "x", "--exclude", "worker7"], "--exclude names what the query does not give"),
        (["--cluster", "lab", "-r", "x", "--exclude", "worker["], "is no list of hosts"),
        (["--cluster", "lab", "-r", "x", "--max-unavailable", "0"], "would let nothing be done"),
        (["--cluster", "lab", "-r", "x", "--max-unavailable", "101%"], "is above 100%"),
        (["--cluster", "lab", "-r", "x", "--max-unavailable", "1%"], "1% of 6 is less than one"),
        (["--cluster", "lab", "-r", "x", "--max-failed", "-1"], "is no number of nodes"),
        (["--resume", "nope"], "There is no run 'nope'"),
        (["--resume", "a", "--abort", "b"], "not allowed with"),
    ],
)
def test_bad_input_is_one_clear_message(rehearsal, arguments, message):
    outcome = rehearsal.cookbook(REBOOT, *arguments, "--unattended")
    assert outcome.code == 2, outcome.output
    assert message in outcome.output
    assert "Traceback" not in outcome.output
    assert not rehearsal.state_dir.exists()


def test_without_a_terminal_nobody_is_asked(rehearsal):
    outcome = rehearsal.cookbook(REBOOT, "--cluster", "lab", "-r", "x", "--query", "worker1")
    assert outcome.code == 2
    assert "There is no terminal to ask on; use --unattended" in outcome.output
    assert not rehearsal.state_dir.exists()
