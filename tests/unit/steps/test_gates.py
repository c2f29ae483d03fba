"""The gates over what the API shows: pods that stay, volumes, workloads elsewhere."""

import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import urllib3

from fleet.adapters.k8s.client import Api
from fleet.engine import decide
from fleet.engine import model as m
from fleet.steps import gates
from fleet.steps.cluster import Cluster
from support import clusters, official

DAEMONSET = {"kind": "DaemonSet", "name": "csi", "uid": "d1", "controller": True}
REPLICASET = {"kind": "ReplicaSet", "name": "cart-1", "uid": "r1", "controller": True}
ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"
CART = "/apis/apps/v1/namespaces/shop/deployments/cart"


class FakeApi:
    """Objects by path, and collections by path; a field selector picks by nodeName, name or phase."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {
            "/apis/apps/v1/namespaces/storage/daemonsets/csi": {"metadata": {"uid": "d1"}},
            "/apis/apps/v1/namespaces/shop/replicasets/cart-1": {
                "metadata": {"ownerReferences": [{"kind": "Deployment", "name": "cart", "controller": True}]}
            },
            CART: {"metadata": {}, "spec": {"replicas": 2}, "status": {"readyReplicas": 2}},
            "/api/v1/nodes/w1": {"metadata": {"name": "w1"}, "status": {}},
        }
        self.pods = [pod("storage", "csi-x", DAEMONSET), pod("shop", "cart-1-x", REPLICASET)]
        daemonsets = [{"metadata": {"uid": "d1"}}]
        self.lists: dict[str, list[dict[str, Any]]] = {ATTACHMENTS: [], "/apis/apps/v1/daemonsets": daemonsets}

    def request(self, method: str, url: str, _body: bytes | None) -> urllib3.HTTPResponse:
        assert method == "GET"
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        found = self.objects.get(parts.path)
        if "limit" in query:
            items = self._list(parts.path, query.get("fieldSelector", ""))
            found = {"metadata": {"resourceVersion": "1"}, "items": items}
        return official.answer(200 if found else 404, json.dumps(found or {"message": "no such thing"}).encode())

    def _list(self, path: str, selector: str) -> list[dict[str, Any]]:
        if path.endswith("/pods"):
            phase = selector.removeprefix("status.phase=")
            return [it for it in self.pods if phase == selector or it["status"]["phase"] == phase]
        name = selector.removeprefix("metadata.name=")
        return [item for item in self.lists.get(path, []) if not name or item["metadata"]["name"] == name]


def pod(namespace: str, name: str, owner: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": namespace, "name": name, "uid": name, "ownerReferences": [owner]},
        "spec": {"nodeName": "w1", **spec},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "c", "containerID": f"c://{name}/1", "ready": True}],
        },
    }


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def cluster(api: FakeApi) -> Cluster:
    return clusters.cluster({"w1": "w1"}, api=Api(official.client(api.request)))


def state(**facts: Any) -> m.TargetState:
    return m.TargetState(m.Target("w1"), status=m.Status.RUNNING, facts=facts)


def ask(step: Any, **facts: Any) -> m.Verdict:
    found: m.Verdict = step.check([state(**facts)])["w1"]
    return found


def test_the_baseline_is_what_is_ready_before_anything_is_taken(cluster):
    found = ask(gates.Baseline(cluster, workloads=True))
    assert found.kind is m.Kind.DONE
    assert found.facts == {
        "daemons": {"DaemonSet storage/csi": ["c://csi-x/1"]},
        "workloads": {"Deployment shop/cart": 2},
    }


def test_a_baseline_is_not_taken_twice(cluster, api):
    api.pods.clear()
    assert ask(gates.Baseline(cluster, workloads=True), daemons={"DaemonSet storage/csi": []}).facts == {}


def test_a_workload_without_any_ready_pod_is_no_baseline(cluster, api):
    api.objects[CART]["status"] = {}
    assert ask(gates.Baseline(cluster, workloads=True)).facts["workloads"] == {}


def test_daemons_have_to_be_ready_with_other_containers_once_the_host_was_rebooted(cluster):
    step = gates.DaemonsReady(cluster)
    wanted = {"DaemonSet storage/csi": ["c://csi-x/1"]}
    assert ask(step, daemons=wanted).kind is m.Kind.DONE, "it was not rebooted"
    stale = ask(step, daemons=wanted, new_boot_id="b2")
    assert (stale.kind, stale.detail) == (
        m.Kind.PENDING,
        "DaemonSet storage/csi is shown with its containers of before the reboot",
    )
    assert ask(step, daemons={"DaemonSet storage/csi": ["c://csi-x/0"]}, new_boot_id="b2").kind is m.Kind.DONE
    assert ask(step, daemons=wanted, new_invocation="1" * 32).kind is m.Kind.DONE, "a unit was restarted, not the host"


def test_a_daemonset_that_was_deleted_is_not_waited_for(cluster, api):
    api.pods.clear()
    wanted = {"DaemonSet storage/csi": ["c://1"]}
    step = gates.DaemonsReady(cluster)
    assert ask(step, daemons=wanted).detail == "DaemonSet storage/csi has no pod there"
    del api.objects["/apis/apps/v1/namespaces/storage/daemonsets/csi"]
    assert ask(step, daemons=wanted).kind is m.Kind.DONE


@pytest.mark.parametrize("where", ["in use", "attached"])
def test_a_volume_keeps_the_node(cluster, api, where):
    if where == "in use":
        api.objects["/api/v1/nodes/w1"]["status"]["volumesInUse"] = ["kubernetes.io/csi/rbd^handle-1"]
    else:
        spec = {"nodeName": "w1", "source": {"persistentVolumeName": "pv-1"}}
        api.lists[ATTACHMENTS] = [{"metadata": {"name": "csi-1"}, "spec": spec}]
    found = ask(gates.VolumesDetached(cluster))
    assert found.kind is m.Kind.PENDING
    assert where in found.detail
    api.objects["/api/v1/nodes/w1"]["status"] = {}
    api.lists[ATTACHMENTS] = []
    assert ask(gates.VolumesDetached(cluster)).kind is m.Kind.DONE


def test_a_volume_of_another_node_keeps_nobody(cluster, api):
    api.lists[ATTACHMENTS] = [{"metadata": {"name": "csi-1"}, "spec": {"nodeName": "w2", "source": {}}}]
    assert ask(gates.VolumesDetached(cluster)).kind is m.Kind.DONE


def test_volumes_of_pods_that_stay_keep_nobody(cluster, api):
    claim = [{"name": "data", "persistentVolumeClaim": {"claimName": "csi-data"}}]
    api.pods = [pod("storage", "csi-x", DAEMONSET, volumes=claim)]
    api.lists["/api/v1/namespaces/storage/persistentvolumeclaims"] = [
        {"metadata": {"name": "csi-data"}, "spec": {"volumeName": "pv-9"}}
    ]
    api.lists["/api/v1/persistentvolumes"] = [
        {"metadata": {"name": "pv-9"}, "spec": {"csi": {"driver": "rbd", "volumeHandle": "handle-9"}}}
    ]
    api.objects["/api/v1/nodes/w1"]["status"]["volumesInUse"] = ["kubernetes.io/csi/rbd^handle-9"]
    spec = {"nodeName": "w1", "source": {"persistentVolumeName": "pv-9"}}
    api.lists[ATTACHMENTS] = [{"metadata": {"name": "csi-9"}, "spec": spec}]
    assert ask(gates.VolumesDetached(cluster)).kind is m.Kind.DONE
    api.objects["/api/v1/nodes/w1"]["status"]["volumesInUse"] += ["kubernetes.io/csi/rbd^handle-1"]
    assert ask(gates.VolumesDetached(cluster)).detail == "kubernetes.io/csi/rbd^handle-1 is in use"


def test_workloads_have_their_ready_pods_again(cluster, api):
    step = gates.WorkloadsBack(cluster)
    api.objects[CART]["status"]["readyReplicas"] = 1
    pending = pod("shop", "cart-1-y", REPLICASET)
    pending["status"] = {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "reason": "Unschedulable", "message": "0/6 nodes"}],
    }
    api.pods.append(pending)
    found = ask(step, workloads={"Deployment shop/cart": 2})
    assert found.kind is m.Kind.PENDING
    assert found.detail == "Deployment shop/cart: 1 of 2 Ready; shop/cart-1-y fits nowhere: 0/6 nodes"
    api.objects[CART]["status"]["readyReplicas"] = 2
    assert ask(step, workloads={"Deployment shop/cart": 2}).kind is m.Kind.DONE
    del api.objects[CART]
    assert ask(step, workloads={"Deployment shop/cart": 2}).kind is m.Kind.DONE


def test_no_further_unit_starts_while_one_waits_for_its_workloads():
    steps = (m.StepSpec("cordon", 10, takes_capacity=True), m.StepSpec("workloads", 60, gate=True, bars=True))
    stage = m.Stage("nodes", (), steps, m.Limits(max_unavailable=5, max_domains=5))
    waiting = m.TargetState(
        m.Target("w1"), m.Status.RUNNING, step=1, phase=m.Phase.VERIFY, detail="1 of 2 Ready", due=50.0, deadline=100.0
    )
    states = {"w1": waiting, "w2": m.TargetState(m.Target("w2"))}
    decision = decide.decide(stage, decide.Progress(states), m.Observation(), 10.0)
    assert (decision.actions, decision.blocked) == ((), "w1: workloads: 1 of 2 Ready")
    over = decide.decide(stage, decide.Progress({"w2": states["w2"]}), m.Observation(), 10.0)
    assert over.actions == (decide.Start("w2"),)


def test_without_a_drain_no_workload_is_asked_for(cluster, api):
    del api.objects["/apis/apps/v1/namespaces/shop/replicasets/cart-1"]
    assert "workloads" not in ask(gates.Baseline(cluster, workloads=False)).facts


def test_a_replicaset_of_another_projects_controller_is_its_own_workload(cluster, api):
    path = "/apis/apps/v1/namespaces/shop/replicasets/cart-1"
    rollout = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "cart", "controller": True}
    api.objects[path] = {"metadata": {"ownerReferences": [rollout]}, "status": {"readyReplicas": 3}}
    assert ask(gates.Baseline(cluster, workloads=True)).facts["workloads"] == {"ReplicaSet shop/cart-1": 3}


def test_a_daemonset_of_another_group_is_never_taken_for_deleted(cluster, api):
    wanted = {"DaemonSet.apps.kruise.io storage/csi": ["c://1"]}
    api.pods.clear()
    api.objects.clear()
    found = ask(gates.DaemonsReady(cluster), daemons=wanted)
    assert (found.kind, found.detail) == (m.Kind.PENDING, "DaemonSet.apps.kruise.io storage/csi has no pod there")


def test_containers_that_were_restarted_since_the_baseline_are_no_proof_either(cluster, api):
    """A stale status shows what ran right before the reboot, and not what ran when the run came to the node."""
    before = {"DaemonSet storage/csi": ["c://csi-x/0"]}
    noted = gates.with_containers_of_now(cluster, state(daemons=before))
    assert noted == {"daemons": {"DaemonSet storage/csi": ["c://csi-x/0", "c://csi-x/1"]}}
    step = gates.DaemonsReady(cluster)
    assert ask(step, **noted, new_boot_id="b2").kind is m.Kind.PENDING
    api.pods[0]["status"]["containerStatuses"][0]["containerID"] = "c://csi-x/2"
    assert ask(step, **noted, new_boot_id="b2").kind is m.Kind.DONE
