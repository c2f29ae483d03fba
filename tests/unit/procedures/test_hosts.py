"""Steps, stages and the rollback of all maintenance of hosts: what is taken away is given back, and nothing else."""

from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from fleet.engine import journal
from fleet.engine.declaration import Specified, Stage, specs
from fleet.engine.executor import Abort, Execution, known_of
from fleet.engine.journal import Journal
from fleet.engine.model import Kind, Phase, Status, StepSpec, Target, TargetState, done, pending
from fleet.procedures import hosts
from fleet.procedures.watching import observe
from fleet.steps.base import NodeStep
from fleet.steps.puppet import EnablePuppet, PuppetOff, PuppetOn, puppet_reason
from fleet.steps.units import RestartUnit
from worlds.hosts import World
from worlds.hosts_sessions import Lock, carry_out

UNIT = "kube-scheduler.service"
REASON = "why - T1 - run r1 - ann@here"


@pytest.fixture
def world():
    return World(("cp1", "cp2", "cp3"))


def unit(name="cp1", **values: Any) -> TargetState:
    return TargetState(Target(name), **values)


def tell(_unit: str, _line: str) -> None:
    """Say nothing."""


def test_puppet_is_disabled_with_a_reason_that_names_the_run(world):
    step = PuppetOff(world.cluster(["cp1"]))
    before = step.check([unit()])["cp1"]
    assert (before.kind, before.facts) == (Kind.PENDING, {"puppet_off": True}), "noted before it is done"
    assert step.apply([unit()], tell)["cp1"].kind is Kind.DONE
    assert world.hosts["cp1"].puppet == REASON
    after = step.check([unit()])["cp1"]
    assert (after.kind, after.facts) == (Kind.DONE, {"puppet_off": True})


def test_puppet_that_others_disabled_is_left_alone(world):
    cluster = world.cluster(["cp1"])
    world.hosts["cp1"].puppet = "by hand"
    found = PuppetOff(cluster).check([unit()])["cp1"]
    assert (found.kind, found.facts) == (Kind.DONE, {"puppet_off": False})
    assert "by hand" in found.detail
    left = PuppetOn(cluster).check([unit()])["cp1"]
    assert (left.kind, left.facts) == (Kind.DONE, {"puppet_off": False})
    assert "left disabled, by others: by hand" in left.detail
    PuppetOn(cluster).apply([unit()], tell)
    assert world.hosts["cp1"].puppet == "by hand"


def test_others_may_be_quicker_to_disable_puppet(world):
    step = PuppetOff(world.cluster(["cp1"]))
    noted = step.check([unit()])["cp1"].facts
    world.hosts["cp1"].puppet = "by hand"
    step.apply([unit(facts=noted)], tell)
    assert step.check([unit(facts=noted)])["cp1"].facts == {"puppet_off": False}
    assert world.hosts["cp1"].puppet == "by hand"


def test_puppet_is_enabled_where_this_run_disabled_it(world):
    step = PuppetOn(world.cluster(["cp1", "cp2"]))
    world.hosts["cp1"].puppet = REASON
    assert step.check([unit()])["cp1"].kind is Kind.PENDING
    step.apply([unit()], tell)
    assert world.hosts["cp1"].puppet is None
    assert step.check([unit()])["cp1"].facts == {"puppet_off": False}
    world.hosts["cp2"].reachable = False
    assert step.check([unit("cp2")])["cp2"].kind is Kind.UNKNOWN
    failed = step.apply([unit("cp2")], tell)["cp2"]
    assert (failed.kind, "no route to host" in failed.detail) == (Kind.PENDING, True)


def test_puppet_is_enabled_on_hosts_that_went_back_to_waiting_and_not_on_held_ones(world):
    off = {"puppet_off": True}
    known = {
        "cp1": unit(facts=off),
        "cp2": unit("cp2", status=Status.HELD, facts=off),
        "cp3": unit("cp3", status=Status.DONE, facts={"puppet_off": False}),
    }
    for host in world.hosts.values():
        host.puppet = REASON
    step = EnablePuppet(world.cluster(known), lambda: known)
    me = [unit("enable puppet")]
    found = step.check(me)["enable puppet"]
    assert (found.kind, found.detail) == (Kind.PENDING, "Puppet is disabled on cp1")
    assert step.apply(me, tell)["enable puppet"].kind is Kind.DONE
    assert step.check(me)["enable puppet"].kind is Kind.DONE
    assert [host.puppet for host in world.hosts.values()] == [None, REASON, REASON]


def test_of_a_host_in_several_stages_the_last_one_that_it_came_to_counts():
    states = {
        "first": {"cp1": unit(status=Status.DONE, facts={"stage": 1}), "cp2": unit("cp2", status=Status.HELD)},
        "second": {"cp1": unit(facts={"stage": 2}), "cp2": unit("cp2")},
        "third": {"cp1": unit(), "cp3": unit("cp3")},
    }
    stages = [Stage(name, list) for name in states]
    found = known_of(stages, states.__getitem__)()
    assert found["cp1"].facts == {"stage": 2}, "it went back to waiting in the second stage"
    assert found["cp2"].status is Status.HELD
    assert found["cp3"].status is Status.PENDING


