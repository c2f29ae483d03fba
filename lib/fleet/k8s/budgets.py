"""PodDisruptionBudgets: whom they cover and whether they allow a disruption. Pure: no I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fleet.k8s.pods import Pod
from fleet.k8s.selectors import Selector, matches, parse_selector


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget.

    Attributes:
        selector: None if it covers no pod.
        allowed: disruptions that it allows now (``disruptionsAllowed``).
        healthy: its pods that are ready now; ``desired`` is how many must stay so, ``expected`` how many there are.
        min_available: as written, a number or a percentage; None if ``max_unavailable`` is used.
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


def parse_budget(data: Mapping[str, Any], *, version: str = "policy/v1") -> Budget:
    """Read a budget from the API's JSON.

    Args:
        data: the budget.
        version: the API version it was read with. An empty selector covers every pod in ``policy/v1``, and none in
            ``policy/v1beta1``.
    """
    metadata, spec, status = data["metadata"], data.get("spec") or {}, data.get("status") or {}
    selector = spec.get("selector")
    empty = selector is not None and not any(selector.values())
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
    )


def covering(budgets: Iterable[Budget], pod: Pod) -> list[Budget]:
    """Return the budgets that an eviction of the pod asks, by name."""
    return sorted((budget for budget in budgets if budget.covers(pod)), key=lambda budget: budget.name)
