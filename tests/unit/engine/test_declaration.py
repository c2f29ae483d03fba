"""Declared stages: in which order steps come, in a run and in its abort; what is left is cleaned up."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fleet.engine.declaration import Bracket, Question, Seen, Specified, Stage, Step, Tell, Verdicts
from fleet.engine.executor import ABORT, Abort, Execution
from fleet.engine.model import Accepted, Observation, Phase, Status, StepSpec, Target, TargetState, done, pending
from worlds.timeline import Time

WORD = {"ready": Accepted("ann@here", "it is fine")}


class Nothing:
    """Effects that do nothing, and are asked for what they were asked about."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        self.asked.append([state.target.name for state in targets])
        return {state.target.name: pending("not yet") for state in targets}

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:
        return {state.target.name: done() for state in targets}


def step(name: str, **spec: Any) -> Specified:
    return Specified(StepSpec(name, 500.0, **spec), Nothing())


class Act(Specified):
    """An act of which nothing is known but that it was ordered."""

    settles_within = 5.0

    def settle(self, targets: Sequence[TargetState], *, over: bool) -> Verdicts:
        return {state.target.name: done("settled") if over else pending("on its way") for state in targets}

    def touched(self, state: TargetState) -> bool:
        return "ordered" in state.facts


ACT = Act(StepSpec("reboot", 60.0, pivot=True), Nothing())


def bracket(name: str, **options: Any) -> Bracket:
    return Bracket(take=step(name), back=step(f"un{name}", gives_back=True), **options)


def names(steps: Sequence[Step]) -> list[str]:
    return [each.spec.name for each in steps]


@given(count=st.integers(0, 5), early=st.sets(st.integers(0, 4)), gates=st.integers(0, 2))
def test_what_is_held_is_given_back_in_reverse_order_or_where_the_proofs_say(count, early, gates):
    held = [bracket(str(number)) for number in range(count)]
    named = [held[number] for number in sorted(early) if number < count]
    proofs = [step(f"proof {number}", gate=True) for number in range(gates)]
    stage = Stage("s", list, holding=held, act=ACT, proofs=[*proofs, *named], abort_proofs=proofs)
    late = [f"un{number}" for number in reversed(range(count)) if number not in early]
    first = [f"un{number}" for number in sorted(early) if number < count]
    proven = [each.spec.name for each in proofs]
    assert names(stage.steps) == [*map(str, range(count)), "reboot", *proven, *first, *late]
    assert names(stage.abort_steps(step("settle"))) == ["settle", *proven, *first, *late]
    assert sorted(first + late) == sorted(f"un{number}" for number in range(count)), "all is given back, once"


def test_an_abort_asks_for_proofs_of_what_it_concerns_only_and_not_for_long():
    proof = step("ready", gate=True)
    stage = Stage("s", list, abort_proofs=[proof], patience=60.0, concerns=lambda state: "ordered" in state.facts)
    (asked,) = stage.abort_steps(None)
    states = [TargetState(Target("w1"), facts={"ordered": True}), TargetState(Target("w2"))]
    verdicts = asked.check(states)
    assert (asked.spec.timeout, proof.spec.timeout) == (60.0, 500.0)
    assert (verdicts["w1"].kind, verdicts["w2"].kind) == ("pending", "done")
    assert isinstance(proof.effects, Nothing)
    assert proof.effects.asked == [["w1"]]


STAGE = Stage("s", list, holding=[bracket("cordon")], act=ACT, in_flight=lambda state: "owned" in state.facts)
STATES = {
    "running": TargetState(Target("running"), Status.RUNNING, accepted=WORD),
    "held": TargetState(Target("held"), Status.HELD, facts={"x": 1}),
    "waiting": TargetState(Target("waiting")),
    "withdrawn": TargetState(Target("withdrawn"), facts={"owned": True}),
    "done": TargetState(Target("done"), Status.DONE),
    "given up": TargetState(Target("given up"), Status.GIVEN_UP, facts={"owned": True}),
}


def of_stage(stage: str) -> dict[str, TargetState]:
    return STATES if stage == "s" else {}


