"""Nodes as the engine sees them, and which of them are unavailable. Pure: no I/O."""

from collections.abc import Mapping

from fleet.adapters.k8s import nodes
from fleet.adapters.k8s.nodes import Node
from fleet.engine.model import Absent, Target

NODES = "nodes"
"""The stage in which the nodes are done; its states in the journal are the run's substance."""


def group_of(node: Node) -> str:
    """Return a node's taint group: the taints that keep pods off it, other than those that tell its condition."""
    taints = (
        f"{taint.key}={taint.value}:{taint.effect}"
        for taint in node.taints
        if taint.effect in ("NoSchedule", "NoExecute") and not taint.key.startswith("node.kubernetes.io/")
    )
    return ",".join(sorted(taints))


def unit_of(node: Node, domain_label: str) -> Target:
    """Return a node as the engine sees it."""
    return Target(node.name, node.labels.get(domain_label, ""), group_of(node))


def absent(all_nodes: Mapping[str, Node], domain_label: str) -> dict[str, Absent]:
    """Return the nodes that are unavailable, for whatever reason."""
    gone = {}
    for node in all_nodes.values():
        if node.ready and not node.unschedulable:
            continue
        unit = unit_of(node, domain_label)
        owner = nodes.ownership(node)
        # What a run keeps cordoned is under maintenance, as what this one holds is: it occupies its domain.
        kept = owner is not None and not owner.given_up
        why = "NotReady" if not node.ready else f"kept by run {owner.run}" if owner and kept else "cordoned"
        gone[node.name] = Absent(unit.domain, unit.group, not node.ready or kept, why)
    return gone
