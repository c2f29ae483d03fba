"""All members are asked, and those that cannot be asked are named in one message."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.clock import THREADS
from fleet.errors import FleetError
from fleet.members import ask, problem


@given(down=st.dictionaries(st.text("abc", min_size=1, max_size=3), st.booleans(), min_size=1))
def test_every_member_has_an_answer_or_a_reason(down: dict[str, bool]) -> None:
    def question(name: str) -> str:
        if down[name]:
            raise FleetError("connection refused")
        return name.upper()

    answers = ask("routers", list(down), question)

    assert answers.given == {name: name.upper() for name, is_down in down.items() if not is_down}
    assert {name: str(error) for name, error in answers.failed.items()} == {
        name: "connection refused" for name, is_down in down.items() if is_down
    }
    assert bool(answers.problem) is any(down.values())


def test_all_are_asked_at_the_same_time() -> None:
    names = [f"m{number}" for number in range(30)]
    together = threading.Barrier(len(names), timeout=10)

    assert len(ask("members", names, lambda _name: together.wait(), threads=THREADS).given) == 30


def test_a_defect_is_no_reason() -> None:
    with pytest.raises(ZeroDivisionError):
        ask("members", ["a"], lambda _name: 1 // 0)


def test_nobody_to_ask() -> None:
    answers = ask("members", [], lambda name: name)

    assert (answers.given, answers.failed, answers.problem) == ({}, {}, "")


@pytest.mark.parametrize(
    ("reasons", "text"),
    [
        ({}, ""),
        ({"a": "connection refused"}, "1 of 3 members of X could not be asked: a: connection refused"),
        (
            {"a": "a refuses to let fleet in.", "ab": "a is no name for it.\n"},
            "2 of 3 members of X could not be asked: a refuses to let fleet in; ab: a is no name for it",
        ),
    ],
)
def test_the_message(reasons: dict[str, str], text: str) -> None:
    assert problem("members of X", reasons, of=3) == text
