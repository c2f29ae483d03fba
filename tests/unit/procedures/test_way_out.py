"""What an operator decides about single units: what may be decided, what is recorded, and what is left."""

import pytest

from fleet.engine import journal as j
from fleet.engine import model as m
from fleet.errors import FleetError
from fleet.procedures.way_out import NOTHING, WayOut, changes

STEPS = {
    "nodes": (
        m.StepSpec("drain", 60),
        m.StepSpec("reboot", 60, pivot=True),
        m.StepSpec("ready", 30, gate=True, acceptable=True),
        m.StepSpec("bgp", 30, gate=True, acceptable=True),
    )
}
HOSTS = {"w1": "w1.example.org", "w2": "w2.example.org"}


def states(**found: m.Status) -> dict[str, dict[str, m.TargetState]]:
    return {"nodes": {name: m.TargetState(m.Target(name), status=status) for name, status in found.items()}}


def decide(way_out: WayOut, **found: m.Status) -> dict[str, m.TargetState]:
    return {state.target.name: state for _, state in changes(way_out, states(**found), STEPS, HOSTS)}


@pytest.mark.parametrize("given", ["w1", "w1.example.org"])
@pytest.mark.parametrize("status", [m.Status.HELD, m.Status.RUNNING, m.Status.PENDING])
def test_a_unit_that_is_given_up_says_who_did_and_why(given, status):
    state = decide(WayOut("ann@here", "broken board", give_up=(given,)), w1=status, w2=m.Status.HELD)
    assert list(state) == ["w1"]
    assert state["w1"].status is m.Status.GIVEN_UP
    assert state["w1"].given_up == m.GivenUp("ann@here", "broken board")
    assert state["w1"].detail == "given up by ann@here: broken board"


def test_a_proof_is_accepted_beside_others():
    way_out = WayOut("ann@here", "dead router", accept=(("w1", "bgp"), ("w1", "ready"), ("w2", "bgp")))
    found = decide(way_out, w1=m.Status.HELD, w2=m.Status.RUNNING)
    assert found["w1"].accepted == dict.fromkeys(("bgp", "ready"), m.Accepted("ann@here", "dead router"))
    assert set(found["w2"].accepted) == {"bgp"}
    assert found["w1"].status is m.Status.HELD


@pytest.mark.parametrize(
    ("way_out", "message"),
    [
        (WayOut(give_up=("w9",)), "The run has no w9: it has w1, w2."),
        (WayOut(give_up=("w2",)), "w2 is done already."),
        (WayOut(accept=(("w1", "drain"),)), "'drain' of w1 cannot be accepted: ready, bgp can."),
        (WayOut(accept=(("w1", "reboot"),)), "'reboot' of w1 cannot be accepted: ready, bgp can."),
        (WayOut(accept=(("w1", "nonsense"),)), "'nonsense' of w1 cannot be accepted: ready, bgp can."),
        (WayOut(accept=(("w2", "bgp"),)), "w2 is done already."),
    ],
)
def test_what_cannot_be_decided_is_refused_by_name(way_out, message):
    with pytest.raises(FleetError) as refused:
        decide(way_out, w1=m.Status.HELD, w2=m.Status.DONE)
    assert str(refused.value) == message


def test_all_mistakes_are_told_at_once():
    with pytest.raises(FleetError) as refused:
        decide(WayOut(give_up=("w8", "w9")), w1=m.Status.HELD)
    assert len(str(refused.value).splitlines()) == 2


def test_the_decision_survives_in_the_journal(tmp_path):
    info = j.RunInfo("r1", "p", "c", "o", "r", "", 0.0, {"steps": {"nodes": [step.name for step in STEPS["nodes"]]}})
    held = m.TargetState(m.Target("w1"), status=m.Status.HELD, step=3)
    book = j.Journal.create(tmp_path, info, {"nodes": [held]})
    way_out = WayOut("ann@here", "why", accept=(("w1", "bgp"),))
    for stage, state in changes(way_out, {"nodes": book.states("nodes")}, STEPS, HOSTS):
        book.record(stage, [state], step="", kind="accepted by word")
    book.close()
    (kept,) = j.read(tmp_path / "r1").targets["nodes"]
    assert kept.accepted == {"bgp": m.Accepted("ann@here", "why")}


def test_a_line_for_the_admin_log():
    way_out = WayOut("ann@here", "why", give_up=("w1",), accept=(("w2", "bgp"),))
    assert way_out.describe() == ", w1 given up, bgp of w2 accepted: why"
    assert not NOTHING
    assert NOTHING.describe() == ""


def test_a_word_is_for_what_is_in_question_and_not_for_stages_to_come():
    found = states(w1=m.Status.HELD) | {"later": {"w1": m.TargetState(m.Target("w1"))}}
    way_out = WayOut("ann@here", "why", accept=(("w1", "bgp"),))
    both = STEPS | {"later": STEPS["nodes"]}
    assert [stage for stage, _ in changes(way_out, found, both, HOSTS)] == ["nodes"]
    waiting = {"nodes": {"w1": m.TargetState(m.Target("w1"))}}
    assert [stage for stage, _ in changes(way_out, waiting, both, HOSTS)] == ["nodes"]
