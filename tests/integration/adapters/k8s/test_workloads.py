"""What is told of workloads that the real controllers look after, on a real API server."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from fleet.adapters.k8s import workloads
from fleet.adapters.k8s.errors import ApiError
from support.apiserver import Cluster, World, eventually

CONTROLLERS = "deployment,replicaset,statefulset,daemonset"


@pytest.fixture(scope="module")
def controller(cluster: Cluster) -> Iterator[None]:
    flags = (f"--controllers={CONTROLLERS}", "--leader-elect=false")  # no lease that the next one waits for
    process = cluster.spawn_component("kube-controller-manager", cluster.kubeconfig, *flags)
    yield
    process.kill()
    process.wait()


class Workloads:
    """The workloads of a test's namespace, and the kubelets of their pods."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.base = f"/apis/apps/v1/namespaces/{world.namespace}"

    def create(self, resource: str, name: str, **spec: Any) -> None:
        template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        spec |= {"selector": {"matchLabels": {"app": name}}, "template": template}
        self.world.api.create(f"{self.base}/{resource}", {"metadata": {"name": name}, "spec": spec})

    def change(self, resource: str, name: str) -> None:
        template = {"metadata": {"annotations": {"version": "2"}}}
        self.world.api.patch(f"{self.base}/{resource}/{name}", {"spec": {"template": template}})

    def unready(self) -> list[str]:
        """Return what is not Ready, by its name in the namespace."""
        return [
            line.replace(f"{self.world.namespace}/", "")
            for line in workloads.unready(self.world.api, [self.world.namespace])
        ]

    def act(self) -> None:
        """Do as kubelets: pods that there are get Ready, and those that are deleted go."""
        pods, _ = self.world.api.list_all(self.world.pods)
        for pod in pods:
            path = f"{self.world.pods}/{pod['metadata']['name']}"
            with contextlib.suppress(ApiError):  # it may have gone meanwhile
                if pod["metadata"].get("deletionTimestamp"):
                    self.world.api.delete(path, {"gracePeriodSeconds": 0})
                elif pod["status"].get("phase") != "Running":
                    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
                    self.world.api.patch(f"{path}/status", {"status": ready})

    def acting(self) -> list[str]:
        self.act()
        return self.unready()


@pytest.fixture
def all_of_them(controller: None, world: World) -> Workloads:
    return Workloads(world)


def test_they_are_ready_when_all_their_pods_are(all_of_them: Workloads) -> None:
    assert all_of_them.unready() == []
    all_of_them.world.node()
    all_of_them.create("deployments", "web", replicas=2)
    all_of_them.create("statefulsets", "db", replicas=1, serviceName="db")
    all_of_them.create("daemonsets", "log")

    waiting = ["Deployment web: 0 of 2 ready", "StatefulSet db: 0 of 1 ready", "DaemonSet log: 0 of 1 ready"]
    eventually(lambda: all_of_them.unready() == waiting)
    eventually(lambda: all_of_them.acting() == [])

    for resource, name in (("deployments", "web"), ("statefulsets", "db"), ("daemonsets", "log")):
        all_of_them.change(resource, name)
    # The old pods are all Ready, and must not be taken for the new ones.
    for _ in range(10):
        assert all_of_them.unready()
    eventually(lambda: all_of_them.acting() == [])
    pods, _ = all_of_them.world.api.list_all(all_of_them.world.pods)
    assert {pod["metadata"]["annotations"]["version"] for pod in pods} == {"2"}
    assert len(pods) == 4


def test_pods_that_somebody_has_to_delete_may_be_old(all_of_them: Workloads) -> None:
    all_of_them.create("statefulsets", "db", replicas=1, serviceName="db", updateStrategy={"type": "OnDelete"})
    eventually(lambda: all_of_them.unready() == ["StatefulSet db: 0 of 1 ready"])
    eventually(lambda: all_of_them.acting() == [])

    all_of_them.change("statefulsets", "db")

    eventually(lambda: all_of_them.acting() == [])
    pods, _ = all_of_them.world.api.list_all(all_of_them.world.pods)
    assert [pod["metadata"].get("annotations") for pod in pods] == [None]


def test_a_namespace_that_is_not_there_is_named(world: World) -> None:
    assert workloads.unready(world.api, [world.namespace, "absent"]) == ["Namespace absent: it is not there"]
