"""Which DaemonSets there are, of Kubernetes and of other API groups, such as OpenKruise's ``apps.kruise.io``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.errors import ApiError
from fleet.adapters.k8s.pods import Controller, Pod

_OWN = "apps"


@dataclass(frozen=True, slots=True)
class Daemons:
    """The DaemonSets of a cluster.

    Attributes:
        uids: of those that exist, and of those of which it cannot be known.
        unknown: why it cannot be known, by their API group.
    """

    uids: frozenset[str]
    unknown: Mapping[str, str]


def all_daemonsets(api: Api, pods: Iterable[Pod]) -> Daemons:
    """Return all DaemonSets of Kubernetes, and those of other groups to which pods belong.

    Raises:
        KubernetesError: the API could not be read.
    """
    uids, unknown = set(_list(api, f"/apis/{_OWN}/v1/daemonsets")), {}
    claimed: dict[str, set[str]] = {}
    for pod in pods:
        if pod.controller and pod.controller.is_daemonset and pod.controller.group != _OWN:
            claimed.setdefault(pod.controller.group, set()).add(pod.controller.uid)
    for group, named in claimed.items():
        version = _version(api, group)
        if not version:
            unknown[group] = f"the API does not serve the group {group}: its DaemonSets are taken for gone"
            continue
        try:
            uids.update(_list(api, f"/apis/{group}/{version}/daemonsets"))
        except ApiError as error:
            if error.status != 403:
                raise
            unknown[group] = f"the DaemonSets of the group {group} may not be listed: they are taken for existing"
            uids.update(named)
    return Daemons(frozenset(uids), unknown)


def existing_daemonsets(api: Api, pods: Iterable[Pod]) -> set[str]:
    """Return the UIDs of those DaemonSets of pods that exist, or of which it cannot be known.

    Raises:
        KubernetesError: the API could not be read.
    """
    named = {(pod.ref.namespace, pod.controller) for pod in pods if pod.controller and pod.controller.is_daemonset}
    return {controller.uid for namespace, controller in named if _exists(api, namespace, controller)}


def _exists(api: Api, namespace: str, controller: Controller) -> bool:
    version = "v1" if controller.group == _OWN else _version(api, controller.group)
    if not version:
        return False
    try:
        found = api.find(f"/apis/{controller.group}/{version}/namespaces/{namespace}/daemonsets/{controller.name}")
    except ApiError as error:
        if error.status == 403 and controller.group != _OWN:
            return True  # The preflight names the missing right. Owners that are gone are soon no owners any more.
        raise
    # It may be another one of the same name.
    return found is not None and bool(found["metadata"]["uid"] == controller.uid)


def _version(api: Api, group: str) -> str:
    """Return the version in which the API prefers to serve a group; empty if it does not serve it."""
    served = api.find(f"/apis/{group}")
    return str(served["preferredVersion"]["version"]) if served else ""


def _list(api: Api, path: str) -> list[str]:
    return api.list_all(path, convert=lambda item: str(item["metadata"]["uid"]))[0]
