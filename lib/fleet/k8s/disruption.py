"""What a maintenance would do to the pods of a cluster, seen before the first node is cordoned. Pure: no I/O.

Takes everything that stands in the way of a drain, or that a drain would harm, and says it at once and by name.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from fleet.k8s.budgets import Budget, covering, parse_budget
from fleet.k8s.model import Node, parse_quantity
from fleet.k8s.placement import Misfit, placement
from fleet.k8s.pods import STAYING, Controller, DrainPolicy, Pod, PodClass, classify, parse_pod, refusal

__all__ = [
    "Assessment",
    "Budget",
    "DrainPolicy",
    "Misfit",
    "Pod",
    "PodClass",
    "Risk",
    "RiskKind",
    "assess",
    "classify",
    "parse_budget",
    "parse_pod",
    "parse_quantity",
    "placement",
]

_NAMED = 20  # pods named in one sentence; a workload may have thousands


class RiskKind(Enum):
    """What a risk is about."""

    REFUSED = "pods that the drain policy forbids to evict"
    OVERLAP = "pods that are covered by more than one budget, so that their eviction fails"
    NEVER = "budgets that can never allow a disruption"
    CLOSED = "budgets that allow no disruption now"
    NOWHERE = "pods that fit on no other node"
    BARE = "pods that nothing starts again"
    EMPTY_DIR = "pods whose local data is lost"
    FINALIZERS = "pods that somebody has to let go"

    @property
    def is_fatal(self) -> bool:
        """Whether a drain is bound to fail unless something is changed."""
        return self in (RiskKind.REFUSED, RiskKind.OVERLAP, RiskKind.NEVER)


@dataclass(frozen=True, slots=True)
class Risk:
    """Something that an operator has to know.

    Attributes:
        kind: what it is about.
        what: a sentence with the names of the pods, budgets and nodes.
        todo: what to do about it.
        nodes: the nodes that are to leave and are concerned.
    """

    kind: RiskKind
    what: str
    todo: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Assessment:
    """What was found.

    Attributes:
        risks: the worst kinds first.
        evictions: how many pods each leaving node will have evicted.
    """

    risks: tuple[Risk, ...]
    evictions: Mapping[str, int]


def assess(
    pods: Sequence[Pod],
    budgets: Sequence[Budget],
    nodes: Mapping[str, Node],
    leaving: Collection[str],
    policy: DrainPolicy,
    *,
    daemonsets: Collection[str] | None = None,
) -> Assessment:
    """Look at all pods of the nodes that are to leave, one after the other.

    Args:
        pods: all pods of the cluster.
        budgets: all budgets of the cluster.
        nodes: all nodes of the cluster by name.
        leaving: names of the nodes that are to leave.
        policy: what a drain may do.
        daemonsets: UIDs of the DaemonSets that exist; all, unless given.
    """
    leaving = frozenset(leaving)
    going = [
        (pod, kind)
        for pod in pods
        if pod.node in leaving and not pod.deleting and (kind := classify(pod, daemonsets)) not in STAYING
    ]
    risks = [
        *_of_policy(going, policy),
        *_of_budgets([pod for pod, _ in going], budgets),
        *_of_placement(going, placement(pods, nodes, sorted(leaving), daemonsets=daemonsets)),
    ]
    order = list(RiskKind)
    risks.sort(key=lambda risk: order.index(risk.kind))
    evictions = Counter(pod.node for pod, _ in going)
    return Assessment(tuple(risks), {name: evictions[name] for name in sorted(leaving)})


def _of_policy(going: Iterable[tuple[Pod, PodClass]], policy: DrainPolicy) -> list[Risk]:
    found: dict[tuple[RiskKind, str], list[Pod]] = defaultdict(list)
    for pod, kind in going:
        if why := refusal(pod, kind, policy):
            found[RiskKind.REFUSED, why].append(pod)
        elif kind is PodClass.BARE:
            found[RiskKind.BARE, PodClass.BARE.value].append(pod)
        elif pod.empty_dir:
            found[RiskKind.EMPTY_DIR, PodClass.EMPTY_DIR.value].append(pod)
        if pod.finalizers:
            found[RiskKind.FINALIZERS, f"has the finalizers {', '.join(pod.finalizers)}"].append(pod)
    todo = {
        RiskKind.REFUSED: "Move or delete them yourself, exclude their nodes, or allow it in the drain policy.",
        RiskKind.BARE: "They are gone after the drain: start them again elsewhere if they are needed.",
        RiskKind.EMPTY_DIR: "Make sure that it is only a cache.",
        RiskKind.FINALIZERS: "Make sure that whatever owns the finalizers works: drains wait for it.",
    }
    return [
        Risk(kind, f"{_by_workload(pods)}: each {why}.", todo[kind], _nodes(pods))
        for (kind, why), pods in found.items()
    ]


def _of_budgets(going: Iterable[Pod], budgets: Iterable[Budget]) -> list[Risk]:
    of_namespace: dict[str, list[Budget]] = defaultdict(list)
    for budget in budgets:
        of_namespace[budget.namespace].append(budget)
    alike: dict[tuple[str, int], list[Pod]] = defaultdict(list)  # pods that are alike share their labels
    for pod in going:
        if pod.ref.namespace in of_namespace:
            alike[pod.ref.namespace, id(pod.labels)].append(pod)
    asked: dict[tuple[Budget, ...], list[Pod]] = defaultdict(list)
    for (namespace, _), pods in alike.items():
        asked[tuple(covering(of_namespace[namespace], pods[0]))].extend(pods)

    risks = []
    covered: dict[Budget, list[Pod]] = defaultdict(list)
    for group, pods in asked.items():
        for budget in group:
            covered[budget].extend(pods)
        if len(group) > 1:
            names = ", ".join(map(str, group))
            what = f"{_by_workload(pods)}: covered by more than one budget ({names}); Kubernetes refuses to evict them."
            risks.append(Risk(RiskKind.OVERLAP, what, "Leave only one of the budgets.", _nodes(pods)))
    for budget, pods in covered.items():
        state = f"{budget.healthy} of {budget.expected} pods are healthy, {budget.desired} must be"
        if budget.never_allows():
            what = (
                f"The budget {budget} can never allow a disruption ({_terms(budget)}; {state}): {_by_workload(pods)}."
            )
            todo = "Raise the number of replicas, or change the budget."
            risks.append(Risk(RiskKind.NEVER, what, todo, _nodes(pods)))
        elif budget.allowed < 1:
            what = f"The budget {budget} allows no disruption now ({state}): {_by_workload(pods)}."
            todo = "Find out why its pods are not healthy; a drain waits for the budget until its deadline."
            risks.append(Risk(RiskKind.CLOSED, what, todo, _nodes(pods)))
    return risks


def _of_placement(going: Iterable[tuple[Pod, PodClass]], misfits: Iterable[Misfit]) -> list[Risk]:
    by_uid = {pod.ref.uid: pod for pod, _ in going}
    found: dict[str, list[Pod]] = defaultdict(list)
    for misfit in misfits:
        if pod := by_uid.get(misfit.pod.uid):
            found[misfit.why].append(pod)
    todo = "They stay Pending until their node is back: make room, or correct what they ask for."
    return [
        Risk(RiskKind.NOWHERE, f"{_by_workload(pods)}: each {why}.", todo, _nodes(pods)) for why, pods in found.items()
    ]


def _terms(budget: Budget) -> str:
    if budget.max_unavailable is not None:
        return f"maxUnavailable {budget.max_unavailable}"
    return f"minAvailable {budget.min_available}"


def _nodes(pods: Iterable[Pod]) -> tuple[str, ...]:
    return tuple(sorted({pod.node for pod in pods}))


def _by_workload(pods: Iterable[Pod]) -> str:
    """Name pods, together with what they belong to."""
    groups: dict[tuple[str, Controller | None], list[str]] = defaultdict(list)
    for pod in pods:
        groups[pod.ref.namespace, pod.controller].append(f"{pod.ref.name} on {pod.node}")
    parts = []
    for (namespace, controller), names in groups.items():
        owner = f"{controller.kind} {namespace}/{controller.name}" if controller else f"pods of {namespace}"
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        parts.append(f"{owner} ({', '.join(sorted(names)[:_NAMED])}{more})")
    return ", ".join(sorted(parts))
