"""Questions in the middle of a run: what counts as an answer, and what is said when there is none."""

import sys
from collections.abc import Callable, Sequence
from io import StringIO, TextIOBase
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fleet.adapters.k8s.nodes import NoNodes
from fleet.config.model import Config
from fleet.engine.declaration import Question
from fleet.procedures.nodes import Selection
from fleet.procedures.reboot_nodes import RebootNodes
from fleet.session import Session
from support.spicerack import Ann
from worlds.reinitialize import CONFIG

QUESTION = Question("All of lab is going to be away.\nIs that what you want? [lab]", "lab")


@pytest.fixture
def session(tmp_path: Path) -> Callable[..., Session]:
    def make(*, unattended: bool = False) -> Session:
        config = Config(state_dir=tmp_path, clusters={"lab": CONFIG})
        made = Session(Ann(), config, RebootNodes(Selection()), unattended=unattended)
        made._console = Console(file=StringIO(), width=40)
        return made

    return make


class Typed(TextIOBase):
    """What somebody types, line by line; an exception is what keys can raise."""

    def __init__(self, answers: Sequence[str | type[BaseException]]) -> None:
        super().__init__()
        self._left = iter(answers)

    def readline(self, _size: int = -1, /) -> str:  # type: ignore[override]
        answer = next(self._left)
        if isinstance(answer, str):
            return f"{answer}\n"
        raise answer


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let somebody sit at the terminal, who types what is given."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    def types(*answers: str | type[BaseException]) -> None:
        monkeypatch.setattr(sys, "stdin", Typed(answers))

    return types


def said(session: Session) -> str:
    """Return what was printed."""
    file: Any = session._console.file
    return str(file.getvalue())


def test_the_word_is_the_answer(session: Callable[..., Session], terminal: Callable[..., None]) -> None:
    terminal("lab")
    asked = session()

    assert asked._decide(QUESTION) == ""
    assert said(asked) == f"\n{QUESTION.text}\n", "nothing of it is taken for markup, or broken into other lines"


def test_a_slip_may_be_mended(session: Callable[..., Session], terminal: Callable[..., None]) -> None:
    terminal("lba", "lab")

    assert session()._decide(QUESTION) == ""


@pytest.mark.parametrize(
    "answers",
    [("no", "yes", "go", "never reached"), ("", " ", "LAB"), (KeyboardInterrupt,), (EOFError,), ("lba", EOFError)],
)
def test_everything_else_is_none(
    session: Callable[..., Session], terminal: Callable[..., None], answers: tuple[Any, ...]
) -> None:
    terminal(*answers)

    assert session()._decide(QUESTION) == "the operator did not type 'lab'"


def test_nobody_is_asked_in_an_unattended_run(session: Callable[..., Session], terminal: Callable[..., None]) -> None:
    terminal(AssertionError)
    asked = session(unattended=True)

    assert "has to type 'lab': resume it on a terminal, without --unattended" in asked._decide(QUESTION)
    assert QUESTION.text in said(asked), "what it is about is told nevertheless"


def test_nobody_is_asked_without_a_terminal(session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)

    assert "has to type 'lab'" in session()._decide(QUESTION)


def test_without_an_api_nothing_is_known_of_nodes() -> None:
    assert NoNodes().snapshot() == {}
    assert NoNodes().age() > 1e9, "what is not known is not current"