@pytest.mark.parametrize(("patient", "kind"), [(True, Kind.PENDING), (False, Kind.FAILED)])
def test_nothing_is_restarted_while_the_others_are_not_well(world, patient, kind):
    problems = ["cp2 is not ready"]
    act = RestartUnit(world.cluster(["cp1"]), UNIT, lambda host: problems[0], patient=patient)
    facts = act.check([unit()])["cp1"].facts
    assert facts == {"invocation": f"{1:032x}", "ordered": True}
    world.hosts["cp1"].puppet = REASON
    refused = act.apply([unit(facts=facts)], tell)["cp1"]
    assert (refused.kind, refused.facts["ordered"]) == (kind, False)
    assert "cp2 is not ready" in refused.detail
    world.advance(60)
    assert not world.restarts
    problems[0] = ""
    act.apply([unit(facts=facts)], tell)
    world.advance(60)
    assert world.restarts == {("cp1", "kube-scheduler"): 1}
    proven = act.check([unit(facts=facts)])["cp1"]
    assert (proven.kind, proven.facts["new_invocation"]) == (Kind.DONE, f"{2:032x}")


def test_an_order_that_may_be_on_its_way_stays_noted_whatever_the_others_do(world, monkeypatch):
    act = RestartUnit(world.cluster(["cp1"]), UNIT, lambda host: "cp2 is not ready", patient=True)
    facts = {"invocation": f"{1:032x}", "ordered": True, "unconfirmed": True}
    assert act.apply([unit(facts=facts)], tell)["cp1"].facts["ordered"] is True


class Fake(NodeStep):
    """A step that succeeds, or does not, and says so."""

    def __init__(self, cluster, log, name, *, ok=True):
        super().__init__(cluster)
        self.log, self.name, self.ok, self.units = log, name, ok, set()

    def check(self, units):
        return {s.target.name: done() if s.target.name in self.units else pending("no") for s in units}

    def apply(self, units, tell):
        self.log.append((self.name, [s.target.name for s in units]))
        self.units |= {s.target.name for s in units} if self.ok else set()
        return {s.target.name: done() for s in units}


@pytest.fixture
def maintenance(world, tmp_path):
    """Return what carries out stages of one step each, and what was done."""
    cluster = world.cluster(["cp1", "cp2"])

    def play(*stages: tuple[str, bool]):
        log: list[Any] = []

        def order(name):
            log.append(f"order of {name}")
            return [Target(host) for host in {"a": ["cp1", "cp2"], "b": ["cp2", "cp1"], "one gone": ["cp1"]}[name]]

        declared = [
            Stage(name, partial(order, name), proofs=[Specified(StepSpec("act", 5.0), Fake(cluster, log, name, ok=ok))])
            for name, ok in stages
        ]
        waiting = {name: [unit("cp1"), unit("cp2")] for name, _ in stages}
        tidy = Specified(StepSpec("tidy", 5.0), Fake(cluster, log, "tidy"))
        with closing(Journal.create(tmp_path, cluster.run, waiting)) as book:
            states = partial(journal.read_states, book.folder)
            made = partial(Execution, declared, states, ending=(tidy,))
            left = carry_out(made, book, world, cluster)
            return left, log, {name: states(name) for name, _ in stages}

    return play


def test_the_order_of_hosts_is_asked_for_when_a_stages_turn_has_come(maintenance):
    left, log, _ = maintenance(("a", True), ("b", True))
    assert left == ""
    first = ["order of a", ("a", ["cp1"]), ("a", ["cp2"])]
    assert log == [*first, "order of b", ("b", ["cp2"]), ("b", ["cp1"]), ("tidy", ["tidy"])]


def test_a_stage_that_is_not_complete_ends_the_work_and_not_the_tidying_up(maintenance):
    left, log, states = maintenance(("a", False), ("b", True))
    assert left == "1 held, and no more than 0 may fail"
    assert [entry for entry in log if entry != ("a", ["cp1"])] == ["order of a", ("tidy", ["tidy"])]
    assert [state.status for state in states["a"].values()] == [Status.HELD, Status.PENDING]


def test_a_host_that_is_not_found_any_more_is_not_passed_over(maintenance):
    left, log, states = maintenance(("one gone", True))
    assert (left, log[1:3]) == ("", [("one gone", ["cp1"]), ("one gone", ["cp2"])])
    assert {state.status for state in states["one gone"].values()} == {Status.DONE}


def test_what_says_that_the_run_must_stop_is_final(world):
    said = [""]
    lock: Any = Lock(world)
    assert observe(lock, lambda: said[0]).blocked == ""
    said[0] = "2 of 100 requests failed"
    seen = observe(lock, lambda: said[0])
    assert (seen.blocked, seen.permanent) == ("2 of 100 requests failed", True)


