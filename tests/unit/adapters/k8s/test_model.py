"""Quantities, times, nodes and selectors, as the API writes them."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.k8s.model import Taint, parse_node, parse_quantity, parse_time
from fleet.adapters.k8s.nodes import OWNER_ANNOTATION, Ownership, ownership
from fleet.adapters.k8s.selectors import Requirement, matches, parse_selector


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", "0"),
        ("2", "2"),
        ("250m", "0.25"),
        ("1.5", "1.5"),
        (".5", "0.5"),
        ("128Mi", 128 * 2**20),
        ("1Ki", 1024),
        ("1k", 1000),
        ("3E", 3 * 10**18),
        ("3Ei", 3 * 2**60),
        ("12e6", 12_000_000),
        ("12E6", 12_000_000),
        ("1e-3", "0.001"),
        ("100n", "0.0000001"),
        ("5u", "0.000005"),
        ("-1Gi", -(2**30)),
        (4, 4),
        (0.5, "0.5"),
    ],
)
def test_quantities(text: str | int | float, expected: str | int) -> None:
    assert parse_quantity(text) == Decimal(expected)


@pytest.mark.parametrize("text", ["", "Mi", "1 Gi", "1Zi", "one", "1.2.3", "1m5", "NaN", "Infinity", "e", "1e"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        parse_quantity(text)


@given(st.integers(0, 10**12), st.sampled_from(["", "m", "k", "Ki", "M", "Mi", "G", "Gi"]))
def test_quantities_grow_with_their_number(number: int, suffix: str) -> None:
    assert parse_quantity(f"{number}{suffix}") < parse_quantity(f"{number + 1}{suffix}")


def test_times() -> None:
    assert parse_time("2026-01-02T03:04:05Z") == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert parse_time("2026-01-02T03:04:05.123456Z") == datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)
    assert parse_time(None) is None


def test_node() -> None:
    node = parse_node(
        {
            "metadata": {"name": "a", "labels": {"x": "y"}, "annotations": {"k": "v"}, "resourceVersion": "7"},
            "spec": {"unschedulable": True, "taints": [{"key": "t", "effect": "NoSchedule"}]},
            "status": {
                "conditions": [
                    {"type": "MemoryPressure", "status": "False"},
                    {
                        "type": "Ready",
                        "status": "True",
                        "lastHeartbeatTime": "2026-01-02T03:04:05Z",
                        "lastTransitionTime": "2026-01-01T00:00:00Z",
                    },
                ],
                "nodeInfo": {"bootID": "b"},
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "a"}],
                "allocatable": {"cpu": "31850m", "memory": "1Gi", "pods": "110"},
            },
        }
    )
    assert node.ready
    assert node.unschedulable
    assert node.taints == (Taint("t", "", "NoSchedule"),)
    assert node.ready_heartbeat == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (node.cpu_millis, node.memory_bytes, node.max_pods) == (31850, 2**30, 110)
    assert (node.boot_id, node.addresses, node.resource_version) == ("b", ("10.0.0.1",), "7")


def test_node_that_has_not_reported_yet() -> None:
    node = parse_node({"metadata": {"name": "a"}})
    assert not node.ready
    assert not node.unschedulable
    assert node.ready_heartbeat is None
    assert node.cpu_millis == 0


@pytest.mark.parametrize("value", ["", "{", "[]", '"x"', "{}", '{"run": "r"}', "null"])
def test_annotation_that_somebody_mangled_is_no_ownership(value: str) -> None:
    assert ownership(parse_node({"metadata": {"name": "a", "annotations": {OWNER_ANNOTATION: value}}})) is None


def test_ownership() -> None:
    value = '{"run": "r", "operator": "o", "reason": "why", "was_cordoned": true}'
    node = parse_node({"metadata": {"name": "a", "annotations": {OWNER_ANNOTATION: value}}})
    assert ownership(node) == Ownership("r", "o", "why", True)


@pytest.mark.parametrize(
    ("operator", "values", "labels", "expected"),
    [
        ("In", ("a", "b"), {"k": "a"}, True),
        ("In", ("a", "b"), {"k": "c"}, False),
        ("In", ("a",), {}, False),
        ("NotIn", ("a",), {"k": "b"}, True),
        ("NotIn", ("a",), {}, True),
        ("NotIn", ("a",), {"k": "a"}, False),
        ("Exists", (), {"k": ""}, True),
        ("Exists", (), {}, False),
        ("DoesNotExist", (), {}, True),
        ("DoesNotExist", (), {"k": ""}, False),
        ("Gt", ("3",), {"k": "4"}, True),
        ("Gt", ("3",), {"k": "3"}, False),
        ("Lt", ("3",), {"k": "2"}, True),
        ("Lt", ("3",), {"k": "x"}, False),
        ("Lt", ("3",), {}, False),
        ("Like", ("3",), {"k": "3"}, False),
    ],
)
def test_requirements(operator: str, values: tuple[str, ...], labels: dict[str, str], expected: bool) -> None:
    assert Requirement("k", operator, values).matches(labels) is expected


def test_selectors_need_all_their_requirements() -> None:
    selector = parse_selector(
        {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}
    )
    assert matches(selector, {"app": "web", "tier": "1"})
    assert not matches(selector, {"app": "web"})
    assert not matches(selector, {"tier": "1"})
    assert matches(parse_selector({}), {})
