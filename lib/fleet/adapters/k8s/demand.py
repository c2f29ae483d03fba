"""What pods ask of a node, as the scheduler reads it. Pure: no I/O.

Pods of one workload ask for the same: it is kept once.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fleet.adapters.k8s.model import parse_quantity
from fleet.adapters.k8s.selectors import Selector, parse_requirements, parse_selector

_MOST = 65536  # demands that are kept for pods to come
_OTHERWISE_KNOWN = frozenset({"cpu", "memory", "ephemeral-storage", "pods"})
_ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - what the scheduler takes a port without an address for


@dataclass(frozen=True, slots=True)
class Toleration:
    """A toleration of a pod; an empty key, value or effect stands for any."""

    key: str
    operator: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class PodTerm:
    """Pods that must be, or must not be, in the same topology domain.

    Attributes:
        namespaces: empty for the pod's own, ``*`` for all.
    """

    selector: Selector
    namespaces: tuple[str, ...]
    topology_key: str


@dataclass(frozen=True, slots=True)
class Spread:
    """A topology spread constraint that keeps pods off nodes (``DoNotSchedule``).

    Attributes:
        selector: the pods that are counted, in the pod's own namespace; None if there are none.
        label_keys: labels whose values have to be the pod's own as well (``matchLabelKeys``).
        max_skew: how many more of them a domain may have than the one with the fewest.
        min_domains: with fewer domains, the fewest is 0.
        honors_affinity: whether only nodes count that the pod's node selector and node affinity allow.
        honors_taints: whether only nodes count whose taints the pod tolerates.
    """

    topology_key: str
    selector: Selector | None
    label_keys: tuple[str, ...]
    max_skew: int
    min_domains: int
    honors_affinity: bool
    honors_taints: bool


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """One of the alternatives of a required node affinity."""

    labels: Selector
    fields: Selector


HostPort = tuple[str, str, int]
"""An address, a protocol and a port of the node."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a pod asks of a node.

    Attributes:
        disk_bytes: ephemeral storage.
        extended: further resources, such as ``nvidia.com/gpu`` and ``hugepages-2Mi``.
        ports: of the node.
        node_terms: alternatives, one of which must hold; None if there is no required node affinity.
        unknown: what else decides where the pod may run, and cannot be known here; empty if nothing does.
    """

    cpu_millis: int
    memory_bytes: int
    node_selector: Selector
    node_terms: tuple[NodeTerm, ...] | None
    tolerations: tuple[Toleration, ...]
    anti_affinity: tuple[PodTerm, ...]
    disk_bytes: int = 0
    extended: tuple[tuple[str, int], ...] = ()
    ports: tuple[HostPort, ...] = ()
    affinity: tuple[PodTerm, ...] = ()
    spread: tuple[Spread, ...] = ()
    unknown: str = ""


_demands: dict[str, Demand] = {}


def parse_demand(spec: Mapping[str, Any]) -> Demand:
    """Read what a pod asks for; the same object for all pods that ask for the same."""
    containers, first = spec.get("containers") or (), spec.get("initContainers") or ()
    affinity = spec.get("affinity")
    key = repr(
        (
            [(container.get("resources"), container.get("ports")) for container in containers],
            [
                (container.get("resources"), container.get("restartPolicy"), container.get("ports"))
                for container in first
            ],
            spec.get("overhead"),
            spec.get("resources"),
            spec.get("nodeSelector"),
            spec.get("tolerations"),
            affinity,
            spec.get("topologySpreadConstraints"),
            spec.get("schedulerName"),
            bool(spec.get("resourceClaims")),
        )
    )
    found = _demands.get(key)
    if found is None:
        if len(_demands) >= _MOST:
            _demands.clear()
        found = _demands[key] = _read(spec, affinity or {})
    return found


def _read(spec: Mapping[str, Any], affinity: Mapping[str, Any]) -> Demand:
    apart = (affinity.get("podAntiAffinity") or {}).get(_REQUIRED) or ()
    together = (affinity.get("podAffinity") or {}).get(_REQUIRED) or ()
    extended = ((name, int(_requested(spec, name, 1))) for name in sorted(_names(spec) - _OTHERWISE_KNOWN))
    return Demand(
        cpu_millis=int(_requested(spec, "cpu", 1000)),
        memory_bytes=int(_requested(spec, "memory", 1)),
        node_selector=parse_selector({"matchLabels": spec.get("nodeSelector")}),
        node_terms=parse_node_terms((affinity.get("nodeAffinity") or {}).get(_REQUIRED)),
        tolerations=tuple(
            Toleration(
                toleration.get("key") or "",
                toleration.get("operator") or "Equal",
                toleration.get("value") or "",
                toleration.get("effect") or "",
            )
            for toleration in spec.get("tolerations") or ()
        ),
        anti_affinity=tuple(_pod_terms(apart)),
        disk_bytes=int(_requested(spec, "ephemeral-storage", 1)),
        extended=tuple((name, amount) for name, amount in extended if amount > 0),
        ports=tuple(sorted(set(_ports(spec)))),
        affinity=tuple(_pod_terms(together)),
        spread=tuple(_spread(spec)),
        unknown=_unknown(spec, (*apart, *together)),
    )


_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def _names(spec: Mapping[str, Any]) -> set[str]:
    """Return the resources that a pod asks for."""
    parts = (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()), spec)
    return {name for part in parts for name in (part.get("resources") or {}).get("requests") or ()}


def _requested(spec: Mapping[str, Any], resource: str, scale: int) -> float:
    """Return what the scheduler reserves: all containers together, or the largest init container if that is more.

    An init container that goes on running (a sidecar, ``restartPolicy: Always``) counts like the others. What the pod
    asks for as a whole (1.32 and newer) goes before what its containers ask for.
    """

    def request(part: Mapping[str, Any]) -> float:
        requests = (part.get("resources") or {}).get("requests") or {}
        return float(parse_quantity(requests.get(resource, "0")) * scale)

    overhead = float(parse_quantity((spec.get("overhead") or {}).get(resource, "0")) * scale)
    if resource in ((spec.get("resources") or {}).get("requests") or ()):
        return request(spec) + overhead
    sidecars = peak = 0.0
    for container in spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            sidecars += request(container)
            peak = max(peak, sidecars)
        else:
            peak = max(peak, sidecars + request(container))
    running = sidecars + sum(request(container) for container in spec.get("containers") or ())
    return max(running, peak) + overhead


def _ports(spec: Mapping[str, Any]) -> Iterator[HostPort]:
    staying = (one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always")
    for container in (*(spec.get("containers") or ()), *staying):
        for port in container.get("ports") or ():
            if number := port.get("hostPort"):
                yield port.get("hostIP") or _ANY_ADDRESS, port.get("protocol") or "TCP", int(number)


def collide(one: HostPort, other: HostPort) -> bool:
    """Return whether two pods with these ports cannot be on the same node."""
    return one[1:] == other[1:] and (one[0] == other[0] or _ANY_ADDRESS in (one[0], other[0]))


def parse_node_terms(required: Mapping[str, Any] | None) -> tuple[NodeTerm, ...] | None:
    """Read a required node affinity, of a pod or of a PersistentVolume; None if there is none."""
    if not required:
        return None
    terms = (
        NodeTerm(parse_requirements(term.get("matchExpressions")), parse_requirements(term.get("matchFields")))
        for term in required.get("nodeSelectorTerms") or ()
    )
    return tuple(term for term in terms if term.labels or term.fields)  # an empty term matches no node


def _pod_terms(required: Iterable[Mapping[str, Any]]) -> Iterator[PodTerm]:
    for term in required:
        if term.get("labelSelector") is not None:  # no selector matches no pod
            # An empty namespace selector is for all; others would need the namespaces' labels, and are not looked at.
            namespaces = ("*",) if term.get("namespaceSelector") == {} else tuple(term.get("namespaces") or ())
            yield PodTerm(parse_selector(term["labelSelector"]), namespaces, term["topologyKey"])


def _spread(spec: Mapping[str, Any]) -> Iterator[Spread]:
    for constraint in spec.get("topologySpreadConstraints") or ():
        if constraint.get("whenUnsatisfiable", "DoNotSchedule") != "DoNotSchedule":
            continue
        selector = constraint.get("labelSelector")
        yield Spread(
            topology_key=constraint["topologyKey"],
            selector=None if selector is None else parse_selector(selector),
            label_keys=tuple(constraint.get("matchLabelKeys") or ()),
            max_skew=int(constraint.get("maxSkew") or 1),
            min_domains=int(constraint.get("minDomains") or 1),
            honors_affinity=constraint.get("nodeAffinityPolicy", "Honor") == "Honor",
            honors_taints=constraint.get("nodeTaintsPolicy", "Ignore") == "Honor",
        )


def _unknown(spec: Mapping[str, Any], terms: Iterable[Mapping[str, Any]]) -> str:
    reasons = []
    if (scheduler := spec.get("schedulerName") or _DEFAULT) != _DEFAULT:
        reasons.append(f"is placed by the scheduler {scheduler}, whose rules are not known")
    if spec.get("resourceClaims"):
        reasons.append("claims devices of which it is not known where they are free (resourceClaims)")
    if any(term.get("namespaceSelector") for term in terms):
        reasons.append("has an affinity with a namespaceSelector, whose namespaces are not looked at")
    return " and ".join(reasons)


_DEFAULT = "default-scheduler"
