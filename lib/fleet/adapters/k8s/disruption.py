"""What a maintenance would do to the pods of a cluster, seen before the first node is cordoned. Pure: no I/O.

Takes everything that stands in the way of a drain, or that a drain would harm, and says it at once and by name.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from fleet.adapters.k8s.budgets import Budget, Ruling, asks_none, covering, rule, why
from fleet.adapters.k8s.model import Node
from fleet.adapters.k8s.placement import Misfit, placement
from fleet.adapters.k8s.pods import STAYING, Controller, Pod, PodClass, classify, refusal, why_bare
from fleet.adapters.k8s.policy import BudgetPattern, DrainPolicy
from fleet.adapters.k8s.volumes import Volumes

_NAMED = 20  # pods named in one sentence; a workload may have thousands


class RiskKind(Enum):
    """What a risk is about."""

    REFUSED = "pods that the drain policy forbids to evict"
    OVERLAP = "pods that are covered by more than one budget, so that their eviction fails"
    NEVER = "budgets that allow no disruption even when all is well"
    CLOSED = "budgets that allow no disruption now"
    UNSEEN = "what cannot be looked at"
    NOWHERE = "pods that fit on no other node"
    OPENS = "budgets that are opened for a cordoned node"
    UNKNOWN = "pods of which it cannot be known where they fit"
    BARE = "pods that nothing starts again"
    EMPTY_DIR = "pods whose local data is lost"
    FINALIZERS = "pods that somebody has to let go"

    @property
    def is_fatal(self) -> bool:
        """Whether a drain is bound to fail unless something is changed."""
        return self in (RiskKind.REFUSED, RiskKind.OVERLAP)


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
    volumes: Volumes | None = None,
    ending: Collection[str] = (),
) -> Assessment:
    """Look at all pods of the nodes that are to leave, one after the other.

    Args:
        pods: all pods of the cluster.
        budgets: all budgets of the cluster.
        nodes: all nodes of the cluster by name.
        leaving: names of the nodes that are to leave.
        policy: what a drain may do.
        daemonsets: UIDs of the DaemonSets that exist; all, unless given.
        volumes: on which nodes the volumes of claims can be used; on all, unless given.
        ending: the namespaces that are being deleted.
    """
    leaving = frozenset(leaving)
    going = [
        (pod, kind)
        for pod in pods
        if pod.node in leaving
        and not pod.deleting
        and (kind := classify(pod, daemonsets, policy.daemon_kinds)) not in STAYING
    ]
    risks = [
        *_of_policy(going, policy),
        *_of_budgets([pod for pod, _ in going if pod.ref.namespace not in ending], budgets, policy.opens_on_cordon),
        *_of_ending([pod for pod, _ in going if pod.ref.namespace in ending]),
        *_of_placement(
            going,
            placement(
                pods, nodes, sorted(leaving), daemonsets=daemonsets, daemon_kinds=policy.daemon_kinds, volumes=volumes
            ),
        ),
        *_of_what_is_unknown(pod for pod, _ in going),
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
            found[RiskKind.BARE, why_bare(pod)].append(pod)
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


def _of_budgets(going: Iterable[Pod], budgets: Iterable[Budget], opened: Sequence[BudgetPattern]) -> list[Risk]:
    of_namespace: dict[str, list[Budget]] = defaultdict(list)
    for budget in budgets:
        of_namespace[budget.namespace].append(budget)
    alike: dict[tuple[str, int, bool], list[Pod]] = defaultdict(list)  # pods that are alike share their labels
    for pod in going:
        if pod.ref.namespace in of_namespace and not asks_none(pod):
            alike[pod.ref.namespace, id(pod.labels), pod.ready].append(pod)
    found: dict[tuple[Ruling, tuple[Budget, ...]], list[Pod]] = defaultdict(list)
    for (namespace, _, _), pods in alike.items():
        group = tuple(covering(of_namespace[namespace], pods[0]))
        found[rule(pods[0], group), group].extend(pods)
    return [
        _of_overlap(group, pods) if ruling is Ruling.OVERLAP else _of_budget(group[0], ruling, pods, opened)
        for (ruling, group), pods in found.items()
        if ruling is not Ruling.EVICTS
    ]


def _of_overlap(budgets: Sequence[Budget], pods: Sequence[Pod]) -> Risk:
    names, who = ", ".join(map(str, budgets)), _by_workload(pods)
    if sum(not budget.may_be_passed_over for budget in budgets) < 2:
        what = f"{who}: covered by more than one budget ({names}); {_PASSED_OVER}, which then is no obstacle."
        return Risk(RiskKind.UNSEEN, what, "Leave only one of the budgets.", _nodes(pods))
    what = f"{who}: covered by more than one budget ({names}); Kubernetes refuses to evict them."
    return Risk(RiskKind.OVERLAP, what, "Leave only one of the budgets.", _nodes(pods))


def _of_budget(budget: Budget, ruling: Ruling, pods: Sequence[Pod], opened: Sequence[BudgetPattern]) -> Risk:
    what = f"The budget {budget} {why(budget, ruling)}: {_by_workload(pods)}."
    if budget.may_be_passed_over:
        what = f"{what} {_PASSED_OVER[0].upper()}{_PASSED_OVER[1:]}."
    if budget.is_one_of(opened):
        todo = "It is expected to open once the node is cordoned (drain.opens_on_cordon); a drain waits until then."
        return Risk(RiskKind.OPENS, what, todo, _nodes(pods))
    if ruling is Ruling.CLOSED and not budget.failure and budget.never_allows():
        todo = (
            "Raise the number of replicas, or change the budget; if its operator opens it once the node is cordoned,"
            " name it in drain.opens_on_cordon. A drain waits for it until its deadline, and never evicts past it."
        )
        return Risk(RiskKind.NEVER, what, todo, _nodes(pods))
    todo = "Find out why its pods are not healthy; a drain waits for the budget until its deadline."
    if budget.failure:
        todo = "Correct what it selects; a drain waits for the budget until its deadline."
    elif ruling is not Ruling.CLOSED:
        todo = "Look at kube-controller-manager; a drain waits for the budget until its deadline."
    return Risk(RiskKind.CLOSED, what, todo, _nodes(pods))


_PASSED_OVER = (
    "this release of Kubernetes may evict pods without asking a budget that has an empty selector (kubernetes#119731)"
)


def _of_ending(pods: Sequence[Pod]) -> list[Risk]:
    if not pods:
        return []
    what = f"{_by_workload(pods)}: each is in a namespace that is being deleted, where nothing can be evicted."
    return [Risk(RiskKind.CLOSED, what, "Wait until the namespaces are gone; a drain does, too.", _nodes(pods))]


def _of_what_is_unknown(going: Iterable[Pod]) -> list[Risk]:
    found: dict[str, list[Pod]] = defaultdict(list)
    for pod in going:
        if pod.demand.unknown:
            found[pod.demand.unknown].append(pod)
    todo = "Make sure that there is room for them elsewhere."
    return [
        Risk(RiskKind.UNKNOWN, f"{_by_workload(pods)}: each {reason}.", todo, _nodes(pods))
        for reason, pods in found.items()
    ]


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
