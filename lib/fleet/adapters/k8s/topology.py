"""Where pods may be for the sake of other pods: (anti-)affinity and topology spread. Pure: no I/O.

Pods are counted by topology domain, such as zone or host; a node that leaves takes its pods out of these counts, and
they come in again where they are placed. The leaving node itself still counts as a domain: the scheduler looks at
cordoned nodes, too, unless a constraint has ``nodeTaintsPolicy: Honor``.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fleet.adapters.k8s.demand import Demand, PodTerm, Spread
from fleet.adapters.k8s.fitting import CORDON, is_chosen, tolerates, untolerated
from fleet.adapters.k8s.model import Node
from fleet.adapters.k8s.pods import Pod
from fleet.adapters.k8s.selectors import Requirement, matches

_EVERYWHERE = "*"


@dataclass(slots=True, eq=False)
class _Tally:
    """How many pods of some kind there are in each domain.

    Attributes:
        key: the label of nodes that names the domain.
        counts: tells whether a pod is one of these; None for tallies of the pods that hold a rule.
        eligible: the nodes whose pods count; None for all.
        nodes: for spread, how many eligible nodes each domain has.
        without_cordoned: whether a node that is cordoned no longer counts.
        pods: how many there are, by domain.
        levels: how many domains have so many of them, once that was counted.
        holders: for an anti-affinity, the tally of the pods that have it.
    """

    key: str
    counts: Callable[[Pod], bool] | None
    eligible: frozenset[str] | None = None
    nodes: Counter[str] = field(default_factory=Counter)
    without_cordoned: bool = False
    pods: Counter[str] = field(default_factory=Counter)
    levels: Counter[int] | None = None
    holders: "_Tally | None" = None


@dataclass(frozen=True, slots=True)
class _Rules:
    """What is looked at for the pods of one kind: tallies that must be 0, must not be 0, and must be even."""

    apart: tuple[_Tally, ...]
    together: tuple[_Tally, ...]
    is_with_itself: bool
    spread: tuple[tuple[_Tally, Spread, int], ...]
    counted_in: tuple[_Tally, ...]

    def __bool__(self) -> bool:
        return bool(self.apart or self.together or self.spread)


_Kind = tuple[str, int, int]


def _kind(pod: Pod) -> _Kind:
    """Return what pods that are alike have in common: they share labels and demand, which live as long as they do."""
    return pod.ref.namespace, id(pod.labels), id(pod.demand)


class Topology:
    """All rules of a cluster's pods.

    Args:
        nodes: all nodes by name.
        pods: all pods that run on them.
    """

    def __init__(self, nodes: Mapping[str, Node], pods: Sequence[Pod]) -> None:
        self.nodes = nodes
        self._tallies: dict[object, _Tally] = {}
        self._in_namespace: dict[str, list[_Tally]] = defaultdict(list)
        self._eligible: dict[object, frozenset[str]] = {}
        self._rules: dict[_Kind, _Rules] = {}
        self._pods = pods  # keeps their labels and demands, by whose ids rules are found
        demands = {id(pod.demand): pod.demand for pod in pods}.values()
        self.is_empty = not any(demand.anti_affinity or demand.affinity or demand.spread for demand in demands)
        if self.is_empty:
            return
        kinds = {_kind(pod): pod for pod in pods}
        for pod in kinds.values():
            self._make(pod)
        for kind, pod in kinds.items():
            self._rules[kind] = self._read(pod)
        for pod in pods:
            for tally in self.of(pod).counted_in:
                if not (pod.deleting and tally.eligible is not None) and (domain := self.domain(tally, pod.node)):
                    tally.pods[domain] += 1

    def of(self, pod: Pod) -> _Rules:
        """Return the rules for a pod that was there at the start."""
        return self._rules[_kind(pod)]

    def domain(self, tally: _Tally, node: str) -> str:
        """Return the domain of a node in a tally; empty if the node does not count there."""
        if tally.eligible is not None and node not in tally.eligible:
            return ""
        return self.nodes[node].labels.get(tally.key, "")

    # Which tallies there are

    def _make(self, pod: Pod) -> None:
        for term in pod.demand.anti_affinity:
            self._of_term(term, pod)
        self._of_affinity(pod)
        for spread in pod.demand.spread:
            self._of_spread(spread, pod)

    def _tally(self, key: object, make: Callable[[], _Tally], namespaces: Iterable[str]) -> _Tally:
        found = self._tallies.get(key)
        if found is None:
            found = self._tallies[key] = make()
            for namespace in namespaces:
                self._in_namespace[namespace].append(found)
        return found

    def _of_term(self, term: PodTerm, pod: Pod) -> _Tally:
        """Count the pods that a term of an anti-affinity is about, and beside them those that have it."""
        where = _namespaces(term, pod)

        def make() -> _Tally:
            holders = _Tally(term.topology_key, None)
            return _Tally(term.topology_key, lambda other: _is_in(other, term, where), holders=holders)

        return self._tally(("apart", term, where), make, where)

    def _of_affinity(self, pod: Pod) -> tuple[_Tally, ...]:
        """Count the pods that meet all terms of an affinity, by the topology of each term."""
        terms = tuple((term, _namespaces(term, pod)) for term in pod.demand.affinity)
        if not terms:
            return ()

        def counts(other: Pod) -> bool:
            return all(_is_in(other, term, where) for term, where in terms)

        where = {namespace for _, namespaces in terms for namespace in namespaces}
        keys = dict.fromkeys(term.topology_key for term, _ in terms)
        return tuple(self._tally(("affinity", terms, key), lambda key=key: _Tally(key, counts), where) for key in keys)  # type: ignore[misc]

    def _of_spread(self, spread: Spread, pod: Pod) -> _Tally:
        """Count the pods that a spread constraint is about, on the nodes that it looks at."""
        demand, namespace = pod.demand, pod.ref.namespace
        own = tuple(Requirement(key, "In", (pod.labels[key],)) for key in spread.label_keys if key in pod.labels)
        keys = tuple(each.topology_key for each in demand.spread)
        chosen = (demand.node_selector, demand.node_terms) if spread.honors_affinity else None
        tolerations = demand.tolerations if spread.honors_taints else None
        where = (keys, chosen, tolerations)

        def counts(other: Pod) -> bool:
            selector = spread.selector
            return (
                other.ref.namespace == namespace and selector is not None and matches((*selector, *own), other.labels)
            )

        def make() -> _Tally:
            if where not in self._eligible:
                self._eligible[where] = frozenset(
                    name for name, node in self.nodes.items() if _is_eligible(node, demand, spread, keys)
                )
            eligible = self._eligible[where]
            domains = Counter(self.nodes[name].labels[spread.topology_key] for name in eligible)
            shrinks = spread.honors_taints and not tolerates(demand.tolerations, CORDON)
            return _Tally(spread.topology_key, counts, eligible, domains, shrinks)

        return self._tally(("spread", namespace, spread, own, where), make, (namespace,))

    def _read(self, pod: Pod) -> _Rules:
        demand = pod.demand
        near = (*self._in_namespace.get(pod.ref.namespace, ()), *self._in_namespace.get(_EVERYWHERE, ()))
        inside = list(dict.fromkeys(tally for tally in near if tally.counts and tally.counts(pod)))
        mine = [self._of_term(term, pod) for term in demand.anti_affinity]
        held = [tally.holders for tally in mine if tally.holders]
        holders = [tally.holders for tally in inside if tally.holders]
        together = self._of_affinity(pod)
        spread = []
        for constraint in demand.spread:
            tally = self._of_spread(constraint, pod)
            spread.append((tally, constraint, int(bool(tally.counts and tally.counts(pod)))))
        return _Rules(
            apart=tuple(dict.fromkeys((*mine, *holders))),
            together=together,
            is_with_itself=bool(together) and all(tally in inside for tally in together),
            spread=tuple(spread),
            counted_in=(*inside, *dict.fromkeys(held)),
        )


class Move:
    """What becomes of the counts while one node leaves and its pods are placed elsewhere.

    Args:
        topology: all rules.
        leaving: the node.
        pods: those of its pods that go.
    """

    def __init__(self, topology: Topology, leaving: str, pods: Iterable[Pod]) -> None:
        self._topology, self._leaving = topology, leaving
        self._changed: dict[_Tally, Counter[str]] = {}
        self._levels: dict[_Tally, Counter[int]] = {}  # how many domains have so many pods
        for pod in pods:
            self.count(pod, leaving, -1)

    def count(self, pod: Pod, node: str, by: int) -> None:
        """Note that a pod has left a node (-1) or come to it (1)."""
        for tally in self._topology.of(pod).counted_in:
            if domain := self._topology.domain(tally, node):
                if tally.eligible is not None:
                    levels, before = self._levels_of(tally), self._pods(tally, domain)
                    if domain != self._gone(tally):
                        levels[before] -= 1
                        levels[before + by] += 1
                self._changed.setdefault(tally, Counter())[domain] += by

    def obstacle(self, pod: Pod) -> Callable[[Node], str] | None:
        """Return what tells why a pod may not be on a node, in words that follow "it"; None if nothing keeps it off."""
        rules = self._topology.of(pod)
        if not rules:
            return None
        limits = [
            (tally, spread, spread.max_skew - own + self._least(tally, spread)) for tally, spread, own in rules.spread
        ]
        alone = rules.is_with_itself and not any(self._total(tally) for tally in rules.together)

        def why(node: Node) -> str:
            for tally in rules.apart:
                if (domain := node.labels.get(tally.key)) and self._pods(tally, domain) > 0:
                    return "has pods from which it must be kept apart"
            for tally in rules.together:
                domain = node.labels.get(tally.key)
                if not domain or not (alone or self._pods(tally, domain) > 0):
                    return f"has no pod with which it must share its {tally.key}"
            for tally, spread, most in limits:
                domain = node.labels.get(tally.key)
                if not domain:
                    return f"has no label {tally.key}, over which it must be spread"
                if self._pods(tally, domain) > most:
                    return f"would be ahead of others by more than {spread.max_skew} of its pods per {tally.key}"
            return ""

        return why

    def is_hopeless(self, pod: Pod) -> bool:
        """Tell at once that no domain takes a pod, where that can be told without looking at nodes."""
        rules = self._topology.of(pod)
        for tally, spread, own in rules.spread:
            most = spread.max_skew - own + self._least(tally, spread)
            here = self._topology.domain(tally, self._leaving)
            only_here = here and tally.nodes[here] == 1 and here != self._gone(tally)
            fitting = sum(count for level, count in self._levels_of(tally).items() if level <= most)
            if fitting - bool(only_here and self._pods(tally, here) <= most) < 1:
                return True
        return False

    def _pods(self, tally: _Tally, domain: str) -> int:
        changed = self._changed.get(tally)
        return tally.pods[domain] + (changed[domain] if changed else 0)

    def _total(self, tally: _Tally) -> int:
        changed = self._changed.get(tally)
        return tally.pods.total() + (changed.total() if changed else 0)

    def _levels_of(self, tally: _Tally) -> Counter[int]:
        levels = self._levels.get(tally)
        if levels is None:
            if tally.levels is None:
                tally.levels = Counter(tally.pods[domain] for domain in tally.nodes)
            levels = self._levels[tally] = Counter(tally.levels)
            if gone := self._gone(tally):
                levels[tally.pods[gone]] -= 1
        return levels

    def _gone(self, tally: _Tally) -> str:
        """Return the domain that no longer counts as its only node is the leaving one; empty if there is none."""
        domain = self._topology.domain(tally, self._leaving) if tally.without_cordoned else ""
        return domain if domain and tally.nodes[domain] == 1 else ""

    def _least(self, tally: _Tally, spread: Spread) -> int:
        levels = self._levels_of(tally)
        counting = [level for level, count in levels.items() if count > 0]
        if not counting or sum(levels[level] for level in counting) < spread.min_domains:
            return 0
        return min(counting)


def _namespaces(term: PodTerm, pod: Pod) -> tuple[str, ...]:
    return term.namespaces or (pod.ref.namespace,)


def _is_in(pod: Pod, term: PodTerm, namespaces: tuple[str, ...]) -> bool:
    return (pod.ref.namespace in namespaces or _EVERYWHERE in namespaces) and matches(term.selector, pod.labels)


def _is_eligible(node: Node, demand: Demand, spread: Spread, keys: Iterable[str]) -> bool:
    return (
        all(key in node.labels for key in keys)
        and (not spread.honors_affinity or is_chosen(node, demand))
        and (not spread.honors_taints or untolerated(node, demand.tolerations) is None)
    )