def test_an_abort_is_about_what_is_in_flight_held_or_owned_still():
    (stage,) = Abort([STAGE], of_stage, Time()).stages
    assert [unit.name for unit in stage.targets] == ["running", "held", "withdrawn"]
    assert stage.name == f"{ABORT}s"
    assert stage.facts["held"] == {"x": 1}
    assert stage.accepted["running"] == WORD


def test_an_order_that_may_be_on_its_way_is_waited_for():
    time = Time()
    ordered = TargetState(Target("w1"), Status.RUNNING, step=1, phase=Phase.VERIFY)
    early = TargetState(Target("w2"), Status.RUNNING, step=1, phase=Phase.CHECK)
    known = {"w1": ordered, "w2": early}
    abort = Abort([STAGE], lambda stage: known if stage == "s" else {}, time)
    settle = abort.effects(f"{ABORT}s", "settle")
    assert [verdict.kind for verdict in settle.check([ordered, early]).values()] == ["pending", "done"]
    time.advance(16.0)
    assert settle.check([ordered])["w1"].kind == "done"


def test_cleanups_know_the_run_and_come_once_the_last_taken_first():
    told: list[Seen] = []

    def cleanup(name: str) -> Any:
        def make(seen: Seen) -> Specified:
            told.append(seen)
            return step(name)

        return make

    held = [bracket("a", cleanup=cleanup("end a")), bracket("b", cleanup=cleanup("end b"))]
    stages = [
        Stage("s", list, holding=held, act=ACT),
        Stage("t", list, holding=[bracket("c", cleanup=cleanup("end a"))]),
    ]
    found = [stage.name for stage in Execution(stages, of_stage).stages]
    assert found == ["s", "end a", "end b"], "the first stage is not complete: the second does not begin"
    seen = told[-1]
    assert (seen.here(), set(seen.everywhere()), seen.aborts) == (STATES, set(STATES), False)
    abort = Abort(stages, of_stage, Time())
    assert [stage.name for stage in abort.stages] == [f"{ABORT}s", "end a", "end b"]
    assert told[-1].aborts


def test_a_bracket_over_all_targets_is_taken_at_the_start():
    stages = [replace(STAGE, holding=[Bracket(prepare=lambda _seen: step("taint"))])]
    found = [(stage.name, names_of(stage)) for stage in Execution(stages, of_stage).stages]
    assert found == [("prepare", ["taint"]), ("s", ["reboot"])]


def names_of(stage: Any) -> list[str]:
    return [spec.name for spec in stage.steps]


def test_what_expires_is_renewed_by_its_bracket():
    renewed = replace(
        STAGE, holding=[bracket("a"), bracket("b", renew=lambda units: {units[0].target.name: pending("no")})]
    )
    states = [TargetState(Target("w1")), TargetState(Target("w2"))]
    verdicts = Execution([renewed], of_stage).renew("s", states)
    assert [verdict.kind for verdict in verdicts.values()] == ["pending", "done"]


def test_a_question_ends_the_stages_until_it_is_answered():
    kept: dict[str, dict[str, TargetState]] = {"a": {}, "b": {}}
    noted: list[str] = []
    asking = Stage("b", lambda: [Target("x")], proofs=[step("work")], question=lambda: Question("Sure?", "yes"))
    first = Stage("a", lambda: [Target("x")], proofs=[step("work")])
    execution = Execution([first, asking], kept.__getitem__, Observation, [step("end")], noted.append)
    assert execution.outline() == ["a: x: work", '(before the next one "yes" has to be typed)', "b: x: work", "end"]
    assert [stage.name for stage in execution.stages] == ["a"]
    assert execution.question() == Question("Sure?", "yes")
    execution.answered()
    assert ([stage.name for stage in execution.stages], noted) == (["a", "b", "end"], ["b"])
    execution.declined()
    assert [stage.name for stage in execution.stages] == ["end"]


def test_a_stage_without_targets_is_passed_over():
    empty = Stage("e", list, proofs=[step("work")])
    assert [stage.name for stage in Execution([empty], lambda _stage: {}).stages] == []
