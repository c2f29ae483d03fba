"""Restarts of etcd's members: no quorum is put at risk in any history, and the leader leads no more when it goes."""

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.engine.findings import Level
from fleet.engine.journal import Journal
from fleet.engine.model import Kind, Target, TargetState
from fleet.procedures.restart_etcd import RestartEtcd, of_members, of_units
from fleet.steps.cluster import Cluster
from fleet.steps.etcd import CaughtUp, Etcd, HandOver
from worlds.etcd import NAMES, UNIT, Members
from worlds.hosts import Killed
from worlds.hosts_sessions import Lock, MortalJournal, carry_out


@dataclass(frozen=True)
class Story:
    """What happens in a run: see the story of a control plane. Elections are when, and who would lead."""

    size: int
    alone: bool
    puppet: frozenset[str]
    broken: frozenset[str]
    outages: Sequence[tuple[float, str, float]]
    elections: Sequence[tuple[float, str]]
    kills: Sequence[int]
    delay: float
    gives_up: bool


@st.composite
def stories(draw: st.DrawFn) -> Story:
    size = draw(st.sampled_from([3, 3, 5]))
    hosts = st.sampled_from(NAMES[:size])
    begins = st.floats(0, 60)
    return Story(
        size=size,
        alone=draw(st.booleans()),
        puppet=draw(st.frozensets(hosts, max_size=1)),
        broken=draw(st.frozensets(hosts, max_size=1)),
        outages=draw(st.lists(st.tuples(begins, hosts, st.floats(0.5, 20)), max_size=2)),
        elections=draw(st.lists(st.tuples(begins, hosts), max_size=6)),
        kills=draw(st.lists(st.integers(1, 120), max_size=3)),
        delay=draw(st.sampled_from([0.2, 0.2, 4.0])),
        gives_up=draw(st.booleans()),
    )


def session(cluster: Cluster, world: Members, folder: Path, *, abort: bool = False, kill: int = -1) -> str:
    """Carry out a session; return what it left undone."""
    world.moments_left = kill
    runs, lock = RestartEtcd(), Lock(world)
    with closing(MortalJournal.open(folder, "r1")) as book:
        if abort:
            return carry_out(partial(runs.abort, cluster, book), book, world, cluster)
        fake: Any = lock
        with runs.work(cluster, book, fake) as procedure:
            return carry_out(lambda: procedure, book, world, cluster)


def play(story: Story, folder: Path, patch: pytest.MonkeyPatch) -> None:
    hosts = NAMES[: story.size]
    targets = hosts[:1] if story.alone else hosts
    world = Members(hosts, delay=story.delay)
    MortalJournal.world = world
    cluster = world.of(targets)
    for host in story.puppet:
        world.hosts[host].puppet = "by hand"
    quiet: list[bool] = []

    def outage(host: str, lasts: float) -> None:
        if not quiet:
            world.fall(host)
            world.at(lasts, partial(world.down.discard, host))

    def election(host: str) -> None:
        if not quiet:
            world.elect(host)

    for begins, host, lasts in story.outages:
        world.at(begins, partial(outage, host, lasts))
    for begins, host in story.elections:
        world.at(begins, partial(election, host))
    restart = world._restart

    def break_after_restart(host: str, unit: str, named: Sequence[str]) -> None:
        count = world.restarts[host, "etcd"]
        restart(host, unit, named)
        if world.restarts[host, "etcd"] > count and host in story.broken and not quiet:
            world.fall(host)

    patch.setattr(world, "_restart", break_after_restart)
    waiting = {stage.key: [TargetState(unit) for unit in stage.targets()] for stage in RestartEtcd().stages(cluster)}
    Journal.create(folder, cluster.run, waiting).close()
    for kill in (*story.kills, -1):  # the last one lives as long as it has to
        with suppress(Killed):
            session(cluster, world, folder, kill=kill)
    quiet.append(True)
    world.down.clear()
    world.advance(5.0)
    left = session(cluster, world, folder, abort=story.gives_up)
    assert left == ""
    assert story.gives_up or set(world.restarts) == {(host, "etcd") for host in targets}
    assert all(count == 1 for count in world.restarts.values())
    assert {host for host, _ in world.restarts} <= set(targets)
    assert {name: host.puppet for name, host in world.hosts.items() if host.puppet} == dict.fromkeys(
        story.puppet, "by hand"
    )
    assert not world.silenced


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stories())
def test_no_quorum_is_put_at_risk_in_any_story(story: Story) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        play(story, Path(folder), patch)


