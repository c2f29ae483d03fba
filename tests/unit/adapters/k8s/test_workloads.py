"""Workloads: what counts as Ready, of every kind."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.k8s import workloads


def workload(*, generation: int = 2, seen: int = 2, spec: dict[str, Any] | None = None, **status: int) -> Any:
    return {
        "metadata": {"name": "web", "generation": generation},
        "spec": {"replicas": 2, **(spec or {})},
        "status": {"observedGeneration": seen, **status},
    }


def pods(updated: int = 2, ready: int = 2, there: int = 2) -> dict[str, Any]:
    return {"updatedReplicas": updated, "readyReplicas": ready, "replicas": there}


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
@pytest.mark.parametrize(
    ("status", "problem"),
    [
        (pods(), ""),
        (pods(ready=1), "1 of 2 ready"),
        ({}, "0 of 2 ready"),
        (pods(updated=1), "1 of 2 of the latest version"),
        (pods(ready=3, there=3), "1 to go"),
    ],
)
def test_replicas_have_to_be_ready_and_of_the_latest_version(kind, status, problem):
    assert workloads.judge(kind, workload(**status)) == problem


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
def test_what_the_controller_has_not_seen_is_not_ready(kind):
    status = {**pods(), "desiredNumberScheduled": 0}
    assert workloads.judge(kind, workload(seen=1, **status)) == "its controller has not seen its latest change"
    assert workloads.judge(kind, {"metadata": {"name": "web", "generation": 1}, "spec": {}})


def test_replicas_that_are_not_said_are_one_and_none_are_none():
    assert workloads.judge("Deployment", workload(spec={"replicas": None}, **pods(1, 1, 1))) == ""
    assert workloads.judge("Deployment", workload(spec={"replicas": 0}, **pods(0, 0, 0))) == ""


@pytest.mark.parametrize(
    ("strategy", "problem"),
    [
        ({"type": "OnDelete"}, ""),
        ({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}, ""),
        ({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}, "0 of 1 of the latest version"),
        ({"type": "RollingUpdate"}, "0 of 2 of the latest version"),
    ],
)
def test_pods_that_are_kept_back_need_not_be_of_the_latest_version(strategy, problem):
    state = workload(spec={"updateStrategy": strategy}, **pods(updated=0))
    assert workloads.judge("StatefulSet", state) == problem


@pytest.mark.parametrize(
    ("wanted", "updated", "ready", "problem"),
    [(3, 3, 3, ""), (0, 0, 0, ""), (3, 3, 2, "2 of 3 ready"), (3, 2, 3, "2 of 3 of the latest version")],
)
def test_a_daemonset_is_wanted_on_as_many_nodes_as_it_fits(wanted, updated, ready, problem):
    state = workload(desiredNumberScheduled=wanted, updatedNumberScheduled=updated, numberReady=ready)
    assert workloads.judge("DaemonSet", state) == problem


@given(st.sampled_from(["Deployment", "StatefulSet"]), *[st.integers(0, 4)] * 4)
def test_nothing_is_ready_with_fewer_ready_pods_than_wanted(kind, wanted, updated, ready, there):
    state = workload(spec={"replicas": wanted}, **pods(updated, ready, there))
    assert (workloads.judge(kind, state) == "") == (ready >= wanted and updated >= wanted and there <= wanted)
