"""Reading YAML files that people write: bounded in size and depth, every mistake in a line that says what to do.

What is in such a file is bounded before anything is built of it: nesting, aliases that stand for much, sheer size.
"""

import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fleet.errors import FleetError
from fleet.text import count, line, short

LARGEST = 1 << 20
"""Bytes of a file."""
DEEPEST = 40
"""Levels of mappings and lists within each other."""
MOST = 50_000
"""Values in a file, those that aliases stand for included."""
_MOST_TOLD = 50
_LONGEST_NAME = 253
_TOO_DEEP = f"is nested deeper than {DEEPEST} levels: is a bracket not closed?"
_COMMANDS = frozenset(
    {
        "after",
        "before",
        "check",
        "command",
        "deploy",
        "initialize",
        "managed",
        "merge",
        "merged",
        "revert",
        "traffic",
    }
)
"""Keys whose values may have several lines."""


class ConfigError(FleetError):
    """The configuration is missing, unreadable or wrong; the text has one line for each mistake."""


def read_yaml(path: Path, *, own: bool = False) -> dict[str, object]:
    """Read a YAML file that holds a mapping.

    Args:
        path: the file.
        own: whether it is this project's, where all keys are text and all text can be shown.

    Raises:
        ConfigError: it cannot be read, is no YAML or no mapping, has a key twice, or is too large or too deep; in a
            line.
    """
    try:
        text = _read(path)
        _measure(path, text)
        data = yaml.load(text, _OwnLoader if own else _Loader)  # noqa: S506 - both are SafeLoaders
    except (OSError, ValueError) as error:  # A NUL in the path, or a number or date that there is not, is the latter.
        if isinstance(error, UnicodeDecodeError):
            raise ConfigError(f"{path}: is no YAML: it is not written in UTF-8") from error
        if isinstance(error, OSError):
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        raise ConfigError(f"{short(str(path))}: cannot be read: {line(error)}") from error
    except yaml.YAMLError as error:
        if "nesting depth" in str(error):  # The parser has a bound of its own, and looks ahead.
            raise ConfigError(f"{path}: {_TOO_DEEP}") from error
        raise ConfigError(f"{path}: is no YAML: {_problem(error)}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values")
    if own and (mistakes := list(_unprintable(data))):
        raise ConfigError("\n".join(f"{path}: {mistake}" for mistake in mistakes[:_MOST_TOLD]))
    return data


def mistakes(path: Path, error: ValidationError) -> list[str]:
    """Return a line for each mistake that a model has found: the file, the key and what is wrong with it."""
    lines = []
    found = error.errors(include_url=False)
    for mistake in found[:_MOST_TOLD]:
        key = ".".join(_key(part) for part in mistake["loc"] if part not in ("int", "str", "[key]"))
        lines.append(f"{path}: {key}: {_message(mistake)}" if key else f"{path}: {_message(mistake)}")
    if more := len(found) - _MOST_TOLD:
        lines += [f"{path}: and {count(more, 'further mistake')}"] if more > 0 else []
    return list(dict.fromkeys(lines))


def _read(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ConfigError(f"{path}: is larger than {LARGEST // 1024} KiB: this is no configuration; shorten it")
    return content.decode("utf-8")


def _measure(path: Path, text: str) -> None:
    """Make sure that a file is neither too deep nor too much, before anything is built of it.

    Raises:
        ConfigError: it is.
    """
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []  # The anchor of each collection, and how much there was before it.
    total = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_):
                raise ConfigError(f"{path}: *{event.anchor} stands within itself")
            total += sizes.get(event.anchor or "", 0)
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = total - before
        if len(open_) > DEEPEST:
            raise ConfigError(f"{path}: {_TOO_DEEP}")
        if total > MOST:
            raise ConfigError(f"{path}: has more than {MOST} values, with what aliases stand for: shorten it")


