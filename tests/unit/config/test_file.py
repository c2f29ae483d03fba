"""YAML files: bounded before anything is built of them, every mistake in a line, nothing in a library's words."""

import copy
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fleet.config.consistency import contradictions
from fleet.config.file import ConfigError, mistakes, read_yaml
from fleet.config.model import Config
from support.places import CONFIG

EXAMPLE = CONFIG / "fleet.yaml"
LIBRARY = re.compile(
    r"Input should|Value error|pydantic|unicode string|Traceback|recursion|<class|validation error|Invalid|"
    r"For further information|yaml\.|\bNone\b|errno|expected pattern"
)
"""What libraries say."""


def told(path: Path, *, own: bool = True) -> str:
    """Return the only line that is said about a file."""
    with pytest.raises(ConfigError) as caught:
        read_yaml(path, own=own)
    (line,) = str(caught.value).splitlines()
    assert line.isprintable()
    assert not LIBRARY.search(line), line
    return line.removeprefix(f"{path}: ")


def bomb() -> str:
    """Return aliases of aliases that stand for a billion words."""
    lists = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lists += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    return "\n".join(lists)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: " + "[" * 100_000, "is nested deeper than 40 levels"),
        ("a: " + "[" * 41 + "]" * 41, "is nested deeper than 40 levels"),
        ("".join(" " * n + "a:\n" for n in range(900)), "is nested deeper than 40 levels"),
        ("{a: " * 5000, "is nested deeper than 40 levels"),
        ("a: " + "x" * 10_000_000, "is larger than 1024 KiB: this is no configuration; shorten it"),
        ("- 1\n" * 60_000, "has more than 50000 values"),
        (bomb(), "has more than 50000 values, with what aliases stand for"),
        ("a: &a [*a]", "*a stands within itself"),
        ("a: *b", "is no YAML: line 1: "),
        ("yes: {}", 'is no YAML: line 1: the key yes means true or false in YAML: write it in quotes, "yes"'),
        ("a:\n  1: b", 'is no YAML: line 2: the key 1 means a number in YAML: write it in quotes, "1"'),
        ("a: {null: b}", "the key null means nothing in YAML"),
        ("a: {2001-01-01: b}", "the key 2001-01-01 means a timestamp in YAML"),
        ("a: 1\na: 2", "is no YAML: line 2: the key a is there twice"),
        ("a: " + "9" * 5000, "cannot be read: "),
        ("a: 2001-99-99", "cannot be read: month must be in 1..12"),
        ('a: "\\0"', "a: '\\x00' has characters that do not show"),
        ('a: ["b\\e[31m"]', "a.0: 'b\\x1b[31m' has characters that do not show"),
        ('"a\\e": 1', "'a\\x1b': has characters that do not show"),
        ('a: "b\\u202Ec"', "a: 'b\\u202ec' has characters that do not show"),
        ('a: "b\\nc"', "a: 'b\\nc' has characters that do not show: write one line of plain text"),
        ("a" * 300 + ": 1", "has 300 characters: at most 253 are allowed"),
        ("a: !!python/object:os.system x", "is no YAML: line 1: has a tag (!) that means nothing here"),
        ("", "must be a mapping of keys to values"),
    ],
)
def test_what_is_wrong_is_said_quickly_and_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    start = time.monotonic()

    assert said in told(path)
    assert time.monotonic() - start < 30


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(b"\xff\xfea")

    assert told(path) == "is no YAML: it is not written in UTF-8"


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(ConfigError, match=r"^'/a\\x00b': cannot be read: "):
        read_yaml(Path("/a\0b"))


def test_a_file_without_an_end() -> None:
    assert "is larger than" in told(Path("/dev/zero"))


def test_aliases_that_stand_for_little_are_welcome(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("a: &a {b: [1, 2]}\nc: {<<: *a, d: 3}\ne: *a\n")

    assert read_yaml(path, own=True) == {"a": {"b": [1, 2]}, "c": {"b": [1, 2], "d": 3}, "e": {"b": [1, 2]}}


def test_commands_may_have_lines(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text('a: {deploy: "b\\n\\tc"}')

    assert read_yaml(path, own=True) == {"a": {"deploy": "b\n\tc"}}


def test_keys_of_others_may_be_numbers(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("1: a")

    assert list(read_yaml(path).values()) == ["a"]


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return where something stands in a file."""
    if place:
        yield place
    if isinstance(value, dict):
        for key, below in value.items():
            yield from places(below, (*place, key))
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from places(below, (*place, number))


DATA = yaml.safe_load(EXAMPLE.read_text())
PLACES = list(places(DATA))
ODD: list[Any] = [
    None,
    True,
    5,
    -1,
    1.5,
    "",
    " ",
    "x",
    "/x",
    "\0",
    "a\nb",
    [],
    ["x", "x"],
    [None],
    {},
    {"a": 1},
    10**30,
    "x" * 400,
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
def test_no_library_speaks_whatever_stands_anywhere(odd: object) -> None:
    for place in PLACES:
        data = copy.deepcopy(DATA)
        at = data
        for part in place[:-1]:
            at = at[part]
        at[place[-1]] = odd
        try:
            contradictions(Config.model_validate(data))
        except ValidationError as error:
            for line in mistakes(Path("/f"), error):
                assert line.startswith("/f: "), line
                assert line.isprintable(), line
                assert len(line) < 600, line
                assert not LIBRARY.search(line.replace(repr(odd), "")), line


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.text())
def test_any_text_is_read_or_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    said = ""
    try:
        read_yaml(path, own=True)
    except ConfigError as error:
        said = str(error)
    assert all(line.isprintable() for line in said.splitlines()), said
