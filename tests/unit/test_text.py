"""Small words: numbers, and values in a line."""

import ast
import re
from pathlib import Path

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from fleet import text
from support.places import REPOSITORY


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


def wrapped(outer: Exception, cause: BaseException) -> Exception:
    outer.__cause__ = cause
    return outer


POOL = urllib3.HTTPConnectionPool("x")
REFUSED = ConnectionRefusedError(111, "Connection refused")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (REFUSED, "connection refused"),
        (
            wrapped(ValueError("HTTPConnectionPool(host='x', port=1): Max retries exceeded"), REFUSED),
            "connection refused",
        ),
        (urllib3.exceptions.MaxRetryError(POOL, "/", wrapped(OSError("no"), REFUSED)), "connection refused"),
        (urllib3.exceptions.ReadTimeoutError(POOL, "/", "Read timed out. (read timeout=10)"), "it timed out"),
        (ValueError("HTTPSConnection(host='a', port=1): [Errno -2] it is odd."), "it is odd"),
    ],
)
def test_the_cause_is_told_without_what_libraries_wrap_around_it(error: Exception, said: str) -> None:
    assert text.network(error) == said


PLURALS = (
    *("pods", "hosts", "nodes", "sessions", "units", "members", "runs", "times", "events", "requests", "budgets"),
    *("objects", "services", "workers", "routers", "silences", "alerts", "domains", "mistakes", "prefixes", "keys"),
    *("files", "entries", "namespaces", "volumes", "connections", "failures", "attempts", "disruptions", "evictions"),
)
BARE = re.compile(
    r"\{(?:len\(|number\b|total\b|[a-z_.]*(?:failed|requests|disrupted|healthy|objects)\b)[^{}]*\} (?:[a-z-]+ )?"
    rf"(?:{'|'.join(PLURALS)})\b"
)
"""A number that is filled in right before what it counts: for one, the word is wrong."""


def templates(path: Path) -> list[str]:
    """Return the f-strings of a module, with ``{…}`` for what is filled in."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [
                part.value if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
                for part in node.values
                if isinstance(part, ast.Constant | ast.FormattedValue)
            ]
            found.append("".join(map(str, parts)))
    return found


def test_a_number_before_what_it_counts_goes_through_count() -> None:
    bare = [
        f"{path.relative_to(REPOSITORY)}: {template}"
        for folder in ("lib/fleet", "cookbooks")
        for path in sorted((REPOSITORY / folder).rglob("*.py"))
        for template in templates(path)
        if BARE.search(template)
    ]

    assert bare == []


def test_a_bare_number_is_found_out() -> None:
    assert BARE.search("{len(pods)} pods left")
    assert BARE.search("{budget.disrupted} evicted pods")
    assert not BARE.search("{count(pods, 'pod')} left")
