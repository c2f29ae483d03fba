"""Something that runs on the lab's cluster, for demonstrations and tests: the namespace ``demo``."""

from collections.abc import Mapping
from dataclasses import dataclass

from fleet_lab.guest.kubelet.api import TROUBLE, Api, ApiError, Json
from fleet_lab.lab import Lab
from fleet_lab.waiting import wait_for

NAMESPACE = "demo"

_READY = 180.0


@dataclass(frozen=True)
class Deployment:
    """A Deployment of the workload."""

    replicas: int
    min_available: int | None = None
    """What its PodDisruptionBudget asks for; None: it has no budget."""
    termination_seconds: int = 0
    """How long its pods take to terminate once they are told."""


DEPLOYMENTS: Mapping[str, Deployment] = {
    "web": Deployment(replicas=6, min_available=5, termination_seconds=1),
    "search": Deployment(replicas=3, min_available=2, termination_seconds=2),
    "batch": Deployment(replicas=4),
}


def create(lab: Lab) -> None:
    """Create the workload, or complete it, and wait until all of it is Ready.

    Three Deployments, two of them with a PodDisruptionBudget, a StatefulSet and a DaemonSet.

    Raises:
        LabError: something does not get Ready.
    """
    api = lab.api()
    _create(api, "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    apps = f"/apis/apps/v1/namespaces/{NAMESPACE}"
    budgets = budgets_path(api)
    for name, deployment in DEPLOYMENTS.items():
        if deployment.min_available is not None:
            spec = {"minAvailable": deployment.min_available, "selector": _selector(name)}
            _create(api, budgets, {"metadata": {"name": name}, "spec": spec})
        body = _workload(name, deployment.termination_seconds) | {"replicas": deployment.replicas}
        _create(api, f"{apps}/deployments", {"metadata": {"name": name}, "spec": body})
    database = _workload("database", 2) | {"replicas": 2, "serviceName": "database"}
    _create(api, f"{apps}/statefulsets", {"metadata": {"name": "database"}, "spec": database})
    _create(api, f"{apps}/daemonsets", {"metadata": {"name": "agent"}, "spec": _workload("agent", 0)})
    wait_for(lambda: _missing(api), what=f"the workload in namespace {NAMESPACE}", timeout=_READY, trouble=TROUBLE)


def delete(lab: Lab, *, wait: bool = True) -> None:
    """Delete the workload.

    Args:
        lab: the lab.
        wait: whether to wait until all of it is gone.
    """
    api = lab.api()
    path = f"/api/v1/namespaces/{NAMESPACE}"
    try:
        api.request("DELETE", path)
    except ApiError as error:
        if error.status != 404:
            raise

    def there() -> str:
        try:
            return str(api.request("GET", path)["status"]["phase"])
        except ApiError as error:
            if error.status == 404:
                return ""
            raise

    if wait:
        wait_for(there, what=f"namespace {NAMESPACE} to be gone", timeout=_READY, trouble=TROUBLE)


def _create(api: Api, path: str, body: Json) -> None:
    try:
        api.request("POST", path, body)
    except ApiError as error:
        if error.status != 409:
            raise


def budgets_path(api: Api) -> str:
    """Return the path of the workload's budgets, in the version that the API serves: policy/v1 from 1.21 on."""
    versions = {
        version["groupVersion"]
        for group in api.request("GET", "/apis")["groups"]
        if group["name"] == "policy"
        for version in group["versions"]
    }
    version = "policy/v1" if "policy/v1" in versions else "policy/v1beta1"
    return f"/apis/{version}/namespaces/{NAMESPACE}/poddisruptionbudgets"


def _selector(name: str) -> Json:
    return {"matchLabels": {"app": name}}


def _workload(name: str, termination_seconds: int) -> Json:
    metadata = {
        "labels": {"app": name},
        "annotations": {"fleet-lab/termination-seconds": str(termination_seconds)},
    }
    container = {
        "name": name,
        "image": f"registry.invalid/{name}:1",
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
    }
    spec = {"containers": [container], "terminationGracePeriodSeconds": 30}
    return {"selector": _selector(name), "template": {"metadata": metadata, "spec": spec}}


def _missing(api: Api) -> str:
    apps = f"/apis/apps/v1/namespaces/{NAMESPACE}"
    lacking = []
    for kind in ("deployments", "statefulsets"):
        for item in api.request("GET", f"{apps}/{kind}")["items"]:
            if item["status"].get("readyReplicas", 0) != item["spec"]["replicas"]:
                lacking.append(item["metadata"]["name"])
    for item in api.request("GET", f"{apps}/daemonsets")["items"]:
        status = item["status"]
        if not status["desiredNumberScheduled"] or status["numberReady"] != status["desiredNumberScheduled"]:
            lacking.append(item["metadata"]["name"])
    for item in api.request("GET", budgets_path(api))["items"]:
        if not item["status"].get("disruptionsAllowed"):
            lacking.append(f"budget {item['metadata']['name']}")
    return ", ".join(lacking)
