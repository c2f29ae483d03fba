"""Single steps of nodes, each guard of its own, in a world of nodes that also watches over the rules itself."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fleet.adapters.k8s import nodes
from fleet.adapters.k8s.nodes import PENDING_TAINT, Owner, ownership
from fleet.engine import plan
from fleet.engine.findings import Found, Level, merged
from fleet.engine.journal import Journal
from fleet.engine.model import Kind, Phase, Status, Target, TargetState, Verdict
from fleet.procedures import preflight
from fleet.steps.alerts import Alerts
from fleet.steps.base import HostStep
from fleet.steps.cleanup import EndSilences, TaintPending, Untaint
from fleet.steps.cluster import Cluster
from fleet.steps.cordon import Cordon, Uncordon
from fleet.steps.drain import Drain
from fleet.steps.look import Look
from fleet.steps.reboot import Puppet, Reboot
from fleet.steps.silences import SilenceNode, Unsilence, extend
from worlds.kubernetes import NODES, PODS
from worlds.nodes import World
from worlds.troubles import TROUBLES


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, lag=0.0)


@pytest.fixture
def cluster(world: World) -> Cluster:
    return world.cluster("w1", "w2", "w3")


def state(*, phase: Phase = Phase.CHECK, **facts: Any) -> TargetState:
    return TargetState(Target("w1", "row-a"), Status.RUNNING, phase=phase, facts=facts)


def tell(unit: str, line: str) -> None:
    """Tell nobody."""


def check(step: Any, asked: TargetState | None = None) -> Verdict:
    found: Mapping[str, Verdict] = step.check([asked or state()])
    return found["w1"]


def act(step: Any, asked: TargetState | None = None) -> Verdict:
    found: Mapping[str, Verdict] = step.apply([asked or state()], tell)
    return found["w1"]


def drained(world: World, cluster: Cluster) -> Reboot:
    """Take w1 out of service, and note its boot."""
    act(SilenceNode(cluster))
    act(Cordon(cluster))
    drain = Drain(cluster)
    while check(drain).kind is not Kind.DONE:
        act(drain)
        world.advance(1.0)
    world.advance(3.0)
    return Reboot(cluster)


def noted(step: Reboot) -> TargetState:
    return state(phase=Phase.APPLY, **check(step).facts)


class TestTheLastGuard:
    def test_a_node_that_is_closed_and_empty_is_rebooted(self, world: World, cluster: Cluster) -> None:
        step = drained(world, cluster)

        assert act(step, noted(step)).kind is Kind.DONE
        world.advance(1.0)
        assert world.machines.acts["w1"] == 1

    def test_it_asks_for_the_cordon(self, world: World, cluster: Cluster) -> None:
        step = drained(world, cluster)
        world.kubernetes.patch(NODES, "w1", {"spec": {"unschedulable": None}})

        assert act(step, noted(step)).kind is Kind.FAILED

    def test_it_asks_whose_cordon_it_is(self, world: World, cluster: Cluster) -> None:
        step = drained(world, cluster)
        world.kubernetes.patch(NODES, "w1", {"metadata": {"annotations": None}})

        assert act(step, noted(step)).kind is Kind.FAILED

    def test_a_cordon_of_another_run_is_none_of_ours(self, world: World, cluster: Cluster) -> None:
        step = drained(world, cluster)
        value = world.kubernetes.all(NODES)[0]["metadata"]["annotations"][nodes.OWNER_ANNOTATION]
        notes = {nodes.OWNER_ANNOTATION: value.replace('"r1"', '"r2"')}
        world.kubernetes.patch(NODES, "w1", {"metadata": {"annotations": notes}})

        assert act(step, noted(step)).kind is Kind.FAILED

    def test_it_asks_for_pods(self, world: World, cluster: Cluster) -> None:
        step = drained(world, cluster)
        pod = next(pod for pod in world.kubernetes.all(PODS) if pod["metadata"]["labels"]["app"] == "batch")
        world.kubernetes.patch(PODS, pod["metadata"]["name"], {"spec": {"nodeName": "w1"}}, "default")

        assert "pods are on it again" in act(step, noted(step)).detail

    def test_it_asks_for_volumes(self, world: World, cluster: Cluster) -> None:
        step = drained(world, cluster)
        world.kubernetes.put("volumeattachments", {"metadata": {"name": "csi-1"}, "spec": {"nodeName": "w1"}})

        verdict = act(step, noted(step))

        assert (verdict.kind, verdict.detail) == (Kind.FAILED, "csi-1 is attached (csi-1); it was not rebooted")

    def test_it_silences_what_somebody_has_made_loud_again(self, world: World, cluster: Cluster) -> None:
        step = drained(world, cluster)
        TROUBLES["expire silences"](world, "w1", 0.0)

        assert act(step, noted(step)).kind is Kind.DONE

    def test_a_host_that_refuses_is_held(self, world: World, cluster: Cluster) -> None:
        step = drained(world, cluster)
        world.machines.machines["w1"].refuses = True

        assert act(step, noted(step)).kind is Kind.FAILED

    def test_an_order_that_is_not_confirmed_is_remembered(self, world: World, cluster: Cluster) -> None:
        step = drained(world, cluster)
        world.machines.machines["w1"].delay = 9.0

        assert act(step, noted(step)).facts["unconfirmed"] is True


class TestCordon:
    def test_a_node_of_another_run_is_left_alone(self, world: World, cluster: Cluster) -> None:
        nodes.cordon(cluster.api, "w1", Owner("r1", "ann", "kernel"))
        other = replace(cluster, run=replace(cluster.run, id="r2"))

        assert act(Cordon(other)).kind is Kind.FAILED
        owner = ownership(nodes.read_node(cluster.api, "w1"))
        assert owner is not None
        assert owner.run == "r1"

    def test_only_a_cordon_in_the_name_of_the_run_counts(self, world: World, cluster: Cluster) -> None:
        world.kubernetes.patch(NODES, "w1", {"spec": {"unschedulable": True}})
        assert check(Cordon(cluster)).kind is Kind.PENDING

    def test_what_others_cordoned_stays_cordoned(self, world: World, cluster: Cluster) -> None:
        world.kubernetes.patch(NODES, "w1", {"spec": {"unschedulable": True}})
        act(Cordon(cluster))
        assert check(Cordon(cluster)).facts["was_cordoned"] is True

        act(Uncordon(cluster))

        assert nodes.read_node(cluster.api, "w1").unschedulable
        assert check(Uncordon(cluster)).kind is Kind.DONE


class TestDrain:
    def test_pods_that_are_there_are_no_drained_node(self, world: World, cluster: Cluster) -> None:
        act(Cordon(cluster))
        assert check(Drain(cluster)).kind is Kind.PENDING

    def test_nothing_is_evicted_from_a_node_that_somebody_has_opened(self, world: World, cluster: Cluster) -> None:
        before = {pod["metadata"]["name"] for pod in world.kubernetes.all(PODS)}
        assert act(Drain(cluster)).kind is Kind.FAILED
        world.advance(5.0)
        assert {pod["metadata"]["name"] for pod in world.kubernetes.all(PODS)} == before

    def test_a_drain_ends_when_its_node_was_opened(self, world: World, cluster: Cluster) -> None:
        act(Cordon(cluster))
        step = Drain(cluster)
        act(step)
        world.kubernetes.patch(NODES, "w1", {"spec": {"unschedulable": None}})

        assert check(step, state(phase=Phase.VERIFY)).kind is Kind.FAILED


class TestWayBack:
    def test_a_node_that_is_still_marked_is_not_given_back(self, world: World, cluster: Cluster) -> None:
        act(Cordon(cluster))
        assert check(Uncordon(cluster)).kind is Kind.PENDING

    def test_the_taint_goes_too(self, world: World, cluster: Cluster) -> None:
        nodes.set_pending_taint(cluster.api, ["w1"], "r1")
        assert check(Uncordon(cluster)).undone
        act(Uncordon(cluster))
        assert check(Uncordon(cluster)).kind is Kind.DONE

    def test_taints_of_other_runs_stay(self, world: World, cluster: Cluster) -> None:
        nodes.set_pending_taint(cluster.api, ["w1"], "r2")

        act(Uncordon(cluster))
        act(Untaint(cluster))

        assert [taint.value for taint in nodes.read_node(cluster.api, "w1").taints] == ["r2"]

    def test_nodes_that_are_done_are_not_tainted_again(self, world: World, cluster: Cluster) -> None:
        done = TargetState(Target("w1"), Status.DONE)
        step = TaintPending(cluster, lambda: {"w1": done, "w2": TargetState(Target("w2"))})
        act(step)
        tainted = {node.name: node.taints for node in nodes.list_nodes(cluster.api)}
        assert [name for name, taints in tainted.items() if any(t.key == PENDING_TAINT for t in taints)] == ["w2"]


class TestSilences:
    def test_silences_of_others_are_not_ended(self, world: World, cluster: Cluster) -> None:
        TROUBLES["silence"](world, "w1", 500.0)
        act(SilenceNode(cluster))

        act(Unsilence(cluster))

        left = [
            silence.author for silence in world.alertmanagers.in_force(world.alertmanagers.members["http://am1:9093"])
        ]
        assert left == ["bob"]

    def test_those_of_held_nodes_last(self, world: World, cluster: Cluster) -> None:
        act(SilenceNode(cluster))
        step = EndSilences(cluster, lambda: {"w1": state()}, lambda _state: True)
        assert check(step).undone

        act(step)

        (silence,) = {kept.id: kept for kept in world.alertmanagers.ours()}.values()
        assert silence.ends_at - world.now > 14000

    def test_those_of_others_end(self, world: World, cluster: Cluster) -> None:
        act(SilenceNode(cluster))
        step = EndSilences(cluster, lambda: {"w1": state()}, lambda _state: False)
        act(step)
        assert world.alertmanagers.ours() == []

    def test_one_that_has_gone_is_made_anew(self, world: World, cluster: Cluster) -> None:
        act(SilenceNode(cluster))
        silence = check(SilenceNode(cluster)).facts["silence"]
        TROUBLES["expire silences"](world, "w1", 0.0)

        extend(cluster, [state(silence=silence)], 900.0)

        assert world.alertmanagers.loud("w1") == []

    def test_alerts_that_fired_before_keep_nobody_and_others_do(self, world: World, cluster: Cluster) -> None:
        TROUBLES["alert at one member"](world, "w1", 500.0)
        assert check(Alerts(cluster)).kind is Kind.PENDING
        assert check(Alerts(cluster), state(alerts_before=["DiskFull"])).kind is Kind.DONE

    def test_what_fires_later_did_not_fire_before(self, world: World, cluster: Cluster) -> None:
        act(SilenceNode(cluster))
        TROUBLES["alert"](world, "w1", 500.0)
        assert check(SilenceNode(cluster), state(alerts_before=[])).facts["alerts_before"] == []


class TestPreflight:
    def findings(self, cluster: Cluster, *steps: HostStep) -> list[str]:
        look = Look(cluster)
        told = merged([Found(tuple(preflight.of_hosts(cluster, look))), *(step.preflight(look) for step in steps)])
        return [found.what for found in told.findings if found.level is Level.STOP]

    def test_a_host_without_reboot_host_is_named(self, world: World, cluster: Cluster) -> None:
        assert self.findings(cluster, Reboot(cluster)) == []
        world.machines.machines["w1"].can_reboot = False
        assert self.findings(cluster, Reboot(cluster)) == ["w1 has no reboot-host in its PATH."]
        assert self.findings(cluster, Puppet(cluster)) == []

    def test_a_host_whose_puppet_is_disabled_is_named(self, world: World, cluster: Cluster) -> None:
        world.machines.machines["w1"].puppet = "by hand"
        assert self.findings(cluster, Puppet(cluster)) == ["Puppet is disabled on w1: 'by hand'"]

    def test_a_host_that_does_not_answer_is_named(self, world: World, cluster: Cluster) -> None:
        world.machines.machines["w1"].answers = False
        assert "No answer over SSH from w1" in self.findings(cluster)[0]

    def test_a_run_that_was_interrupted_is_in_the_way_on_its_own_cluster(self, world: World, cluster: Cluster) -> None:
        for number, name in enumerate(("lab", "other")):
            info = replace(cluster.run, id=f"2026013{number}-030000-reboot-nodes-{name}-4f2a", cluster=name)
            Journal.create(world.folder, info, {"nodes": [state()]}).close()

        found = [each.what for each in preflight.of_runs(cluster, world.folder)]

        assert found == ["Run 20260130-030000-reboot-nodes-lab-4f2a was interrupted; in flight: nothing."]

    def test_a_disabled_puppet_holds_a_node(self, world: World, cluster: Cluster) -> None:
        world.machines.machines["w1"].puppet = "by hand"
        assert check(Puppet(cluster)).kind is Kind.FAILED


def test_a_plan_goes_by_the_runs_of_its_own_cluster(world: World, cluster: Cluster) -> None:
    run_id = "20260131-030000-reboot-nodes-other-lab-4f2a"
    info = replace(cluster.run, id=run_id, cluster="other-lab")
    book = Journal.create(world.folder, info, {"nodes": [state()]}, world)
    for kind, step in (("start", ""), ("done", "drain")):
        book.record("nodes", [replace(state(), status=Status.DONE)], step=step, kind=kind)
        world.advance(30.0)
    book.close()

    assert plan.target_seconds(world.folder, cluster.run.procedure, "lab", "nodes") is None
    assert plan.target_seconds(world.folder, cluster.run.procedure, "other-lab", "nodes") is not None


def test_a_dry_run_touches_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    before = [item for items in world.kubernetes.objects.values() for item in items.values()]

    assert world.start(dry_run=True) == 0

    assert [item for items in world.kubernetes.objects.values() for item in items.values()] == before
    assert not world.alertmanagers.ours()
    assert not world.machines.acts
