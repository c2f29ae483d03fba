"""Each step brings its own preflight: what it looks at, what it shows in the plan, and the rights that it needs."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fleet.adapters.hosts.probe import HostState
from fleet.adapters.k8s.access import Right
from fleet.adapters.k8s.errors import ApiError
from fleet.engine.declaration import Specified
from fleet.engine.findings import Finding, Found, Level, ask, merged, note, stop
from fleet.engine.model import Limits, Target
from fleet.engine.plan import RollingPlan
from fleet.procedures import preflight
from fleet.steps.base import HostStep, NodeStep
from fleet.steps.bgp import Baseline
from fleet.steps.cluster import Cluster
from fleet.steps.daemon import Restart
from fleet.steps.drain import EVICTIONS, Drain
from fleet.steps.look import Look
from fleet.steps.puppet import PuppetOff
from fleet.steps.stacked import Only
from worlds.nodes import World

NODES = ("w1", "w2", "w3")


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return World(tmp_path, lag=0.0).cluster(*NODES)


class Defragment(NodeStep):
    """A step that no other file knows."""

    name = "defragment"
    rights = (Right("deletecollection", "leases", "tidy up"),)

    def preflight(self, look: Look) -> Found:
        """Look at the disks."""
        look.once("disks", lambda: DISKS_ASKED.append(self.name))
        return Found((note("w1 has a full disk."),), {"w1": {"disk": 97}}, {"disk": {"w1": "97 %"}})


DISKS_ASKED: list[str] = []


class Refusing:
    """An API that does not let anybody delete, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def create(self, path: str, body: Any) -> Any:
        verb = body["spec"]["resourceAttributes"]["verb"]
        self.asked.append(verb)
        return {"status": {"allowed": verb != "deletecollection"}}


@pytest.mark.parametrize("wrapping", ["bare", "only", "specified"])
def test_a_new_step_is_looked_at_without_any_other_file(cluster: Cluster, wrapping: str) -> None:
    api: Any = Refusing()
    cluster = replace(cluster, api=api)
    own = Defragment(cluster)
    step = {"bare": own, "only": Only(own, ["w1"]), "specified": Specified(own.spec, own)}[wrapping]

    found = preflight.with_steps([lambda: [note("First.")]], [step], Look(cluster))

    assert [it.what for it in found.findings if it.level is Level.NOTE] == ["First.", "w1 has a full disk."]
    assert [it.what.partition(" may not ")[2] for it in found.findings if it.level is Level.STOP] == ["tidy up."]
    assert (found.facts, found.columns) == ({"w1": {"disk": 97}}, {"disk": {"w1": "97 %"}})


def test_what_two_steps_find_is_told_once_and_what_they_share_is_asked_once(cluster: Cluster) -> None:
    DISKS_ASKED.clear()
    api: Any = Refusing()
    cluster = replace(cluster, api=api)
    found = preflight.with_steps([], [Defragment(cluster), Defragment(cluster)], Look(cluster))
    assert [it.what for it in found.findings].count("w1 has a full disk.") == 1
    assert len(found.findings) == 2
    assert len(DISKS_ASKED) == 1
    assert api.asked.count("deletecollection") == 1


def test_an_error_is_the_answer_for_everybody(cluster: Cluster) -> None:
    look, asked = Look(cluster), []

    def fails() -> Mapping[str, HostState]:
        asked.append(1)
        raise ApiError("GET", 500, "broken", "")

    for _ in range(2):
        with pytest.raises(ApiError, match="broken"):
            look.once("it", fails)
    assert len(asked) == 1


def test_what_is_merged_keeps_its_order_and_what_each_knows_of_a_target() -> None:
    first = Found((stop("a", "x"), note("b")), {"w1": {"x": 1}}, {"c": {"w1": "1"}})
    second = Found((note("b"), ask("c", "y")), {"w1": {"y": 2}}, {"c": {"w2": "2"}})
    found = merged([first, second])
    assert found.findings == (stop("a", "x"), note("b"), ask("c", "y"))
    assert (found.facts, found.columns) == ({"w1": {"x": 1, "y": 2}}, {"c": {"w1": "1", "w2": "2"}})


class Unreadable:
    """An API that does not even tell its version."""

    def version(self) -> str:
        raise ApiError("GET", 500, "Internal Server Error", "etcd is away")


def shown(columns: Mapping[str, Mapping[str, str]], findings: tuple[Finding, ...]) -> str:
    console = Console(file=io.StringIO(), width=200)
    units = [Target(name, "row-a") for name in NODES]
    RollingPlan("title", units, [("node", ["drain"])], Limits(), columns, findings, None).render(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_drain_shows_how_many_pods_it_evicts(cluster: Cluster) -> None:
    found = Drain(cluster).preflight(Look(cluster))
    assert set(found.columns[EVICTIONS]) == set(NODES)
    text = shown(found.columns, ())
    assert "pods to evict" in text
    assert "?" not in text


def test_a_drain_that_could_not_be_looked_at_is_not_shown_as_one_without_pods(cluster: Cluster) -> None:
    api: Any = Unreadable()
    cluster = replace(cluster, api=api)
    found = Drain(cluster).preflight(Look(cluster))
    (finding,) = found.findings
    assert finding.level is Level.STOP
    assert "etcd is away" in finding.what
    rows = [line.split() for line in shown(found.columns, found.findings).splitlines() if "row-a" in line]
    assert [row[-1] for row in rows] == ["?"] * len(NODES)


def of_steps(cluster: Cluster, *steps: HostStep) -> list[tuple[Level, str]]:
    look = Look(cluster)
    found = merged(step.preflight(look) for step in steps)
    return [(it.level, it.what) for it in found.findings if it.level is not Level.NOTE]


def test_hosts_without_an_enabled_puppet_are_asked_about_before_it_is_disabled(tmp_path: Path) -> None:
    world = World(tmp_path, lag=0.0)
    cluster = world.cluster(*NODES)
    assert of_steps(cluster, PuppetOff(cluster)) == []
    world.machines.machines["w2"].puppet = "by hand"
    assert of_steps(cluster, PuppetOff(cluster)) == [(Level.ASK, "Puppet is disabled on w2: 'by hand'")]


def test_the_routers_and_the_unit_are_looked_at_by_those_who_need_them(tmp_path: Path) -> None:
    world = World(tmp_path, lag=0.0)
    cluster = world.cluster(*NODES)
    steps = (Baseline(cluster, graceful=False), Restart(cluster))
    assert of_steps(cluster, *steps) == []
    world.network.go_down("w3")
    assert [(level, what[:40]) for level, what in of_steps(cluster, steps[0])] == [
        (Level.STOP, "w3 has no BGP session with any router: c")
    ]
    assert of_steps(cluster, steps[1]) == []
    world.machines.machines["w1"].is_moving = True
    ((level, what),) = of_steps(cluster, steps[1])
    assert (level, what.partition(" on w1 ")[0]) == (Level.STOP, "calico-node.service")
