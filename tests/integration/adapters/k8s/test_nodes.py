"""Cordons that are owned, taints, and the live view of the nodes."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fleet.adapters.k8s import lease as leases
from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.errors import ApiError
from fleet.adapters.k8s.lock import ClusterLock, LockTaken, taken_by
from fleet.adapters.k8s.model import Node, Taint, parse_node, parse_time
from fleet.adapters.k8s.nodes import (
    OWNER_ANNOTATION,
    PENDING_TAINT,
    CordonOutcome,
    NodeWatch,
    Owner,
    Ownership,
    UncordonOutcome,
    clear_pending_taint,
    cordon,
    list_nodes,
    ownership,
    set_pending_taint,
    uncordon,
)
from fleet.clock import Repeating, SystemClock, SystemThreads
from fleet.config.model import LeaseConfig
from fleet.engine.protocols import Holder
from support.apiserver import Cluster, World, eventually

OURS = Owner("run-1", "operator", "kernel 6.1.140")
OTHERS = Owner("run-2", "somebody", "memory")


def read(api: Api, name: str) -> Node:
    return parse_node(api.get(f"/api/v1/nodes/{name}"))


def test_cordon_and_uncordon(api: Api, world: World) -> None:
    name = world.node()
    assert cordon(api, name, OURS) is CordonOutcome.CORDONED
    node = read(api, name)
    assert node.unschedulable
    assert json.loads(node.annotations[OWNER_ANNOTATION]) == {
        "run": "run-1",
        "operator": "operator",
        "reason": "kernel 6.1.140",
        "was_cordoned": False,
        "given_up": False,
    }
    assert ownership(node) == Ownership("run-1", "operator", "kernel 6.1.140", False)
    assert cordon(api, name, OURS) is CordonOutcome.ALREADY_OURS
    assert uncordon(api, name, "run-1") is UncordonOutcome.UNCORDONED
    node = read(api, name)
    assert not node.unschedulable
    assert OWNER_ANNOTATION not in node.annotations
    assert uncordon(api, name, "run-1") is UncordonOutcome.NOT_OURS


def test_cordon_of_somebody_else_stays(api: Api, world: World) -> None:
    name = world.node(unschedulable=True)
    assert cordon(api, name, OURS) is CordonOutcome.FOUND_CORDONED
    assert cordon(api, name, OURS) is CordonOutcome.FOUND_CORDONED
    assert uncordon(api, name, "run-1") is UncordonOutcome.LEFT_CORDONED
    node = read(api, name)
    assert node.unschedulable
    assert OWNER_ANNOTATION not in node.annotations


def test_maintenance_of_another_run_is_left_alone(api: Api, world: World) -> None:
    name = world.node()
    cordon(api, name, OTHERS)
    before = read(api, name)
    assert cordon(api, name, OURS) is CordonOutcome.OTHER_RUN
    assert uncordon(api, name, "run-1") is UncordonOutcome.NOT_OURS
    assert read(api, name) == before


def test_node_that_an_operator_took_back_from_another_run_is_free(api: Api, world: World) -> None:
    name = world.node()
    cordon(api, name, OTHERS)
    api.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": None}})
    assert cordon(api, name, OURS) is CordonOutcome.CORDONED
    assert uncordon(api, name, "run-2") is UncordonOutcome.NOT_OURS
    assert uncordon(api, name, "run-1") is UncordonOutcome.UNCORDONED


def test_node_that_was_uncordoned_meanwhile_is_cordoned_again(api: Api, world: World) -> None:
    name = world.node(unschedulable=True)
    cordon(api, name, OURS)
    api.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": None}})
    cordon(api, name, OURS)
    node = read(api, name)
    assert node.unschedulable
    assert ownership(node) == Ownership("run-1", "operator", "kernel 6.1.140", True)


def test_other_annotations_and_taints_stay(api: Api, world: World) -> None:
    name = world.node(taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])
    api.patch(f"/api/v1/nodes/{name}", {"metadata": {"annotations": {"mine": "1"}}})
    cordon(api, name, OURS)
    uncordon(api, name, "run-1")
    node = read(api, name)
    assert node.annotations == {"mine": "1"}
    assert node.taints == (Taint("gpu", "yes", "NoSchedule"),)


def test_unknown_node(api: Api) -> None:
    for change in (lambda: cordon(api, "absent", OURS), lambda: uncordon(api, "absent", "run-1")):
        with pytest.raises(ApiError) as error:
            change()
        assert error.value.status == 404


def test_conflicting_changes_are_both_made(api: Api, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubelet writes to its node between our reading and our writing."""
    name = world.node()
    patch = api.patch
    conflicts: list[str] = []

    def patch_late(path: str, body: dict[str, Any], **query: Any) -> Any:
        if len(conflicts) < 3:
            conflicts.append(path)
            patch(path, {"metadata": {"labels": {"beat": str(len(conflicts))}}})
        return patch(path, body, **query)

    monkeypatch.setattr(api, "patch", patch_late)
    assert cordon(api, name, OURS) is CordonOutcome.CORDONED
    node = read(api, name)
    assert len(conflicts) == 3
    assert node.unschedulable
    assert node.labels["beat"] == "3"


