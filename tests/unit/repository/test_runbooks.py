"""Runbooks quote what is printed: each message in their tables is looked for among the texts of the code."""

import ast
import re
from pathlib import Path

import pytest

from support.places import REPOSITORY

WILD = "\0"
"""What stands in the code's texts for what is filled in."""
ENOUGH = 6
"""Letters that words in a row must have together to be looked for."""
OF_OTHERS = re.compile(
    r"^(cookbook|fleet|kubectl|journalctl|show |systemctl|etcdctl|enable-puppet|calicoctl|ssh-keyscan|/|--)"
)
"""Commands, paths and options are no messages."""


def quoted(path: Path) -> list[str]:
    """Return the messages in the first column of the tables of what can be seen."""
    found, inside = [], False
    for line in path.read_text().splitlines():
        if line.startswith("| what you see"):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            found += re.findall(r"`([^`]+)`", line.split(" | ")[0])
    return [message for message in found if not OF_OTHERS.match(message)]


def texts() -> list[str]:
    """Return all texts of the code, with WILD for what is filled in."""
    found: list[str] = []
    for folder in ("lib/fleet", "cookbooks"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            described = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if id(node) in described:
                    continue
                if isinstance(node, ast.JoinedStr):
                    parts = (str(v.value) if isinstance(v, ast.Constant) else WILD for v in node.values)
                    found.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(re.sub(r"%[sdr]|%\.\df|\{[a-z_.]*\}", WILD, node.value))
    return found


TEXTS = [re.sub(r"[:.,;()'`]+(?= |$)|(?<= )[('`]+", "", text) for text in texts()]
EXAMPLE = re.compile(r"[0-9/._=…-]|^[A-Z]{2,}$")
"""Hosts, paths, units, numbers, what is left out."""
STATES = {
    "active",
    "activating",
    "failed",
    "worker",
    "NotFound",
    "NotReady",
    "s",
    "Idle",
    "Active",
    "Connect",
    "shop",
    "web",
    "eqiad",
}
"""What systemd and routers say of themselves, and names of examples."""


def phrases(message: str) -> list[list[str]]:
    """Return the words in a row that are the code's own: between names, numbers, states and what is left out."""
    found: list[list[str]] = [[]]
    for word in re.sub(r"^(HELD: |\[(stop|ask|note)\] )", "", message).split():
        bare = word.strip(" :.,;()'`")
        if not bare or EXAMPLE.search(bare) or bare in STATES:
            found.append([])
            continue
        found[-1].append(bare)
        if word[-1] in ":;.)":  # What comes behind may be filled in.
            found.append([])
    return [phrase for phrase in found if sum(map(len, phrase)) >= ENOUGH]


def is_printed(phrase: list[str]) -> bool:
    """Tell whether the code can print words in a row: as one text, as two, or with what is filled in at an end."""
    splits = [(phrase[:at], phrase[at:]) for at in range(1, len(phrase))]
    return _stands(phrase) or any(
        (_stands(first) and _stands(rest)) or (len(first) < 3 and sum(map(len, rest)) > 9 and _stands(rest))
        for first, rest in splits
    )


def _stands(words: list[str]) -> bool:
    pattern = re.compile(rf"(?<!\w){re.escape(' '.join(words))}(?!\w)")
    return any(pattern.search(text) for text in TEXTS)


CASES = [
    pytest.param(path.name, message, id=f"{path.stem}: {message[:60]}")
    for path in sorted((REPOSITORY / "runbooks").glob("*.md"))
    for message in quoted(path)
]


@pytest.mark.parametrize(("runbook", "message"), CASES)
def test_what_a_runbook_quotes_is_printed(runbook: str, message: str) -> None:
    missing = [" ".join(phrase) for phrase in phrases(message) if not is_printed(phrase)]

    assert missing == [], f"{runbook} quotes {message!r}, and no code prints {missing}"


def test_there_are_messages_to_look_for() -> None:
    assert len(CASES) > 60


@pytest.mark.parametrize("message", ["HELD: drain: … was struck by lightning", "The moon is full"])
def test_what_is_not_printed_is_found_out(message: str) -> None:
    assert not all(is_printed(phrase) for phrase in phrases(message))
