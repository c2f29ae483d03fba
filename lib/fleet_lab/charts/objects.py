"""The objects of the deployment repository: of the cluster itself, of its components and of its services."""

from collections.abc import Mapping
from dataclasses import dataclass

from fleet_lab.guest.kubelet.api import Json

MANAGED = ("shop", "media", "data")
"""The managed namespaces; all others are left alone."""
COMPONENTS = {"Deployment": ("kube-system", "coredns"), "DaemonSet": ("infra", "node-agent")}
"""The cluster's components: namespace and name by kind."""

REPLICAS = 2
"""Of every Deployment."""

_INFRA = "infra"
_PERMISSIVE = "permissive"
_POLICY_ROLE = f"psp:{_PERMISSIVE}"
_PRIORITY = "cluster-component"
_RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True)
class Service:
    """A service: a Deployment, a Service and perhaps a PodDisruptionBudget, all of its name."""

    namespace: str
    min_available: int | None = None
    """What its budget asks for; None: it has no budget."""


SERVICES: Mapping[str, Service] = {
    "shop-cart": Service("shop", min_available=1),
    "shop-catalog": Service("shop"),
    "shop-checkout": Service("shop", min_available=1),
    "shop-search": Service("shop"),
    "media-player": Service("media"),
    "media-thumbs": Service("media", min_available=1),
    "media-upload": Service("media"),
    "data-events": Service("data", min_available=1),
    "data-ingest": Service("data"),
    "data-reports": Service("data"),
}
"""All services by name; the name is that of the discovery record, too."""

_POLICIES = (
    f"/apis/policy/v1beta1/podsecuritypolicies/{_PERMISSIVE}",
    f"/apis/{_RBAC}/v1/clusterroles/{_POLICY_ROLE}",
    f"/apis/{_RBAC}/v1/clusterrolebindings/{_POLICY_ROLE}",
)
_INITIALIZED = (
    f"/api/v1/namespaces/{_INFRA}",
    f"/api/v1/namespaces/{_INFRA}/serviceaccounts/node-agent",
    f"/apis/scheduling.k8s.io/v1/priorityclasses/{_PRIORITY}",
    f"/apis/{_RBAC}/v1/clusterroles/fleet-maintenance",
    f"/apis/{_RBAC}/v1/clusterrolebindings/fleet-maintenance",
)


def initialized(*, policies: bool) -> list[str]:
    """Return the paths of what is there once the cluster is initialised.

    Args:
        policies: whether the API has PodSecurityPolicies, as it had up to Kubernetes 1.24.
    """
    return [*(_POLICIES if policies else ()), *_INITIALIZED]


def path(item: Json) -> str:
    """Return where the API has an object."""
    version, metadata = item["apiVersion"], item["metadata"]
    kind = item["kind"].lower()
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}es" if kind.endswith("s") else f"{kind}s"
    namespace = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"/{'apis' if '/' in version else 'api'}/{version}{namespace}/{plural}/{metadata['name']}"


def pod_security_policy() -> Json:
    """Return the policy that lets every pod in: without any, the admission plugin PodSecurityPolicy lets none in."""
    anything: Json = {"rule": "RunAsAny"}
    spec = {
        "privileged": True,
        "allowPrivilegeEscalation": True,
        "allowedCapabilities": ["*"],
        "volumes": ["*"],
        "hostNetwork": True,
        "hostPorts": [{"min": 0, "max": 65535}],
        "hostIPC": True,
        "hostPID": True,
        "runAsUser": anything,
        "seLinux": anything,
        "supplementalGroups": anything,
        "fsGroup": anything,
    }
    return _object("policy/v1beta1", "PodSecurityPolicy", _PERMISSIVE) | {"spec": spec}


def policy_rights() -> list[Json]:
    """Return what lets service accounts and nodes use the policy."""
    rule = {
        "apiGroups": ["policy"],
        "resources": ["podsecuritypolicies"],
        "resourceNames": [_PERMISSIVE],
        "verbs": ["use"],
    }
    groups = ("system:serviceaccounts", "system:nodes")
    return [
        _object(f"{_RBAC}/v1", "ClusterRole", _POLICY_ROLE) | {"rules": [rule]},
        _object(f"{_RBAC}/v1", "ClusterRoleBinding", _POLICY_ROLE)
        | {
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": _POLICY_ROLE},
            "subjects": [{"apiGroup": _RBAC, "kind": "Group", "name": group} for group in groups],
        },
    ]


def base() -> list[Json]:
    """Return what components need before they are deployed."""
    return [
        namespace(_INFRA, enforce="privileged"),
        _object("v1", "ServiceAccount", "node-agent", _INFRA),
        _object("scheduling.k8s.io/v1", "PriorityClass", _PRIORITY)
        | {"value": 1_000_000, "description": "Of the cluster's own components."},
    ]


def namespace(name: str, *, enforce: str = "baseline") -> Json:
    """Return a namespace.

    Args:
        name: its name.
        enforce: the Pod Security Standard of its pods. Kubernetes enforces it from 1.23 on; before, it is a mere label.
    """
    item = _object("v1", "Namespace", name)
    item["metadata"]["labels"] = {"pod-security.kubernetes.io/enforce": enforce}
    return item


def components(budgets: str) -> list[Json]:
    """Return the cluster's components.

    Args:
        budgets: the API's version of budgets.
    """
    (dns_namespace, dns), (agent_namespace, agent) = COMPONENTS["Deployment"], COMPONENTS["DaemonSet"]
    priority = {"priorityClassName": _PRIORITY}
    return [
        _object("apps/v1", "Deployment", dns, dns_namespace) | {"spec": _workload(dns, priority, replicas=REPLICAS)},
        _budget(budgets, dns, dns_namespace, 1),
        _object("apps/v1", "DaemonSet", agent, agent_namespace)
        | {"spec": _workload(agent, priority | {"serviceAccountName": agent})},
    ]


def service(name: str, budgets: str) -> list[Json]:
    """Return the objects of a service, without its namespace.

    Args:
        name: a key of :data:`SERVICES`.
        budgets: the API's version of budgets.
    """
    known = SERVICES[name]
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
    items = [
        _object("apps/v1", "Deployment", name, known.namespace) | {"spec": _workload(name, {}, replicas=REPLICAS)},
        _object("v1", "Service", name, known.namespace) | {"spec": {"selector": {"app": name}, "ports": ports}},
    ]
    if known.min_available is not None:
        items.append(_budget(budgets, name, known.namespace, known.min_available))
    return items


def hanging() -> Json:
    """Return an object that keeps its namespace from being deleted: nothing ever removes its finalizer."""
    item = _object("v1", "ConfigMap", "held", "data")
    item["metadata"]["finalizers"] = ["example.org/never"]
    return item


def _object(version: str, kind: str, name: str, in_namespace: str = "") -> Json:
    metadata: Json = {"name": name}
    if in_namespace:
        metadata["namespace"] = in_namespace
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def _budget(version: str, name: str, in_namespace: str, min_available: int) -> Json:
    spec = {"minAvailable": min_available, "selector": {"matchLabels": {"app": name}}}
    return _object(version, "PodDisruptionBudget", name, in_namespace) | {"spec": spec}


def _workload(name: str, pod: Json, *, replicas: int | None = None) -> Json:
    container = {
        "name": name,
        "image": f"registry.invalid/{name}:1",
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
    }
    # Short, as a namespace that is deleted waits for half of it before it looks again whether its pods are gone.
    grace = {"terminationGracePeriodSeconds": 2}
    spec = {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container], **grace, **pod}},
    }
    return spec if replicas is None else spec | {"replicas": replicas}
