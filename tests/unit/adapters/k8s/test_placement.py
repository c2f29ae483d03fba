"""Placement beyond CPU and memory: what the scheduler looks at as well, on JSON as the API has it."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.adapters.k8s.disruption import RiskKind, assess
from fleet.adapters.k8s.model import Node, parse_node
from fleet.adapters.k8s.placement import placement
from fleet.adapters.k8s.pods import Pod, parse_pod
from fleet.adapters.k8s.policy import DrainPolicy
from fleet.adapters.k8s.volumes import Volumes, bound, parse_claim, parse_volume

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_RESOURCES = {"nvidia_com_gpu": "nvidia.com/gpu", "hugepages": "hugepages-2Mi"}


def node(name: str, zone: str = "", *, cordoned: bool = False, **allocatable: str) -> Node:
    return parse_node(
        {
            "metadata": {"name": name, "labels": {HOST: name, ZONE: zone or name}},
            "spec": {"unschedulable": cordoned},
            "status": {
                "allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi"}
                | {_RESOURCES.get(name, name): amount for name, amount in allocatable.items()},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
    )


def pod(
    name: str,
    on: str,
    spec: dict[str, Any] | None = None,
    *,
    requests: dict[str, str] | None = None,
    ports: Sequence[dict[str, Any]] = (),
    app: str = "x",
    namespace: str = "n",
    kind: str = "ReplicaSet",
    **labels: str,
) -> Pod:
    container = {"name": "c", "resources": {"requests": requests or {"cpu": "1"}}, "ports": list(ports)}
    return parse_pod(
        {
            "metadata": {
                "namespace": namespace,
                "name": name,
                "uid": f"{namespace}-{name}",
                "labels": {"app": app, **labels},
                "ownerReferences": [{"kind": kind, "name": app, "uid": app, "controller": True}],
            },
            "spec": {"nodeName": on, "containers": [container], **(spec or {})},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }
    )


def why(
    pods: Sequence[Pod], nodes: Sequence[Node], leaving: str = "a", volumes: Volumes | None = None
) -> dict[str, str]:
    found = placement(pods, {each.name: each for each in nodes}, [leaving], volumes=volumes)
    return {misfit.pod.name: misfit.why.partition(": ")[2] for misfit in found}


GPU = {"cpu": "1", "nvidia.com/gpu": "1"}


def test_extended_resources() -> None:
    nodes = [node("a", nvidia_com_gpu="2"), node("b")]
    assert why([pod("p", "a", requests=GPU)], nodes) == {"p": "1 has not enough free nvidia.com/gpu"}
    nodes[1] = node("b", nvidia_com_gpu="1")
    assert why([pod("p", "a", requests=GPU)], nodes) == {}
    assert "p" in why([pod("p", "a", requests=GPU), pod("q", "b", requests=GPU)], nodes)
    assert len(why([pod("p", "a", requests=GPU), pod("q", "a", requests=GPU)], nodes)) == 1


def test_huge_pages_of_init_containers_and_of_whole_pods() -> None:
    nodes = [node("a"), node("b", hugepages="4Mi")]
    first = {"initContainers": [{"resources": {"requests": {"hugepages-2Mi": "6Mi"}}}]}
    assert why([pod("p", "a", first)], nodes) == {"p": "1 has not enough free hugepages-2Mi"}
    whole = {"resources": {"requests": {"cpu": "9"}}}
    assert why([pod("p", "a", whole, requests={"cpu": "1"})], nodes) == {
        "p": "1 has not enough free CPU, memory or pods"
    }


def test_ephemeral_storage() -> None:
    big = {"ephemeral-storage": "90Gi"}
    assert why([pod("p", "a", requests=big)], [node("a"), node("b")]) == {}
    pods = [pod("p", "a", requests=big), pod("q", "b", requests={"ephemeral-storage": "20Gi"})]
    assert why(pods, [node("a"), node("b")]) == {"p": "1 has not enough free ephemeral storage"}


@pytest.mark.parametrize(
    ("one", "other", "collide"),
    [
        ({"hostPort": 80}, {"hostPort": 80}, True),
        ({"hostPort": 80}, {"hostPort": 81}, False),
        ({"hostPort": 80}, {"hostPort": 80, "protocol": "UDP"}, False),
        ({"hostPort": 80, "hostIP": "10.0.0.1"}, {"hostPort": 80, "hostIP": "10.0.0.2"}, False),
        ({"hostPort": 80, "hostIP": "10.0.0.1"}, {"hostPort": 80}, True),
        ({"containerPort": 80}, {"containerPort": 80}, False),
    ],
)
def test_host_ports(one: dict[str, Any], other: dict[str, Any], collide: bool) -> None:
    there = [pod("p", "a", ports=[one]), pod("q", "b", ports=[other], kind="DaemonSet")]
    assert ("p" in why(there, [node("a"), node("b")])) is collide
    moving = [pod("p", "a", ports=[one]), pod("q", "a", ports=[other])]
    assert bool(why(moving, [node("a"), node("b")])) is collide


def spread(key: str = ZONE, **more: Any) -> dict[str, Any]:
    constraint = {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule"}
    selector = {"labelSelector": {"matchLabels": {"app": "x"}}}
    return {"topologySpreadConstraints": [{**constraint, **selector, **more}]}


def test_a_cordoned_node_still_counts_as_a_domain() -> None:
    """kubernetes#106127: a pod in each zone, and the only node of one zone leaves."""
    nodes = [node("a"), node("b")]
    even = [pod("p", "a", spread()), pod("q", "b", spread())]
    reason = "1 would be ahead of others by more than 1 of its pods per topology.kubernetes.io/zone"
    assert why(even, nodes) == {"p": reason}
    assert why(even, [*nodes, node("a2", "a")]) == {}
    assert why([pod("p", "a", spread(maxSkew=2)), pod("q", "b", spread(maxSkew=2))], nodes) == {}
    honor = spread(nodeTaintsPolicy="Honor")
    assert why([pod("p", "a", honor), pod("q", "b", honor)], nodes) == {}
    anyway = spread(whenUnsatisfiable="ScheduleAnyway")
    assert why([pod("p", "a", anyway), pod("q", "b", anyway)], nodes) == {}


