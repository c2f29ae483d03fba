"""The permissions in config/kubernetes-rbac.yaml are enough for a maintenance, and for nothing worse."""

import contextlib
import threading
from collections.abc import Iterator

import pytest
import yaml

from fleet.adapters.k8s import access, leader, rights
from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.errors import ApiError, KubernetesError
from fleet.adapters.k8s.leftover import pods_left
from fleet.adapters.k8s.nodes import NodeWatch, Owner, clear_pending_taint, cordon, set_pending_taint, uncordon
from fleet.adapters.k8s.policy import DrainPolicy
from fleet.adapters.k8s.watchdog import Watchdog
from fleet.config.model import LeaseConfig
from support.apiserver import MAINTENANCE_TOKEN, Cluster, FakeKubelet, World, eventually
from support.draining import drain
from support.places import CONFIG
from support.ports import free_port

PERMISSIONS = CONFIG / "kubernetes-rbac.yaml"


@pytest.fixture
def restricted(cluster: Cluster, api: Api) -> Iterator[Api]:
    """A client with the permissions of a maintenance."""
    paths = []
    for item in yaml.safe_load_all(PERMISSIONS.read_text()):
        namespace = item["metadata"].get("namespace")
        middle = f"namespaces/{namespace}/" if namespace else ""
        collection = f"/apis/rbac.authorization.k8s.io/v1/{middle}{item['kind'].lower()}s"
        api.create(collection, item)
        paths.append(f"{collection}/{item['metadata']['name']}")
    port = free_port()
    process = cluster.spawn_apiserver(port, authorization="RBAC")
    client = cluster.api(port=port, token=MAINTENANCE_TOKEN)

    def is_ready() -> bool:
        try:  # its own default roles come a moment after its start
            return client.serves("apps/v1") and client.list_all("/api/v1/nodes") is not None
        except KubernetesError:
            return False

    try:
        eventually(is_ready, 60)
        yield client
    finally:
        process.kill()
        process.wait()
        for path in paths:
            with contextlib.suppress(ApiError):
                api.delete(path)


def test_permissions(restricted: Api, api: Api, world: World, kubelet: FakeKubelet) -> None:
    name, run = world.node(), Owner("run-1", "operator", "kernel")
    world.web_pods(name, 3)
    world.pod("agent", name, owner=world.controller("DaemonSet", "agent"))
    world.budget("web-budget", 0)
    said: list[str] = []

    def progress(line: str) -> None:
        said.append(line)
        if "web-budget" in line:
            world.allow("web-budget", 3)

    assert restricted.version()
    with NodeWatch(restricted) as watch:
        set_pending_taint(restricted, [name], run.run)
        cordon(restricted, name, run)
        result = drain(restricted, name, DrainPolicy(), deadline=30, cancel=threading.Event(), progress=progress)
        assert result.done, result
        assert any("web-budget" in line for line in said)
        assert not pods_left(restricted, name, DrainPolicy())
        uncordon(restricted, name, run.run)
        clear_pending_taint(restricted, [name], run.run)
        eventually(lambda: not watch.snapshot()[name].unschedulable and not watch.snapshot()[name].taints)
    restricted.list_all("/apis/apps/v1/daemonsets")

    lease = LeaseConfig()
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{lease.namespace}/leases"
    made = restricted.create(leases, {"metadata": {"name": lease.name}, "spec": {"holderIdentity": "x"}})
    restricted.replace(f"{leases}/{lease.name}", restricted.get(f"{leases}/{lease.name}"))
    assert made["metadata"]["name"] == lease.name

    for forbidden in (
        lambda: restricted.delete(f"{world.pods}/agent"),
        lambda: restricted.delete(f"/api/v1/nodes/{name}"),
        lambda: restricted.get("/api/v1/secrets"),
        lambda: restricted.patch(f"{world.budgets}/x", {}),
        lambda: restricted.delete(f"{leases}/{lease.name}"),
    ):
        with pytest.raises(ApiError) as error:
            forbidden()
        assert error.value.status == 403
    api.delete(f"{leases}/{lease.name}")


def test_permissions_for_the_control_plane(restricted: Api, api: Api, cluster: Cluster, world: World) -> None:
    """Leaders can be read, and the watchdog can do its work in the place of the Lease, and nowhere else."""
    namespace = LeaseConfig().namespace
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    for component in ("kube-controller-manager", "kube-scheduler"):
        leader.read(restricted, component)  # There may be none.
        with pytest.raises(ApiError, match="403 Forbidden"):
            restricted.delete(f"{leases}/{component}")
    eventually(lambda: restricted.readyz() == (200, ()), 60)

    kubeconfig = cluster.write_kubeconfig(port=int(restricted.server.rpartition(":")[2]), token=MAINTENANCE_TOKEN)
    dog = Watchdog(kubeconfig, namespace, "run-1")
    dog.start()
    eventually(lambda: dog.clean_for() > 1 and dog.report().requests > 8)
    dog.stop()
    assert dog.report().failed == 0, dog.report()
    with pytest.raises(ApiError, match="404"):
        api.get(f"/api/v1/namespaces/{namespace}/configmaps/fleet-watchdog")

    with pytest.raises(ApiError, match="403 Forbidden"):
        Watchdog(kubeconfig, world.namespace, "run-1").start()
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    api.create(maps, {"metadata": {"name": "other"}})
    try:
        for forbidden in (
            lambda: restricted.get(maps),
            lambda: restricted.get(f"{maps}/other"),
            lambda: restricted.patch(f"{maps}/other", {"data": {"a": "b"}}),
            lambda: restricted.delete(f"{maps}/other"),
        ):
            with pytest.raises(ApiError, match="403 Forbidden"):
                forbidden()
    finally:
        api.delete(f"{maps}/other")


def test_missing_permission_is_a_result(restricted: Api, api: Api, world: World) -> None:
    api.delete("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/fleet-maintenance")
    eventually(lambda: is_forbidden(restricted))
    result = drain(
        restricted, world.node(), DrainPolicy(), deadline=30, cancel=threading.Event(), progress=lambda _: None
    )
    assert not result.done
    assert "403 Forbidden" in result.reason
    assert result.seconds < 20


def is_forbidden(client: Api) -> bool:
    try:
        client.list_all("/api/v1/pods")
    except ApiError as error:
        return error.status == 403
    return False


def test_missing_rights_are_known_without_trying(restricted: Api, api: Api) -> None:
    needed = list(rights.of_everything(LeaseConfig()))
    # The apiserver has just been started: it learns of roles and bindings one after the other.
    eventually(lambda: not access.missing(restricted, needed))
    api.delete("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/fleet-maintenance")
    eventually(lambda: is_forbidden(restricted))
    assert access.missing(restricted, needed) == [right for right in needed if not right.namespace]
