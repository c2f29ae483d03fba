"""Namespaces that are deleted on a real API server, by the real namespace controller."""

import contextlib
import time
from collections.abc import Iterator

import pytest

from fleet.adapters.k8s import namespaces
from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.errors import ApiError, KubernetesError
from fleet.adapters.k8s.namespaces import NamespaceState
from fleet.config.types import PROTECTED
from support.absent_group import GROUP, absent_group
from support.apiserver import Cluster, World, eventually

FINALIZER = "example.org/never"


@pytest.fixture(scope="module")
def controller(cluster: Cluster) -> Iterator[None]:
    flags = ("--controllers=namespace", "--leader-elect=false")  # no lease that the next one waits for
    process = cluster.spawn_component("kube-controller-manager", cluster.kubeconfig, *flags)
    yield
    process.kill()
    process.wait()


@pytest.fixture
def stuck(world: World) -> Iterator[str]:
    """A namespace with two objects that finalizers keep, and one that goes."""
    base = f"/api/v1/namespaces/{world.namespace}"
    for kind in ("configmaps", "secrets"):
        world.api.create(f"{base}/{kind}", {"metadata": {"name": "thing", "finalizers": [FINALIZER]}})
    world.api.create(f"{base}/configmaps", {"metadata": {"name": "goes"}})
    yield world.namespace
    release(world.api, world.namespace)


def release(api: Api, name: str) -> None:
    for kind in ("configmaps", "secrets"):
        with contextlib.suppress(ApiError):
            api.patch(f"/api/v1/namespaces/{name}/{kind}/thing", {"metadata": {"finalizers": None}})


def test_what_hangs_is_named_until_it_is_gone(controller: None, stuck: str, api: Api) -> None:
    assert namespaces.look(api, stuck) == NamespaceState(there=True, terminating=False)

    namespaces.delete(api, stuck)
    assert namespaces.look(api, stuck).terminating
    namespaces.delete(api, stuck)

    hanging = (f"configmaps/thing ({FINALIZER})", f"secrets/thing ({FINALIZER})")
    eventually(lambda: namespaces.look(api, stuck).hanging == hanging, 30)
    assert stuck in namespaces.existing(api)
    assert namespaces.look(api, stuck).problems == ()
    release(api, stuck)
    assert namespaces.look(api, stuck).hanging == ()  # as it is now, not when the controller looked last
    eventually(lambda: not namespaces.look(api, stuck).there, 60)
    assert namespaces.look(api, stuck) == NamespaceState(there=False, terminating=False)
    namespaces.delete(api, stuck)
    assert stuck not in namespaces.existing(api)


def test_a_finalizer_of_the_namespace_itself_hangs(controller: None, world: World, api: Api) -> None:
    path = f"/api/v1/namespaces/{world.namespace}"
    api.patch(path, {"metadata": {"finalizers": [FINALIZER]}})

    namespaces.delete(api, world.namespace)

    eventually(lambda: not api.get(path)["spec"].get("finalizers"))
    assert namespaces.look(api, world.namespace).hanging == (f"namespaces/{world.namespace} ({FINALIZER})",)
    namespaces.delete(api, world.namespace)
    api.patch(path, {"metadata": {"finalizers": None}})
    eventually(lambda: not namespaces.look(api, world.namespace).there)


def test_an_api_that_does_not_answer_is_named_and_not_waited_for(controller: None, stuck: str, api: Api) -> None:
    with absent_group(api):
        namespaces.delete(api, stuck)
        found = eventually(lambda: (state := namespaces.look(api, stuck)).problems and state.hanging and state, 60)
        started = time.monotonic()
        namespaces.look(api, stuck)
        assert time.monotonic() - started < 8
    assert GROUP in found.problems[0]
    assert f"configmaps/thing ({FINALIZER})" in found.hanging


@pytest.mark.parametrize("name", sorted(PROTECTED))
def test_those_of_kubernetes_are_never_deleted(api: Api, name: str) -> None:
    with pytest.raises(KubernetesError, match=f"never deleted: {name}"):
        namespaces.delete(api, name)
    with pytest.raises(KubernetesError, match=name):
        namespaces.refuse(["web", name])
    assert name == "kube-node-lease" or not namespaces.look(api, name).terminating


def test_others_are_not_refused() -> None:
    namespaces.refuse(["web", "default-web"])