def test_what_a_spread_counts() -> None:
    nodes = [node("a"), node("b"), node("c")]
    rule = spread()
    assert "p" in why([pod("p", "a", rule), pod("q", "b", rule), pod("r", "c", rule)], nodes)
    assert why([pod("p", "a", rule), pod("q", "b", rule), pod("r", "c", rule, app="y")], nodes) == {}
    assert why([pod("p", "a", rule), pod("q", "b", rule), pod("r", "c", rule, namespace="m")], nodes) == {}
    hashed = spread(matchLabelKeys=["revision"])
    old = [pod(name, on, hashed, revision="1") for name, on in (("q", "b"), ("r", "c"))]
    assert why([pod("p", "a", hashed, revision="2"), *old], nodes) == {}
    assert why([pod("p", "a", hashed, revision="1"), *old], nodes) != {}


def test_with_too_few_domains_the_fewest_is_none() -> None:
    nodes = [node("a"), node("a2", "a"), node("b")]
    for least, fits in ((2, True), (3, False)):
        rule = spread(minDomains=least)
        pods = [pod("p", "a", rule), pod("r", "a2", rule), pod("q", "b", rule)]
        assert (why(pods, nodes) == {}) is fits


def test_nodes_that_the_affinity_excludes_are_no_domains() -> None:
    nodes = [node("a"), node("a2", "a"), node("b"), node("c")]
    terms = [{"matchExpressions": [{"key": ZONE, "operator": "NotIn", "values": ["c"]}]}]
    affinity = {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}}}
    rule = spread() | affinity
    pods = [pod("p", "a", rule), pod("q", "b", rule), pod("r", "a2", rule)]
    assert why(pods, nodes) == {}
    assert "1 does not match its node affinity" in why(pods, nodes, "b")["q"]
    assert "2 would be ahead of others by more than 1" in why(pods, nodes, "b")["q"]
    ignoring = spread(nodeAffinityPolicy="Ignore") | affinity
    assert "p" in why([pod("p", "a", ignoring), pod("q", "a2", ignoring), pod("r", "b", ignoring)], nodes)


def together(app: str, key: str = HOST, **more: Any) -> dict[str, Any]:
    term = {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key, **more}
    return {"affinity": {"podAffinity": {REQUIRED: [term]}}}


