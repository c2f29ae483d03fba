"""What is still on a node: the check right before a reboot, and the words for it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.daemons import existing_daemonsets
from fleet.adapters.k8s.pods import STAYING, Pod, PodClass, PodRef, classify, parse_pod
from fleet.adapters.k8s.policy import DrainPolicy

_SLACK = timedelta(seconds=15)  # beyond its grace, until a pod is said to be stuck


@dataclass(frozen=True, slots=True)
class Remaining:
    """A pod that is still on the node, and why, in words that follow its name."""

    pod: PodRef
    why: str

    def __str__(self) -> str:
        """Return a sentence."""
        return f"{self.pod} {self.why}"


def pods_left(api: Api, node_name: str, policy: DrainPolicy) -> list[Remaining]:
    """Return the pods that would be lost if the node went away now: none, if it is drained.

    Read anew and consistently. To be called right before a reboot.

    Raises:
        KubernetesError: the API could not be read, so that nothing is known.
    """
    pods, _ = api.list_all("/api/v1/pods", convert=parse_pod, fieldSelector=f"spec.nodeName={node_name}")
    daemonsets = existing_daemonsets(api, pods)
    now = api.clock.time()
    return [
        Remaining(pod.ref, terminating(pod, now) if pod.deleting else "is still running")
        for pod in pods
        if has_to_go(pod, classify(pod, daemonsets, policy.daemon_kinds), policy)
    ]


def has_to_go(pod: Pod, kind: PodClass, policy: DrainPolicy) -> bool:
    """Tell whether a node with this pod on it is not drained.

    That its containers have ended is the kubelet's word: it sets the grace to 0 then. No clock tells that.
    """
    if kind in STAYING:
        return False
    only_finalizers = pod.deleting and pod.finalizers and pod.grace_left == 0
    return not (only_finalizers and policy.finalizers == "skip")


def is_overdue(pod: Pod, now: float) -> bool:
    """Tell whether a pod should have terminated a while ago, for messages; ``now`` is in seconds since the epoch."""
    return pod.deleted_at is not None and datetime.fromtimestamp(now, UTC) > pod.deleted_at + _SLACK


def terminating(pod: Pod, now: float) -> str:
    """Say how far a pod's termination is, in words that follow its name; ``now`` is in seconds since the epoch."""
    kept = f", kept by the finalizers {', '.join(pod.finalizers)}" if pod.finalizers else ""
    if is_overdue(pod, now):
        return f"should have terminated by {pod.deleted_at:%H:%M:%S} UTC and has not{kept}"
    return f"is terminating, with {pod.grace_left} s of grace{kept}"
