r"""Flags of a daemon in a file such as ``/etc/default/kube-apiserver``, as Debian's packages have it. Pure: no I/O.

Such a file assigns words to variables, mostly to one, over several lines::

    DAEMON_ARGS="--etcd-servers=https://etcd1:2379 \
     --enable-admission-plugins=NodeRestriction,PodSecurityPolicy"

It is read by systemd (``EnvironmentFile=``) or by a shell. Only what both read alike is understood here: anything else,
such as a command or a value without quotes that has spaces in it, is refused rather than guessed.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from fleet.errors import FleetError

_PLUGINS = "enable-admission-plugins"
_PLUGIN = re.compile(r"[A-Za-z0-9]*")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_NOTHING = re.compile(r"[ \t]*(?:\n|\Z)")  # what may follow on a value's line
_COMMENT = re.compile(r"[ \t]*#[^\n]*(?:\n|\Z)")
_GAP = re.compile(r"(?:[ \t\n]|\\\n)*")  # between words, within quotes
_ESCAPED = '"\\$`'  # what a backslash takes its meaning from, within double quotes


class DefaultsError(FleetError):
    """A file with a daemon's flags is not understood, so that it cannot be changed safely."""


@dataclass(frozen=True, slots=True)
class _Word:
    """A word of a variable's value.

    Attributes:
        text: what the daemon gets.
        start, end: where it stands in the file.
        literal: whether it stands there as the daemon gets it.
    """

    text: str
    start: int
    end: int
    literal: bool


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str
    start: int  # of its value, within a quote that it begins with
    words: tuple[_Word, ...]


@dataclass(frozen=True, slots=True)
class _Flag:
    """A flag: one word (``--name=value``), or two of them."""

    words: tuple[_Word, ...]
    value: str
    value_start: int  # where the value begins in the last word
    before: int  # where what is before it ends: the word before, or the quote


def flag(text: str, name: str) -> str | None:
    """Return the value of a flag.

    Args:
        text: the file.
        name: without the dashes.

    Returns:
        What follows in ``--name=value`` or ``--name value``; ``true`` if nothing does; None if there is no such flag.

    Raises:
        DefaultsError: the file is not understood, or has the flag more than once, or made of variables.
    """
    found = _find(text, name)
    return found.value if found else None


def without_plugins(text: str, plugins: Collection[str]) -> str:
    """Return the file with admission plugins taken out of ``--enable-admission-plugins``.

    The flag goes if no plugin is left, with the space before it. Everything else is byte for byte the same.

    Args:
        text: the file.
        plugins: their names, such as ``PodSecurityPolicy``.

    Raises:
        DefaultsError: the file is not understood, or has the flag more than once, or made of variables.
    """
    found = _find(text, _PLUGINS)
    if found is None:
        return text
    enabled = found.value.split(",")
    if odd := [plugin for plugin in enabled if not _PLUGIN.fullmatch(plugin)]:
        raise DefaultsError(f"--{_PLUGINS} has {odd[0]!r} in it, which is no name of a plugin.")
    left = [plugin for plugin in enabled if plugin not in plugins]
    if left == enabled:
        return text
    last = found.words[-1]
    if not all(word.literal for word in found.words):
        raise DefaultsError(f"--{_PLUGINS} is not changed: it is quoted or continued within itself. Write it in one.")
    if left:
        return text[: last.start + found.value_start] + ",".join(left) + text[last.end :]
    start = found.before if _GAP.fullmatch(text, found.before, found.words[0].start) else found.words[0].start
    between = text[found.words[0].end : last.start] if len(found.words) > 1 else ""
    if not _GAP.fullmatch(between):
        raise DefaultsError(f"--{_PLUGINS} and its value are not taken out: there are quotes between them.")
    return text[:start] + text[last.end :]


