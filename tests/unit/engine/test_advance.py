"""What becomes of one unit: released and tried again, accepted proofs, and where it goes on after a crash."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.engine import advance, decide
from fleet.engine import model as m

STEPS = (
    m.StepSpec("silence", 10),
    m.StepSpec("cordon", 10, takes_capacity=True),
    m.StepSpec("drain", 60, batch=False, releases=True),
    m.StepSpec("reboot", 60, pivot=True),
    m.StepSpec("ready", 30, gate=True, acceptable=True),
    m.StepSpec("alerts", 30, gate=True, acceptable=True),
    m.StepSpec("uncordon", 10, gives_back=True),
    m.StepSpec("unsilence", 10, gives_back=True),
)
SILENCE, CORDON, DRAIN, REBOOT, READY, ALERTS, UNCORDON, UNSILENCE = range(8)
UNIT = m.Target("w1", "a")
RETRY = m.Retry(attempts=3, pause=60, longest=100, keeps=frozenset({"evicted"}))
STAGE = m.Stage("nodes", (UNIT,), STEPS, retry=RETRY)
WORD = m.Accepted("ann@here", "known")


def at(step: int, **values: object) -> m.TargetState:
    state = m.TargetState(UNIT, status=m.Status.RUNNING, step=step, phase=m.Phase.VERIFY, deadline=1000.0)
    return replace(state, **values)  # type: ignore[arg-type]


def test_a_failed_drain_is_given_back_and_tried_again_later():
    state = at(DRAIN, facts={"silence": "s1", "evicted": ["a/b"], "was_cordoned": False})
    state = advance.advance(STAGE, state, m.Phase.VERIFY, m.failed("a budget"), 10.0)
    assert (state.status, state.step, state.released) == (m.Status.RUNNING, UNCORDON, True)
    state = advance.advance(STAGE, state, m.Phase.CHECK, m.done(), 11.0)
    assert state.step == UNSILENCE
    state = advance.advance(STAGE, state, m.Phase.CHECK, m.done(), 12.0)
    assert (state.status, state.step, state.attempts, state.released) == (m.Status.PENDING, 0, 1, False)
    assert state.facts == {"evicted": ["a/b"]}, "nothing of what was given back is remembered as ours"
    assert state.due == 72.0


@pytest.mark.parametrize(
    ("stage", "state", "verdict"),
    [
        pytest.param(replace(STAGE, retry=None), at(DRAIN), m.failed("x"), id="the configuration holds"),
        pytest.param(STAGE, at(DRAIN, attempts=2), m.failed("x"), id="it was tried often enough"),
        pytest.param(STAGE, at(DRAIN), m.held("uncordoned"), id="a person has to look"),
        pytest.param(STAGE, at(REBOOT), m.failed("x"), id="it may be rebooting"),
        pytest.param(STAGE, at(READY), m.failed("x"), id="it was rebooted"),
        pytest.param(STAGE, at(UNCORDON, released=True), m.failed("x"), id="it cannot be given back"),
    ],
)
def test_what_else_fails_is_held(stage, state, verdict):
    after = advance.advance(stage, state, m.Phase.VERIFY, verdict, 10.0)
    assert (after.status, after.released) == (m.Status.HELD, state.released)


def test_a_drain_that_takes_too_long_is_released_too_but_not_while_its_call_does_not_return():
    for busy, action in ((False, decide.Release), (True, decide.Hold)):
        state = at(DRAIN, deadline=0.0, busy=busy)
        decision = decide.decide(STAGE, decide.Progress({"w1": state}), m.Observation(), 500.0)
        assert isinstance(decision.actions[0], action)


def test_pauses_grow_up_to_the_longest():
    assert [RETRY.after(attempts) for attempts in (1, 2, 3)] == [60, 100, 100]


def test_a_released_unit_waits_and_comes_after_the_others():
    waiting = m.TargetState(UNIT, attempts=1, due=100.0)
    fresh = m.TargetState(m.Target("w2", "a"))
    both = decide.decide(STAGE, decide.Progress({"w1": waiting, "w2": fresh}), m.Observation(), 10.0)
    assert both.actions == (decide.Start("w2"),)
    alone = decide.decide(STAGE, decide.Progress({"w1": waiting}), m.Observation(), 10.0)
    assert (alone.actions, alone.blocked, alone.due) == ((), "", 100.0), "it is waited for, and nothing is over"
    due = decide.decide(STAGE, decide.Progress({"w1": waiting, "w2": fresh}), m.Observation(), 100.0)
    assert due.actions == (decide.Start("w2"),)
    last = decide.decide(STAGE, decide.Progress({"w1": waiting}), m.Observation(), 100.0)
    assert last.actions == (decide.Start("w1"),)


def test_a_stopped_run_does_not_wait_for_released_units():
    waiting = m.TargetState(UNIT, attempts=1, due=100.0)
    decision = decide.decide(STAGE, decide.Progress({"w1": waiting}, stopping="^C"), m.Observation(), 10.0)
    assert decision.actions == (decide.Finish(False, "^C"),)


def test_a_release_that_was_interrupted_goes_on():
    state = at(UNSILENCE, released=True)
    resumed = advance.resume(STAGE, state, 5.0)
    assert (resumed.step, resumed.released) == (UNCORDON, True)


def test_an_accepted_proof_is_passed_over_and_no_other_step_is():
    accepted = {"ready": WORD, "uncordon": WORD, "alerts": WORD}
    state = advance.advance(STAGE, at(REBOOT, accepted=accepted), m.Phase.VERIFY, m.done(), 1.0)
    assert state.step == UNCORDON, "giving back is no proof"
    only_ready = advance.advance(STAGE, at(REBOOT, accepted={"ready": WORD}), m.Phase.VERIFY, m.done(), 1.0)
    assert only_ready.step == ALERTS


def test_a_held_unit_whose_proof_is_accepted_goes_on_behind_it():
    state = at(READY, status=m.Status.HELD, accepted={"ready": WORD})
    assert advance.resume(STAGE, state, 1.0).step == ALERTS


def test_a_given_up_unit_is_left_alone_and_keeps_nobody():
    gone = m.TargetState(UNIT, status=m.Status.GIVEN_UP, given_up=m.GivenUp("ann", "broken"))
    assert advance.resume(STAGE, gone, 1.0) == gone
    other = m.TargetState(m.Target("w2", "b"))
    decision = decide.decide(STAGE, decide.Progress({"w1": gone, "w2": other}), m.Observation(), 1.0)
    assert decision.actions == (decide.Start("w2"),)
    done = replace(other, status=m.Status.DONE)
    decision = decide.decide(STAGE, decide.Progress({"w1": gone, "w2": done}), m.Observation(), 1.0)
    assert decision.actions == (decide.Finish(True),)


@given(st.lists(st.sampled_from(["fail", "done", "late"]), max_size=60), st.integers(1, 4))
def test_no_unit_is_tried_more_often_than_allowed(answers, attempts):
    """Whatever its steps answer: drains begin at most ``attempts`` times, and the reboot at most once."""
    stage = replace(STAGE, retry=replace(RETRY, attempts=attempts))
    state, now, drains, reboots = m.TargetState(UNIT), 0.0, 0, 0
    for answer in answers:
        now += 200.0
        decision = decide.decide(stage, decide.Progress({"w1": state}), m.Observation(), now)
        if any(isinstance(action, decide.Start) for action in decision.actions):
            state = advance.enter(stage, state, 0, now)
        if state.status is not m.Status.RUNNING:
            continue
        if state.step == DRAIN and state.phase is m.Phase.CHECK:
            drains += 1
        if answer == "late" and advance.may_release(stage, state):
            state = advance.release(stage, state, now)
            continue
        before = state
        verdict = m.failed("no") if answer == "fail" else m.done()
        state = advance.advance(stage, state, state.phase, verdict, now)
        reboots += before.step == REBOOT and state.step > REBOOT and not state.released
    assert drains <= attempts
    assert reboots <= 1


BARRING = (*STEPS, m.StepSpec("workloads", 60, gate=True, acceptable=True, bars=True))
WORKLOADS = len(STEPS)
BARRED = replace(STAGE, steps=BARRING, retry=None, limits=m.Limits(max_unavailable=1, max_domains=1, max_failed=1))


def decide_at(states: dict[str, m.TargetState], now: float = 2000.0, **options: object) -> decide.Decision:
    return decide.decide(BARRED, decide.Progress(states, **options), m.Observation(), now)  # type: ignore[arg-type]


def test_what_is_held_in_service_takes_no_room_and_counts_as_failed():
    held = at(WORKLOADS, status=m.Status.HELD)
    waiting = {f"w{n}": m.TargetState(m.Target(f"w{n}", "b")) for n in (2, 3)}
    assert decide_at({"w1": held, "w2": waiting["w2"]}).actions == (decide.Start("w2"),)
    both = {"w1": held, "w4": replace(held, target=m.Target("w4")), "w3": waiting["w3"]}
    assert decide_at(both).actions == (decide.Finish(False, "2 held, and no more than 1 may fail"),)


def test_workloads_are_waited_for_as_long_as_another_node_is_away_that_they_may_need():
    waits = at(WORKLOADS, deadline=900.0)
    away = replace(at(REBOOT, deadline=9000.0, due=9000.0), target=m.Target("w2", "a"))
    assert decide_at({"w1": waits, "w2": away}).actions == (decide.Wait("w1"),)
    (held,) = (it for it in decide_at({"w1": waits}).actions if isinstance(it, decide.Hold))
    assert held.reason.startswith("workloads: not within 60 s")


def test_a_released_unit_does_not_wait_for_workloads():
    stage = replace(BARRED, retry=RETRY)
    state = advance.advance(stage, at(UNSILENCE, released=True), m.Phase.VERIFY, m.done(), 1.0)
    assert (state.status, state.attempts) == (m.Status.PENDING, 1)


def test_a_unit_in_service_goes_on_where_it_was():
    assert advance.resume(BARRED, at(WORKLOADS, status=m.Status.HELD), 1.0).step == WORKLOADS


def test_nothing_is_given_back_while_a_renewal_of_it_is_under_way():
    """It would come back: what has expired is renewed under another id."""
    ends = at(UNSILENCE, phase=m.Phase.APPLY, deadline=9000.0)
    assert decide_at({"w1": ends}, renewing=frozenset({"w1"})).actions == ()
    assert decide_at({"w1": ends}).actions == (decide.Run(UNSILENCE, m.Phase.APPLY, ("w1",)),)
