"""Fixtures: the cluster of all integration tests, and the world of one test."""

from collections.abc import Iterator

import pytest

from fleet.k8s.client import Api
from integration.support import Cluster, FakeKubelet, World


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
