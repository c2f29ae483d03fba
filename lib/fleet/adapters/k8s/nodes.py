"""Nodes: a live view of them, cordons that are owned, and the taint of nodes that are still to be done.

Who cordoned a node is written on it, in the annotation :data:`OWNER_ANNOTATION`, in the same change as the cordon
itself. Only a cordon that this run made is ever undone.
"""

import json
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import Protocol, TypeVar

from fleet.adapters.k8s.client import JSON, Api
from fleet.adapters.k8s.errors import ApiError
from fleet.adapters.k8s.model import Node, Taint, parse_node
from fleet.adapters.k8s.reflector import Reflector
from fleet.clock import THREADS, Threads

__all__ = [
    "OWNER_ANNOTATION",
    "PENDING_TAINT",
    "CordonOutcome",
    "NoNodes",
    "Node",
    "NodeView",
    "NodeWatch",
    "Owner",
    "Ownership",
    "UncordonOutcome",
    "clear_pending_taint",
    "cordon",
    "list_nodes",
    "ownership",
    "read_node",
    "set_pending_taint",
    "uncordon",
]

OWNER_ANNOTATION = "fleet-cookbooks/maintenance"
"""On a node under maintenance: JSON with ``run``, ``operator``, ``reason`` and ``was_cordoned``.

``given_up`` is there, and true, once an operator has closed the node for its run: then the cordon is anybody's.
"""

PENDING_TAINT = "fleet-cookbooks/pending-maintenance"
"""On nodes still to be done, with the run as its value: soft, so that evicted pods rather go elsewhere."""

Outcome = TypeVar("Outcome")

_NODES = "/api/v1/nodes"
_ATTEMPTS = 10  # at a change, each after a conflict; a kubelet writes to its node all the time
_WORKERS = 16  # nodes changed at once


@dataclass(frozen=True, slots=True)
class Owner:
    """Who maintains a node, and why."""

    run: str
    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ownership(Owner):
    """What stands on a node under maintenance."""

    was_cordoned: bool
    """Whether somebody else had cordoned the node before."""
    given_up: bool = False
    """Whether an operator has closed the node as it is: the run has nothing more to do with it."""


class CordonOutcome(Enum):
    """What :func:`cordon` found and did."""

    CORDONED = "cordoned"
    ALREADY_OURS = "cordoned by this run before"
    FOUND_CORDONED = "found cordoned by somebody else, will stay cordoned"
    OTHER_RUN = "under the maintenance of another run, left alone"


class UncordonOutcome(Enum):
    """What :func:`uncordon` found and did."""

    UNCORDONED = "uncordoned"
    LEFT_CORDONED = "left cordoned, as it was found"
    NOT_OURS = "not cordoned by this run, left alone"


class NodeWatch(Reflector[Node]):
    """A live view of all nodes, by name.

    Args:
        api: the cluster.
        on_change: called after changes, from a background thread; it must be quick, such as ``Event.set``.

    Raises:
        KubernetesError: the first list, which is read before the constructor returns, failed.
    """

    def __init__(self, api: Api, on_change: Callable[[], None] | None = None) -> None:
        super().__init__(api, _NODES, parse_node, key=lambda node: str(node["metadata"]["name"]), on_change=on_change)


class NodeView(Protocol):
    """What is known of all nodes."""

    def snapshot(self) -> Mapping[str, Node]:
        """Return all nodes by name; the mapping never changes."""

    def age(self) -> float:
        """Return for how many seconds the snapshot may have missed changes."""


class NoNodes:
    """Stands for the live view where the API goes away, and comes back with other data: nothing is known of nodes."""

    def snapshot(self) -> Mapping[str, Node]:
        """Return nothing."""
        return {}

    def age(self) -> float:
        """Return that it never was of any use."""
        return math.inf


def list_nodes(api: Api) -> list[Node]:
    """Return all nodes, as they are now.

    Raises:
        KubernetesError: the API could not be read.
    """
    return api.list_all(_NODES, convert=parse_node)[0]


def read_node(api: Api, name: str) -> Node:
    """Return a node as it is now.

    Raises:
        ApiError: the API refused; status 404 if there is no such node.
        ApiUnreachable: there was no answer.
    """
    return parse_node(api.get(f"{_NODES}/{name}"))


def ownership(node: Node) -> Ownership | None:
    """Return who maintains a node, or None; an annotation that is not this project's JSON counts as none."""
    value = node.annotations.get(OWNER_ANNOTATION)
    return None if value is None else _ownership(value)


