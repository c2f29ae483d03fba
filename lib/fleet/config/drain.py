"""The configuration of drains."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fleet.config.types import Duration, Model

_KIND = r"^[A-Z][A-Za-z0-9]*\.[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"

Pattern = Annotated[str, Field(min_length=1, max_length=253)]
"""Text in which ``*`` and ``?`` stand for any characters."""


class BudgetPatternConfig(Model):
    """Budgets by namespace, name and labels, all of which have to match."""

    namespace: Pattern = "*"
    name: Pattern = "*"
    labels: dict[str, Pattern] = Field(default_factory=dict)
    """The budget's own labels, each with a pattern of its value."""

    @model_validator(mode="after")
    def _names_something(self) -> "BudgetPatternConfig":
        if self.namespace == "*" and self.name == "*" and not self.labels:
            raise ValueError("would match every budget: name a namespace, a name or labels")
        return self


class DrainConfig(Model):
    """What a drain may do with pods that no controller or no budget protects, and what it cannot see by itself."""

    bare_pods: Literal["refuse", "evict"] = "refuse"
    """Pods without a controller: nothing will start them again elsewhere."""
    empty_dir: Literal["refuse", "evict"] = "evict"
    """Pods with an emptyDir volume: its data goes with the pod."""
    finalizers: Literal["wait", "skip"] = "wait"
    """Terminating pods that a finalizer keeps: wait until the deadline, or go on without them."""
    failed: Literal["hold", "release"] = "hold"
    """A node whose drain failed: stays cordoned until someone comes, or is given back and tried again later."""
    retry: Duration = 300.0
    """How long after its release a node is tried again; each further pause is twice as long."""
    daemon_kinds: tuple[Annotated[str, Field(pattern=_KIND)], ...] = ()
    """Controllers besides DaemonSets that keep a pod on every node, cordoned or not, as ``Kind.group``."""
    opens_on_cordon: tuple[BudgetPatternConfig, ...] = ()
    """Budgets that allow nothing until an operator has moved its service off a cordoned node."""
