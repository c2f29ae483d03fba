"""Whether a node takes a pod, by what it is and by what is free on it. Pure: no I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fleet.adapters.k8s.demand import Demand, HostPort, NodeTerm, Toleration, collide
from fleet.adapters.k8s.model import Node, Taint
from fleet.adapters.k8s.selectors import matches

CORDON = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")


def tolerates(tolerations: Iterable[Toleration], taint: Taint) -> bool:
    """Tell whether one of the tolerations is for the taint."""
    return any(
        toleration.effect in ("", taint.effect)
        and (
            (toleration.key == taint.key and (toleration.operator == "Exists" or toleration.value == taint.value))
            or (not toleration.key and toleration.operator == "Exists")
        )
        for toleration in tolerations
    )


def untolerated(node: Node, tolerations: Iterable[Toleration]) -> Taint | None:
    """Return a taint that keeps a pod off a node; None if there is none. A cordon counts as one."""
    if node.unschedulable and not tolerates(tolerations, CORDON):
        return CORDON
    for taint in node.taints:
        if taint.effect != "PreferNoSchedule" and not tolerates(tolerations, taint):
            return taint
    return None


def is_chosen(node: Node, demand: Demand) -> bool:
    """Tell whether the pod's node selector and required node affinity allow the node."""
    if not matches(demand.node_selector, node.labels):
        return False
    return demand.node_terms is None or meets(node, demand.node_terms)


def meets(node: Node, terms: Iterable[NodeTerm]) -> bool:
    """Tell whether one of the terms of a node affinity is for the node."""
    return any(
        matches(term.labels, node.labels) and matches(term.fields, {"metadata.name": node.name}) for term in terms
    )


def admits(node: Node, demand: Demand) -> str:
    """Return why a node would not take a pod however empty it is, in words that follow "it"; empty if it would."""
    if not node.ready:
        return "is not ready"
    if taint := untolerated(node, demand.tolerations):
        return "is cordoned" if taint is CORDON else f"has the taint {taint.key}, which it does not tolerate"
    if not matches(demand.node_selector, node.labels):
        return "does not match its node selector"
    if demand.node_terms is not None and not meets(node, demand.node_terms):
        return "does not match its node affinity"
    return ""


@dataclass(slots=True)
class Room:
    """What is free on a node."""

    cpu: int
    memory: int
    pods: int
    disk: int
    extended: Mapping[str, int]
    ports: tuple[HostPort, ...] = ()
    """The ports in use."""

    @classmethod
    def of(cls, node: Node) -> "Room":
        """Return all that a node has."""
        return cls(node.cpu_millis, node.memory_bytes, node.max_pods, node.disk_bytes, node.extended)

    def copy(self) -> "Room":
        """Return the same room, for a look at what would be."""
        return Room(self.cpu, self.memory, self.pods, self.disk, self.extended, self.ports)

    def lacks(self, demand: Demand) -> bool:
        """Tell whether a pod does not fit in."""
        # The scheduler does not look at what is not asked for, even where a node is overbooked.
        return (
            self.pods < 1
            or (demand.cpu_millis > 0 and self.cpu < demand.cpu_millis)
            or (demand.memory_bytes > 0 and self.memory < demand.memory_bytes)
            or (demand.disk_bytes > 0 and self.disk < demand.disk_bytes)
            or (bool(demand.extended) and any(self.extended.get(name, 0) < n for name, n in demand.extended))
            or (bool(demand.ports) and self.is_port_taken(demand))
        )

    def is_port_taken(self, demand: Demand) -> bool:
        """Tell whether a port of the node that a pod wants is in use."""
        return any(collide(wanted, used) for wanted in demand.ports for used in self.ports)

    def take(self, demand: Demand) -> None:
        """Put a pod in."""
        self.cpu -= demand.cpu_millis
        self.memory -= demand.memory_bytes
        self.pods -= 1
        self.disk -= demand.disk_bytes
        if demand.extended:
            self.extended = dict(self.extended)
            for name, amount in demand.extended:
                self.extended[name] = self.extended.get(name, 0) - amount
        if demand.ports:
            self.ports += demand.ports

    def why_not(self, demand: Demand) -> str:
        """Return why a pod does not fit in, in words that follow "it"; empty if it does."""
        if not self.lacks(demand):
            return ""
        if self.is_port_taken(demand):
            ports = ", ".join(f"{port}/{protocol}" for _, protocol, port in demand.ports)
            return f"has a pod with its host port ({ports})"
        for name, amount in demand.extended:
            if self.extended.get(name, 0) < amount:
                return f"has not enough free {name}"
        if self.disk < demand.disk_bytes:
            return "has not enough free ephemeral storage"
        return "has not enough free CPU, memory or pods"