@lru_cache(maxsize=1024)  # each decision asks for that of every node that is unavailable
def _ownership(text: str) -> Ownership | None:
    try:
        value = json.loads(text)
        return Ownership(
            value["run"],
            value["operator"],
            value["reason"],
            bool(value["was_cordoned"]),
            bool(value.get("given_up", False)),
        )
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def cordon(api: Api, node_name: str, owner: Owner) -> CordonOutcome:
    """Cordon a node in the name of a run.

    A node that somebody else has cordoned is only annotated, so that :func:`uncordon` leaves it cordoned. A node that
    another run keeps cordoned is not touched.

    Raises:
        ApiError: the API refused; status 404 if there is no such node.
        ApiUnreachable: there was no answer.
    """

    def change(node: Node) -> tuple[JSON | None, CordonOutcome]:
        found = ownership(node)
        if found and found.given_up and found.run != owner.run:
            found = None  # Its cordon is anybody's.
        if found and found.run != owner.run and node.unschedulable:
            return None, CordonOutcome.OTHER_RUN
        if found and found.run == owner.run:
            was_cordoned = found.was_cordoned
            outcome = CordonOutcome.FOUND_CORDONED if was_cordoned else CordonOutcome.ALREADY_OURS
            if node.unschedulable and not found.given_up:
                return None, outcome
        else:
            was_cordoned = node.unschedulable
            outcome = CordonOutcome.FOUND_CORDONED if was_cordoned else CordonOutcome.CORDONED
        value = json.dumps(asdict(Ownership(owner.run, owner.operator, owner.reason, was_cordoned)))
        return {"metadata": {"annotations": {OWNER_ANNOTATION: value}}, "spec": {"unschedulable": True}}, outcome

    return _change(api, node_name, change)


def uncordon(api: Api, node_name: str, run_id: str) -> UncordonOutcome:
    """Undo what :func:`cordon` did in the name of a run, and nothing else.

    Raises:
        ApiError: the API refused; status 404 if there is no such node.
        ApiUnreachable: there was no answer.
    """

    def change(node: Node) -> tuple[JSON | None, UncordonOutcome]:
        found = ownership(node)
        if found is None or found.run != run_id:
            return None, UncordonOutcome.NOT_OURS
        patch: JSON = {"metadata": {"annotations": {OWNER_ANNOTATION: None}}}
        if found.was_cordoned:
            return patch, UncordonOutcome.LEFT_CORDONED
        return patch | {"spec": {"unschedulable": None}}, UncordonOutcome.UNCORDONED

    return _change(api, node_name, change)


def give_up(api: Api, node_name: str, run_id: str) -> bool:
    """Note on a node that its run has nothing more to do with it; its cordon stays, and is anybody's.

    Returns:
        Whether the node carries the run's annotation.

    Raises:
        ApiError: the API refused; status 404 if there is no such node.
        ApiUnreachable: there was no answer.
    """

    def change(node: Node) -> tuple[JSON | None, bool]:
        found = ownership(node)
        if found is None or found.run != run_id:
            return None, False
        value = json.dumps(asdict(replace(found, given_up=True)))
        return {"metadata": {"annotations": {OWNER_ANNOTATION: value}}}, True

    return _change(api, node_name, change)


def set_pending_taint(api: Api, names: Iterable[str], run_id: str, *, threads: Threads = THREADS) -> None:
    """Ask the scheduler to rather not use nodes, in the name of a run.

    Other taints stay. Nodes that are gone are skipped.

    Raises:
        ApiError: the API refused a change; the other nodes were changed nevertheless.
        ApiUnreachable: there was no answer.
    """
    wanted = Taint(PENDING_TAINT, run_id, "PreferNoSchedule")

    def change(node: Node) -> tuple[JSON | None, None]:
        others = [taint for taint in node.taints if (taint.key, taint.effect) != (wanted.key, wanted.effect)]
        return (None if wanted in node.taints else _with_taints([*others, wanted])), None

    _change_all(api, names, change, threads)


def clear_pending_taint(api: Api, names: Iterable[str], run_id: str, *, threads: Threads = THREADS) -> None:
    """Remove the taint that :func:`set_pending_taint` set for this run. Nodes that are gone are skipped.

    Raises:
        ApiError: the API refused a change; the other nodes were changed nevertheless.
        ApiUnreachable: there was no answer.
    """

    def change(node: Node) -> tuple[JSON | None, None]:
        others = [taint for taint in node.taints if (taint.key, taint.value) != (PENDING_TAINT, run_id)]
        return (None if len(others) == len(node.taints) else _with_taints(others)), None

    _change_all(api, names, change, threads)


def _with_taints(taints: list[Taint]) -> JSON:
    return {"spec": {"taints": [_taint(taint) for taint in taints] or None}}


def _taint(taint: Taint) -> JSON:
    since = {"timeAdded": taint.time_added} if taint.time_added else {}
    return {"key": taint.key, "value": taint.value, "effect": taint.effect, **since}


def _change_all(
    api: Api, names: Iterable[str], decide: Callable[[Node], tuple[JSON | None, None]], threads: Threads
) -> None:
    def change(name: str) -> None:
        try:
            _change(api, name, decide)
        except ApiError as error:
            if error.status != 404:
                raise

    threads.map(change, list(names), "taint", most=_WORKERS)


def _change(api: Api, name: str, decide: Callable[[Node], tuple[JSON | None, Outcome]]) -> Outcome:
    """Read a node, decide on a patch and apply it to just the version that was read; again if it changed meanwhile."""
    for attempt in range(1, _ATTEMPTS + 1):
        node = read_node(api, name)
        patch, outcome = decide(node)
        if patch is None:
            return outcome
        patch["metadata"] = {**patch.get("metadata", {}), "resourceVersion": node.resource_version}
        try:
            api.patch(f"{_NODES}/{name}", patch)
        except ApiError as error:
            if error.status != 409 or attempt == _ATTEMPTS:
                raise
            api.clock.sleep(random.uniform(0, 0.05 * attempt))  # noqa: S311 (spreads clients, no secret)
        else:
            return outcome
    raise AssertionError("unreachable: the last attempt returns or raises")