def _find(text: str, name: str) -> _Flag | None:
    variables = list(_variables(text))
    found = [(variable, each) for variable in variables for each in _flags(variable, name)]
    mention = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])|--{re.escape(name)}(?![\w-])")
    mentions = sum(len(mention.findall(word.text)) for variable in variables for word in variable.words)
    if not found and not mentions:
        return None
    if len(found) != 1 or mentions != 1:
        raise DefaultsError(f"--{name} is there more than once, or in parts: write it once, with its value.")
    variable, only = found[0]
    if any(sign in word.text for word in only.words for sign in "$'\"\\`"):
        raise DefaultsError(f"--{name} is made of variables or has quotes in it: write its value as it is.")
    if [other.name for other in variables].count(variable.name) > 1:
        raise DefaultsError(f"{variable.name}, with --{name} in it, is set more than once: set it once.")
    return only


def _flags(variable: _Variable, name: str) -> Iterator[_Flag]:
    before = variable.start
    words: Sequence[_Word] = variable.words
    for number, word in enumerate(words):
        if word.text.startswith(f"--{name}="):
            skipped = len(name) + 3
            yield _Flag((word,), word.text[skipped:], skipped, before)
        elif word.text == f"--{name}":
            following = words[number + 1] if number + 1 < len(words) else None
            if following is None or following.text.startswith("-"):
                yield _Flag((word,), "true", 0, before)
            else:
                yield _Flag((word, following), following.text, 0, before)
        before = word.end


def _variables(text: str) -> Iterator[_Variable]:
    position = 0
    while position < len(text):
        if blank := _NOTHING.match(text, position):
            position = blank.end()
        elif comment := _COMMENT.match(text, position):
            position = comment.end()
            # To a shell the comment is over; to systemd it goes on.
            if comment[0].endswith("\\\n") and not (_COMMENT.match(text, position) or _is_blank(text, position)):
                raise _not_understood(text, comment.start(), "a comment that ends with a backslash")
        elif assignment := _NAME.match(text, position):
            characters, end = _value(text, assignment.end())
            if not (rest := _NOTHING.match(text, end)):
                raise _not_understood(text, position, "something follows the value: put it into quotes")
            start = assignment.end() + (text[assignment.end() : assignment.end() + 1] in ("'", '"'))
            yield _Variable(assignment[1], start, tuple(_words(text, characters)))
            position = rest.end()
        else:
            raise _not_understood(text, position, "it is neither a comment nor NAME=VALUE")


def _is_blank(text: str, position: int) -> bool:
    return position >= len(text) or bool(_NOTHING.match(text, position))


def _value(text: str, position: int) -> tuple[list[tuple[str, int, int]], int]:
    """Return a value's characters, each with where it stands, and where the value ends."""
    characters: list[tuple[str, int, int]] = []
    begin, quote = position, ""
    while position < len(text):
        character, following = text[position], text[position + 1 : position + 2]
        if not quote and character in " \t\n":
            break
        if character == quote or (not quote and character in "'\""):
            quote = "" if quote else character
        elif character == "\\" and quote != "'" and following == "\n":
            position += 1
        elif character == "\\" and following and (not quote or (quote == '"' and following in _ESCAPED)):
            characters.append((following, position, position + 2))
            position += 1
        elif quote != "'" and (character == "`" or text.startswith("$(", position)):
            raise _not_understood(text, begin, "it has the output of a command in it")
        elif not quote and character in ";&|<>()#\r":
            raise _not_understood(text, begin, f"{character!r} is outside of quotes")
        else:
            characters.append((character, position, position + 1))
        position += 1
    if quote:
        raise _not_understood(text, begin, f"the quote {quote} is not closed")
    return characters, position


def _words(text: str, characters: Sequence[tuple[str, int, int]]) -> Iterator[_Word]:
    word: list[tuple[str, int, int]] = []
    for character in [*characters, (" ", len(text), len(text))]:
        if character[0] not in " \t\n":
            word.append(character)
        elif word:
            start, end = word[0][1], word[-1][2]
            said = "".join(part for part, _, _ in word)
            yield _Word(said, start, end, literal=text[start:end] == said)
            word = []


def _not_understood(text: str, position: int, why: str) -> DefaultsError:
    line = text.count("\n", 0, position) + 1
    return DefaultsError(f"Line {line} of the file with the flags is not understood: {why}.")
