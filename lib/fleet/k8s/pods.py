"""Pods as a maintenance sees them: what may be evicted, and what another node must offer. Pure: no I/O.

A cluster may have a hundred thousand pods. What pods of one workload have in common is kept once.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Any, Literal

from fleet.k8s.model import parse_quantity, parse_time
from fleet.k8s.selectors import Selector, parse_requirements, parse_selector

_MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
_INTERNED = 65536


class PodClass(Enum):
    """What a drain has to do with a pod."""

    EVICT = "is evicted"
    EMPTY_DIR = "has an emptyDir volume, whose data goes with it"
    BARE = "has no controller that would start it again"
    DAEMONSET = "belongs to a DaemonSet, which ignores cordons"
    MIRROR = "is a static pod of the kubelet"
    FINISHED = "has finished"


STAYING = frozenset({PodClass.DAEMONSET, PodClass.MIRROR, PodClass.FINISHED})
"""Pods that a drain leaves on the node."""


@dataclass(frozen=True, slots=True)
class DrainPolicy:
    """What a drain may do with pods that no controller or no budget protects; as in the configuration."""

    bare_pods: Literal["refuse", "evict"] = "refuse"
    empty_dir: Literal["refuse", "evict"] = "evict"
    finalizers: Literal["wait", "skip"] = "wait"


@dataclass(frozen=True, slots=True)
class PodRef:
    """A pod, beyond doubt: another pod of the same name has another UID."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        """Return the pod as operators write it."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Controller:
    """The workload that a pod belongs to."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Toleration:
    """A toleration of a pod; an empty key, value or effect stands for any."""

    key: str
    operator: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class AntiAffinity:
    """Pods that must not be in the same topology domain.

    Attributes:
        namespaces: empty for the pod's own, ``*`` for all.
    """

    selector: Selector
    namespaces: tuple[str, ...]
    topology_key: str


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """One of the alternatives of a required node affinity."""

    labels: Selector
    fields: Selector


@dataclass(frozen=True, slots=True)
class Demand:
    """What a pod asks of a node.

    Attributes:
        node_terms: alternatives, one of which must hold; None if there is no required node affinity.
    """

    cpu_millis: int
    memory_bytes: int
    node_selector: Selector
    node_terms: tuple[NodeTerm, ...] | None
    tolerations: tuple[Toleration, ...]
    anti_affinity: tuple[AntiAffinity, ...]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod.

    Attributes:
        node: where it runs; empty if it is not scheduled.
        deleting: whether its deletion has been asked for.
        grace_left: seconds of grace granted at its deletion; 0 once the kubelet has ended its containers.
        deleted_at: when its grace is over, by the API server's clock.
    """

    ref: PodRef
    node: str
    labels: Mapping[str, str]
    controller: Controller | None
    phase: str
    ready: bool
    mirror: bool
    empty_dir: bool
    finalizers: tuple[str, ...]
    deleting: bool
    grace_left: int
    deleted_at: datetime | None
    demand: Demand


def parse_pod(data: Mapping[str, Any]) -> Pod:
    """Read a pod from the API's JSON."""
    metadata, spec, status = data["metadata"], data.get("spec") or {}, data.get("status") or {}
    return Pod(
        ref=PodRef(_same(metadata["namespace"]), metadata["name"], metadata["uid"]),
        node=_same(spec.get("nodeName") or ""),
        labels=_labels(tuple((metadata.get("labels") or {}).items())),
        controller=next(
            (
                _controller(owner["kind"], owner["name"], owner["uid"])
                for owner in metadata.get("ownerReferences") or ()
                if owner.get("controller")
            ),
            None,
        ),
        phase=_same(status.get("phase") or ""),
        ready=any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in status.get("conditions") or ()
        ),
        mirror=_MIRROR_ANNOTATION in (metadata.get("annotations") or ()),
        empty_dir=any("emptyDir" in volume for volume in spec.get("volumes") or ()),
        finalizers=tuple(metadata.get("finalizers") or ()),
        deleting="deletionTimestamp" in metadata,
        grace_left=metadata.get("deletionGracePeriodSeconds") or 0,
        deleted_at=parse_time(metadata.get("deletionTimestamp")),
        demand=_demand(spec),
    )


