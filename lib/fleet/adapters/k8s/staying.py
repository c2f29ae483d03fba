"""Pods that stay on a node through a drain, and whether they are Ready again after it. Pure: no I/O.

A DaemonSet's pod keeps its name through a reboot, and the API shows it Ready until the kubelet writes anew. So what is
Ready must be other containers than before, where the host was rebooted: their ids tell (``containerStatuses``).
"""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleet.adapters.k8s.client import JSON
from fleet.adapters.k8s.pods import Pod, parse_pod

Baseline = Mapping[str, Sequence[str]]
"""What was Ready on a node, each with the ids of its containers.

Example: ``{"DaemonSet storage/csi-node": ["containerd://9c1…"], "static pod kube-system/proxy-w1": ["containerd://…"]}``.
"""


@dataclass(frozen=True, slots=True)
class StayingPod:
    """A pod that a drain leaves on its node.

    Attributes:
        pod: the pod.
        containers: the ids of its containers, as the container runtime has them; each start has another one.
        why: why it is not Ready, in the kubelet's words; perhaps empty.
    """

    pod: Pod
    containers: tuple[str, ...]
    why: str

    @property
    def key(self) -> str:
        """What the pod is an instance of: its controller, or the static pod itself."""
        if self.pod.mirror or self.pod.controller is None:
            return f"static pod {self.pod.ref.namespace}/{self.pod.ref.name}"
        controller = self.pod.controller
        kind = controller.kind if controller.group == "apps" else f"{controller.kind}.{controller.group}"
        return f"{kind} {self.pod.ref.namespace}/{controller.name}"


def parse(data: JSON) -> StayingPod:
    """Read a pod from the API's JSON."""
    statuses = (data.get("status") or {}).get("containerStatuses") or ()
    containers = tuple(sorted(str(status.get("containerID") or "") for status in statuses))
    return StayingPod(parse_pod(data), tuple(filter(None, containers)), _why(statuses))


def _why(statuses: Sequence[Mapping[str, Any]]) -> str:
    for status in statuses:
        for state in (status.get("state") or {}).values():
            if not status.get("ready") and isinstance(state, Mapping) and state.get("reason"):
                return f"{status['name']}: {state['reason']}"
    return ""


def baseline(pods: Iterable[StayingPod], ignored: Sequence[str]) -> dict[str, list[str]]:
    """Return what has to be Ready again, of pods that stay.

    Args:
        pods: the node's pods that stay.
        ignored: patterns such as ``storage/csi-*`` of DaemonSets and static pods that need not be.
    """
    found = {}
    for staying in pods:
        name = staying.key.rpartition(" ")[2]
        if staying.pod.ready and not staying.pod.deleting and not any(fnmatch.fnmatchcase(name, it) for it in ignored):
            found[staying.key] = list(staying.containers)
    return found


def renewed(wanted: Baseline, pods: Iterable[StayingPod]) -> dict[str, list[str]]:
    """Return what has to be Ready again, with the containers that run now: they may have been restarted since.

    Args:
        wanted: what was Ready before.
        pods: the node's pods that stay, as they are now.
    """
    found = {key: list(containers) for key, containers in wanted.items()}
    for staying in pods:
        if staying.key in found:
            found[staying.key] = sorted({*found[staying.key], *staying.containers})
    return found


def missing(wanted: Baseline, pods: Iterable[StayingPod], *, restarted: bool) -> list[str]:
    """Return what is not Ready again, in lines; nothing if all is.

    Args:
        wanted: what was Ready before.
        pods: the node's pods that stay, as they are now.
        restarted: whether all containers must be others than before: the host was rebooted.
    """
    by_key: dict[str, list[StayingPod]] = {}
    for staying in pods:
        if not staying.pod.deleting:
            by_key.setdefault(staying.key, []).append(staying)
    lines = []
    for key, containers in wanted.items():
        before = frozenset(containers) if restarted else frozenset[str]()
        problems = [_problem(staying, before) for staying in by_key.get(key, ())]
        if "" not in problems:
            lines.append(f"{key} {problems[0]}" if problems else f"{key} has no pod there")
    return lines


def _problem(staying: StayingPod, before: frozenset[str]) -> str:
    if not staying.pod.ready:
        return f"is not Ready{f' ({staying.why})' if staying.why else ''}"
    if before & frozenset(staying.containers):
        return "is shown with its containers of before the reboot"
    return ""
