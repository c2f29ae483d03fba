"""The marker that carries a command's exit code, with a real shell."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.adapters.hosts.remote import mark, parse
from fleet.execution import Result, failures

# What a host may print: ClusterShell splits it into lines and joins them again.
OUTPUT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=200)


def shell(command: str) -> str:
    run = subprocess.run(["/bin/sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return run.stdout.decode(errors="replace")


@given(output=OUTPUT, code=st.integers(0, 255))
def test_exit_codes_are_found_after_any_output(output: str, code: int) -> None:
    assert parse(f"{output}\nfleet-rc={code}\nBye", timeout=None) == Result(code, output.strip("\n"))


@given(output=OUTPUT.filter(lambda text: "fleet-rc=" not in text), timeout=st.none() | st.floats(1, 100))
def test_without_a_marker_there_is_no_exit_code(output: str, timeout: float | None) -> None:
    result = parse(output, timeout=timeout)

    assert result.exit_code is None
    assert result.output
    assert "\n" not in result.output


def test_output_that_looks_like_a_marker_is_output() -> None:
    assert parse("fleet-rc=0\nfleet-rc=7\n", timeout=None) == Result(7, "fleet-rc=0")
    assert parse("echo fleet-rc=0", timeout=None).exit_code is None


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("true", Result(0, "")),
        ("exit 9", Result(9, "")),
        ("printf 'no newline'", Result(0, "no newline")),
        ("echo out; echo err >&2; false", Result(1, "out\nerr")),
        ("cat", Result(0, "")),
        ("[[ a == a ]] && echo bash", Result(0, "bash")),
        ("echo 'it'\"'\"'s'; exit 3", Result(3, "it's")),
    ],
)
def test_marked_commands(command: str, result: Result) -> None:
    assert parse(shell(mark(command)), timeout=None) == result


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"), max_size=40))
@settings(max_examples=50, deadline=None)
def test_marked_commands_keep_their_text(text: str) -> None:
    quoted = "'" + text.replace("'", "'\\''") + "'"

    assert parse(shell(mark(f"printf '<%s>' {quoted}; exit 5")), timeout=None) == Result(5, f"<{text}>")


def test_no_placeholder_of_clustershell_is_left_in_a_command() -> None:
    marked = mark("echo 'all %hosts and %{hosts}' %hosts")
    assert "%hosts" not in marked
    assert "%{hosts}" not in marked
    output = subprocess.run(["sh", "-c", marked], capture_output=True, text=True, check=True).stdout
    assert parse(output, timeout=None) == Result(0, "all %hosts and %{hosts} %hosts")


def test_failures_are_told_in_a_line() -> None:
    results = {
        "a": Result(0, "fine"),
        "b": Result(2, "one\ntwo\n\n"),
        "c": Result(None, "ssh: connect to host c port 22: Connection refused"),
        "d": Result(1, ""),
    }

    assert failures(results) == {
        "b": "two (exit code 2)",
        "c": "ssh: connect to host c port 22: Connection refused",
        "d": "no output (exit code 1)",
    }
