"""Finds pods that would fit nowhere else if their node went away. Pure: no I/O.

Looks at what the scheduler looks at: what pods request of CPU, memory, ephemeral storage and further resources against
what is allocatable, the number of pods, ports of the host, taints, node selectors, required affinities, topology
spread, and volumes that can be used on some nodes alone. One node leaves at a time, as in a rolling maintenance. The
pods of a node are packed greedily, the largest first, so that a node full of pods is not called safe because each of
them alone would fit.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fleet.adapters.k8s.demand import Demand, NodeTerm
from fleet.adapters.k8s.fitting import Room, admits, meets
from fleet.adapters.k8s.model import Node
from fleet.adapters.k8s.pods import STAYING, Pod, PodRef, classify
from fleet.adapters.k8s.topology import Move, Topology
from fleet.adapters.k8s.volumes import Volumes
from fleet.text import count


@dataclass(frozen=True, slots=True)
class Misfit:
    """A pod that fits on no other node; why, in words that follow its name."""

    pod: PodRef
    node: str
    why: str


def placement(
    pods: Iterable[Pod],
    nodes: Mapping[str, Node],
    leaving: Iterable[str],
    *,
    daemonsets: Collection[str] | None = None,
    daemon_kinds: Collection[str] = (),
    volumes: Volumes | None = None,
) -> list[Misfit]:
    """Return the pods that would fit nowhere else when one of the nodes leaves.

    Args:
        pods: all pods of the cluster.
        nodes: all nodes by name; those that are not ready or cordoned take no pods.
        leaving: the nodes that leave, each after the one before has come back.
        daemonsets: UIDs of the DaemonSets that exist; all, unless given.
        daemon_kinds: further kinds of controllers that keep a pod on every node, as ``Kind.group``.
        volumes: on which nodes the volumes of claims can be used; on all, unless given.
    """
    fleet = _Fleet(pods, nodes, lambda pod: classify(pod, daemonsets, daemon_kinds) not in STAYING, volumes or {})
    return [misfit for name in leaving if name in nodes for misfit in fleet.misfits(name)]


class _Fleet:
    """All nodes and their pods."""

    def __init__(
        self, pods: Iterable[Pod], nodes: Mapping[str, Node], moves: Callable[[Pod], bool], volumes: Volumes
    ) -> None:
        self.nodes = nodes
        self.room = {name: Room.of(node) for name, node in nodes.items()}
        self.moving: dict[str, list[Pod]] = defaultdict(list)
        running = []
        for pod in pods:
            room = self.room.get(pod.node)
            if room is None or pod.phase in ("Succeeded", "Failed"):
                continue
            room.take(pod.demand)
            running.append(pod)
            if moves(pod) and not pod.deleting:
                self.moving[pod.node].append(pod)
        self.topology = Topology(nodes, running)
        self._volumes = volumes
        # Caches; demands are shared by the pods that are alike, and live as long as these.
        self._nodes_for: dict[int, Sequence[str]] = {}
        self._nodes_by_kind: dict[object, Sequence[str]] = {}
        self._nodes_with: dict[str, dict[str, list[str]]] = {}
        self._usable: dict[tuple[NodeTerm, ...], frozenset[str]] = {}
        self._causes: dict[int, Counter[str]] = {}
        self._nowhere: set[int] = set()  # demands that no node could meet
        self._kept_off: dict[object, Counter[str]] = {}

    def misfits(self, name: str) -> Iterator[Misfit]:
        """Let one node leave, pack its pods onto the others, and return those for which there is no room."""
        taken: dict[str, Room] = {}
        pods = self.moving.get(name, ())
        move = None if self.topology.is_empty else Move(self.topology, name, pods)
        waiting = sorted(pods, key=lambda pod: (-pod.demand.cpu_millis, -pod.demand.memory_bytes))
        while waiting:
            left = [pod for pod in waiting if not self._moves(pod, name, taken, move)]
            # A pod may wait for another one that is placed after it.
            is_stuck = len(left) == len(waiting) or not any(pod.demand.affinity or pod.demand.spread for pod in left)
            waiting = left
            if is_stuck:
                break
        yield from (Misfit(pod.ref, name, self._why(pod, name, move)) for pod in waiting)

    def _moves(self, pod: Pod, leaving: str, taken: dict[str, Room], move: Move | None) -> bool:
        """Place a pod, if a node takes it."""
        target = None if id(pod.demand) in self._nowhere else self._place(pod, leaving, taken, move)
        if target is None:
            return False
        if target not in taken:
            taken[target] = self.room[target].copy()
        taken[target].take(pod.demand)
        if move:
            move.count(pod, target, 1)
        return True

    def _place(self, pod: Pod, leaving: str, taken: Mapping[str, Room], move: Move | None) -> str | None:
        """Return a node that takes the pod."""
        demand = pod.demand
        if move and move.is_hopeless(pod):
            return None
        obstacle = move.obstacle(pod) if move else None
        for name in self._candidates(pod):
            if demand.cpu_millis > max(self.room[name].cpu, 0):
                break  # they are sorted by their free CPU: no other one has enough
            if name == leaving or (taken.get(name) or self.room[name]).lacks(demand):
                continue
            if obstacle and obstacle(self.nodes[name]):
                continue
            return name
        return None

    def _candidates(self, pod: Pod) -> Sequence[str]:
        """Return the nodes that admit a pod and its volumes, those with the most free CPU first."""
        demand = pod.demand
        usable = self._usable_by(pod) if pod.claims else None
        if usable is not None:
            admitting = [name for name in usable if not admits(self.nodes[name], demand)]
            return sorted(admitting, key=lambda name: -self.room[name].cpu)
        found = self._nodes_for.get(id(demand))
        if found is None:
            kind = (demand.node_selector, demand.node_terms, demand.tolerations)
            found = self._nodes_by_kind.get(kind)
            if found is None:
                admitting = [name for name, node in self.nodes.items() if not admits(node, demand)]
                found = self._nodes_by_kind[kind] = sorted(admitting, key=lambda name: -self.room[name].cpu)
            self._nodes_for[id(demand)] = found
        return found

    # Volumes

    def _usable_by(self, pod: Pod) -> frozenset[str] | None:
        """Return the nodes on which all volumes of a pod can be used; None for all nodes."""
        found: frozenset[str] | None = None
        for claim in pod.claims:
            terms = self._volumes.get((pod.ref.namespace, claim))
            if terms is None:
                continue
            names = self._usable.get(terms)
            if names is None:
                names = self._usable[terms] = frozenset(self._meeting(terms))
            found = names if found is None else found & names
        return found

    def _meeting(self, terms: Iterable[NodeTerm]) -> Iterator[str]:
        """Return the nodes that meet one of the terms; looks at those alone that have the label's value."""
        for term in terms:
            first = next((each for each in term.labels if each.operator == "In"), None)
            if first is None:
                near: Iterable[str] = self.nodes
            else:
                if first.key not in self._nodes_with:
                    values = self._nodes_with[first.key] = defaultdict(list)
                    for name, node in self.nodes.items():
                        values[node.labels.get(first.key, "")].append(name)
                near = (name for value in first.values for name in self._nodes_with[first.key].get(value, ()))
            yield from (name for name in near if meets(self.nodes[name], (term,)))

    # Reasons

    def _why(self, pod: Pod, leaving: str, move: Move | None) -> str:
        """Say what is wrong with the other nodes, in the manner of the scheduler."""
        demand = pod.demand
        causes = self._causes.get(id(demand))
        if causes is None:
            causes = self._causes[id(demand)] = Counter(map(self._cause(demand), self.nodes))
            if not causes[""]:
                self._nowhere.add(id(demand))
        causes = causes - Counter([self._cause(demand)(leaving)])
        possible = causes.pop("", 0)
        if possible:
            kept_off = self._kept_off_by_others(pod, leaving, move)
            causes += kept_off
            possible = max(0, possible - kept_off.total())
        parts = [f"{count} {cause}" for cause, count in causes.most_common()]
        if possible:
            parts.append(f"{possible} would be taken by the other pods of {leaving}")
        return f"fits on none of the {count(len(self.nodes) - 1, 'other node')}: {'; '.join(parts) or 'there are none'}"

    def _cause(self, demand: Demand) -> Callable[[str], str]:
        def cause(name: str) -> str:
            return admits(self.nodes[name], demand) or self.room[name].why_not(demand)

        return cause

    def _kept_off_by_others(self, pod: Pod, leaving: str, move: Move | None) -> Counter[str]:
        """Return what keeps a pod off nodes that have room for it: its volumes, and where other pods are.

        Once for all pods that are alike: their number may be that of the nodes.
        """
        usable = self._usable_by(pod)
        obstacle = move.obstacle(pod) if move else None
        kind = (pod.ref.namespace, id(pod.labels), id(pod.demand), usable)
        found = self._kept_off.get(kind)
        if found is None:
            found = self._kept_off[kind] = Counter()
            is_fine = self._cause(pod.demand)
            for name, node in self.nodes.items():
                if name == leaving or is_fine(name):
                    continue
                if usable is not None and name not in usable:
                    found["cannot use its volumes"] += 1
                elif obstacle and (why := obstacle(node)):
                    found[why] += 1
        return found
