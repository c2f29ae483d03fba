"""Fixtures: the cluster of all integration tests, and the world of one test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.adapters.k8s.client import Api
from support.apiserver import Cluster, FakeKubelet, World

_HERE = Path(__file__).parent
_LARGEST = ["test_drain", "test_client", "test_remote", "test_junos", "test_etcd", "test_control_plane", "test_calico"]
_LARGEST += ["test_commands", "test_namespaces"]
"""The files that take longest: no process is to be left with one of them when the others are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the largest files."""

    def turn(item: pytest.Item) -> int:
        ours = item.path.is_relative_to(_HERE) and item.path.stem in _LARGEST
        return _LARGEST.index(item.path.stem) if ours else len(_LARGEST)

    items.sort(key=turn)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster of all tests; a test that ends the API server starts it again."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def api(cluster: Cluster) -> Api:
    assert cluster.apiserver
    if cluster.apiserver.poll() is not None:
        cluster.start_apiserver()
        cluster.wait_ready()
    return cluster.api()


@pytest.fixture
def world(api: Api) -> Iterator[World]:
    world = World(api)
    yield world
    world.clean()


@pytest.fixture
def kubelet(world: World) -> FakeKubelet:
    world.kubelet = FakeKubelet(world.api)
    return world.kubelet
