"""What the preflight says of evictions is what a real API server does, whatever its version."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from fleet.adapters.k8s.budgets import parse_budget
from fleet.adapters.k8s.client import JSON, Api
from fleet.adapters.k8s.disruption import RiskKind, assess
from fleet.adapters.k8s.errors import ApiError
from fleet.adapters.k8s.eviction import Answer, Evictor, budgets_path, policy_version
from fleet.adapters.k8s.model import parse_node, parse_release
from fleet.adapters.k8s.pods import parse_pod
from fleet.adapters.k8s.policy import DrainPolicy
from fleet.steps import drain_risks
from support.apiserver import World, eventually

APP = {"matchLabels": {"app": "web"}}


@dataclass(frozen=True)
class Given:
    """A budget: its specification and its status, beside what they have in common."""

    spec: JSON = field(default_factory=dict)
    status: JSON = field(default_factory=dict)


OPEN = Given(status={"disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2})
CLOSED = Given()
MET = Given(status={"currentHealthy": 3, "desiredHealthy": 3})
NEVER = Given(spec={"minAvailable": "100%"}, status={"currentHealthy": 1, "desiredHealthy": 1})
NOTHING = Given(status={"currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0})
STALE = Given(status={"disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2, "observedGeneration": 0})
STALE_MET = Given(status={"currentHealthy": 3, "desiredHealthy": 3, "observedGeneration": 0})
ALWAYS = Given(spec={"unhealthyPodEvictionPolicy": "AlwaysAllow"})
HEALTHY_ONLY = Given(spec={"unhealthyPodEvictionPolicy": "IfHealthyBudget"})
EMPTY = Given(spec={"selector": {}})
OTHERS = Given(spec={"selector": {"matchLabels": {"app": "other"}}})
ANY_APP = Given(spec={"selector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}})
CROWDED = Given(
    status={
        "disruptionsAllowed": 1,
        "disruptedPods": {f"p{number}": "2026-01-01T00:00:00Z" for number in range(2001)},
    }
)

STATES = {
    "running": ("Running", True, False),
    "unready": ("Running", False, False),
    "pending": ("Pending", False, False),
    "unknown": ("Unknown", False, False),
    "terminating": ("Running", True, True),
}
BUDGETS = {
    "none": [],
    "open": [OPEN],
    "closed": [CLOSED],
    "met": [MET],
    "never": [NEVER],
    "nothing": [NOTHING],
    "stale": [STALE],
    "stale-met": [STALE_MET],
    "always": [ALWAYS],
    "healthy-only": [HEALTHY_ONLY],
    "empty": [EMPTY],
    "others": [OTHERS],
    "crowded": [CROWDED],
    "two-open": [OPEN, OPEN],
    "two-closed": [CLOSED, NEVER],
    "open-and-others": [OPEN, OTHERS],
    "met-and-always": [MET, ALWAYS],
    "open-and-empty": [OPEN, EMPTY],
    "any-app": [ANY_APP],
}


def make(api: Api, world: World, state: str, budgets: list[Given]) -> str:
    """Make a node, the pod web-0 on it, and budgets; return the name of the node."""
    phase, ready, deleting = STATES[state]
    name = world.node()
    world.pod("web-0", name, owner=world.controller(), phase=phase, grace=300)
    status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
    api.patch(f"{world.pods}/web-0/status", {"status": status})
    path = budgets_path(policy_version(api), world.namespace)
    for number, given in enumerate(budgets):
        spec = {"selector": APP, "minAvailable": 1, **given.spec}
        made = api.create(path, {"metadata": {"name": f"b{number}"}, "spec": spec})
        made["status"] = {
            "disruptionsAllowed": 0,
            "currentHealthy": 1,
            "desiredHealthy": 2,
            "expectedPods": 3,
            "observedGeneration": made["metadata"]["generation"],
            **given.status,
        }
        api.replace(f"{path}/b{number}/status", made)
    if deleting:
        api.delete(f"{world.pods}/web-0")
    return name


@pytest.fixture(scope="module")
def seen() -> Iterator[dict[str, list[str]]]:
    """What was seen, told in the end: a table in which one answer alone comes proves nothing."""
    answers: dict[str, list[str]] = {}
    yield answers
    assert {"evicted", "blocked", "hopeless"} <= set(answers), answers


@pytest.mark.parametrize("budgets", BUDGETS)
@pytest.mark.parametrize("state", STATES)
def test_the_verdict_is_what_the_api_does(
    api: Api, world: World, state: str, budgets: str, seen: dict[str, list[str]]
) -> None:
    node = make(api, world, state, BUDGETS[budgets])
    version = policy_version(api)
    pods = api.list_all(world.pods, convert=parse_pod)[0]
    convert = partial(parse_budget, version=version, release=parse_release(api.version()))
    found = api.list_all(budgets_path(version, world.namespace), convert=convert)[0]
    nodes = {each: roomy(each) for each in (node, "spare")}
    kinds = {risk.kind for risk in assess(pods, found, nodes, [node], DrainPolicy()).risks}

    (pod,) = pods
    answer = Evictor(api).evict(pod).answer
    seen.setdefault(answer.value, []).append(f"{state}/{budgets}")
    expected: dict[Answer, list[set[RiskKind]]] = {
        Answer.EVICTED: [set()],
        Answer.BLOCKED: [{RiskKind.CLOSED}, {RiskKind.NEVER}],
        Answer.HOPELESS: [{RiskKind.OVERLAP}],
    }
    assert kinds in expected[answer], f"{state}, {budgets}: the API says {answer}"


def roomy(name: str) -> Any:
    allocatable = {"cpu": "8", "memory": "8Gi", "pods": "110"}
    status = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": allocatable}
    return parse_node({"metadata": {"name": name}, "status": status})


def test_nothing_is_evicted_in_a_namespace_that_is_being_deleted(api: Api, world: World) -> None:
    node = make(api, world, "running", [])
    api.delete(f"/api/v1/namespaces/{world.namespace}")
    eventually(lambda: "deletionTimestamp" in api.get(f"/api/v1/namespaces/{world.namespace}")["metadata"])
    (pod,) = api.list_all(world.pods, convert=parse_pod)[0]
    eventually(lambda: Evictor(api).evict(pod).answer is Answer.TROUBLE)  # apiservers learn of it with a delay
    assert "its namespace is being deleted" in Evictor(api).evict(pod).why
    risks = drain_risks.assess(api, {each: roomy(each) for each in (node, "spare")}, [node], DrainPolicy()).risks
    assert any("is in a namespace that is being deleted" in risk.what and "web-0" in risk.what for risk in risks)


def test_local_volumes_are_read(api: Api, world: World) -> None:
    node = world.node()
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
    world.pod("db-0", node, owner=world.controller(), volumes=[claim])
    volume = f"pv-{world.namespace}"
    terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]
    common: JSON = {"accessModes": ["ReadWriteOnce"], "storageClassName": "local"}
    local = {"local": {"path": "/data"}, "capacity": {"storage": "1Gi"}}
    affinity = {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}
    api.create("/api/v1/persistentvolumes", {"metadata": {"name": volume}, "spec": {**common, **local, **affinity}})
    claimed = {**common, "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}}
    claims = f"/api/v1/namespaces/{world.namespace}/persistentvolumeclaims"
    try:
        api.create(claims, {"metadata": {"name": "data"}, "spec": claimed})
        found = drain_risks.assess(api, {each: roomy(each) for each in (node, "spare")}, [node], DrainPolicy())
        told = [risk.what for risk in found.risks if risk.kind is RiskKind.NOWHERE and "db-0" in risk.what]
        assert ["cannot use its volumes" in what for what in told] == [True]
    finally:
        api.delete(f"/api/v1/persistentvolumes/{volume}")


def test_daemonsets_of_a_group_that_is_not_served(api: Api, world: World) -> None:
    node = world.node()
    owner = {**world.controller("DaemonSet", "agent"), "apiVersion": "apps.kruise.io/v1alpha1", "uid": "u-kruise"}
    world.pod("agent-0", node, owner=owner)
    found = drain_risks.assess(api, {each: roomy(each) for each in (node, "spare")}, [node], DrainPolicy())
    assert any("the API does not serve the group apps.kruise.io" in risk.what for risk in found.risks)
    refused = [risk.what for risk in found.risks if risk.kind is RiskKind.REFUSED and "agent-0" in risk.what]
    assert ["DaemonSet.apps.kruise.io agent, which does not exist" in what for what in refused] == [True]


def test_daemonsets_of_another_group_that_exist(api: Api, world: World) -> None:
    """OpenKruise's, as far as an API server knows them."""
    if (parse_release(api.version()) or (0, 0)) < (1, 22):
        pytest.skip("an API server of that age, built with a recent Go, crashes on custom resources")
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    group = f"{world.namespace}.example.org"
    crd = {
        "metadata": {"name": f"daemonsets.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "daemonsets", "singular": "daemonset", "kind": "DaemonSet"},
            "versions": [{"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    api.create(crds, crd)
    try:
        path = f"/apis/{group}/v1alpha1/namespaces/{world.namespace}/daemonsets"
        body = {"apiVersion": f"{group}/v1alpha1", "kind": "DaemonSet", "metadata": {"name": "agent"}}

        def created() -> JSON | None:
            try:
                return api.create(path, body)
            except ApiError:
                return None

        uid = eventually(created, 30)["metadata"]["uid"]
        node = world.node()
        owner = {
            "apiVersion": f"{group}/v1alpha1",
            "kind": "DaemonSet",
            "name": "agent",
            "controller": True,
            "uid": uid,
        }
        world.pod("agent-0", node, owner=owner)
        found = drain_risks.assess(api, {each: roomy(each) for each in (node, "spare")}, [node], DrainPolicy())
        assert not [risk for risk in found.risks if "agent-0" in risk.what]
        assert found.evictions == {node: 0}
    finally:
        api.delete(f"{crds}/daemonsets.{group}")
