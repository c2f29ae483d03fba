"""The rights that runs need in a cluster; ``config/kubernetes-rbac.yaml`` grants them all. Pure: no I/O."""

from collections.abc import Collection, Iterator

from fleet.adapters.k8s import leader
from fleet.adapters.k8s.access import Right
from fleet.adapters.k8s.watchdog import NAME as WATCHDOG
from fleet.config.model import LeaseConfig


def _each(verbs: str, resources: str, purpose: str, *, group: str = "", vital: bool = True) -> tuple[Right, ...]:
    return tuple(
        Right(verb, resource, purpose, group, vital=vital) for resource in resources.split() for verb in verbs.split()
    )


FOLLOW_NODES = _each("list watch", "nodes", "follow the nodes")
CLOSE_NODES = _each("get patch", "nodes", "cordon and taint nodes")
SEE_PODS = (
    *_each("list watch", "pods", "see the pods of a node"),
    *_each("get list", "daemonsets", "tell the pods of a DaemonSet from those that one has left behind", group="apps"),
)
EVICT = (
    *_each("create", "pods/eviction", "evict pods"),
    *_each("list watch", "poddisruptionbudgets", "see which budgets block an eviction", group="policy"),
)
PLACEMENT = (
    *_each(
        "list", "persistentvolumeclaims persistentvolumes", "see which pods are bound to a node by volumes", vital=False
    ),
    *_each("list", "namespaces", "see which namespaces are being deleted", vital=False),
)
"""What the preflight looks at beyond what a drain needs."""
VOLUMES = _each("list", "volumeattachments", "see which volumes are attached to a node", group="storage.k8s.io")
WORKLOADS = _each(
    "get", "deployments replicasets statefulsets", "see whether the owners of evicted pods are well again", group="apps"
)


def of_lease(lease: LeaseConfig) -> tuple[Right, ...]:
    """Return what the lock of a cluster needs."""
    purpose, group = "hold the Lease that keeps two runs apart", "coordination.k8s.io"
    return (
        Right("create", "leases", purpose, group, lease.namespace),
        *(Right(verb, "leases", purpose, group, lease.namespace, lease.name) for verb in ("get", "update")),
    )


def of_watchdog(lease: LeaseConfig) -> tuple[Right, ...]:
    """Return what the watchdog over the API needs."""
    purpose = "watch over the API while its servers are worked on"
    verbs = ("get", "list", "watch", "patch", "delete")
    return (
        Right("create", "configmaps", purpose, "", lease.namespace),
        *(Right(verb, "configmaps", purpose, "", lease.namespace, WATCHDOG) for verb in verbs),
    )


def of_leaders(components: Collection[str]) -> tuple[Right, ...]:
    """Return what reading leader elections needs."""
    return tuple(
        Right("get", "leases", f"see who leads {name}", "coordination.k8s.io", leader.NAMESPACE, name)
        for name in components
    )


def of_everything(lease: LeaseConfig) -> Iterator[Right]:
    """Return what all cookbooks together need, but the re-initialisation, which has an administrator's kubeconfig."""
    yield from (*of_lease(lease), *FOLLOW_NODES, *CLOSE_NODES, *SEE_PODS, *EVICT, *PLACEMENT, *VOLUMES, *WORKLOADS)
    yield from of_watchdog(lease)
    yield from of_leaders(("kube-controller-manager", "kube-scheduler"))