def test_pod_affinity() -> None:
    nodes = [node("a"), node("b")]
    agent = pod("agent", "a", app="db", kind="DaemonSet")
    reason = {"p": "1 has no pod with which it must share its kubernetes.io/hostname"}
    assert why([pod("p", "a", together("db")), agent], nodes) == reason
    assert why([pod("p", "a", together("db")), agent, pod("db", "b", app="db")], nodes) == {}
    assert why([pod("p", "a", together("db")), agent, pod("db", "b", app="db", namespace="m")], nodes) == reason
    assert why([pod("p", "a", together("db"))], nodes) == reason  # it is not one of those that it wants to be with
    assert why([pod("p", "a", together("x"))], nodes) == {}
    anywhere = together("db", namespaces=["m"])
    assert why([pod("p", "a", anywhere), pod("db", "b", app="db", namespace="m")], nodes) == {}
    assert why([pod("p", "a", together("db", "rack")), pod("db", "b", app="db")], nodes) != {}


def test_pods_that_are_to_be_with_each_other_move_together() -> None:
    nodes = [node("a"), node("b"), node("c")]
    group = [pod(f"p{i}", "a", together("x")) for i in range(3)]
    assert why(group, nodes) == {}
    assert why(group, [node("a"), node("b", pods="2"), node("c", pods="2")]) != {}
    assert why([*group, pod("q", "b", together("x"))], [nodes[0], node("b", pods="2"), nodes[2]]) != {}


def test_a_pod_follows_one_that_is_placed_after_it() -> None:
    pods = [pod("p", "a", together("db"), requests={"cpu": "4"}), pod("db", "a", app="db")]
    assert why(pods, [node("a"), node("b")]) == {}


CLAIM = {"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}


def volumes(*values: str, key: str = HOST) -> Volumes:
    claim = parse_claim({"metadata": {"namespace": "n", "name": "data"}, "spec": {"volumeName": "pv"}})
    terms = [{"matchExpressions": [{"key": key, "operator": "In", "values": list(values)}]}]
    volume = {"metadata": {"name": "pv"}, "spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}}
    name, where = parse_volume(volume)
    assert where
    return bound([claim], {name: where})


def test_local_volumes() -> None:
    nodes = [node("a"), node("b"), node("c", "b")]
    bound_pod = pod("p", "a", CLAIM)
    assert why([bound_pod], nodes, volumes=volumes("a")) == {"p": "2 cannot use its volumes"}
    assert why([bound_pod], nodes, volumes=volumes("a", "b")) == {}
    assert why([bound_pod], nodes, volumes=volumes("b", key=ZONE)) == {}
    assert why([bound_pod], nodes) == {}
    assert why([bound_pod], [nodes[0], node("b", cordoned=True), nodes[2]], volumes=volumes("b")) != {}
    assert parse_volume({"metadata": {"name": "pv"}, "spec": {}}) == ("pv", None)
    assert bound([(("n", "data"), "")], {}) == {}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"schedulerName": "volcano"}, "each is placed by the scheduler volcano, whose rules are not known."),
        ({"resourceClaims": [{"name": "gpu"}]}, "resourceClaims"),
        (together("db", namespaceSelector={"matchLabels": {"team": "a"}}), "namespaceSelector"),
        ({"schedulerName": "default-scheduler"}, ""),
    ],
)
def test_what_cannot_be_known_is_said(spec: dict[str, Any], reason: str) -> None:
    nodes = {name: node(name) for name in ("a", "b")}
    pods = [pod("p", "a", spec), pod("db", "b", app="db")]
    told = [risk.what for risk in assess(pods, [], nodes, ["a"], DrainPolicy()).risks if risk.kind is RiskKind.UNKNOWN]
    assert bool(told) == bool(reason)
    assert all(reason in what for what in told)


counts = st.lists(st.integers(0, 3), min_size=2, max_size=4)


@settings(max_examples=150, deadline=None)
@given(counts, st.integers(1, 2), st.integers(0, 3))
def test_a_spread_is_kept_exactly_as_its_rule_says(there: list[int], skew: int, leaving: int) -> None:
    """One node a zone: each moving pod may go to a zone that then is at most `skew` ahead of the emptiest."""
    leaving %= len(there)
    rule = spread(maxSkew=skew)
    nodes = [node(f"z{zone}") for zone in range(len(there))]
    pods = [pod(f"p{zone}-{i}", f"z{zone}", rule) for zone, count in enumerate(there) for i in range(count)]
    found = why(pods, nodes, f"z{leaving}")
    left, unplaced = [*there], 0
    left[leaving] = 0
    for _ in range(there[leaving]):
        fits = [zone for zone in range(len(left)) if zone != leaving and left[zone] + 1 - min(left) <= skew]
        if fits:
            left[fits[0]] += 1
        else:
            unplaced += 1
    assert len(found) == unplaced
