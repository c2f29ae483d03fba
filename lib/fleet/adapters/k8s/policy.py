"""What a drain may do, and what it has to know that no API tells. Pure: no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal


@dataclass(frozen=True, slots=True)
class BudgetPattern:
    """Budgets by their namespaces, names and labels, all of which have to match.

    Attributes:
        namespace: a pattern such as ``pg-*``.
        name: a pattern.
        labels: the label and a pattern of its value, such as ``*`` for any.
    """

    namespace: str = "*"
    name: str = "*"
    labels: tuple[tuple[str, str], ...] = ()

    def matches(self, namespace: str, name: str, labels: Mapping[str, str]) -> bool:
        """Return whether a budget is one of these."""
        return (
            fnmatchcase(namespace, self.namespace)
            and fnmatchcase(name, self.name)
            and all(key in labels and fnmatchcase(labels[key], value) for key, value in self.labels)
        )


@dataclass(frozen=True, slots=True)
class DrainPolicy:
    """What a drain may do with pods that no controller or no budget protects; as in the configuration.

    Attributes:
        daemon_kinds: controllers besides DaemonSets that keep a pod on every node, cordoned or not; each as
            ``Kind.group``, such as ``Agent.example.org``.
        opens_on_cordon: budgets that allow nothing until an operator has moved its service off a cordoned node.
    """

    bare_pods: Literal["refuse", "evict"] = "refuse"
    empty_dir: Literal["refuse", "evict"] = "evict"
    finalizers: Literal["wait", "skip"] = "wait"
    daemon_kinds: tuple[str, ...] = ()
    opens_on_cordon: tuple[BudgetPattern, ...] = ()