@pytest.fixture
def etcd():
    world = Members(NAMES[:3])
    return world, Etcd(world.of(NAMES[:3]))


def unit(name: str, **facts: Any) -> TargetState:
    return TargetState(Target(name), facts=facts)


def tell(_unit: str, _line: str) -> None:
    """Say nothing."""


def test_the_leader_goes_last_and_only_hosts_of_the_run_go(etcd):
    world, plane = etcd
    assert plane.order() == ["etcd2", "etcd3", "etcd1"]
    world.elect("etcd2")
    assert plane.order() == ["etcd1", "etcd3", "etcd2"]
    some = replace(plane.cluster, hosts={"etcd2": "etcd2", "etcd3": "etcd3"})
    assert Etcd(some).order() == ["etcd3", "etcd2"]


def test_leadership_is_handed_over_to_the_one_that_is_most_up_to_date(etcd):
    world, plane = etcd
    world.lag["etcd2"] = 10
    step = HandOver(plane)
    found = step.check([unit("etcd1")])["etcd1"]
    assert (found.kind, found.facts) == (Kind.PENDING, {"index": 5000})
    step.apply([unit("etcd1", **found.facts)], tell)
    assert world.leader == "etcd3"
    world.advance(5)
    after = step.check([unit("etcd1", **found.facts)])["etcd1"]
    assert (after.kind, after.facts) == (Kind.DONE, {"index": 5005})


def test_a_follower_hands_nothing_over(etcd):
    world, plane = etcd
    step = HandOver(plane)
    assert step.check([unit("etcd2")])["etcd2"].kind is Kind.DONE
    step.apply([unit("etcd2")], tell)
    assert (world.leader, world.term) == ("etcd1", 7)


def test_a_member_is_restarted_neither_as_leader_nor_while_another_is_down(etcd):
    world, plane = etcd
    assert plane.follows("etcd1") == "etcd1 had become the leader again"
    assert plane.follows("etcd1") == "", "it was told to hand over once more"
    world.fall("etcd3")
    assert "etcd3 does not answer" in plane.follows("etcd1")
    assert plane.follows("etcd3") == ""


def test_a_member_has_caught_up_with_what_was_written_before_its_restart(etcd):
    world, plane = etcd
    step = CaughtUp(plane)
    world.lag["etcd2"] = 3
    behind = step.check([unit("etcd2", index=5000)])["etcd2"]
    assert (behind.kind, behind.detail) == (Kind.PENDING, "etcd2 has applied the log up to 4997 of 5000")
    world.lag["etcd2"] = 0
    assert step.check([unit("etcd2", index=5000)])["etcd2"].kind is Kind.DONE
    world.fall("etcd3")
    assert step.check([unit("etcd2", index=5000)])["etcd2"].kind is Kind.PENDING, "all have to be well"


def test_the_preflight_names_the_member_that_has_to_be_mended(etcd):
    world, plane = etcd
    assert [finding.level for finding in of_members(plane)] == [Level.NOTE]
    world.fall("etcd3")
    stop = of_members(plane)[0]
    assert (stop.level, stop.what) == (
        Level.STOP,
        "1 of 3 members of etcd could not be asked: etcd3 does not answer: connection refused.",
    )


def test_the_preflight_finds_a_definition_that_systemd_has_not_loaded(etcd):
    world, plane = etcd
    world.hosts["etcd2"].services[UNIT].stale = True
    (finding,) = of_units(plane)
    told = "etcd.service on etcd2 was changed on disk, and nobody ran systemctl daemon-reload."
    assert (finding.level, finding.what) == (Level.STOP, told)


def test_the_preflight_tells_of_learners(etcd):
    world, plane = etcd
    world.learners.add("etcd3")
    notes = [finding.what for finding in of_members(plane) if finding.level is Level.NOTE]
    assert "etcd3 is a learner: it has no vote, and does not count for the quorum." in notes


def test_the_preflight_finds_that_etcd_runs_as_another_unit(etcd):
    world, plane = etcd
    assert of_units(plane) == []
    world.hosts["etcd2"].services[UNIT].active = "inactive"
    assert of_units(plane) == [], "it does not answer, and may well be restarted for that"
    world.otherwise.add("etcd2")
    (finding,) = of_units(plane)
    assert finding.level is Level.STOP
    assert finding.what == "etcd answers on etcd2, where etcd.service is inactive: it runs as something else."
