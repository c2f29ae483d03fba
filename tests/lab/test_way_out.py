"""What is looked at beside a node's own condition, and the ways out that an operator has: watched from outside."""

import subprocess
from typing import Any

import pytest

from fleet_lab.workload import DEPLOYMENTS, NAMESPACE, budgets_path
from support.rehearsal import DEADLINES, REBOOT, Rehearsal, eventually

ANNOTATION = "fleet-cookbooks/maintenance"
ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"


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


def agent_on(lab: Any, node: str) -> dict[str, Any]:
    """The DaemonSet's pod on a node."""
    pods = lab.api().request("GET", f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
    return next(
        pod for pod in pods if pod["spec"].get("nodeName") == node and pod["metadata"]["labels"]["app"] == "agent"
    )


def is_ready(pod: dict[str, Any]) -> bool:
    return any(it["type"] == "Ready" and it["status"] == "True" for it in pod["status"].get("conditions") or ())


def test_a_daemonset_that_does_not_come_back_keeps_its_node_until_an_operator_says_otherwise(rehearsal, lab):
    """The node is Ready again and its agent is not: it takes no pods, and the next node is not touched."""
    agent = f"/api/v1/namespaces/{NAMESPACE}/pods/{agent_on(lab, 'worker1')['metadata']['name']}"
    lab.api().patch(agent, {"metadata": {"annotations": {"fleet-lab/ready-seconds": "600"}}})
    rehearsal.hurry(daemons="6s")
    second = rehearsal.boot_id("worker2")
    held = rehearsal.start("--query", "worker[1-2]")
    assert held.code == 1, held.output
    assert f"worker1: HELD: daemons: not within 6 s: DaemonSet {NAMESPACE}/agent is not Ready" in held.output
    assert rehearsal.statuses() == {"worker1": "held", "worker2": "pending"}
    assert f"cookbook {REBOOT} --resume {held.run} --give-up worker1 -r REASON" in held.output
    rehearsal.assert_held("worker1")
    assert rehearsal.boot_id("worker2") == second, "the next node was taken although this one was not well"

    boot_id = rehearsal.boot_id("worker1")
    refused = rehearsal.cookbook(REBOOT, "--resume", held.run, "--accept", "worker1:drain", "-r", "it is slow")
    assert refused.code == 2, refused.output
    assert "'drain' of worker1 cannot be accepted" in refused.output
    unsaid = rehearsal.cookbook(REBOOT, "--resume", held.run, "--accept", "worker1:daemons")
    assert unsaid.code == 2, unsaid.output
    assert "--accept needs -r/--reason" in unsaid.output
    resumed = rehearsal.cookbook(REBOOT, "--resume", held.run, "--accept", "worker1:daemons", "-r", "it is slow")
    assert resumed.code == 0, resumed.output
    assert "worker1: daemons was not proven, but accepted by" in resumed.output
    assert set(rehearsal.statuses().values()) == {"done"}
    assert rehearsal.boot_id("worker1") == boot_id, "a rebooted host was rebooted again"
    assert rehearsal.boot_id("worker2") != second
    assert not is_ready(agent_on(lab, "worker1"))
    rehearsal.assert_untouched("worker1", "worker2")
    lab.api().request("DELETE", agent)


def test_a_volume_that_is_attached_keeps_its_node_from_the_reboot(rehearsal, lab):
    api = lab.api()
    spec = {"attacher": "csi.example.org", "nodeName": "worker3", "source": {"persistentVolumeName": "pv-rehearsal"}}
    api.request("POST", ATTACHMENTS, {"metadata": {"name": "csi-rehearsal"}, "spec": spec})
    try:
        rehearsal.hurry(volumes="5s")
        boot_id = rehearsal.boot_id("worker3")
        held = rehearsal.start("--query", "worker3")
        assert held.code == 1, held.output
        assert "worker3: HELD: volumes: not within 5 s: pv-rehearsal is attached (csi-rehearsal)" in held.output
        assert rehearsal.boot_id("worker3") == boot_id, "rebooted with a volume attached"
        rehearsal.assert_held("worker3")
    finally:
        api.request("DELETE", f"{ATTACHMENTS}/csi-rehearsal")
    assert rehearsal.resume(held.run).code == 0
    assert rehearsal.boot_id("worker3") != boot_id
    rehearsal.assert_untouched("worker3")


def test_a_host_that_never_comes_back_is_given_up_and_the_rest_goes_on(rehearsal, lab):
    rehearsal.hurry(reboot="8s")
    lab.inject("host-stays-down", "worker5")
    held = rehearsal.start("--query", "worker[5-6]")
    assert held.code == 1, held.output
    rehearsal.hurry(reboot=DEADLINES["reboot"])
    planned = rehearsal.cookbook(
        "--dry-run", REBOOT, "--resume", held.run, "--give-up", "worker5", "-r", "its board is broken"
    )
    assert "Dry run: worker5 would be given up." in planned.output, planned.output
    assert "would continue with worker6" in planned.output
    sixth = rehearsal.boot_id("worker6")
    lab.api().request("DELETE", "/api/v1/nodes/worker5")  # As long as it is there it counts as unavailable.
    went_on = rehearsal.cookbook(REBOOT, "--resume", held.run, "--give-up", "worker5", "-r", "its board is broken")
    assert went_on.code == 0, went_on.output
    assert "worker5 is given up; left on it: nothing in Kubernetes" in went_on.output
    assert rehearsal.statuses() == {"worker5": "given up", "worker6": "done"}
    assert rehearsal.boot_id("worker6") != sixth
    shown = subprocess.run(
        ["fleet", "runs", "show", held.run], env=rehearsal.environment, capture_output=True, text=True, check=True
    )
    assert "given up by" in shown.stdout
    assert "its board is broken" in shown.stdout
    rehearsal.assert_untouched("worker6")


def test_a_drain_that_fails_is_released_and_tried_again_after_the_others(rehearsal, lab):
    """The node takes pods again at once; capacity does not stay cordoned for nothing."""
    api = lab.api()
    node = rehearsal.busiest()
    other = next(name for name in sorted(lab.names("worker")) if name != node)
    path = budgets_path(api)
    guarded = {name: it.replicas for name, it in DEPLOYMENTS.items() if it.min_available is not None}
    rehearsal.change_config(
        lambda cluster: cluster.update(
            drain={"failed": "release", "retry": "3s", "opens_on_cordon": [{"namespace": NAMESPACE}]},
            limits={"max_unavailable": 1, "max_domains": 1, "max_failed": 0, "attempts": 2},
        )
    )
    rehearsal.hurry(drain="10s")
    boots = {name: rehearsal.boot_id(name) for name in (node, other)}
    for name, replicas in guarded.items():
        api.patch(f"{path}/{name}", {"spec": {"minAvailable": replicas}})
    try:
        allowed = [f"{path}/{name}" for name in guarded]
        eventually(lambda: not any(api.request("GET", it)["status"]["disruptionsAllowed"] for it in allowed))
        with rehearsal.in_background("--query", node) as process:
            rehearsal.wait_for_event(node, "unsilence", "released", timeout=90)
            assert not rehearsal.node(node)["spec"].get("unschedulable"), "it stays cordoned for nothing"
            for name in guarded:
                api.patch(f"{path}/{name}", {"spec": {"minAvailable": 0}})
            outcome = rehearsal.end(process)
    finally:
        for name, it in DEPLOYMENTS.items():
            if it.min_available is not None:
                api.patch(f"{path}/{name}", {"spec": {"minAvailable": it.min_available}})
    assert outcome.code == 0, outcome.output
    assert f"{node}: released after attempt 1, tried again in 3 s" in outcome.output
    assert rehearsal.boot_id(node) != boots[node]
    assert rehearsal.boot_id(other) == boots[other]
    rehearsal.assert_untouched(node)
    assert rehearsal.silences() == []
