"""Label selectors, as budgets, affinities and node selectors have them. Pure: no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Requirement:
    """What one label has to be like: ``In``, ``NotIn``, ``Exists``, ``DoesNotExist``, ``Gt`` or ``Lt``."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether labels meet the requirement; an operator that nobody knows is never met."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                try:
                    actual, bound = int(value or ""), int(self.values[0])
                except (ValueError, IndexError):
                    return False
                return actual > bound if self.operator == "Gt" else actual < bound
        return False


Selector = tuple[Requirement, ...]
"""Requirements that all have to be met; an empty one matches everything."""


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Tell whether labels meet all requirements of a selector."""
    return all(requirement.matches(labels) for requirement in selector)


def parse_requirements(expressions: list[dict[str, Any]] | None) -> Selector:
    """Read ``matchExpressions`` or ``matchFields``."""
    return tuple(
        Requirement(expression["key"], expression["operator"], tuple(expression.get("values") or ()))
        for expression in expressions or ()
    )


def parse_selector(data: Mapping[str, Any]) -> Selector:
    """Read a label selector: ``matchLabels`` and ``matchExpressions``."""
    labels = data.get("matchLabels") or {}
    return (
        *(Requirement(key, "In", (value,)) for key, value in sorted(labels.items())),
        *parse_requirements(data.get("matchExpressions")),
    )
