"""Pods as a maintenance sees them: what may be evicted, and what another node must offer. Pure: no I/O.

A cluster may have a hundred thousand pods. What pods of one workload have in common is kept once.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Any

from fleet.adapters.k8s.demand import Demand, parse_demand
from fleet.adapters.k8s.model import parse_time
from fleet.adapters.k8s.policy import DrainPolicy

_UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
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
    """The workload that a pod belongs to.

    Attributes:
        group: its API group; empty for the core group.
    """

    kind: str
    name: str
    uid: str
    group: str = "apps"

    @property
    def is_daemonset(self) -> bool:
        """Whether it is a DaemonSet, of whatever group."""
        return self.kind == "DaemonSet"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod.

    Attributes:
        node: where it runs; empty if it is not scheduled.
        deleting: whether its deletion has been asked for.
        grace_left: seconds of grace granted at its deletion; 0 once the kubelet has ended its containers.
        deleted_at: when its grace is over, by the API server's clock.
        owner: what it belongs to if that is no controller (``ownerReferences`` without ``controller: true``).
        claims: names of the PersistentVolumeClaims that outlive the pod.
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
    owner: str = ""
    claims: tuple[str, ...] = ()


def parse_pod(data: Mapping[str, Any]) -> Pod:
    """Read a pod from the API's JSON."""
    metadata, spec, status = data["metadata"], data.get("spec") or {}, data.get("status") or {}
    owners, volumes = metadata.get("ownerReferences") or (), spec.get("volumes") or ()
    controller = next(
        (
            _controller(owner["kind"], owner["name"], owner["uid"], _group(owner.get("apiVersion") or "apps/v1"))
            for owner in owners
            if owner.get("controller")
        ),
        None,
    )
    return Pod(
        ref=PodRef(_same(metadata["namespace"]), metadata["name"], metadata["uid"]),
        node=_same(spec.get("nodeName") or ""),
        labels=_labels(tuple((metadata.get("labels") or {}).items())),
        controller=controller,
        phase=_same(status.get("phase") or ""),
        ready=any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in status.get("conditions") or ()
        ),
        mirror=_MIRROR_ANNOTATION in (metadata.get("annotations") or ()),
        empty_dir=any("emptyDir" in volume for volume in volumes),
        finalizers=tuple(metadata.get("finalizers") or ()),
        deleting="deletionTimestamp" in metadata,
        grace_left=metadata.get("deletionGracePeriodSeconds") or 0,
        deleted_at=parse_time(metadata.get("deletionTimestamp")),
        demand=parse_demand(spec),
        owner=f"{owners[0]['kind']} {owners[0]['name']}" if owners and not controller else "",
        claims=_claims(volumes) if volumes else (),
    )


def classify(pod: Pod, daemonsets: Collection[str] | None = None, daemon_kinds: Collection[str] = ()) -> PodClass:
    """Tell what a drain has to do with a pod.

    Args:
        pod: the pod.
        daemonsets: UIDs of the DaemonSets that exist. A pod of one that is gone is a bare pod. All exist unless given.
        daemon_kinds: further kinds of controllers that keep a pod on every node, as ``Kind.group``.
    """
    controller = pod.controller
    if pod.mirror or (controller is not None and controller.kind == "Node" and not controller.group):
        return PodClass.MIRROR
    if pod.phase in ("Succeeded", "Failed"):
        return PodClass.FINISHED
    if controller is None:
        return PodClass.BARE
    if controller.is_daemonset:
        orphan = daemonsets is not None and controller.uid not in daemonsets
        return PodClass.BARE if orphan else PodClass.DAEMONSET
    if (daemon_kinds and f"{controller.kind}.{controller.group}" in daemon_kinds) or _is_kept_on_its_node(pod):
        return PodClass.DAEMONSET
    return PodClass.EMPTY_DIR if pod.empty_dir else PodClass.EVICT


def _is_kept_on_its_node(pod: Pod) -> bool:
    """Return whether the pod was made for its node and ignores cordons, as controllers of daemons make their pods."""
    terms = pod.demand.node_terms
    if not terms:
        return False
    return all(
        any(
            field.key == "metadata.name" and field.operator == "In" and field.values == (pod.node,)
            for field in term.fields
        )
        for term in terms
    ) and any(
        toleration.effect in ("", "NoSchedule")
        and (
            (toleration.key == _UNSCHEDULABLE and (toleration.operator == "Exists" or not toleration.value))
            or (not toleration.key and toleration.operator == "Exists")
        )
        for toleration in pod.demand.tolerations
    )


def refusal(pod: Pod, kind: PodClass, policy: DrainPolicy) -> str:
    """Return why the policy forbids to evict a pod, in words that follow its name; empty if it does not."""
    if kind in STAYING or pod.deleting:
        return ""
    reasons = []
    if kind is PodClass.BARE and policy.bare_pods == "refuse":
        reasons.append(f"{why_bare(pod)} (drain.bare_pods is refuse)")
    if pod.empty_dir and policy.empty_dir == "refuse":
        reasons.append(f"{PodClass.EMPTY_DIR.value} (drain.empty_dir is refuse)")
    return " and ".join(reasons)


def why_bare(pod: Pod) -> str:
    """Return why nothing would start a bare pod again, in words that follow its name."""
    if pod.controller:
        group = f".{pod.controller.group}" if pod.controller.group != "apps" else ""
        return f"belongs to the {pod.controller.kind}{group} {pod.controller.name}, which does not exist"
    if pod.owner:
        return f"{PodClass.BARE.value}: {pod.owner} owns it, but not as its controller"
    return PodClass.BARE.value


@lru_cache(_INTERNED)
def _same(text: str) -> str:
    return text


@lru_cache(_INTERNED)
def _labels(items: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return dict(items)


@lru_cache(_INTERNED)
def _controller(kind: str, name: str, uid: str, group: str) -> Controller:
    return Controller(kind, name, uid, group)


def _claims(volumes: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    claims = filter(None, (volume.get("persistentVolumeClaim") for volume in volumes))
    return tuple(_same(claim["claimName"]) for claim in claims)


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]
