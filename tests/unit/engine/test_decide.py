"""Properties of the decisions: limits and deadlines hold in every random history of a random fleet."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.engine import advance as a
from fleet.engine import decide as d
from fleet.engine import model as m
from fleet.engine.capacity import Capacity

STEPS = (
    m.StepSpec("silence", 10),
    m.StepSpec("cordon", 10, takes_capacity=True),
    m.StepSpec("drain", 60, batch=False),
    m.StepSpec("reboot", 60, pivot=True),
    m.StepSpec("ready", 30, gate=True, poll_together=True),
    m.StepSpec("uncordon", 10),
)
CORDON, DRAIN, REBOOT, READY = 1, 2, 3, 4


def stage(units, **limits):
    return m.Stage("nodes", tuple(units), STEPS, m.Limits(**limits), renew=20)


class World:
    """A fleet that answers steps at random, breaks at random and remembers what was done to it."""

    def __init__(self, rng: Random, stage: m.Stage, *, trouble: float) -> None:
        self.rng, self.stage, self.trouble = rng, stage, trouble
        self.now = rng.uniform(-1e6, 1e6)
        self.states = {unit.name: m.TargetState(unit) for unit in stage.targets}
        self.jobs: list[tuple[d.Run, str]] = []
        self.boots: Counter[str] = Counter()
        self.noted: dict[str, int] = {}
        self.drained: dict[str, bool] = {}
        self.cordoned: set[str] = set()
        self.seen = m.Observation()
        self.blocked_since: float | None = None
        self.finished: d.Finish | None = None

    def observe(self) -> None:
        names = [f"other{i}" for i in range(self.rng.randint(0, 2))]
        names += [unit.name for unit in self.stage.targets if self.rng.random() < 0.1]
        units = {unit.name: unit for unit in self.stage.targets}
        absent = {}
        for name in names if self.rng.random() < self.trouble else []:
            unit = units.get(name, m.Target(name, self.rng.choice(["a", "b", "c"]), "g0"))
            if units.get(name) is None or self.states[name].status in (m.Status.PENDING, m.Status.DONE):
                absent[name] = m.Absent(unit.domain, unit.group, self.rng.random() < 0.5, "others")
        # What this run has cordoned is seen like everything else.
        absent |= {name: m.Absent(units[name].domain, units[name].group, False, "ours") for name in self.cordoned}
        self.seen = m.Observation(absent, "lock lost" if self.rng.random() < self.trouble / 3 else "")

    def tick(self) -> None:
        self.observe()
        decision = d.decide(self.stage, d.Progress(self.states, self.blocked_since), self.seen, self.now)
        held_before = sum(state.status is m.Status.HELD for state in self.states.values())
        for action in decision.actions:
            self.act(action)
        self.check_starts(decision, held_before)
        self.check_renewals(decision)
        in_flight = any(state.status is m.Status.RUNNING for state in self.states.values())
        self.blocked_since = (
            (self.now if self.blocked_since is None else self.blocked_since)
            if decision.blocked and not in_flight
            else None
        )

    def act(self, action: d.Action) -> None:
        match action:
            case d.Start(unit):
                assert self.states[unit].status is m.Status.PENDING
                self.states[unit] = a.enter(self.stage, self.states[unit], 0, self.now)
            case d.Hold(unit, reason):
                assert reason
                self.states[unit] = replace(self.states[unit], status=m.Status.HELD, busy=False)
            case d.Withdraw(unit, reason):
                assert reason
                assert unit not in self.cordoned
                self.states[unit] = m.TargetState(self.states[unit].target)
            case d.Run(step, phase, units):
                if step == CORDON and phase is m.Phase.APPLY:
                    self.check_room(units)
                for unit in units:
                    self.check_run(unit, step, phase)
                    self.states[unit] = replace(self.states[unit], busy=True)
                    self.jobs.append((action, unit))
            case d.Renew(units):
                for unit in units:
                    self.states[unit] = replace(self.states[unit], renew_at=self.now + self.stage.renew)
            case d.Finish():
                self.finished = action

    def check_room(self, units: tuple[str, ...]) -> None:
        """The limits, at the moment that counts: when nodes are taken out of service, also after a crash."""
        assert not self.seen.blocked, "cordoned without the lock"
        known = {unit.name: unit for unit in self.stage.targets}
        absent = self.seen.absent
        groups = {name: gone.group for name, gone in absent.items()}
        groups |= {name: known[name].group for name in self.cordoned.union(units)}
        new = [name for name in units if name not in absent and name not in self.cordoned]
        if new:
            assert len(groups) <= self.stage.limits.max_unavailable, "the limit of the cluster, when it is cordoned"
        for name in new:
            group = known[name].group
            most = self.stage.limits.groups.get(group, self.stage.limits.max_unavailable)
            assert Counter(groups.values())[group] <= most, "the limit of the group, when it is cordoned"
        domains = {known[name].domain for name in self.cordoned.union(units)}
        domains |= {gone.domain for gone in absent.values() if gone.down}
        assert not new or len(domains) <= self.stage.limits.max_domains, "the limit of the domain, when it is cordoned"
        self.cordoned.update(units)

    def check_run(self, unit: str, step: int, phase: m.Phase) -> None:
        state = self.states[unit]
        assert (state.status, state.busy, state.step, state.phase) == (m.Status.RUNNING, False, step, phase)
        if step == REBOOT and phase is m.Phase.APPLY:
            assert self.drained.get(unit), "rebooted without a drain that succeeded"
            assert not self.seen.blocked, "rebooted without the lock"

    def check_starts(self, decision: d.Decision, held_before: int) -> None:
        starts = [action.target for action in decision.actions if isinstance(action, d.Start)]
        if not starts:
            return
        limits = self.stage.limits
        assert not self.seen.blocked, "started without the lock"
        assert held_before <= limits.max_failed, "started after too many have failed"
        ours = {s.target.name: s.target for s in self.states.values() if s.status in (m.Status.RUNNING, m.Status.HELD)}
        everyone = {name: gone.group for name, gone in self.seen.absent.items()} | {
            name: unit.group for name, unit in ours.items()
        }
        assert len(everyone) <= limits.max_unavailable, "the limit of the cluster"
        for group, count in Counter(everyone.values()).items():
            if any(ours[name].group == group for name in starts if name not in self.seen.absent):
                assert count <= limits.groups.get(group, limits.max_unavailable), "the limit of the group"
        domains = {unit.domain for unit in ours.values()} | {a.domain for a in self.seen.absent.values() if a.down}
        assert len(domains) <= limits.max_domains, "the limit of the domain"

    def check_renewals(self, decision: d.Decision) -> None:
        renewed = {unit for action in decision.actions if isinstance(action, d.Renew) for unit in action.targets}
        for name, state in self.states.items():
            if state.status in (m.Status.RUNNING, m.Status.HELD) and name not in renewed:
                ends = state.step == len(STEPS) - 1
                assert ends or state.renew_at > self.now, "a silence runs out while its unit is in flight"

    def finish_some_jobs(self) -> None:
        keep = []
        for run, unit in self.jobs:
            if self.rng.random() < 0.4:
                keep.append((run, unit))
                continue
            verdict = self.answer(run, unit)
            state = self.states[unit]
            if (state.status, state.step, state.phase) == (m.Status.RUNNING, run.step, run.phase):
                self.states[unit] = a.advance(self.stage, state, run.phase, verdict, self.now)
                if self.states[unit].status is m.Status.DONE:
                    self.cordoned.discard(unit)
                if run.step == DRAIN:
                    self.drained[unit] = verdict.kind is m.Kind.DONE and run.phase is not m.Phase.APPLY
        self.jobs = keep

    def answer(self, run: d.Run, unit: str) -> m.Verdict:
        if self.rng.random() < self.trouble / 10:
            return m.failed("broken")
        if self.rng.random() < self.trouble / 2:
            return m.unknown("cannot read")
        if run.step == CORDON and unit in self.cordoned and run.phase is not m.Phase.APPLY:
            return m.done()
        if run.step == REBOOT:
            if run.phase is m.Phase.APPLY:
                self.reboot(unit)
                return m.done()
            noted = self.noted.setdefault(unit, self.boots[unit])
            return m.done() if self.boots[unit] != noted else m.pending("same boot id")
        return m.done() if self.rng.random() < 0.7 else m.pending("not yet")

    def reboot(self, unit: str) -> None:
        """Give the order, which the host compares with its boot."""
        if self.boots[unit] == self.noted[unit]:
            self.boots[unit] += 1

    def crash(self) -> None:
        """kill -9: some orders that were under way took effect, their answers are lost."""
        for run, unit in self.jobs:
            if run.step == REBOOT and run.phase is m.Phase.APPLY and self.rng.random() < 0.5:
                self.reboot(unit)
        self.jobs = []
        self.drained = {}
        self.states = {name: a.resume(self.stage, state, self.now) for name, state in self.states.items()}
        self.blocked_since = None


@st.composite
def fleets(draw):
    size = draw(st.integers(1, 12))
    units = [m.Target(f"n{i}", draw(st.sampled_from("abc")), draw(st.sampled_from(["g0", "g1"]))) for i in range(size)]
    return stage(
        units,
        max_unavailable=draw(st.integers(1, 5)),
        max_domains=draw(st.integers(1, 3)),
        max_failed=draw(st.integers(0, 3)),
        groups=draw(st.dictionaries(st.sampled_from(["g0", "g1"]), st.integers(1, 3))),
        blocked=30,
    )


@settings(max_examples=300, deadline=None)
@given(fleets(), st.integers(0, 2**32).map(Random), st.floats(0, 1))
def test_rules_hold_in_every_history(stage, rng, trouble):
    world = World(rng, stage, trouble=trouble)
    for _ in range(120):
        world.tick()
        if world.finished:
            break
        world.finish_some_jobs()
        if rng.random() < 0.03:
            world.crash()
        world.now += rng.choice([0.5, 1, 5, 30, 3600, -3600]) if rng.random() < trouble / 4 else 1
    for state in world.states.values():
        if state.status is m.Status.DONE:
            assert world.boots[state.target.name] == 1, "rebooted exactly once"
    if world.finished and world.finished.complete:
        assert all(state.status is m.Status.DONE for state in world.states.values())


@settings(max_examples=100, deadline=None)
@given(fleets(), st.integers(0, 2**32).map(Random))
def test_a_fleet_without_trouble_is_finished(stage, rng):
    patient = replace(stage, steps=tuple(replace(step, timeout=1e6) for step in stage.steps))
    world = World(rng, patient, trouble=0)
    for _ in range(2000):
        world.tick()
        if world.finished:
            break
        world.finish_some_jobs()
        world.now += 0.5
    assert world.finished == d.Finish(True)
    assert all(world.boots[unit.name] == 1 for unit in stage.targets)


def units(*names, domain="a"):
    return [m.Target(name, domain, "g") for name in names]


def start_all(stage, seen=None, now=0.0):
    progress = d.Progress({unit.name: m.TargetState(unit) for unit in stage.targets})
    return d.decide(stage, progress, seen or m.Observation(), now)


@settings(max_examples=200, deadline=None)
@given(fleets(), st.integers(0, 2**32).map(Random))
def test_whoever_there_is_room_for_starts(stage, rng):
    """Units that are alike are asked for once; that changes nothing for any of them."""
    absent = {
        unit.name: m.Absent(unit.domain, unit.group, rng.random() < 0.5, "others")
        for unit in stage.targets
        if rng.random() < 0.2
    }
    room = Capacity(stage.limits, (), absent)
    expected = [unit.name for unit in stage.targets if room.take(unit)]
    decision = d.decide(
        stage, d.Progress({unit.name: m.TargetState(unit) for unit in stage.targets}), m.Observation(absent), 0.0
    )
    assert [action.target for action in decision.actions if isinstance(action, d.Start)] == expected


def test_a_unit_that_others_made_unavailable_takes_a_place_once():
    fleet = stage(units("w1", "w2", "w3"), max_unavailable=2)
    seen = m.Observation({"w1": m.Absent("a", "g", False, "cordoned")})
    decision = start_all(fleet, seen)
    assert decision.actions == (d.Start("w1"), d.Start("w2"))


def test_nothing_starts_beside_a_degraded_domain():
    fleet = stage([*units("w1", domain="a"), *units("w2", domain="b")], max_unavailable=3)
    seen = m.Observation({"x": m.Absent("b", "g", True, "NotReady")})
    assert start_all(fleet, seen).actions == (d.Start("w2"),)


def test_a_run_waits_for_others_only_until_its_deadline():
    fleet = stage(units("w1"), max_unavailable=1, blocked=100)
    states = {"w1": m.TargetState(fleet.targets[0])}
    seen = m.Observation({"x": m.Absent("a", "g", False, "cordoned")})
    waiting = d.decide(fleet, d.Progress(states, 0.0), seen, 99.0)
    assert waiting.actions == ()
    assert waiting.blocked == "x unavailable, the limit is 1"
    assert waiting.due == 100.0
    over = d.decide(fleet, d.Progress(states, 0.0), seen, 100.0)
    assert over.actions == (d.Finish(False, "x unavailable, the limit is 1"),)


def test_a_held_unit_that_blocks_the_rest_ends_the_run_at_once():
    fleet = stage([*units("w1", domain="a"), *units("w2", domain="b")], max_unavailable=2, max_failed=1)
    states = {unit.name: m.TargetState(unit) for unit in fleet.targets}
    states["w1"] = replace(states["w1"], status=m.Status.HELD, renew_at=1e9)
    decision = d.decide(fleet, d.Progress(states), m.Observation(), 0.0)
    assert decision.actions == (d.Finish(False, "w2: a is being worked on or degraded; 1 domain at a time"),)


def test_a_call_that_does_not_return_is_given_up():
    fleet = stage(units("w1"))
    state = replace(a.enter(fleet, m.TargetState(fleet.targets[0]), DRAIN, 0.0), busy=True)
    assert d.decide(fleet, d.Progress({"w1": state}), m.Observation(), 60.0).actions == (d.Renew(("w1",)),)
    late = d.decide(fleet, d.Progress({"w1": state}), m.Observation(), 60.0 + d.OVERDUE)
    assert d.Hold("w1", "drain: not within 60 s: its call does not return") in late.actions


def test_work_for_several_units_is_one_call_unless_it_takes_as_long_as_its_unit_needs():
    fleet = stage(units("w1", "w2"), max_unavailable=2)
    states = {unit.name: a.enter(fleet, m.TargetState(unit), 0, 0.0) for unit in fleet.targets}
    assert d.decide(fleet, d.Progress(states), m.Observation(), 0.0).actions == (d.Run(0, m.Phase.CHECK, ("w1", "w2")),)
    states = {name: a.enter(fleet, state, DRAIN, 0.0) for name, state in states.items()}
    assert d.decide(fleet, d.Progress(states), m.Observation(), 0.0).actions == (
        d.Run(DRAIN, m.Phase.CHECK, ("w1",)),
        d.Run(DRAIN, m.Phase.CHECK, ("w2",)),
    )


@pytest.mark.parametrize(
    ("step", "phase", "expected"),
    [
        (1, m.Phase.APPLY, (0, m.Phase.CHECK)),
        (REBOOT, m.Phase.CHECK, (0, m.Phase.CHECK)),
        (REBOOT, m.Phase.APPLY, (REBOOT, m.Phase.PROBE)),
        (REBOOT, m.Phase.VERIFY, (REBOOT, m.Phase.PROBE)),
        (READY, m.Phase.VERIFY, (READY, m.Phase.CHECK)),
    ],
)
@pytest.mark.parametrize("status", [m.Status.RUNNING, m.Status.HELD])
def test_resume_goes_by_the_pivot(status, step, phase, expected):
    fleet = stage(units("w1"))
    state = replace(m.TargetState(fleet.targets[0]), status=status, step=step, phase=phase)
    resumed = a.resume(fleet, state, 5.0)
    assert (resumed.step, resumed.phase) == expected
    assert resumed.status is m.Status.RUNNING
    assert resumed.renew_at == 5.0


def test_getting_ready_and_tidying_up_wait_for_nobody():
    tidy = m.Stage("end", (m.Target("all"),), STEPS[:1], when=m.When.END)
    seen = m.Observation({"x": m.Absent("a", "g", True, "NotReady")}, "lock lost")
    states = {"all": m.TargetState(tidy.targets[0])}
    assert d.decide(tidy, d.Progress(states, stopping="interrupted"), seen, 0.0).actions == (d.Start("all"),)


def test_a_unit_is_not_closed_when_others_took_its_room_meanwhile():
    fleet = stage(units("w1", "w2"), max_unavailable=1)
    state = replace(a.enter(fleet, m.TargetState(fleet.targets[0]), CORDON, 0.0), phase=m.Phase.APPLY)
    progress = d.Progress({"w1": state})
    seen = m.Observation({"w2": m.Absent("a", "g", False, "cordoned")})
    withdraw = d.Withdraw("w1", "w2 unavailable, the limit is 1")
    assert d.decide(fleet, progress, seen, 0.0).actions == (withdraw,)
    lost = d.decide(fleet, progress, m.Observation({}, "lock lost", permanent=True), 0.0)
    assert lost.actions == (d.Withdraw("w1", "lock lost"),)
    assert d.decide(fleet, progress, m.Observation(), 0.0).actions == (d.Run(CORDON, m.Phase.APPLY, ("w1",)),)


@pytest.mark.parametrize(("step", "phase"), [(DRAIN, m.Phase.VERIFY), (REBOOT, m.Phase.APPLY)])
def test_a_unit_is_held_at_once_when_the_lock_is_lost_for_good(step, phase):
    fleet = stage(units("w1"))
    state = replace(a.enter(fleet, m.TargetState(fleet.targets[0]), step, 0.0), phase=phase)
    lost = m.Observation({}, "lock lost", permanent=True)
    name = STEPS[step].name
    decision = d.decide(fleet, d.Progress({"w1": state}), lost, 0.0)
    assert decision.actions[0] == d.Hold("w1", f"{name}: not continued: lock lost")


def test_a_unit_that_is_down_is_not_given_up_when_the_lock_is_lost():
    fleet = stage(units("w1"))
    state = replace(a.enter(fleet, m.TargetState(fleet.targets[0]), REBOOT, 0.0), phase=m.Phase.VERIFY)
    lost = m.Observation({}, "lock lost", permanent=True)
    decision = d.decide(fleet, d.Progress({"w1": state}), lost, 0.0)
    assert decision.actions == (d.Run(REBOOT, m.Phase.VERIFY, ("w1",)),)


NAMES = [step.name for step in STEPS]


@given(
    st.sampled_from(m.Status),
    st.integers(0, len(NAMES)),
    st.sampled_from(m.Phase),
    st.sets(st.sampled_from([name for name in NAMES if name != "reboot"])),
    st.lists(st.sampled_from(["bgp baseline", "bgp", "puppet"]), unique=True),
)
def test_other_steps_never_bring_a_unit_past_its_pivot_or_back(status, step, phase, gone, more):
    state = m.TargetState(m.Target("w1"), status, step if status is not m.Status.DONE else len(NAMES), phase)
    now = [*more[:1], *(name for name in NAMES if name not in gone), *more[1:]]
    after = a.translate(state, NAMES, now, "reboot")
    pivot = now.index("reboot")
    if status is m.Status.DONE:
        assert after.step == len(now)
    elif step == REBOOT:
        assert (after.step, after.phase) == (pivot, phase)
    elif step < REBOOT:
        assert after.step == 0
    else:
        assert after.step == pivot + 1
    assert (after.status, after.target, after.facts) == (state.status, state.target, state.facts)


@pytest.mark.parametrize("status", [m.Status.PENDING, m.Status.RUNNING, m.Status.HELD])
def test_a_unit_of_a_stage_without_a_pivot_starts_over_when_its_steps_are_others(status):
    state = m.TargetState(m.Target("cluster"), status, 2, m.Phase.VERIFY, facts={"ran": True})
    after = a.translate(state, ["a", "b", "c"], ["b", "c"], None)
    assert after == replace(state, step=0, phase=m.Phase.CHECK), "each step looks at the world before it acts"


def test_a_unit_of_a_stage_without_a_pivot_that_is_done_stays_done():
    state = m.TargetState(m.Target("cluster"), m.Status.DONE, 1)
    assert a.translate(state, ["a"], ["a", "b", "c"], None) == replace(state, step=3)


def test_units_that_wait_at_a_gate_are_asked_together():
    units = [m.Target(name) for name in ("w1", "w2", "w3", "w4")]
    waiting = {"w1": (READY, 10.0), "w2": (READY, 10.9), "w3": (REBOOT, 10.5), "w4": (READY, 10.2)}
    states = {
        unit.name: m.TargetState(unit, m.Status.RUNNING, step, m.Phase.VERIFY, due=due, deadline=99.0, renew_at=99.0)
        for unit in units
        for step, due in [waiting[unit.name]]
    }
    states["w4"] = replace(states["w4"], busy=True)
    decision = d.decide(stage(units, max_unavailable=4), d.Progress(states), m.Observation(), 10.0)
    assert decision.actions == (d.Run(READY, m.Phase.VERIFY, ("w1", "w2")),)


def test_what_acts_is_not_tried_again_before_its_time():
    units = [m.Target(name) for name in ("w1", "w2")]
    states = {
        unit.name: m.TargetState(unit, m.Status.RUNNING, CORDON, m.Phase.APPLY, due=due, deadline=99.0, renew_at=99.0)
        for unit, due in zip(units, (10.0, 10.5), strict=True)
    }
    decision = d.decide(stage(units, max_unavailable=2), d.Progress(states), m.Observation(), 10.0)
    assert decision.actions == (d.Run(CORDON, m.Phase.APPLY, ("w1",)),)


@pytest.mark.parametrize(
    ("phase", "after"),
    [(m.Phase.VERIFY, m.Phase.APPLY), (m.Phase.CHECK, m.Phase.APPLY), (m.Phase.APPLY, m.Phase.APPLY)],
)
def test_what_others_have_undone_is_done_again(phase, after):
    unit = m.Target("w1")
    state = m.TargetState(unit, m.Status.RUNNING, CORDON, phase, busy=True, deadline=99.0)
    again = a.advance(stage([unit]), state, phase, m.undone("it is gone"), 10.0)
    assert (again.status, again.step, again.phase, again.busy) == (m.Status.RUNNING, CORDON, m.Phase.APPLY, False)
