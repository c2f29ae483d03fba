"""Initialises the cluster, deploys components and services, and says what is missing."""

from collections.abc import Callable, Iterable
from pathlib import Path

import yaml

from fleet_lab.charts import objects
from fleet_lab.errors import LabError
from fleet_lab.guest.kubelet.api import TROUBLE, Api, ApiError, Json
from fleet_lab.installation import examples
from fleet_lab.waiting import wait_for

Say = Callable[[str], None]
"""Says what is being done, for people."""

_READY = 60.0
"""Seconds until what is deployed must be Ready."""


def initialize(api: Api, *, say: Say, fail: Path | None = None) -> None:
    """Create what an empty cluster needs before anything can be deployed; it may be done again.

    Args:
        api: the cluster's API, with all rights.
        say: told what is done.
        fail: for tests: if this file is there, it fails half way.

    Raises:
        ApiError: the API refused something.
        LabError: it was to fail.
        OSError: the API cannot be reached.
    """
    if _serves(api, "policy/v1beta1", "PodSecurityPolicy"):
        apply(api, [objects.pod_security_policy(), *objects.policy_rights()], say=say)
    apply(api, objects.base(), say=say)
    if fail is not None and fail.exists():
        raise LabError(f"The cluster is initialised half way only: {fail} is there. Remove it, and run this again.")
    _grant(api)
    say("the rights of a maintenance are granted")


def _grant(api: Api) -> None:
    """Allow the maintenance's user what ``config/kubernetes-rbac.yaml`` says, and no more."""
    text = (examples() / "kubernetes-rbac.yaml").read_text(encoding="utf-8")
    for item in yaml.safe_load_all(text):
        namespace = item["metadata"].get("namespace")
        scope = f"/namespaces/{namespace}" if namespace else ""
        path = f"/apis/{item['apiVersion']}{scope}/{item['kind'].lower()}s"
        try:
            api.request("POST", path, item)
        except ApiError as error:
            if error.status != 409:
                raise
            api.request("PUT", f"{path}/{item['metadata']['name']}", item)


def apply(api: Api, items: Iterable[Json], *, say: Say) -> None:
    """Have the API hold objects as they are given here: one call each, whether they are there or not.

    Args:
        api: the cluster's API.
        items: the objects, in the order in which they need each other.
        say: told of each.

    Raises:
        ApiError: the API refused something.
        OSError: the API cannot be reached.
    """
    for item in items:
        query = "fieldManager=deployment&force=true"
        api.request("PATCH", f"{objects.path(item)}?{query}", item, "application/apply-patch+yaml")
        name = "/".join(filter(None, (item["metadata"].get("namespace"), item["metadata"]["name"])))
        say(f"{item['kind']} {name} is applied")


def apply_components(api: Api, *, say: Say) -> None:
    """Create the components, or make them as they are to be; see :func:`initialize` for what is raised."""
    apply(api, objects.components(_budgets(api)), say=say)


def apply_service(api: Api, name: str, *, say: Say) -> None:
    """Create a service with its namespace, or make it as it is to be.

    Args:
        api: the cluster's API.
        name: the service.
        say: told what is done.

    Raises:
        ApiError: the API refused something; 409 as long as the namespace is being deleted.
        OSError: the API cannot be reached.
    """
    namespace = objects.namespace(objects.SERVICES[name].namespace)
    there = _get(api, objects.path(namespace))
    if there and there["metadata"].get("deletionTimestamp"):
        raise ApiError(409, f"the namespace {namespace['metadata']['name']} is still being deleted")
    apply(api, [namespace, *objects.service(name, _budgets(api))], say=say)


def deploy_components(api: Api, *, say: Say) -> None:
    """Deploy the components, and wait until they are Ready.

    Args:
        api: the cluster's API.
        say: told what is done, and what is missing.

    Raises:
        LabError: they are not Ready in time; with what is missing.
    """
    _until_done(lambda: apply_components(api, say=say), "the components to be applied", say)
    _until(lambda: missing_components(api), "the components to be Ready", say)
    say("the components are Ready")


