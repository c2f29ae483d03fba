"""What is told of workloads on a real API server."""

from fleet.k8s import workloads
from integration.support import World


def test_all_that_is_not_ready_is_named(world: World) -> None:
    api, namespace = world.api, world.namespace
    assert workloads.unready(api, [namespace]) == []
    world.controller("Deployment", "web")
    world.controller("DaemonSet", "log")
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/web/status"
    status = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 0}
    api.patch(path, {"status": status})

    assert workloads.unready(api, [namespace, "absent"]) == [
        f"Deployment {namespace}/web: 0 of 1 ready",
        f"DaemonSet {namespace}/log: its controller has not seen its latest change",
        "Namespace absent: it is not there",
    ]

    api.patch(path, {"status": {"readyReplicas": 1, "availableReplicas": 1}})
    api.patch(f"/apis/apps/v1/namespaces/{namespace}/daemonsets/log/status", {"status": {"observedGeneration": 1}})
    assert workloads.unready(api, [namespace]) == []