def classify(pod: Pod, daemonsets: Collection[str] | None = None) -> PodClass:
    """Tell what a drain has to do with a pod.

    Args:
        pod: the pod.
        daemonsets: UIDs of the DaemonSets that exist. A pod of one that is gone is a bare pod. All exist unless given.
    """
    if pod.mirror:
        return PodClass.MIRROR
    if pod.phase in ("Succeeded", "Failed"):
        return PodClass.FINISHED
    if pod.controller is None:
        return PodClass.BARE
    if pod.controller.kind == "DaemonSet":
        orphan = daemonsets is not None and pod.controller.uid not in daemonsets
        return PodClass.BARE if orphan else PodClass.DAEMONSET
    return PodClass.EMPTY_DIR if pod.empty_dir else PodClass.EVICT


def refusal(pod: Pod, kind: PodClass, policy: DrainPolicy) -> str:
    """Return why the policy forbids to evict a pod, in words that follow its name; empty if it does not."""
    if kind in STAYING or pod.deleting:
        return ""
    reasons = []
    if kind is PodClass.BARE and policy.bare_pods == "refuse":
        reasons.append(f"{PodClass.BARE.value} (drain.bare_pods is refuse)")
    if pod.empty_dir and policy.empty_dir == "refuse":
        reasons.append(f"{PodClass.EMPTY_DIR.value} (drain.empty_dir is refuse)")
    return " and ".join(reasons)


@lru_cache(_INTERNED)
def _same(text: str) -> str:
    return text


@lru_cache(_INTERNED)
def _labels(items: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return dict(items)


@lru_cache(_INTERNED)
def _controller(kind: str, name: str, uid: str) -> Controller:
    return Controller(kind, name, uid)


_demands: dict[str, Demand] = {}


def _demand(spec: Mapping[str, Any]) -> Demand:
    """Read what a pod asks for; the same object for all pods that ask for the same."""
    containers, first = spec.get("containers") or (), spec.get("initContainers") or ()
    affinity = spec.get("affinity")
    parts = (
        [container.get("resources") for container in containers],
        [(container.get("resources"), container.get("restartPolicy")) for container in first],
        spec.get("overhead"),
        spec.get("nodeSelector"),
        spec.get("tolerations"),
        affinity,
    )
    key = repr(parts)
    found = _demands.get(key)
    if found is None:
        if len(_demands) >= _INTERNED:
            _demands.clear()
        found = _demands[key] = Demand(
            cpu_millis=int(_requested(spec, "cpu", 1000)),
            memory_bytes=int(_requested(spec, "memory", 1)),
            node_selector=parse_selector({"matchLabels": spec.get("nodeSelector")}),
            node_terms=_node_terms((affinity or {}).get("nodeAffinity") or {}),
            tolerations=tuple(
                Toleration(
                    toleration.get("key") or "",
                    toleration.get("operator") or "Equal",
                    toleration.get("value") or "",
                    toleration.get("effect") or "",
                )
                for toleration in spec.get("tolerations") or ()
            ),
            anti_affinity=_anti_affinity((affinity or {}).get("podAntiAffinity") or {}),
        )
    return found


def _requested(spec: Mapping[str, Any], resource: str, scale: int) -> float:
    """Return what the scheduler reserves: all containers together, or the largest init container if that is more.

    An init container that goes on running (a sidecar, ``restartPolicy: Always``) counts like the others.
    """

    def request(container: Mapping[str, Any]) -> float:
        requests = (container.get("resources") or {}).get("requests") or {}
        return float(parse_quantity(requests.get(resource, "0")) * scale)

    sidecars = peak = 0.0
    for container in spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            sidecars += request(container)
            peak = max(peak, sidecars)
        else:
            peak = max(peak, sidecars + request(container))
    running = sidecars + sum(request(container) for container in spec.get("containers") or ())
    overhead = float(parse_quantity((spec.get("overhead") or {}).get(resource, "0")) * scale)
    return max(running, peak) + overhead


def _node_terms(affinity: Mapping[str, Any]) -> tuple[NodeTerm, ...] | None:
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return None
    terms = (
        NodeTerm(parse_requirements(term.get("matchExpressions")), parse_requirements(term.get("matchFields")))
        for term in required.get("nodeSelectorTerms") or ()
    )
    return tuple(term for term in terms if term.labels or term.fields)  # an empty term matches no node


def _anti_affinity(affinity: Mapping[str, Any]) -> tuple[AntiAffinity, ...]:
    return tuple(
        AntiAffinity(
            parse_selector(term.get("labelSelector") or {}),
            # An empty namespace selector is for all; others would need the namespaces' labels, and are not looked at.
            ("*",) if term.get("namespaceSelector") == {} else tuple(term.get("namespaces") or ()),
            term["topologyKey"],
        )
        for term in affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or ()
        if term.get("labelSelector") is not None  # no selector matches no pod
    )