def deploy_service(api: Api, name: str, *, say: Say) -> None:
    """Deploy a service, and wait until it is Ready; it may be done again.

    Args:
        api: the cluster's API.
        name: the service.
        say: told what is done, and what is missing.

    Raises:
        LabError: it is not Ready in time; with what is missing.
    """
    _until_done(lambda: apply_service(api, name, say=say), f"{name} to be applied", say)
    _until(lambda: missing_service(api, name), f"{name} to be Ready", say)
    say(f"{name} is Ready")


def missing_components(api: Api) -> str:
    """Return what is missing of the components, empty if they are Ready."""
    return "; ".join(filter(None, (_missing_workload(api, kind, *where) for kind, where in objects.COMPONENTS.items())))


def missing_service(api: Api, name: str) -> str:
    """Return what is missing of a service, empty if all its replicas are Ready behind its Service."""
    namespace = objects.SERVICES[name].namespace
    missing = _missing_workload(api, "Deployment", namespace, name)
    if missing:
        return missing
    endpoints = _get(api, f"/api/v1/namespaces/{namespace}/endpoints/{name}") or {}
    ready = sum(len(subset.get("addresses") or []) for subset in endpoints.get("subsets") or [])
    return "" if ready == objects.REPLICAS else f"Service {namespace}/{name}: {ready} of {objects.REPLICAS} endpoints"


def _missing_workload(api: Api, kind: str, namespace: str, name: str) -> str:
    where = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"namespace": namespace, "name": name}}
    found = _get(api, objects.path(where))
    missing = judge(kind, found)
    return f"{kind} {namespace}/{name}: {missing}" if missing else ""


def judge(kind: str, found: Json | None) -> str:
    """Return what a workload lacks, empty if it is Ready.

    Args:
        kind: Deployment or DaemonSet.
        found: what the API has of it.
    """
    if found is None:
        return "it is not there"
    status = found.get("status") or {}
    if status.get("observedGeneration", 0) < found["metadata"]["generation"]:
        return "its controller has not seen it yet"
    if kind == "DaemonSet":
        wanted, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
        updated = status.get("updatedNumberScheduled", 0)
    else:
        wanted, ready = found["spec"]["replicas"], status.get("readyReplicas", 0)
        updated = status.get("updatedReplicas", 0)
    if wanted and ready >= wanted and updated >= wanted:
        return ""
    why = [
        str(condition.get("message"))
        for condition in status.get("conditions") or []
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True"
    ]
    return "; ".join([f"{min(ready, updated)} of {wanted} ready", *why])


def _get(api: Api, path: str) -> Json | None:
    try:
        return api.request("GET", path)
    except ApiError as error:
        if error.status == 404:
            return None
        raise


def _serves(api: Api, version: str, kind: str) -> bool:
    served = _get(api, f"/apis/{version}") or {}
    return any(resource["kind"] == kind for resource in served.get("resources", []))


def _budgets(api: Api) -> str:
    return "policy/v1" if _serves(api, "policy/v1", "PodDisruptionBudget") else "policy/v1beta1"


def _until_done(work: Callable[[], None], what: str, say: Say) -> None:
    """Try until something is done: the API may be away, and a namespace that is being deleted may come again."""

    def undone() -> str:
        work()
        return ""

    _until(undone, what, say)


def _until(missing: Callable[[], str], what: str, say: Say) -> None:
    """Wait until nothing is missing any more; say what is, each time that it is something else."""
    last = ""

    def told() -> str:
        nonlocal last
        try:
            now = missing()
        except TROUBLE as error:
            now = str(error) or type(error).__name__
        if now and now != last:
            say(now)
        last = now
        return now

    wait_for(told, what=what, timeout=_READY)
