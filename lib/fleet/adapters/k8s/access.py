"""What the API allows us, asked without trying it, and the rules that are missing in a role."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fleet.adapters.k8s.client import JSON
from fleet.adapters.k8s.connection import Query
from fleet.clock import THREADS, Threads

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_TOGETHER = 8  # questions in flight at once


class Reviewer(Protocol):
    """An API that can be asked what it allows."""

    def create(self, path: str, body: JSON, **query: Query) -> JSON:
        """Create an object, and return the API's answer."""


@dataclass(frozen=True, slots=True)
class Right:
    """A request that somebody may make.

    Attributes:
        verb: such as ``list``.
        resource: such as ``pods`` or ``pods/eviction``.
        purpose: what it is needed for, in words that follow "to".
        group: the API group; empty for the core group.
        namespace: where; empty for all namespaces, and for what is in none.
        name: of one object; empty for all.
        vital: whether a run fails without it; otherwise it merely sees less.
    """

    verb: str
    resource: str
    purpose: str
    group: str = ""
    namespace: str = ""
    name: str = ""
    vital: bool = True


def missing(api: Reviewer, rights: Iterable[Right], threads: Threads = THREADS) -> list[Right]:
    """Return the rights that the API would not grant, in their order; nothing is changed by the questions.

    Args:
        api: the cluster's API.
        rights: what is needed; the same right for several purposes is asked for once.
        threads: how to ask for several at the same time.

    Raises:
        KubernetesError: the API did not answer, or does not tell what it allows.
    """
    needed = list(rights)
    asked = list({_attributes(right): right for right in needed}.values())
    answers = threads.map(lambda right: _allows(api, right), asked, "access", most=_TOGETHER)
    granted = {_attributes(right) for right, answer in zip(asked, answers, strict=True) if answer}
    return [right for right in needed if _attributes(right) not in granted]


def rules(rights: Iterable[Right]) -> list[str]:
    """Return the rules that grant rights, as they stand in a role, each with where the role has to be.

    One line a rule, such as ``ClusterRole: {apiGroups: [""], resources: [pods], verbs: [list, watch]}``.
    """
    verbs: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for right in rights:
        found = verbs[right.namespace, right.group, right.resource, right.name]
        if right.verb not in found:
            found.append(right.verb)
    alike: dict[tuple[str, str, str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (namespace, group, resource, name), asked in verbs.items():
        alike[namespace, group, name, tuple(asked)].append(resource)
    lines = []
    for (namespace, group, name, words), resources in alike.items():
        place = f"Role in {namespace}" if namespace else "ClusterRole"
        names = f", resourceNames: [{name}]" if name else ""
        lines.append(
            f"{place}: {{apiGroups: [{group or _CORE}], resources: [{', '.join(resources)}]{names}, "
            f"verbs: [{', '.join(words)}]}}"
        )
    return lines


_CORE = '""'


def by_purpose(rights: Sequence[Right]) -> dict[str, list[Right]]:
    """Return rights by what they are needed for, in their order."""
    found: dict[str, list[Right]] = defaultdict(list)
    for right in rights:
        found[right.purpose].append(right)
    return dict(found)


def _attributes(right: Right) -> tuple[tuple[str, str], ...]:
    """Return a right as the API asks for it."""
    resource, _, subresource = right.resource.partition("/")
    return (
        ("verb", right.verb),
        ("group", right.group),
        ("resource", resource),
        ("subresource", subresource),
        ("namespace", right.namespace),
        ("name", right.name),
    )


def _allows(api: Reviewer, right: Right) -> bool:
    review = api.create(_REVIEWS, {"spec": {"resourceAttributes": dict(_attributes(right))}})
    return bool(review["status"].get("allowed"))
