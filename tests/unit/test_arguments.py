"""What may be typed behind a cookbook's name: words of one line that show, refused before anything is said of them."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import arguments
from support.cookbook_help import cookbook

ODD = ["a\nb", "a\x1b[31mb", "a\u202eb", "a\udc80b", "a\rb", "a\x07b", "a\u200bb", "a\u2028b", "a\x9bb"]
WORDS = {
    "sre.k8s.reboot-nodes": ("--cluster", "--query", "--exclude", "--reason", "--task-id", "--resume", "--abort"),
    "sre.k8s.restart-calico": ("--query",),
    "sre.k8s.restart-control-plane": ("--components", "--hosts"),
    "sre.etcd.restart": ("--hosts",),
    "sre.k8s.reinitialize-cluster": ("--new-etcd", "--puppet-change", "--reuse", "--calico-export"),
    "sre.network.bgp-summary": ("--cluster", "--node"),
    "sre.hosts.downtime": ("--reason", "--task-id", "--cluster", ""),
    "sre.hosts.remove-downtime": ("--cluster", ""),
}
"""All arguments of words; the empty name is the one without an option."""
ALL = [(name, option) for name, options in WORDS.items() for option in options]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.syspath_prepend(str(request.config.rootpath))


def refusal(name: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the last line of what is said to words that are refused."""
    with pytest.raises(SystemExit) as caught:
        cookbook(name).argument_parser().parse_args(words)
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()[-1]


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize(("name", "option"), ALL)
def test_what_does_not_show_is_refused(name: str, option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(name, [option, value] if option else [value], capsys)

    assert said.isprintable()
    assert "must be one line of plain text" in said


@pytest.mark.parametrize(("name", "option"), [(name, option) for name, option in ALL if option != "--task-id"])
def test_an_empty_variable_is_told_as_one(name: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is a variable of the shell not set?" in refusal(name, [option, ""] if option else [""], capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-t", "notatask"], "'notatask' is no ticket: write T and its number, such as T12345"),
        (["-r", 'a "b"'], "it must have no double quotes"),
        (["-r", "x" * 501], "it has 501 characters: at most 500 are announced"),
        (["--resume", "../../x"], "'../../x' is no run's id: `fleet runs list` shows them"),
        (["--cluster", "lab/x"], "'lab/x' is no name of a cluster"),
        (["--max-failed", "²"], "'²' is no number: write 0 or more"),
        (["--query", "x" * 30_000], "a word has 30000 characters, more than 20000"),
    ],
)
def test_one_sentence_says_why(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refusal("sre.k8s.reboot-nodes", words, capsys)


def test_no_component_is_no_list(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal("sre.k8s.restart-control-plane", ["--components", ","], capsys)

    assert said.endswith("',' has no names")


@given(st.text())
def test_what_passes_is_one_line_that_shows(value: str) -> None:
    try:
        parsed = parser().parse_args([f"--word={value}"])
    except Refused:
        assert not value.strip() or not value.isprintable()
    else:
        assert parsed.word == value
        assert value.isprintable()


class Refused(Exception):
    pass


class Raising(arguments.Parser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise Refused(message)


def parser() -> argparse.ArgumentParser:
    made = Raising()
    made.add_argument("--word", type=arguments.text)
    return made
