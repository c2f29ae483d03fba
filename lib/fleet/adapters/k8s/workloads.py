"""Workloads that are not fully Ready: Deployments, StatefulSets and DaemonSets."""

from collections.abc import Iterable

from fleet.adapters.k8s.client import JSON, Api

_KINDS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}


def unready(api: Api, namespaces: Iterable[str]) -> list[str]:
    """Return what is not Ready in namespaces, in lines; nothing if all is.

    A namespace that is not there is named; one without any workload is Ready.

    Args:
        api: the cluster's API.
        namespaces: their names.

    Returns:
        Lines such as ``Deployment kube-system/coredns: 1 of 2 ready``.

    Raises:
        KubernetesError: the API could not be asked.
    """
    lines = []
    for namespace in namespaces:
        if api.find(f"/api/v1/namespaces/{namespace}") is None:
            lines.append(f"Namespace {namespace}: it is not there")
            continue
        for kind, resource in _KINDS.items():
            found, _ = api.list_all(f"/apis/apps/v1/namespaces/{namespace}/{resource}")
            lines += [
                f"{kind} {namespace}/{item['metadata']['name']}: {problem}"
                for item in found
                if (problem := judge(kind, item))
            ]
    return lines


def judge(kind: str, workload: JSON) -> str:
    """Return why a workload is not Ready, in a few words; an empty string if it is.

    It is, once its controller has seen its latest change, as many of its pods as wanted are of the latest version and
    Ready, and no other ones are left. Pods that are only replaced when somebody deletes them (``OnDelete``), or that a
    ``partition`` keeps back, need not be of the latest version.

    Args:
        kind: ``Deployment``, ``StatefulSet`` or ``DaemonSet``.
        workload: the object.
    """
    spec, status = workload.get("spec") or {}, workload.get("status") or {}
    if int(status.get("observedGeneration") or 0) < int(workload["metadata"].get("generation") or 0):
        return "its controller has not seen its latest change"
    if kind == "DaemonSet":
        wanted, updated, ready = (
            int(status.get(key) or 0) for key in ("desiredNumberScheduled", "updatedNumberScheduled", "numberReady")
        )
        others = 0  # a node that was tainted keeps its pod, and counts among numberMisscheduled, for good
    else:
        wanted = int(spec["replicas"]) if spec.get("replicas") is not None else 1
        updated, ready, there = (int(status.get(key) or 0) for key in ("updatedReplicas", "readyReplicas", "replicas"))
        others = there - wanted
    if ready < wanted:
        return f"{ready} of {wanted} ready"
    needed = _to_be_updated(kind, spec, wanted)
    if updated < needed:
        return f"{updated} of {needed} of the latest version"
    if others > 0:
        return f"{others} to go"
    return ""


def _to_be_updated(kind: str, spec: JSON, wanted: int) -> int:
    """Return how many pods have to be of the latest version."""
    if kind == "Deployment":
        return wanted
    strategy = spec.get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return 0
    partition = int((strategy.get("rollingUpdate") or {}).get("partition") or 0)
    return max(0, wanted - partition) if kind == "StatefulSet" else wanted
