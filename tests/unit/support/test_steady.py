"""The tool that runs tests again and again."""

from pathlib import Path

import pytest

from support import steady

TESTS = """
from pathlib import Path

def test_one_time_in_two():
    seen = Path({folder!r}, "seen")
    seen.write_text(seen.read_text() + "x" if seen.exists() else "x")
    assert len(seen.read_text()) % 2

def test_always():
    assert True
"""


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """Pytest without plugins starts in a third of the time."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def suite(folder: Path, text: str) -> list[str]:
    path = folder / "test_it.py"
    path.write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return ["--", "-q", "-p", "no:cacheprovider", "-c", str(folder / "pytest.ini"), str(path)]


def runs(folder: Path) -> Path:
    (folder / "runs").mkdir()
    return folder / "runs"


def test_each_failing_test_is_told_with_its_count(tmp_path, capsys):
    arguments = suite(tmp_path, TESTS.format(folder=str(tmp_path)))
    assert steady.main(["--runs", "2", "--busy", "1", *arguments], folder=runs(tmp_path)) == 1
    said = capsys.readouterr().out
    assert said.endswith("Tests that failed in some of 2 runs:\n   1  test_it::test_one_time_in_two\n")
    assert said.count("all passed") == 1
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["2.txt", "2.xml"]


def test_what_never_fails_is_said_with_the_number_of_runs(tmp_path, capsys):
    arguments = suite(tmp_path, "def test(): pass")
    assert steady.main(["--runs", "1", "--busy", "0", *arguments], folder=runs(tmp_path)) == 0
    assert capsys.readouterr().out.endswith("No test failed in 1 runs.\n")
    assert not (tmp_path / "runs").exists()


def test_a_run_without_tests_is_no_success(tmp_path, capsys):
    assert steady.main(["--runs", "1", "--busy", "0", *suite(tmp_path, "")], folder=runs(tmp_path)) == 1
    assert "(pytest itself ended with exit code 5)" in capsys.readouterr().out


def test_the_worst_comes_first():
    assert steady.summary(9, {"a": 1, "b": 3, "c": 1}).splitlines()[1:] == ["   3  b", "   1  a", "   1  c"]
