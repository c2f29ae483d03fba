"""PodDisruptionBudgets: whom they cover, and what the API does when it is asked to evict one of their pods.

Pure: no I/O. The rules are those of ``pkg/registry/core/pod/storage/eviction.go`` in Kubernetes. From 1.20 on they have
changed in two things only: ``unhealthyPodEvictionPolicy`` came with 1.26 (older APIs drop the field), and from 1.22
until the fix of kubernetes#119731, first released with 1.29, evictions passed over budgets with an empty selector.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fleet.adapters.k8s.pods import Pod
from fleet.adapters.k8s.policy import BudgetPattern
from fleet.adapters.k8s.selectors import Selector, matches, parse_selector
from fleet.text import count, verb

Release = tuple[int, int]
"""Major and minor version of Kubernetes, such as ``(1, 20)``."""

_EMPTY_PASSED_OVER = ((1, 22), (1, 28))
_MOST_DISRUPTED = 2000  # evictions that the controller has not noticed yet
_NEVER_ASKED = frozenset({"Pending", "Succeeded", "Failed"})


class Ruling(Enum):
    """What the API does with an eviction, in words that follow the budgets' names."""

    EVICTS = "is not in the way"
    OVERLAP = "cover it together, which evictions do not support"
    UNPROCESSED = "has not been processed by kube-controller-manager yet"
    FORBIDS = "has a status that forbids evictions"
    CLOSED = "allows no disruption now"


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget.

    Attributes:
        selector: None if it covers no pod.
        allowed: disruptions that it allows now (``disruptionsAllowed``).
        healthy: its pods that are ready now; ``desired`` is how many must stay so, ``expected`` how many there are.
        min_available: as written, a number or a percentage; None if ``max_unavailable`` is used.
        labels: its own.
        evicts_unready: whether pods that are not ready are evicted in any case (``unhealthyPodEvictionPolicy``).
        processed: whether the status is about the present specification.
        failure: why kube-controller-manager cannot compute it, in its own words; empty if it can.
        disrupted: evicted pods that kube-controller-manager has not seen going yet; it forgets one after two minutes.
        may_be_passed_over: whether this release may evict its pods without asking it.
    """

    namespace: str
    name: str
    selector: Selector | None
    min_available: int | str | None
    max_unavailable: int | str | None
    allowed: int
    healthy: int
    desired: int
    expected: int
    labels: tuple[tuple[str, str], ...] = ()
    evicts_unready: bool = False
    processed: bool = True
    failure: str = ""
    disrupted: int = 0
    may_be_passed_over: bool = False

    def __str__(self) -> str:
        """Return the budget as operators write it."""
        return f"{self.namespace}/{self.name}"

    def covers(self, pod: Pod) -> bool:
        """Tell whether evicting the pod asks this budget."""
        return pod.ref.namespace == self.namespace and self.selector is not None and matches(self.selector, pod.labels)

    def never_allows(self) -> bool:
        """Tell whether the budget cannot allow a disruption even when all its pods are healthy."""
        if self.max_unavailable in (0, "0%") or self.min_available == "100%":
            return True
        return 0 < self.expected <= self.desired

    def is_one_of(self, patterns: Iterable[BudgetPattern]) -> bool:
        """Return whether one of the patterns is for this budget."""
        labels = dict(self.labels)
        return any(pattern.matches(self.namespace, self.name, labels) for pattern in patterns)


def parse_budget(data: Mapping[str, Any], *, version: str = "policy/v1", release: Release | None = None) -> Budget:
    """Read a budget from the API's JSON.

    Args:
        data: the budget.
        version: the API version it was read with. An empty selector covers every pod in ``policy/v1``, and none in
            ``policy/v1beta1``.
        release: the API's release; None for a current one.
    """
    metadata, spec, status = data["metadata"], data.get("spec") or {}, data.get("status") or {}
    selector = spec.get("selector")
    empty = selector is not None and not any(selector.values())
    oldest, newest = _EMPTY_PASSED_OVER
    return Budget(
        namespace=metadata["namespace"],
        name=metadata["name"],
        selector=None if selector is None or (empty and version == "policy/v1beta1") else parse_selector(selector),
        min_available=spec.get("minAvailable"),
        max_unavailable=spec.get("maxUnavailable"),
        allowed=status.get("disruptionsAllowed") or 0,
        healthy=status.get("currentHealthy") or 0,
        desired=status.get("desiredHealthy") or 0,
        expected=status.get("expectedPods") or 0,
        labels=tuple(sorted((metadata.get("labels") or {}).items())),
        evicts_unready=spec.get("unhealthyPodEvictionPolicy") == "AlwaysAllow",
        processed=(status.get("observedGeneration") or 0) >= (metadata.get("generation") or 0),
        failure=_failure(status),
        disrupted=len(status.get("disruptedPods") or ()),
        may_be_passed_over=empty and release is not None and oldest <= release <= newest,
    )


def covering(budgets: Iterable[Budget], pod: Pod) -> list[Budget]:
    """Return the budgets that an eviction of the pod asks, by name."""
    return sorted((budget for budget in budgets if budget.covers(pod)), key=lambda budget: budget.name)


def asks_none(pod: Pod) -> bool:
    """Return whether the pod is in a state in which it is evicted without asking any budget."""
    return pod.deleting or pod.phase in _NEVER_ASKED


def rule(pod: Pod, budgets: Sequence[Budget]) -> Ruling:
    """Return what the API does when it is asked to evict a pod.

    Args:
        pod: the pod.
        budgets: all that cover it.
    """
    if asks_none(pod) or not budgets:
        return Ruling.EVICTS
    if len(budgets) > 1:
        return Ruling.OVERLAP
    budget = budgets[0]
    if not pod.ready and (budget.evicts_unready or budget.healthy >= budget.desired > 0):
        return Ruling.EVICTS
    if not budget.processed:
        return Ruling.UNPROCESSED
    if budget.allowed < 0 or budget.disrupted > _MOST_DISRUPTED:
        return Ruling.FORBIDS
    return Ruling.EVICTS if budget.allowed else Ruling.CLOSED


def why(budget: Budget, ruling: Ruling) -> str:
    """Return why a budget is in the way, in words that follow its name."""
    healthy = f"{budget.healthy} of {count(budget.expected, 'pod')} {verb(budget.healthy, 'is', 'are')} healthy"
    state = f"{healthy}, {budget.desired} must be"
    if ruling is Ruling.UNPROCESSED:
        return str(ruling.value)
    if ruling is Ruling.FORBIDS:
        if budget.allowed < 0:
            return f"{ruling.value}: it allows {count(budget.allowed, 'disruption')}"
        return f"{ruling.value}: kube-controller-manager has to notice {count(budget.disrupted, 'eviction')} yet"
    waiting = f"; not gone yet: {count(budget.disrupted, 'evicted pod')}" if budget.disrupted else ""
    if budget.failure:
        return f"cannot be computed by kube-controller-manager: {budget.failure}"
    if budget.never_allows():
        return f"can never allow a disruption ({terms(budget)}; {state})"
    return f"allows no disruption now ({state}{waiting})"


def terms(budget: Budget) -> str:
    """Return what a budget asks for, as it is written in it."""
    if budget.max_unavailable is not None:
        return f"maxUnavailable {budget.max_unavailable}"
    return f"minAvailable {budget.min_available}"


def _failure(status: Mapping[str, Any]) -> str:
    """Return the message of the condition with which the controller says that it cannot compute a budget (1.21+)."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionAllowed" and condition.get("reason") == "SyncFailed":
            return str(condition.get("message") or "SyncFailed")
    return ""
