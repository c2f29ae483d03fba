"""Namespaces that are deleted with all that is in them, and what keeps them from going."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fleet.adapters.k8s.client import JSON, Api
from fleet.adapters.k8s.errors import ApiError, KubernetesError
from fleet.adapters.k8s.resources import Resource, listable
from fleet.config.types import PROTECTED

_LEFT = ("NamespaceContentRemaining", "NamespaceFinalizersRemaining")
_FAILURES = (
    "NamespaceDeletionDiscoveryFailure",
    "NamespaceDeletionGroupVersionParsingFailure",
    "NamespaceDeletionContentFailure",
)
# "Some resources are remaining: configmaps. has 1 resource instances, jobs.batch has 2 resource instances": from the
# namespace controller (pkg/controller/namespace/deletion/status_condition_utils.go), from Kubernetes 1.16 on.
_REMAINING = re.compile(r"([a-z0-9-]+)\.([a-z0-9.-]*) has \d+ resource instances")


@dataclass(frozen=True, slots=True)
class NamespaceState:
    """How far the deletion of a namespace is.

    Attributes:
        there: whether there is such a namespace.
        terminating: whether it is being deleted.
        hanging: what is left in it, is deleted, and waits for finalizers: ``configmaps/thing (example.org/never)``.
        problems: why Kubernetes cannot continue with it, in Kubernetes' words, such as an API that does not answer.
    """

    there: bool
    terminating: bool
    hanging: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def refuse(names: Iterable[str]) -> None:
    """Refuse to delete namespaces that are Kubernetes' own.

    Raises:
        KubernetesError: one of them is.
    """
    if found := sorted(PROTECTED.intersection(names)):
        raise KubernetesError(
            f"Kubernetes' own, and never deleted: {', '.join(found)}. Take them off the managed namespaces."
        )


def existing(api: Api) -> list[str]:
    """Return the names of all namespaces, those that are being deleted included, sorted.

    Raises:
        KubernetesError: the API could not be asked.
    """
    names, _ = api.list_all("/api/v1/namespaces", convert=lambda item: str(item["metadata"]["name"]))
    return sorted(names)


def delete(api: Api, name: str) -> None:
    """Order the deletion of a namespace; :func:`look` tells how far it is. It may be ordered again.

    Raises:
        KubernetesError: it is Kubernetes' own, or the API refused.
    """
    refuse([name])
    try:
        api.delete(_path(name))
    except ApiError as error:
        if error.status != 404:
            raise


def look(api: Api, name: str) -> NamespaceState:
    """Tell how far the deletion of a namespace is.

    What is left is what the namespace controller says in the namespace's conditions: it looks again about every
    minute, or more rarely if that changes nothing, and each of its resources is listed here as it is now.

    Raises:
        KubernetesError: the API could not be asked.
    """
    namespace = api.find(_path(name))
    if namespace is None:
        return NamespaceState(there=False, terminating=False)
    metadata = namespace["metadata"]
    if not metadata.get("deletionTimestamp"):
        return NamespaceState(there=True, terminating=False)
    own = [_waiting("namespaces", metadata)] if metadata.get("finalizers") else []
    return NamespaceState(
        there=True,
        terminating=True,
        hanging=(*_hanging(api, name, remaining(namespace)), *own),
        problems=tuple(str(condition.get("message", "")) for condition in _conditions(namespace, _FAILURES)),
    )


def remaining(namespace: JSON) -> list[tuple[str, str]]:
    """Return the resources that a namespace's conditions name as left in it, each with its API group, sorted."""
    messages = " ".join(str(condition.get("message", "")) for condition in _conditions(namespace, _LEFT))
    return sorted(set(_REMAINING.findall(messages)))


def _conditions(namespace: JSON, types: tuple[str, ...]) -> Iterator[JSON]:
    for condition in (namespace.get("status") or {}).get("conditions") or ():
        if condition.get("type") in types and condition.get("status") == "True":
            yield condition


def _hanging(api: Api, name: str, left: list[tuple[str, str]]) -> Iterator[str]:
    # No other groups are asked: one that does not answer is waited for.
    found, _ = listable(api, groups={group for _, group in left})
    resources: dict[tuple[str, str], Resource] = {(each.name, each.group): each for each in found}
    for key in left:
        if key not in resources:  # it is served no more, or not now: then Kubernetes says so among the problems
            continue
        try:
            objects, _ = api.list_all(resources[key].path(name), convert=lambda item: item["metadata"])
        except ApiError as error:
            if error.status not in (404, 503):
                raise
            continue
        for metadata in objects:
            if metadata.get("deletionTimestamp") and metadata.get("finalizers"):
                yield _waiting(str(resources[key]), metadata)


def _waiting(resource: str, metadata: JSON) -> str:
    return f"{resource}/{metadata['name']} ({', '.join(metadata['finalizers'])})"


def _path(name: str) -> str:
    return f"/api/v1/namespaces/{name}"
