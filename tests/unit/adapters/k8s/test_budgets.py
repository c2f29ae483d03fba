"""Budgets: what the API does with an eviction, by the state of the pod and of the budgets that cover it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.k8s.budgets import Ruling, parse_budget, rule, why
from fleet.adapters.k8s.disruption import Risk, RiskKind, assess
from fleet.adapters.k8s.model import parse_node
from fleet.adapters.k8s.pods import Pod, parse_pod
from fleet.adapters.k8s.policy import BudgetPattern, DrainPolicy
from fleet.engine.findings import Level
from fleet.steps import drain_risks


def pod(phase: str = "Running", *, ready: bool = True, deleting: bool = False) -> Pod:
    metadata: dict[str, Any] = {"name": "p", "namespace": "t", "uid": "u", "labels": {"app": "web"}}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    metadata["ownerReferences"] = [{"kind": "ReplicaSet", "name": "web", "uid": "r", "controller": True}]
    status = {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]}
    return parse_pod({"metadata": metadata, "spec": {"nodeName": "a", "containers": []}, "status": status})


def budget(
    name: str = "b",
    *,
    allowed: int = 0,
    healthy: int = 0,
    desired: int = 1,
    expected: int = 1,
    observed: int = 1,
    labels: dict[str, str] | None = None,
    selector: Any = None,
    release: tuple[int, int] | None = None,
    status: dict[str, Any] | None = None,
    **spec: Any,
) -> Any:
    return parse_budget(
        {
            "metadata": {"name": name, "namespace": "t", "generation": 1, "labels": labels or {}},
            "spec": {"selector": {"matchLabels": {"app": "web"}} if selector is None else selector, **spec},
            "status": {
                "disruptionsAllowed": allowed,
                "currentHealthy": healthy,
                "desiredHealthy": desired,
                "expectedPods": expected,
                "observedGeneration": observed,
                **(status or {}),
            },
        },
        release=release,
    )


UNREADY = pod(ready=False)
FAILED = {"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "no scale subresource"}


@pytest.mark.parametrize(
    ("found", "budgets", "expected"),
    [
        (pod(), [], Ruling.EVICTS),
        (pod(), [budget(allowed=1)], Ruling.EVICTS),
        (pod(), [budget()], Ruling.CLOSED),
        (pod(), [budget("one", allowed=1), budget("two", allowed=1)], Ruling.OVERLAP),
        (pod("Pending"), [budget()], Ruling.EVICTS),
        (pod("Pending"), [budget("one"), budget("two")], Ruling.EVICTS),
        (pod("Succeeded"), [budget()], Ruling.EVICTS),
        (pod("Failed"), [budget()], Ruling.EVICTS),
        (pod(deleting=True), [budget("one"), budget("two")], Ruling.EVICTS),
        (pod("Unknown"), [budget()], Ruling.CLOSED),
        (UNREADY, [budget(healthy=3, desired=3)], Ruling.EVICTS),
        (UNREADY, [budget(healthy=2, desired=3)], Ruling.CLOSED),
        (UNREADY, [budget(healthy=0, desired=0)], Ruling.CLOSED),
        (UNREADY, [budget(unhealthyPodEvictionPolicy="AlwaysAllow")], Ruling.EVICTS),
        (UNREADY, [budget(unhealthyPodEvictionPolicy="IfHealthyBudget")], Ruling.CLOSED),
        (pod(), [budget(unhealthyPodEvictionPolicy="AlwaysAllow", healthy=3)], Ruling.CLOSED),
        (UNREADY, [budget("one", healthy=3), budget("two", healthy=3)], Ruling.OVERLAP),
        (pod(), [budget(allowed=1, observed=0)], Ruling.UNPROCESSED),
        (UNREADY, [budget(healthy=3, observed=0)], Ruling.EVICTS),
        (pod(), [budget(allowed=-1)], Ruling.FORBIDS),
        (pod(), [budget(allowed=1, status={"disruptedPods": {str(i): "" for i in range(2000)}})], Ruling.EVICTS),
        (pod(), [budget(allowed=1, status={"disruptedPods": {str(i): "" for i in range(2001)}})], Ruling.FORBIDS),
    ],
)
def test_what_the_api_does(found: Pod, budgets: list[Any], expected: Ruling) -> None:
    assert rule(found, budgets) is expected


def test_the_controllers_own_words_are_quoted() -> None:
    failed = budget(desired=0, expected=0, status={"conditions": [FAILED]})
    assert why(failed, Ruling.CLOSED) == "cannot be computed by kube-controller-manager: no scale subresource"
    other = budget(status={"conditions": [{**FAILED, "reason": "InsufficientPods"}]})
    assert "scale" not in why(other, Ruling.CLOSED)


def test_evicted_pods_that_are_not_gone_yet_are_told() -> None:
    found = budget(desired=1, expected=3, healthy=1, status={"disruptedPods": {"x": "2026-01-01T00:00:00Z"}})
    assert "not gone yet: 1 evicted pod" in why(found, Ruling.CLOSED)


@pytest.mark.parametrize(("release", "certain"), [((1, 21), True), ((1, 22), False), ((1, 28), False), ((1, 29), True)])
def test_whether_empty_selectors_are_asked_depends_on_the_release(release: tuple[int, int], certain: bool) -> None:
    empty = budget(selector={}, release=release)
    assert empty.covers(pod())
    assert empty.may_be_passed_over is not certain
    assert not budget(release=release).may_be_passed_over


def risks(found: Pod, budgets: list[Any], **changes: Any) -> list[Risk]:
    nodes = {name: _node(name) for name in ("a", "b")}
    return list(assess([found], budgets, nodes, ["a"], DrainPolicy(**changes.pop("policy", {})), **changes).risks)


def _node(name: str) -> Any:
    status = {
        "allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    return parse_node({"metadata": {"name": name}, "status": status})


NEVER = budget(minAvailable="100%")


def test_a_budget_that_never_allows_is_asked_about_and_does_not_stop() -> None:
    (risk,) = risks(pod(), [NEVER])
    assert risk.kind is RiskKind.NEVER
    assert drain_risks.of_risk(risk).level is Level.ASK
    assert "drain.opens_on_cordon" in risk.todo


@pytest.mark.parametrize("found", [pod("Pending"), pod(deleting=True)])
def test_nothing_is_said_of_budgets_that_are_not_asked(found: Pod) -> None:
    assert risks(found, [NEVER, budget("other")]) == []


@pytest.mark.parametrize(
    ("pattern", "level"),
    [
        (BudgetPattern(namespace="t"), Level.NOTE),
        (BudgetPattern(namespace="u"), Level.ASK),
        (BudgetPattern(name="b*"), Level.NOTE),
        (BudgetPattern(labels=(("cnpg.io/cluster", "*"),)), Level.NOTE),
        (BudgetPattern(labels=(("cnpg.io/cluster", "pg-2"),)), Level.ASK),
        (BudgetPattern(labels=(("other", "*"),)), Level.ASK),
    ],
)
def test_budgets_that_open_on_cordon_are_only_noted(pattern: BudgetPattern, level: Level) -> None:
    found = budget(minAvailable=1, labels={"cnpg.io/cluster": "pg-1"})
    (risk,) = risks(pod(), [found], policy={"opens_on_cordon": (pattern,)})
    assert drain_risks.of_risk(risk).level is level


def test_overlaps_stop_where_the_api_asks_budgets() -> None:
    (risk,) = risks(pod(), [budget("one", allowed=1), budget("two", allowed=1)])
    assert drain_risks.of_risk(risk).level is Level.STOP
    empty = budget("two", allowed=1, selector={}, release=(1, 25))
    (risk,) = risks(pod(), [budget("one", allowed=1), empty])
    assert drain_risks.of_risk(risk).level is Level.ASK
    assert "kubernetes#119731" in risk.what


def test_pods_of_namespaces_that_are_being_deleted_are_not_evicted() -> None:
    (risk,) = risks(pod(), [NEVER], ending={"t"})
    assert "is in a namespace that is being deleted" in risk.what
    assert drain_risks.of_risk(risk).level is Level.ASK


@given(
    st.sampled_from(["Pending", "Running", "Unknown"]),
    st.booleans(),
    st.integers(-1, 2),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 1),
    st.sampled_from([None, "AlwaysAllow", "IfHealthyBudget"]),
)
def test_a_risk_is_told_exactly_if_the_api_does_not_evict(
    phase: str, ready: bool, allowed: int, healthy: int, desired: int, observed: int, policy: str | None
) -> None:
    found = pod(phase, ready=ready)
    spec: dict[str, Any] = {"unhealthyPodEvictionPolicy": policy} if policy else {}
    one = budget(allowed=allowed, healthy=healthy, desired=desired, observed=observed, **spec)
    told = risks(found, [one])
    assert bool(told) == (rule(found, [one]) is not Ruling.EVICTS)
    assert all(drain_risks.of_risk(risk).level is Level.ASK for risk in told)
