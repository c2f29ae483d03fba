"""Small words: numbers, and values in a line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import text


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 pods"), (1, "1 pod"), (2, "2 pods"), ([], "0 pods"), (["a"], "1 pod"), ("", "0 pods")]
)
def test_numbers_with_what_they_count(number: int | list[str], said: str) -> None:
    assert text.count(number, "pod") == said


def test_a_plural_of_its_own() -> None:
    assert text.count(2, "entry", "entries") == "2 entries"
    assert text.count(1, "entry", "entries") == "1 entry"


def test_verbs_agree() -> None:
    assert text.listed(["web-a"], "is", "are") == "web-a is"
    assert text.listed(["web-a", "web-b"], "is", "are") == "web-a, web-b are"


@given(st.one_of(st.text(), st.binary(), st.integers(), st.lists(st.text())))
def test_values_fit_into_a_line(value: object) -> None:
    assert text.short(value).isprintable()
    assert len(text.short(value)) <= 121


@given(st.text())
def test_errors_fit_into_a_line(value: str) -> None:
    assert text.line(ValueError(value)).isprintable()
    assert text.line(ValueError(value))