def stage_of(cluster) -> Stage:
    """Return the restart of the scheduler."""
    act = RestartUnit(cluster, UNIT, lambda host: "", patient=True)
    return hosts.stage_of(
        cluster, "s", lambda: list(cluster.hosts), guard=lambda host: "", unit=UNIT, act=act, proofs=(), abort_proofs=()
    )


def give_back(world, tmp_path, state: TargetState):
    """Give back a host from where it stands in a restart of the scheduler."""
    cluster = world.cluster(["cp1"])
    stage = stage_of(cluster)
    step = [spec.name for spec in specs(stage.steps)].index("restart")
    with closing(Journal.create(tmp_path, cluster.run, {"s": [replace(state, step=step)]})) as book:
        states = partial(journal.read_states, book.folder)
        left = carry_out(lambda: Abort([stage], states, world), book, world, cluster)
        return left, list(journal.read(book.folder).targets)


@pytest.mark.parametrize("status", [Status.RUNNING, Status.HELD])
def test_a_host_is_given_back(world, tmp_path, status):
    world.hosts["cp1"].puppet = REASON
    world.create(["cp1"], comment="why - T1 - run r1 - cp1", author="ann", duration=9e9, matchers=())
    left, stages = give_back(world, tmp_path, unit(status=status, facts={"puppet_off": True}))
    assert left == ""
    assert stages == ["s", "abort s", "enable puppet", "end silences"]
    assert world.hosts["cp1"].puppet is None
    assert not world.silenced
    assert not world.restarts, "to give back restarts nothing"


def test_a_host_that_is_not_well_is_not_given_back(world, tmp_path):
    world.hosts["cp1"].puppet = REASON
    world.create(["cp1"], comment="why - T1 - run r1 - cp1", author="ann", duration=60, matchers=())
    world.hosts["cp1"].services[UNIT].active = "failed"
    facts = {"puppet_off": True, "silence": "s-cp1", "new_invocation": "2" * 32}
    left, _ = give_back(world, tmp_path, unit(status=Status.HELD, facts=facts))
    assert left == "1 held"
    assert world.hosts["cp1"].puppet == REASON
    assert world.silenced["cp1"].ends_at > world.now + 3600, "until someone comes"


def test_a_host_that_was_done_since_an_earlier_abort_is_not_silenced_again(world, tmp_path):
    """That abort could not give it back; a resume has done it, and was stopped by another host."""
    cluster = world.cluster(["cp1", "cp2"])
    stage = stage_of(cluster)
    held = unit(status=Status.HELD, facts={"silence": "s-cp1"})
    states = {"s": [unit(status=Status.DONE), unit("cp2", status=Status.HELD)], "abort s": [held]}
    with closing(Journal.create(tmp_path, cluster.run, states)) as book:
        read = partial(journal.read_states, book.folder)
        left = carry_out(lambda: Abort([stage], read, world), book, world, cluster)
    assert left == ""
    assert not world.silenced


def test_a_host_that_the_run_has_not_touched_is_given_back_as_it_is(world, tmp_path):
    world.hosts["cp1"].puppet = REASON
    world.hosts["cp1"].services[UNIT].active = "failed"
    left, _ = give_back(world, tmp_path, unit(status=Status.HELD, facts={"puppet_off": True}))
    assert left == ""
    assert world.hosts["cp1"].puppet is None


def test_puppet_is_enabled_on_a_host_that_went_back_to_waiting_before_the_run_was_killed(world, tmp_path):
    world.hosts["cp1"].puppet = REASON
    left, _ = give_back(world, tmp_path, unit(facts={"puppet_off": True}))
    assert left == ""
    assert world.hosts["cp1"].puppet is None


def test_an_order_that_may_be_on_its_way_is_waited_for_before_a_host_is_given_back(world, tmp_path):
    world.hosts["cp1"].puppet = REASON
    world.create(["cp1"], comment="why - T1 - run r1 - cp1", author="ann", duration=9e9, matchers=())
    world.at(8.0, partial(world._restart, "cp1", UNIT, [f"{1:032x}"]))
    world.at(8.1, lambda: alive.append(world.hosts["cp1"].puppet))
    alive: list[str | None] = []
    state = unit(status=Status.RUNNING, phase=Phase.APPLY, facts={"puppet_off": True, "invocation": f"{1:032x}"})
    left, _ = give_back(world, tmp_path, state)
    assert left == ""
    assert world.restarts == {("cp1", "kube-scheduler"): 1}
    assert alive == [REASON], "nothing was given back before the order had come"
    assert world.hosts["cp1"].puppet is None


def test_a_reason_tells_the_run_with_or_without_a_task(world):
    cluster = world.cluster(["cp1"])
    bare = replace(cluster, run=replace(cluster.run, task=""))
    assert puppet_reason(cluster) == REASON
    assert puppet_reason(bare) == "why - run r1 - ann@here"
