"""Workloads whose pods have to leave: who owns a pod, and when a workload is back at its baseline."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.k8s import owners
from fleet.adapters.k8s.owners import Standing, Workload


def test_a_workload_is_remembered_by_its_text():
    workload = Workload("Deployment", "shop", "cart")
    assert str(workload) == "Deployment shop/cart"
    assert owners.parse(str(workload)) == workload
    assert workload.path == "/apis/apps/v1/namespaces/shop/deployments/cart"


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        ({"spec": {"replicas": 3}, "status": {"readyReplicas": 2}}, Standing(3, 2)),
        ({"spec": {"replicas": 0}, "status": {}}, Standing(0, 0)),
        ({}, Standing(1, 0)),
    ],
)
def test_how_a_workload_stands(workload, expected):
    assert owners.standing(workload) == expected


@pytest.mark.parametrize(
    ("before", "now", "lines"),
    [
        pytest.param(3, Standing(3, 3), [], id="back"),
        pytest.param(3, Standing(3, 2), ["Deployment shop/cart: 2 of 3 Ready"], id="not back"),
        pytest.param(2, Standing(3, 2), [], id="broken before"),
        pytest.param(3, Standing(1, 1), [], id="scaled down meanwhile"),
        pytest.param(3, Standing(2, 1), ["Deployment shop/cart: 1 of 2 Ready"], id="scaled down, and broken"),
        pytest.param(3, None, [], id="gone"),
    ],
)
def test_the_baseline(before, now, lines):
    assert owners.missing({"Deployment shop/cart": before}, {"Deployment shop/cart": now}) == lines


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_nothing_is_waited_for_that_was_not_there_or_is_not_wanted(before, wanted, ready):
    waits = bool(owners.missing({"Deployment a/b": before}, {"Deployment a/b": Standing(wanted, ready)}))
    assert waits == (ready < before and ready < wanted)


def test_a_pod_that_fits_nowhere_is_named_with_the_schedulers_words():
    def pod(name: str, **condition: str) -> dict[str, Any]:
        return {"metadata": {"namespace": "shop", "name": name}, "status": {"conditions": [condition]}}

    message = "0/6 nodes are available: 6 Insufficient cpu."
    pods = [
        pod("cart-1", type="PodScheduled", reason="Unschedulable", message=message),
        pod("cart-2", type="Ready", reason="ContainersNotReady"),
    ]
    assert owners.unplaced(pods) == [f"shop/cart-1 fits nowhere: {message}"]


def test_the_controller_among_several_owners_counts():
    item = {
        "metadata": {
            "ownerReferences": [{"kind": "X", "name": "x"}, {"kind": "ReplicaSet", "name": "r", "controller": True}]
        }
    }
    assert owners.owner_of(item) == ("ReplicaSet", "r")
    assert owners.owner_of({"metadata": {}}) is None
