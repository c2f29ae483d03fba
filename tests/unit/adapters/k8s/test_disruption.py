"""What a maintenance would do to pods: classes, budgets, placement."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.adapters.k8s.budgets import parse_budget
from fleet.adapters.k8s.demand import Toleration
from fleet.adapters.k8s.disruption import RiskKind, assess
from fleet.adapters.k8s.fitting import admits, tolerates
from fleet.adapters.k8s.model import Node, Taint
from fleet.adapters.k8s.placement import placement
from fleet.adapters.k8s.pods import Pod, PodClass, classify, parse_pod, refusal
from fleet.adapters.k8s.policy import DrainPolicy


def node(name: str, *, cpu: int = 4000, memory: int = 1 << 32, pods: int = 110, **changes: Any) -> Node:
    plain = Node(
        name=name,
        labels={"kubernetes.io/hostname": name},
        annotations={},
        taints=(),
        unschedulable=False,
        ready=True,
        ready_heartbeat=None,
        boot_id="b",
        addresses=(),
        cpu_millis=cpu,
        memory_bytes=memory,
        max_pods=pods,
        resource_version="1",
    )
    return replace(plain, **changes)


def pod(
    name: str,
    on: str,
    *,
    cpu: str = "100m",
    memory: str = "1Mi",
    app: str = "web",
    kind: str | None = "ReplicaSet",
    phase: str = "Running",
    ready: bool = True,
    spec: dict[str, Any] | None = None,
    **metadata: Any,
) -> Pod:
    owners = [{"kind": kind, "name": app, "uid": f"{kind}-{app}", "controller": True}] if kind else []
    resources = {"requests": {"cpu": cpu, "memory": memory}}
    return parse_pod(
        {
            "metadata": {
                "name": name,
                "namespace": "t",
                "uid": f"uid-{name}",
                "labels": {"app": app},
                "ownerReferences": owners,
                **metadata,
            },
            "spec": {"nodeName": on, "containers": [{"resources": resources}], **(spec or {})},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
        }
    )


def budget(name: str, *, app: str = "web", allowed: int = 1, healthy: int = 3, desired: int = 2, **spec: Any) -> Any:
    return parse_budget(
        {
            "metadata": {"name": name, "namespace": "t"},
            "spec": {"selector": {"matchLabels": {"app": app}}, **(spec or {"minAvailable": desired})},
            "status": {
                "disruptionsAllowed": allowed,
                "currentHealthy": healthy,
                "desiredHealthy": desired,
                "expectedPods": 3,
            },
        }
    )


def apart(app: str, key: str = "kubernetes.io/hostname") -> dict[str, Any]:
    term = {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}
    return {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}


def cluster(*nodes: Node) -> dict[str, Node]:
    return {each.name: each for each in nodes}


def misfits(pods: Sequence[Pod], nodes: dict[str, Node], *leaving: str) -> list[str]:
    return [misfit.pod.name for misfit in placement(pods, nodes, leaving or nodes)]


EMPTY_DIR = {"volumes": [{"name": "v", "emptyDir": {}}]}
MIRROR = {"kubernetes.io/config.mirror": "x"}


class TestClasses:
    @pytest.mark.parametrize(
        ("found", "expected"),
        [
            (pod("p", "a"), PodClass.EVICT),
            (pod("p", "a", spec=EMPTY_DIR), PodClass.EMPTY_DIR),
            (pod("p", "a", kind=None), PodClass.BARE),
            (pod("p", "a", kind=None, spec=EMPTY_DIR), PodClass.BARE),
            (pod("p", "a", kind="DaemonSet"), PodClass.DAEMONSET),
            (pod("p", "a", kind="DaemonSet", app="gone"), PodClass.BARE),
            (pod("p", "a", kind=None, annotations=MIRROR), PodClass.MIRROR),
            (pod("p", "a", kind=None, phase="Succeeded"), PodClass.FINISHED),
            (pod("p", "a", phase="Failed"), PodClass.FINISHED),
        ],
    )
    def test_each(self, found: Pod, expected: PodClass) -> None:
        assert classify(found, {"DaemonSet-web"}) is expected

    def test_daemonsets_exist_unless_known_otherwise(self) -> None:
        assert classify(pod("p", "a", kind="DaemonSet")) is PodClass.DAEMONSET

    def test_a_bare_pod_with_local_data_needs_both_permissions(self) -> None:
        found = pod("p", "a", kind=None, spec=EMPTY_DIR)
        assert refusal(found, PodClass.BARE, DrainPolicy(bare_pods="evict", empty_dir="refuse"))
        assert refusal(found, PodClass.BARE, DrainPolicy(bare_pods="refuse", empty_dir="evict"))
        assert not refusal(found, PodClass.BARE, DrainPolicy(bare_pods="evict", empty_dir="evict"))

    def test_a_pod_that_is_being_deleted_needs_none(self) -> None:
        found = pod("p", "a", kind=None, deletionTimestamp="2026-01-01T00:00:00Z")
        assert not refusal(found, PodClass.BARE, DrainPolicy())


class TestAssess:
    def risks(self, pods: Sequence[Pod], budgets: Sequence[Any] = (), **policy: Any) -> dict[RiskKind, str]:
        nodes = cluster(node("a"), node("b"))
        found = assess(pods, budgets, nodes, {"a"}, DrainPolicy(**policy))
        return {risk.kind: risk.what for risk in found.risks}

    def test_nothing_to_say(self) -> None:
        nodes = cluster(node("a"), node("b"))
        pods = [pod("p", "a"), pod("q", "b", kind=None), pod("agent", "a", kind="DaemonSet")]
        found = assess(pods, [budget("x")], nodes, {"a"}, DrainPolicy())
        assert not found.risks
        assert found.evictions == {"a": 1}

    def test_refused_pods_are_named(self) -> None:
        risks = self.risks([pod("p", "a", kind=None), pod("q", "a", spec=EMPTY_DIR)], empty_dir="refuse")
        assert set(risks) == {RiskKind.REFUSED}
        pods = [pod("p", "a", kind=None), pod("q", "a", spec=EMPTY_DIR)]
        found = assess(pods, [], cluster(node("a"), node("b")), {"a"}, DrainPolicy(empty_dir="refuse"))
        assert len(found.risks) == 2
        assert "p on a" in found.risks[0].what
        assert found.risks[0].nodes == ("a",)

    def test_allowed_losses_are_named(self) -> None:
        risks = self.risks([pod("p", "a", kind=None), pod("q", "a", spec=EMPTY_DIR)], bare_pods="evict")
        assert "p on a" in risks[RiskKind.BARE]
        assert "ReplicaSet t/web (q on a)" in risks[RiskKind.EMPTY_DIR]
        assert not any(kind.is_fatal for kind in risks)

    def test_overlapping_budgets(self) -> None:
        risks = self.risks([pod("p", "a"), pod("q", "b")], [budget("one"), budget("two"), budget("other", app="db")])
        assert "(t/one, t/two)" in risks[RiskKind.OVERLAP]
        assert "q on b" not in risks[RiskKind.OVERLAP]

    @pytest.mark.parametrize(
        "spec", [{"maxUnavailable": 0}, {"maxUnavailable": "0%"}, {"minAvailable": "100%"}, {"minAvailable": 3}]
    )
    def test_budget_that_can_never_allow(self, spec: dict[str, Any]) -> None:
        risks = self.risks([pod("p", "a")], [budget("x", allowed=0, desired=3, **spec)])
        assert set(risks) == {RiskKind.NEVER}
        assert f"{next(iter(spec))} {next(iter(spec.values()))}" in risks[RiskKind.NEVER]

    def test_budget_that_allows_nothing_now(self) -> None:
        risks = self.risks([pod("p", "a")], [budget("x", allowed=0, healthy=2)])
        assert risks == {
            RiskKind.CLOSED: "The budget t/x allows no disruption now (2 of 3 pods are healthy, 2 must be): "
            "ReplicaSet t/web (p on a)."
        }

    def test_budgets_of_pods_that_stay_are_no_matter(self) -> None:
        pods = [pod("p", "b"), pod("agent", "a", kind="DaemonSet")]
        assert not self.risks(pods, [budget("x", allowed=0, desired=3)])

    @pytest.mark.parametrize(("version", "covered"), [("policy/v1", True), ("policy/v1beta1", False)])
    def test_empty_selector(self, version: str, covered: bool) -> None:
        found = parse_budget({"metadata": {"name": "x", "namespace": "t"}, "spec": {"selector": {}}}, version=version)
        assert found.covers(pod("p", "a")) is covered

    def test_pods_that_fit_nowhere(self) -> None:
        risks = self.risks([pod("p", "a", cpu="3"), pod("q", "b", cpu="2")])
        assert "p on a" in risks[RiskKind.NOWHERE]
        assert "not enough free CPU" in risks[RiskKind.NOWHERE]


class TestPlacement:
    def test_pods_of_one_node_are_packed_together(self) -> None:
        pods = [pod("p", "a", cpu="3"), pod("q", "a", cpu="3"), pod("r", "a", cpu="1")]
        assert len(misfits(pods, cluster(node("a"), node("b")), "a")) == 1
        assert not misfits(pods, cluster(node("a"), node("b"), node("c")), "a")

    def test_one_node_leaves_at_a_time(self) -> None:
        nodes = cluster(node("a"), node("b"), node("c"))
        assert not misfits([pod(name, name, cpu="4") for name in "ab"], nodes)
        assert misfits([pod(name, name, cpu="4") for name in "abc"], nodes) == ["a", "b", "c"]

    def test_cordoned_and_unready_nodes_take_nothing(self) -> None:
        nodes = cluster(node("a"), node("b", unschedulable=True), node("c", ready=False))
        assert misfits([pod("p", "a")], nodes) == ["p"]
        (misfit,) = placement([pod("p", "a")], nodes, ["a"])
        assert misfit.why == "fits on none of the 2 other nodes: 1 is cordoned; 1 is not ready"

    def test_full_number_of_pods(self) -> None:
        assert misfits([pod("p", "a"), pod("q", "b")], cluster(node("a"), node("b", pods=1)), "a") == ["p"]

    def test_finished_pods_need_no_room(self) -> None:
        pods = [pod("p", "a", cpu="4"), pod("q", "b", cpu="4", phase="Succeeded")]
        assert not misfits(pods, cluster(node("a"), node("b")), "a")

    def test_node_selector_and_affinity(self) -> None:
        terms = [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        wanting = [
            pod("p", "a", spec={"nodeSelector": {"disk": "ssd"}}),
            pod("q", "a", spec={"affinity": {"nodeAffinity": required}}),
        ]
        assert misfits(wanting, cluster(node("a"), node("b")), "a") == ["p", "q"]
        assert not misfits(wanting, cluster(node("a"), node("b", labels={"disk": "ssd"})), "a")

    def test_affinity_to_one_node_by_name(self) -> None:
        fields = [{"key": "metadata.name", "operator": "In", "values": ["a"]}]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": fields}]}}
        pods = [pod("p", "a", spec={"affinity": {"nodeAffinity": required}})]
        assert misfits(pods, cluster(node("a"), node("b")), "a") == ["p"]

    def test_taints(self) -> None:
        tainted = node("b", taints=(Taint("gpu", "yes", "NoSchedule"), Taint("soft", "", "PreferNoSchedule")))
        tolerating = pod("q", "a", spec={"tolerations": [{"key": "gpu", "operator": "Exists"}]})
        assert misfits([pod("p", "a"), tolerating], cluster(node("a"), tainted), "a") == ["p"]

    def test_anti_affinity_by_node(self) -> None:
        pods = [pod(f"p{name}", name, spec=apart("web")) for name in "abc"]
        assert misfits(pods, cluster(*map(node, "abc"))) == ["pa", "pb", "pc"]
        assert not misfits(pods, cluster(*map(node, "abcd")))

    def test_anti_affinity_by_zone(self) -> None:
        pods = [pod(f"p{name}", name, spec=apart("web", "zone")) for name in "ac"]
        zones = {"a": "1", "b": "1", "c": "2", "d": "2"}
        nodes = cluster(*(node(name, labels={"zone": zone}) for name, zone in zones.items()))
        assert not misfits(pods, nodes), "a pod that leaves its zone may come back to it"
        del nodes["b"]
        assert misfits(pods, nodes) == ["pa"]

    def test_anti_affinity_of_the_pods_that_are_there(self) -> None:
        pods = [pod("p", "a"), pod("q", "b", app="db", spec=apart("web"))]
        assert misfits(pods, cluster(node("a"), node("b")), "a") == ["p"]

    def test_anti_affinity_among_the_pods_that_move(self) -> None:
        pods = [pod("p", "a", app="x", spec=apart("y")), pod("q", "a", app="y")]
        assert len(misfits(pods, cluster(node("a"), node("b")), "a")) == 1

    def test_init_containers_and_overhead(self) -> None:
        init = [{"resources": {"requests": {"cpu": "3"}}}]
        assert pod("p", "a", spec={"initContainers": init}).demand.cpu_millis == 3000
        sidecar = [{**init[0], "restartPolicy": "Always"}]
        spec = {"initContainers": sidecar, "overhead": {"cpu": "250m"}}
        assert pod("p", "a", spec=spec).demand.cpu_millis == 3350


ZONES = st.sampled_from(["x", "y"])
SPECS = st.sampled_from(
    [
        {},
        apart("web"),
        apart("db"),
        apart("web", "zone"),
        {"nodeSelector": {"zone": "x"}},
        {"tolerations": [{"key": "t", "operator": "Exists"}]},
    ]
)


@st.composite
def small_clusters(draw: st.DrawFn) -> tuple[list[Pod], dict[str, Node]]:
    names = [f"n{index}" for index in range(draw(st.integers(2, 4)))]
    nodes = cluster(
        *(
            node(
                name,
                cpu=draw(st.integers(1, 4)) * 1000,
                labels={"kubernetes.io/hostname": name, "zone": draw(ZONES)},
                unschedulable=draw(st.integers(0, 5)) == 0,
                taints=(Taint("t", "", "NoSchedule"),) if draw(st.integers(0, 3)) == 0 else (),
            )
            for name in names
        )
    )
    pods = [
        pod(
            f"p{index}",
            draw(st.sampled_from(names)),
            cpu=str(draw(st.integers(0, 3))),
            app=draw(st.sampled_from(["web", "db"])),
            spec=draw(SPECS),
        )
        for index in range(draw(st.integers(0, 6)))
    ]
    return pods, nodes


def is_possible(pods: Sequence[Pod], nodes: dict[str, Node], leaving: str) -> bool:
    """Find out by trying everything whether all pods of a node have a place on the others."""
    moving = [each for each in pods if each.node == leaving]
    staying = [each for each in pods if each.node != leaving]
    others = [name for name in nodes if name != leaving]
    return any(
        is_valid(staying, [replace(each, node=name) for each, name in zip(moving, targets, strict=True)], nodes)
        for targets in itertools.product(others, repeat=len(moving))
    )


def is_valid(there: Sequence[Pod], new: Sequence[Pod], nodes: dict[str, Node]) -> bool:
    for each in new:
        if admits(nodes[each.node], each.demand):
            return False
        used = sum(other.demand.cpu_millis for other in (*there, *new) if other.node == each.node)
        if each.demand.cpu_millis and used > nodes[each.node].cpu_millis:
            return False
    for each, other in itertools.product(new, (*there, *new)):
        if each is not other and (collides(each, other, nodes) or collides(other, each, nodes)):
            return False
    return True


def collides(holder: Pod, other: Pod, nodes: dict[str, Node]) -> bool:
    for term in holder.demand.anti_affinity:
        domains = {nodes[each.node].labels[term.topology_key] for each in (holder, other)}
        if len(domains) == 1 and all(requirement.matches(other.labels) for requirement in term.selector):
            return True
    return False


@given(small_clusters())
@settings(max_examples=400, deadline=None)
def test_no_misfit_means_that_there_is_a_place_for_all(given_cluster: tuple[list[Pod], dict[str, Node]]) -> None:
    pods, nodes = given_cluster
    for name in nodes:
        if not misfits(pods, nodes, name):
            assert is_possible(pods, nodes, name)


@given(small_clusters())
@settings(max_examples=400, deadline=None)
def test_a_pod_that_fits_nowhere_by_itself_is_always_a_misfit(
    given_cluster: tuple[list[Pod], dict[str, Node]],
) -> None:
    pods, nodes = given_cluster
    for each in pods:
        alone = [other for other in pods if other.node != each.node or other is each]
        if not is_possible(alone, nodes, each.node):
            assert each.ref.name in misfits(pods, nodes, each.node)


@given(small_clusters())
@settings(max_examples=200, deadline=None)
def test_a_large_empty_node_takes_all_that_may_be_anywhere(given_cluster: tuple[list[Pod], dict[str, Node]]) -> None:
    pods, nodes = given_cluster
    free = [each for each in pods if not each.demand.anti_affinity and not each.demand.node_selector]
    nodes["large"] = node("large", cpu=1_000_000, labels={"kubernetes.io/hostname": "large", "zone": "z"})
    assert not misfits(free, nodes, *(name for name in nodes if name != "large"))


@given(small_clusters(), st.randoms())
@settings(max_examples=100, deadline=None)
def test_every_eviction_is_counted_and_no_node_but_the_leaving_is_concerned(
    given_cluster: tuple[list[Pod], dict[str, Node]], random: Any
) -> None:
    pods, nodes = given_cluster
    leaving = {name for name in nodes if random.random() < 0.5}
    found = assess(pods, [budget("x", allowed=0), budget("y", app="db")], nodes, leaving, DrainPolicy())
    assert set(found.evictions) == leaving
    assert sum(found.evictions.values()) == sum(each.node in leaving for each in pods)
    assert all(set(risk.nodes) <= leaving for risk in found.risks)


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        (Toleration("k", "Equal", "v", "NoSchedule"), True),
        (Toleration("k", "Equal", "v", ""), True),
        (Toleration("k", "Exists", "", ""), True),
        (Toleration("", "Exists", "", ""), True),
        (Toleration("k", "Equal", "other", ""), False),
        (Toleration("k", "Equal", "v", "NoExecute"), False),
        (Toleration("other", "Exists", "", ""), False),
        (Toleration("", "Equal", "", ""), False),
    ],
)
def test_tolerations(toleration: Toleration, expected: bool) -> None:
    assert tolerates([toleration], Taint("k", "v", "NoSchedule")) is expected
