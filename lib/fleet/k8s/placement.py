"""Finds pods that would fit nowhere else if their node went away. Pure: no I/O.

Looks at what the scheduler looks at first: requests against what is allocatable, the number of pods, taints, node
selectors, required node affinity and required pod anti-affinity. One node leaves at a time, as in a rolling
maintenance. The pods of a node are packed greedily, the largest first, so that a node full of pods is not called safe
because each of them alone would fit.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fleet.k8s.model import Node, Taint
from fleet.k8s.pods import STAYING, AntiAffinity, Demand, Pod, PodRef, Toleration, classify
from fleet.k8s.selectors import matches

_CORDON = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
_EVERYWHERE = "*"
_NONE: Counter[str] = Counter()


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
) -> list[Misfit]:
    """Return the pods that would fit nowhere else when one of the nodes leaves.

    Args:
        pods: all pods of the cluster.
        nodes: all nodes by name; those that are not ready or cordoned take no pods.
        leaving: the nodes that leave, each after the one before has come back.
        daemonsets: UIDs of the DaemonSets that exist; all, unless given.
    """
    fleet = _Fleet(pods, nodes, daemonsets)
    return [misfit for name in leaving if name in nodes for misfit in fleet.misfits(name)]


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


def admits(node: Node, demand: Demand) -> str:
    """Return why a node would not take a pod however empty it is, in words that follow "it"; empty if it would."""
    if not node.ready:
        return "is not ready"
    if node.unschedulable and not tolerates(demand.tolerations, _CORDON):
        return "is cordoned"
    for taint in node.taints:
        if taint.effect != "PreferNoSchedule" and not tolerates(demand.tolerations, taint):
            return f"has the taint {taint.key}, which it does not tolerate"
    if not matches(demand.node_selector, node.labels):
        return "does not match its node selector"
    if demand.node_terms is not None and not any(
        matches(term.labels, node.labels) and matches(term.fields, {"metadata.name": node.name})
        for term in demand.node_terms
    ):
        return "does not match its node affinity"
    return ""


@dataclass(slots=True)
class _Room:
    """What is free on a node."""

    cpu: int
    memory: int
    pods: int

    def lacks(self, demand: Demand) -> bool:
        # The scheduler does not look at what is not asked for, even where a node is overbooked.
        return (
            self.pods < 1
            or (demand.cpu_millis > 0 and self.cpu < demand.cpu_millis)
            or (demand.memory_bytes > 0 and self.memory < demand.memory_bytes)
        )

    def take(self, demand: Demand) -> None:
        self.cpu -= demand.cpu_millis
        self.memory -= demand.memory_bytes
        self.pods -= 1


@dataclass(slots=True)
class _Rule:
    """An anti-affinity that some pods have: where these pods are, and where those are that it keeps apart from them.

    Counted by topology domain.
    """

    term: AntiAffinity
    namespaces: tuple[str, ...]
    holders: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)

    def concerns(self, pod: Pod) -> bool:
        if pod.ref.namespace not in self.namespaces and _EVERYWHERE not in self.namespaces:
            return False
        return matches(self.term.selector, pod.labels)


_RuleKey = tuple[AntiAffinity, tuple[str, ...]]


class _Fleet:
    """All nodes and their pods."""

    def __init__(self, pods: Iterable[Pod], nodes: Mapping[str, Node], daemonsets: Collection[str] | None) -> None:
        self.nodes = nodes
        self.room = {name: _Room(node.cpu_millis, node.memory_bytes, node.max_pods) for name, node in nodes.items()}
        self.moving: dict[str, list[Pod]] = defaultdict(list)
        self.rules: dict[_RuleKey, _Rule] = {}
        running = []
        for pod in pods:
            room = self.room.get(pod.node)
            if room is None or pod.phase in ("Succeeded", "Failed"):
                continue
            room.take(pod.demand)
            running.append(pod)
            if classify(pod, daemonsets) not in STAYING and not pod.deleting:
                self.moving[pod.node].append(pod)
        # Caches; demands are shared by the pods that are alike, and live as long as these.
        self._nodes_for: dict[int, Sequence[str]] = {}
        self._nodes_by_kind: dict[object, Sequence[str]] = {}
        self._causes: dict[int, Counter[str]] = {}
        self._nowhere: set[int] = set()  # demands that no node could meet
        self._concerned: dict[tuple[str, int], list[tuple[_RuleKey, _Rule]]] = {}
        self._count_rules(running)

    def misfits(self, name: str) -> Iterator[Misfit]:
        """Let one node leave, pack its pods onto the others, and return those for which there is no room."""
        taken: dict[str, _Room] = {}
        moved: dict[tuple[str, _RuleKey], Counter[str]] = {}
        pods = self.moving.get(name, ())
        if self.rules:
            for pod in pods:
                self._move(pod, name, moved, -1)
        for pod in sorted(pods, key=lambda pod: (-pod.demand.cpu_millis, -pod.demand.memory_bytes)):
            target = None if id(pod.demand) in self._nowhere else self._place(pod, name, taken, moved)
            if target is None:
                yield Misfit(pod.ref, name, self._why(pod, name))
                continue
            room = self.room[target]
            taken.setdefault(target, _Room(room.cpu, room.memory, room.pods)).take(pod.demand)
            if self.rules:
                self._move(pod, target, moved, 1)

    def _place(
        self,
        pod: Pod,
        leaving: str,
        taken: Mapping[str, _Room],
        moved: Mapping[tuple[str, _RuleKey], Counter[str]],
    ) -> str | None:
        """Return a node that takes the pod."""
        demand = pod.demand
        apart = list(self._kept_apart(pod, moved)) if self.rules else []
        for name in self._candidates(demand):
            if demand.cpu_millis > max(self.room[name].cpu, 0):
                break  # they are sorted by their free CPU: no other one has enough
            if name == leaving or (taken.get(name) or self.room[name]).lacks(demand):
                continue
            labels = self.nodes[name].labels
            if any(there[domain] + come[domain] > 0 for key, there, come in apart if (domain := labels.get(key))):
                continue
            return name
        return None

    def _candidates(self, demand: Demand) -> Sequence[str]:
        """Return the nodes that admit a pod, those with the most free CPU first."""
        found = self._nodes_for.get(id(demand))
        if found is None:
            kind = (demand.node_selector, demand.node_terms, demand.tolerations)
            found = self._nodes_by_kind.get(kind)
            if found is None:
                admitting = [name for name, node in self.nodes.items() if not admits(node, demand)]
                found = self._nodes_by_kind[kind] = sorted(admitting, key=lambda name: -self.room[name].cpu)
            self._nodes_for[id(demand)] = found
        return found

    def _why(self, pod: Pod, leaving: str) -> str:
        """Say what is wrong with the other nodes, in the manner of the scheduler."""
        demand = pod.demand
        causes = self._causes.get(id(demand))
        if causes is None:
            causes = self._causes[id(demand)] = Counter(map(self._cause(demand), self.nodes))
            if not causes[""]:
                self._nowhere.add(id(demand))
        causes = causes - Counter([self._cause(demand)(leaving)])
        possible = causes.pop("", 0)
        parts = [f"{count} {cause}" for cause, count in causes.most_common()]
        if possible:
            apart = ", or must be kept apart from pods there" if self.rules else ""
            parts.append(f"{possible} would be taken by the other pods of {leaving}{apart}")
        return f"fits on none of the {len(self.nodes) - 1} other nodes: {'; '.join(parts) or 'there are none'}"

    def _cause(self, demand: Demand) -> Callable[[str], str]:
        def cause(name: str) -> str:
            lacks = "has not enough free CPU, memory or pods" if self.room[name].lacks(demand) else ""
            return admits(self.nodes[name], demand) or lacks

        return cause

    # Anti-affinity

    def _count_rules(self, pods: Sequence[Pod]) -> None:
        """Find out which anti-affinities there are, and where the pods are that they are about."""
        for pod in pods:
            for key in _rule_keys(pod):
                rule = self.rules.setdefault(key, _Rule(*key))
                rule.holders[self._domain(pod.node, rule)] += 1
        if not self.rules:
            return
        for pod in pods:
            for _, rule in self._rules_about(pod):
                rule.others[self._domain(pod.node, rule)] += 1

    def _rules_about(self, pod: Pod) -> list[tuple[_RuleKey, _Rule]]:
        """Return the rules whose selector matches a pod; pods that are alike share their labels."""
        key = (pod.ref.namespace, id(pod.labels))
        found = self._concerned.get(key)
        if found is None:
            found = [(rule_key, rule) for rule_key, rule in self.rules.items() if rule.concerns(pod)]
            self._concerned[key] = found
        return found

    def _domain(self, node: str, rule: _Rule) -> str:
        return self.nodes[node].labels.get(rule.term.topology_key, "")

    def _kept_apart(
        self, pod: Pod, moved: Mapping[tuple[str, _RuleKey], Counter[str]]
    ) -> Iterator[tuple[str, Counter[str], Counter[str]]]:
        """Return topology labels, and how many pods to keep apart from each domain had, and how many came to it."""
        for key in _rule_keys(pod):
            rule = self.rules[key]
            yield rule.term.topology_key, rule.others, moved.get(("others", key), _NONE)
        for key, rule in self._rules_about(pod):
            yield rule.term.topology_key, rule.holders, moved.get(("holders", key), _NONE)

    def _move(self, pod: Pod, node: str, moved: dict[tuple[str, _RuleKey], Counter[str]], count: int) -> None:
        """Note that a pod has left a node (-1) or come to it (1)."""
        for key in _rule_keys(pod):
            moved.setdefault(("holders", key), Counter())[self._domain(node, self.rules[key])] += count
        for key, rule in self._rules_about(pod):
            moved.setdefault(("others", key), Counter())[self._domain(node, rule)] += count


def _rule_keys(pod: Pod) -> Iterator[_RuleKey]:
    for term in pod.demand.anti_affinity:
        yield term, term.namespaces or (pod.ref.namespace,)