class _Loader(yaml.CSafeLoader):
    """Refuses a key that is there twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        seen: set[str] = set()
        for key in keys:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {short(key.value)[1:-1]} is there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
            self.look_at(key)
        return super().construct_mapping(node, deep=deep)

    def look_at(self, key: yaml.ScalarNode) -> None:
        """Refuse a key that is no good."""


class _OwnLoader(_Loader):
    """Refuses keys that YAML takes for something else than text: ``yes``, ``1``, ``null``."""

    def look_at(self, key: yaml.ScalarNode) -> None:
        kind = key.tag.removeprefix("tag:yaml.org,2002:")
        if kind not in ("str", "merge"):
            words = {"bool": "true or false", "int": "a number", "float": "a number", "null": "nothing"}
            raise yaml.constructor.ConstructorError(
                problem=f"the key {key.value} means {words.get(kind, f'a {kind}')} in YAML: write it in quotes,"
                f' "{key.value}"',
                problem_mark=key.start_mark,
            )


def _problem(error: yaml.YAMLError) -> str:
    """Return what is wrong with a file, with its line."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark: Any = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        if "constructor for the tag" in str(error.problem):
            return f"{where}has a tag (!) that means nothing here"
        context = f"{error.context}: " if error.context and error.problem else ""
        return f"{where}{context}{line(error.problem or error.context or 'it ends too early')}"
    return line(error)


def _unprintable(value: object, place: str = "") -> Iterator[str]:
    """Return the mistakes of text that cannot be shown: escape codes, NUL, lines where there must be one."""
    if isinstance(value, dict):
        for key, below in value.items():
            if not str(key).isprintable():
                yield f"{place}{short(str(key))}: has characters that do not show: write it in plain text"
            elif len(str(key)) > _LONGEST_NAME:
                yield f"{place}{short(str(key))}: has {len(str(key))} characters: at most {_LONGEST_NAME} are allowed"
            else:
                yield from _unprintable(below, f"{place}{key}.")
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from _unprintable(below, f"{place}{number}.")
    elif isinstance(value, str):
        key = place.rstrip(".")
        is_command = any(part in _COMMANDS for part in key.split("."))
        shown = re.sub(r"[\n\t]", "", value) if is_command else value
        if not shown.isprintable():
            yield f"{key}: {short(value)} has characters that do not show: write one line of plain text"


def _key(part: int | str) -> str:
    return str(part) if str(part).isprintable() and len(str(part)) < 100 else short(str(part))


def _message(mistake: Any) -> str:
    """Return what is wrong with a value, in the words of this project."""
    given, context = mistake["input"], mistake.get("ctx", {})
    if given is None:
        return "is there without a value: give it one, or leave the key out"
    match mistake["type"]:
        case "extra_forbidden":
            return "there is no such key"
        case "missing":
            return "is missing"
        case "model_type" | "dict_type" | "model_attributes_type":
            return "must be a mapping of keys to values"
        case "too_short" | "string_too_short":
            return "must not be empty"
        case "tuple_type" | "list_type":
            return "must be a list"
        case "string_pattern_mismatch":
            return f"{short(given)} is no valid value: it must match {context['pattern']}"
        case "string_too_long":
            return f"has {len(given)} characters: at most {context['max_length']} are allowed"
        case "string_type" | "string_unicode":
            return (
                f"{short(given)} must be text: write it in quotes" if given is not None else "must be text, not nothing"
            )
        case "path_type":
            return (
                f"{short(given)} must be a path: begin it with /"
                if given is not None
                else "must be a path, not nothing"
            )
        case "literal_error":
            return f"{short(given)} is not known here: there is {context['expected']}"
        case "bool_type" | "bool_parsing":
            return f"{short(given)} must be true or false"
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size" | "finite_number":
            return f"{short(given)} must be a whole number"
        case "greater_than_equal":
            return f"{short(given)} must be at least {context['ge']}"
        case "less_than_equal":
            return f"{short(given)} must be at most {context['le']}"
        case "ip_any_address":
            return f"{short(given)} is no IP address"
        case "value_error":
            return line(mistake["msg"].removeprefix("Value error, "))
        case _:
            return f"{short(given)} is no valid value here"
