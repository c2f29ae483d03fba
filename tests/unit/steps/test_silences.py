"""The steps about silences and alerts, over several Alertmanagers in memory."""

from dataclasses import replace

import pytest

from fleet.adapters.alertmanager.alertmanager import SilenceError
from fleet.adapters.alertmanager.silences import Silences
from fleet.engine.model import Kind, Target, TargetState, Verdict
from fleet.steps.alerts import Alerts
from fleet.steps.base import HostStep
from fleet.steps.cluster import Cluster
from fleet.steps.silences import SilenceNode, Unsilence, extend
from worlds.hosts import World
from worlds.mesh import InTurn, Mesh, Time

A, B = "http://a", "http://b"
UNITS = [TargetState(Target("cp1"))]


@pytest.fixture
def mesh() -> Mesh:
    return Mesh(A, B, clock=Time())


@pytest.fixture
def cluster(mesh: Mesh) -> Cluster:
    silences = Silences([A, B], transport=mesh, clock=mesh.clock, threads=InTurn())
    return replace(World(["cp1"]).cluster(["cp1"]), silences=silences)


def check(step: HostStep, *facts: str) -> Verdict:
    states = [replace(UNITS[0], facts={"alerts_before": list(facts)})]
    return step.check(states)["cp1"]


def test_a_silence_has_to_be_at_every_member(cluster: Cluster, mesh: Mesh) -> None:
    step = SilenceNode(cluster)
    assert not check(step).undone
    step.apply(UNITS, lambda _unit, _line: None)
    assert check(step).kind is Kind.DONE

    mesh.members[B].silences = {}

    verdict = check(step)
    assert (verdict.kind, verdict.undone, verdict.detail) == (Kind.PENDING, True, f"not silenced at {B}")
    step.apply(UNITS, lambda _unit, _line: None)
    assert check(step).kind is Kind.DONE
    assert len(mesh.in_force(A)) == 1


def test_an_alert_that_the_second_member_alone_knows_keeps_the_gate_closed(cluster: Cluster, mesh: Mesh) -> None:
    gate = Alerts(cluster)
    assert check(gate).kind is Kind.DONE

    mesh.members[B].fire("cp1:9100", "DiskBroken")

    assert check(gate).detail == "firing: DiskBroken"
    assert check(gate, "DiskBroken").kind is Kind.DONE


def test_a_member_that_is_down_leaves_it_unknown(cluster: Cluster, mesh: Mesh) -> None:
    mesh.members[B].down = "connection refused"

    with pytest.raises(SilenceError, match="1 of 2 members of Alertmanager could not be asked"):
        check(Alerts(cluster))


def test_silences_of_a_broken_mesh_are_extended_and_ended_at_both(cluster: Cluster, mesh: Mesh) -> None:
    mesh.cut = True
    facts = SilenceNode(cluster).apply(UNITS, lambda _unit, _line: None)["cp1"].facts
    mesh.clock.sleep(300)

    extend(cluster, [replace(UNITS[0], facts=facts)], 900)

    ends = [mesh.in_force(name)[0]["endsAt"] for name in (A, B)]
    assert ends[0] == ends[1]
    Unsilence(cluster).apply(UNITS, lambda _unit, _line: None)
    assert check(Unsilence(cluster)).kind is Kind.DONE
    assert not mesh.in_force(A) + mesh.in_force(B)
