"""Rights: what is asked of the API, what is missing, and the rules that grant it."""

import pytest
import yaml

from fleet.adapters.k8s import access, rights
from fleet.adapters.k8s.access import Right
from fleet.adapters.k8s.client import JSON
from fleet.adapters.k8s.connection import Query
from fleet.adapters.k8s.errors import ApiError
from fleet.config.model import LeaseConfig
from fleet.steps.base import NodeStep
from fleet.steps.cordon import Cordon
from fleet.steps.drain import Drain
from fleet.steps.gates import DaemonsReady, VolumesDetached, WorkloadsBack
from support.places import CONFIG

RBAC = CONFIG / "kubernetes-rbac.yaml"


class Role:
    """An API that allows what a role has."""

    def __init__(self, *allowed: tuple[str, str]) -> None:
        self.allowed = set(allowed)
        self.asked: list[JSON] = []

    def create(self, path: str, body: JSON, **query: Query) -> JSON:
        assert path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        assert not query
        asked = body["spec"]["resourceAttributes"]
        self.asked.append(asked)
        resource = "/".join(filter(None, (asked["resource"], asked["subresource"])))
        return {"status": {"allowed": (asked["verb"], resource) in self.allowed}}


class Manifest:
    """An API that allows what ``config/kubernetes-rbac.yaml`` has."""

    def __init__(self) -> None:
        self.roles = [item for item in yaml.safe_load_all(RBAC.read_text()) if item["kind"] in ("Role", "ClusterRole")]

    def create(self, path: str, body: JSON, **query: Query) -> JSON:
        asked = body["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (asked["resource"], asked["subresource"])))
        allowed = any(
            asked["group"] in rule["apiGroups"]
            and resource in rule["resources"]
            and asked["verb"] in rule["verbs"]
            and ("resourceNames" not in rule or asked["name"] in rule["resourceNames"])
            for role in self.roles
            if role["metadata"].get("namespace", "") in ("", asked["namespace"])
            for rule in role["rules"]
        )
        return {"status": {"allowed": allowed}}


def test_what_is_granted_is_not_missing_and_nothing_is_asked_twice() -> None:
    needed = [Right("list", "pods", "look"), Right("create", "pods/eviction", "evict"), Right("list", "pods", "again")]
    role = Role(("create", "pods/eviction"))
    assert access.missing(role, needed) == [needed[0], needed[2]]
    assert len(role.asked) == 2
    assert {
        "verb": "create",
        "group": "",
        "resource": "pods",
        "subresource": "eviction",
        "namespace": "",
        "name": "",
    } in (role.asked)


def test_rules_are_those_that_a_role_needs() -> None:
    needed = [
        Right("list", "pods", "look"),
        Right("watch", "pods", "look"),
        Right("get", "deployments", "look", "apps"),
        Right("get", "daemonsets", "look", "apps"),
        Right("update", "leases", "lock", "coordination.k8s.io", "kube-system", "fleet"),
    ]
    assert access.rules(needed) == [
        'ClusterRole: {apiGroups: [""], resources: [pods], verbs: [list, watch]}',
        "ClusterRole: {apiGroups: [apps], resources: [deployments, daemonsets], verbs: [get]}",
        "Role in kube-system: {apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [fleet],"
        " verbs: [update]}",
    ]
    assert yaml.safe_load(access.rules(needed)[0].partition(": ")[2])["verbs"] == ["list", "watch"]


def test_the_role_that_is_shipped_has_all_rights() -> None:
    assert access.missing(Manifest(), rights.of_everything(LeaseConfig())) == []


@pytest.mark.parametrize(
    ("step", "right"),
    [
        (VolumesDetached, ("list", "volumeattachments")),
        (WorkloadsBack, ("get", "statefulsets")),
        (Drain, ("list", "poddisruptionbudgets")),
        (Drain, ("create", "pods/eviction")),
        (DaemonsReady, ("get", "daemonsets")),
        (Cordon, ("patch", "nodes")),
    ],
)
def test_a_step_needs_what_it_asks_of_the_api(step: type[NodeStep], right: tuple[str, str]) -> None:
    assert right in [(each.verb, each.resource) for each in step.rights if each.vital]
    assert set(step.rights) <= set(rights.of_everything(LeaseConfig()))


def test_an_api_that_does_not_tell_is_an_error() -> None:
    class Silent:
        def create(self, path: str, body: JSON, **query: Query) -> JSON:
            raise ApiError("POST", 403, "Forbidden", "no")

    with pytest.raises(ApiError):
        access.missing(Silent(), [Right("list", "pods", "look")])