def test_somebody_who_cordons_at_the_same_moment_keeps_the_cordon(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = world.node()
    patch = api.patch
    done: list[object] = []

    def patch_late(path: str, body: dict[str, Any], **query: Any) -> Any:
        if not done:
            done.append(patch(path, {"spec": {"unschedulable": True}}))
        return patch(path, body, **query)

    monkeypatch.setattr(api, "patch", patch_late)
    assert cordon(api, name, OURS) is CordonOutcome.FOUND_CORDONED
    assert uncordon(api, name, "run-1") is UncordonOutcome.LEFT_CORDONED


def test_two_runs_at_once_never_both_own_a_node(api: Api, world: World) -> None:
    for _ in range(5):
        name = world.node()
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(lambda owner: cordon(api, name, owner), (OURS, OTHERS)))  # noqa: B023
        assert set(outcomes) == {CordonOutcome.CORDONED, CordonOutcome.OTHER_RUN}


def test_pending_taint(api: Api, world: World) -> None:
    gpu = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
    names = [world.node(), world.node(taints=[gpu])]
    set_pending_taint(api, [*names, "absent"], "run-1")
    set_pending_taint(api, names, "run-1")
    ours = Taint(PENDING_TAINT, "run-1", "PreferNoSchedule")
    assert [read(api, name).taints for name in names] == [(ours,), (Taint("gpu", "yes", "NoSchedule"), ours)]
    clear_pending_taint(api, names, "run-2")
    assert ours in read(api, names[0]).taints, "only a run's own taint is removed"
    clear_pending_taint(api, [*names, "absent"], "run-1")
    assert [read(api, name).taints for name in names] == [(), (Taint("gpu", "yes", "NoSchedule"),)]


def test_pending_taint_that_a_dead_run_left_is_taken_over(api: Api, world: World) -> None:
    name = world.node()
    set_pending_taint(api, [name], "run-0")
    set_pending_taint(api, [name], "run-1")
    assert read(api, name).taints == (Taint(PENDING_TAINT, "run-1", "PreferNoSchedule"),)


def test_many_nodes(cluster: Cluster, world: World) -> None:
    api = cluster.api(page=7)
    names = [world.node() for _ in range(30)]
    set_pending_taint(api, names, "run-1")
    found = {node.name: node for node in list_nodes(api)}
    assert all(found[name].taints for name in names)


def test_node_watch_through_a_restart(cluster: Cluster, api: Api, world: World) -> None:
    name = world.node()
    woken = threading.Event()
    with NodeWatch(api, woken.set) as watch:
        assert not watch.snapshot()[name].unschedulable
        cordon(api, name, OURS)
        eventually(lambda: watch.snapshot()[name].unschedulable)
        assert woken.is_set()
        cluster.kill_apiserver()
        eventually(lambda: watch.age() > 1)
        cluster.start_apiserver()
        cluster.wait_ready()
        uncordon(api, name, "run-1")
        other = world.node()
        eventually(lambda: not watch.snapshot()[name].unschedulable and other in watch.snapshot())
        api.delete(f"/api/v1/nodes/{other}")
        eventually(lambda: other not in watch.snapshot())
        assert watch.age() < 10


class _LateClock(SystemClock):
    """A clock that is three hours behind."""

    def time(self) -> float:
        return super().time() - 3 * 3600


class _MortalThreads(SystemThreads):
    """Threads that can be ended as a killed process ends them."""

    def __init__(self) -> None:
        self.repeats: list[Repeating] = []

    def repeat(self, call: Callable[[], bool], pause: float, name: str) -> Repeating:
        self.repeats.append(super().repeat(call, pause, name))
        return self.repeats[-1]


def test_the_lease_of_a_run_whose_clock_is_behind_is_its_own_until_it_dies(api: Api) -> None:
    config = LeaseConfig.model_validate({"name": "behind", "duration": "4s"})
    threads = _MortalThreads()
    first = ClusterLock(api, config, Holder("r1", "a", "ann", "why"), lambda: None, clock=_LateClock(), threads=threads)
    second = ClusterLock(api, config, Holder("r2", "b", "bob", "why"), lambda: None)
    assert taken_by(api, config) == "", "there is no such Lease"
    first.acquire()
    lease = leases.read(api, config)
    assert lease is not None
    renewed = parse_time(lease["spec"]["renewTime"])
    assert renewed is not None
    assert renewed.timestamp() < time.time() - 10_000, "its Lease looks expired"

    assert taken_by(api, config).startswith("run r1@a (ann: why)")
    with pytest.raises(LockTaken, match="run r1@a"):
        second.acquire()
    assert first.problem() == ""

    for repeat in threads.repeats:
        repeat.stop(wait=5)
    began = time.monotonic()
    second.acquire()
    assert 2 < time.monotonic() - began < 12
    assert first.problem(), "it stopped before"
    assert second.problem() == ""
    first.release()
    assert leases.holder_of(leases.read(api, config)) == "r2@b", "it gave back what is not its own any more"
    second.release()
    assert leases.holder_of(leases.read(api, config)) == ""
    first.acquire()
    assert first.problem() == "", "one that was given back is free at once"
    first.release()
