"""Daemons: whose pods stay on their node, and DaemonSets of other API groups."""

from typing import Any

import pytest

from fleet.adapters.k8s import client
from fleet.adapters.k8s.daemons import all_daemonsets, existing_daemonsets
from fleet.adapters.k8s.errors import ApiError
from fleet.adapters.k8s.pods import Pod, PodClass, classify, parse_pod, refusal
from fleet.adapters.k8s.policy import DrainPolicy
from fleet.steps.drain_risks import of_daemons

KRUISE = "apps.kruise.io/v1alpha1"


def pod(owner: dict[str, Any] | None, *, spec: dict[str, Any] | None = None, node: str = "a") -> Pod:
    metadata = {"namespace": "t", "name": "p", "uid": "u", "ownerReferences": [owner] if owner else []}
    return parse_pod({"metadata": metadata, "spec": {"nodeName": node, **(spec or {})}, "status": {"phase": "Running"}})


def owner(kind: str, version: str = "apps/v1", *, controller: bool = True) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "name": "agent", "uid": "d", "controller": controller}


class Served:
    """An API with some groups, and DaemonSets in them by their UIDs; None for a group that may not be read."""

    def __init__(self, **groups: list[str] | None) -> None:
        self.groups = {name.replace("_", "."): uids for name, uids in groups.items()}
        self.asked: list[str] = []

    find = client.Api.find

    def get(self, path: str) -> Any:
        self.asked.append(path)
        _, _, group, *rest = path.split("/")
        if group not in self.groups:
            raise ApiError("GET", 404, "NotFound", "no")
        if not rest:
            return {"preferredVersion": {"version": "v1alpha1"}}
        uids = self._uids(group)
        assert rest == ["v1" if group == "apps" else "v1alpha1", "namespaces", "t", "daemonsets", "agent"]
        if not uids:
            raise ApiError("GET", 404, "NotFound", "no")
        return {"metadata": {"uid": uids[0]}}

    def list_all(self, path: str, *, convert: Any) -> Any:
        group = path.split("/")[2]
        return [convert({"metadata": {"uid": uid}}) for uid in self._uids(group)], "1"

    def _uids(self, group: str) -> list[str]:
        uids = self.groups[group]
        if uids is None:
            raise ApiError("GET", 403, "Forbidden", "no")
        return uids


CASES = [
    (Served(apps=["d"]), "apps/v1", True, ""),
    (Served(apps=[]), "apps/v1", False, ""),
    (Served(apps=["other"]), "apps/v1", False, ""),
    (Served(apps=[], apps_kruise_io=["d"]), KRUISE, True, ""),
    (Served(apps=[], apps_kruise_io=[]), KRUISE, False, ""),
    (Served(apps=["other"]), KRUISE, False, "does not serve the group apps.kruise.io"),
    (Served(apps=[], apps_kruise_io=None), KRUISE, True, "may not be listed"),
]


@pytest.mark.parametrize(("api", "version", "exists", "unknown"), CASES)
def test_daemonsets_exist_in_their_own_group(api: Any, version: str, exists: bool, unknown: str) -> None:
    pods = [pod(owner("DaemonSet", version))]
    found = all_daemonsets(api, pods)
    assert ("d" in found.uids) is exists
    assert ("d" in existing_daemonsets(api, pods)) is exists
    assert [unknown in reason for reason in found.unknown.values()] == ([True] if unknown else [])
    told = of_daemons(found, pods, ["a"])
    assert [unknown in risk.what for risk in told] == ([True] if unknown else [])
    assert all("apiGroups: [apps.kruise.io], resources: [daemonsets], verbs: [get, list]" in risk.todo for risk in told)
    assert of_daemons(found, pods, ["b"]) == []


def test_a_role_that_may_not_read_daemonsets_of_kubernetes_is_an_error() -> None:
    api: Any = Served(apps=None)
    with pytest.raises(ApiError):
        existing_daemonsets(api, [pod(owner("DaemonSet"))])


UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}


def pinned(*nodes: str, operator: str = "In", toleration: dict[str, Any] | None = UNSCHEDULABLE) -> dict[str, Any]:
    terms = [{"matchFields": [{"key": "metadata.name", "operator": operator, "values": list(nodes)}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {"affinity": {"nodeAffinity": required}, "tolerations": [toleration] if toleration else []}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (pod(owner("DaemonSet")), PodClass.DAEMONSET),
        (pod(owner("DaemonSet", KRUISE)), PodClass.DAEMONSET),
        (pod(owner("Node", "v1")), PodClass.MIRROR),
        (pod(owner("Node", "example.org/v1")), PodClass.EVICT),
        (pod(owner("Agent", "example.org/v1")), PodClass.DAEMONSET),
        (pod(owner("Agent", "other.org/v1")), PodClass.EVICT),
        (pod(owner("CloneSet", KRUISE)), PodClass.EVICT),
        (pod(owner("DaemonSet", controller=False)), PodClass.BARE),
        (pod(owner("Thing"), spec=pinned("a")), PodClass.DAEMONSET),
        (pod(owner("Thing"), spec=pinned("a", toleration={"operator": "Exists"})), PodClass.DAEMONSET),
        (pod(owner("Thing"), spec=pinned("a", toleration={"key": "x", "operator": "Exists"})), PodClass.EVICT),
        (pod(owner("Thing"), spec=pinned("a", toleration={**UNSCHEDULABLE, "effect": "NoExecute"})), PodClass.EVICT),
        (pod(owner("Thing"), spec=pinned("a", toleration=None)), PodClass.EVICT),
        (pod(owner("Thing"), spec=pinned("a", "b")), PodClass.EVICT),
        (pod(owner("Thing"), spec=pinned("b")), PodClass.EVICT),
        (pod(owner("Thing"), spec=pinned("a", operator="NotIn")), PodClass.EVICT),
        (pod(None, spec=pinned("a")), PodClass.BARE),
    ],
)
def test_whose_pods_stay(found: Pod, expected: PodClass) -> None:
    assert classify(found, {"d"}, ("Agent.example.org",)) is expected


def test_why_a_pod_is_bare_is_said() -> None:
    policy = DrainPolicy()
    gone = pod(owner("DaemonSet", KRUISE))
    assert refusal(gone, classify(gone, ()), policy).startswith(
        "belongs to the DaemonSet.apps.kruise.io agent, which does not exist"
    )
    loose = pod(owner("Thing", controller=False))
    assert "Thing agent owns it, but not as its controller" in refusal(loose, classify(loose, ()), policy)
