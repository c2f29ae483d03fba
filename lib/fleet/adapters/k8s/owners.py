"""Workloads whose pods a drain evicts, and whether they have as many Ready pods again as before. Pure: no I/O.

What was broken before is no reason to wait: the baseline is how many were Ready. What was scaled down meanwhile needs
no more than it wants now.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fleet.adapters.k8s.client import JSON

RESOURCES = {
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
}
"""Where the workloads are that tell how many of their pods are Ready; others' controllers tell in ways of their own."""


@dataclass(frozen=True, slots=True, order=True)
class Workload:
    """A workload; its text is what a run remembers it by: ``Deployment shop/cart``."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """Return the workload as operators write it."""
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def path(self) -> str:
        """The workload's path in the API."""
        return f"{RESOURCES[self.kind].format(self.namespace)}/{self.name}"


def parse(text: str) -> Workload:
    """Read a workload from its text."""
    kind, _, name = text.partition(" ")
    namespace, _, name = name.partition("/")
    return Workload(kind, namespace, name)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a workload stands: how many pods it wants, and how many are Ready."""

    wanted: int
    ready: int


def standing(workload: JSON) -> Standing:
    """Read how a workload stands from the API's JSON."""
    spec, status = workload.get("spec") or {}, workload.get("status") or {}
    wanted = spec.get("replicas")
    return Standing(1 if wanted is None else int(wanted), int(status.get("readyReplicas") or 0))


def owner_of(item: JSON) -> tuple[str, str] | None:
    """Return the kind and name of an object's controller, if it is one of Kubernetes' own workloads."""
    for owner in item["metadata"].get("ownerReferences") or ():
        if owner.get("controller") and owner.get("kind") in RESOURCES:
            group = str(owner.get("apiVersion") or "apps/v1").partition("/")[0]
            return (str(owner["kind"]), str(owner["name"])) if group == "apps" else None
    return None


def missing(baseline: Mapping[str, int], now: Mapping[str, Standing | None]) -> list[str]:
    """Return the workloads that are not back at their baseline, in lines; nothing if all are.

    Args:
        baseline: how many pods of each were Ready.
        now: how each stands now; None for one that is gone, which needs nothing.
    """
    lines = []
    for text, ready in baseline.items():
        found = now[text]
        if found is not None and found.ready < min(ready, found.wanted):
            lines.append(f"{text}: {found.ready} of {min(ready, found.wanted)} Ready")
    return lines


def unplaced(pods: Iterable[JSON]) -> list[str]:
    """Return the pods that the scheduler finds no node for, each with the scheduler's words."""
    lines = []
    for pod in pods:
        for condition in (pod.get("status") or {}).get("conditions") or ():
            if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
                where = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
                lines.append(f"{where} fits nowhere: {condition.get('message') or 'the scheduler does not say why'}")
    return lines
