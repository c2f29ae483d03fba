"""An organisation's own commands, with the real bash."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters import commands
from fleet.adapters.commands import CommandError
from support.apiserver import eventually
from support.places import REPOSITORY

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


class Run:
    """Runs commands, and keeps what is told."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "command.log"
        self.told: list[str] = []
        self.cancel = threading.Event()

    def __call__(self, command: str, *, timeout: float = 20) -> int:
        return commands.run(command, timeout=timeout, log=self.log, cancel=self.cancel, tell=self.told.append)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def alive(pid: int) -> bool:
    """Tell whether a process runs; what has ended and is not reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@given(TEXT)
def test_a_value_is_one_word_whatever_is_in_it(value):
    command = commands.fill("printf '%s|' {cluster} '{{x}}' ", cluster=value)
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert done.stdout == f"{value}|{{x}}|".encode()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("deploy {service}", "{service} is not known in the command 'deploy {service}'"),
        ("deploy {}", "{} is not known"),
        ("deploy ${HOME", "cannot be used: .*a brace is written twice"),
        ("deploy }", "cannot be used"),
        ("deploy {cluster!r}", "is to stand there without more"),
        ("deploy {cluster:>9}", "is to stand there without more"),
        ("deploy {cluster.__class__}", "is not known"),
    ],
)
def test_a_command_that_cannot_be_filled_is_refused(command, message):
    with pytest.raises(CommandError, match=message):
        commands.fill(command, cluster="x")


def test_the_exit_code_is_returned_and_the_output_is_kept_in_private(run: Run) -> None:
    assert run("echo one; echo two >&2; exit 3") == 3
    assert run("false | true") == 1
    assert run("kill -TERM $$") == 128 + signal.SIGTERM
    assert run("cat; [ ! -t 0 ] && echo no input") == 0
    text = run.log.read_text()
    assert text.count("fleet runs: ") == 4
    assert "\none\ntwo\n\nfleet runs: false | true (" in text
    assert stat.S_IMODE(run.log.stat().st_mode) == 0o600
    assert run.told == ["two", "no input"]


def test_the_last_line_is_told_now_and_then_without_what_acts_on_a_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "TELL_EVERY", 0.3)
    run(r"for i in 1 2 3; do printf '\e[31mstep %d\a\e[0m\n\n' $i; sleep 0.8; done")
    assert run.told == ["step 1", "step 2", "step 3"]
    run("seq 1 100000; head -c 100000 /dev/zero | tr '\\0' x; echo")
    assert run.told[-1] == "x" * 200
    run("printf 'an output that ends within a line'")
    run("true\ntrue")
    assert commands.last_line(run.log) == ""
    lines = run.log.read_text().splitlines()
    assert (lines[-2], lines[-1][:21]) == ("an output that ends within a line", "fleet runs: true true")


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_one_that_takes_too_long_or_is_cancelled_ends_with_all_its_processes(run: Run, tmp_path: Path, how) -> None:
    pids = tmp_path / "pids"
    if how == "cancel":
        threading.Timer(2, run.cancel.set).start()
    started = time.monotonic()
    with pytest.raises(CommandError, match="not done within 3 s" if how == "timeout" else "was cancelled") as error:
        run(
            f"sleep 60 & echo $! >{pids}; bash -c 'sleep 61; true' & echo $! >>{pids}; echo $$ >>{pids}; wait",
            timeout=3,
        )
    assert str(run.log) in str(error.value)
    assert time.monotonic() - started < 20
    found = [int(pid) for pid in pids.read_text().split()]
    assert len(found) == 3
    assert not [pid for pid in found if alive(pid)]


def test_what_does_not_end_in_order_is_killed_after_a_while(run: Run, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    started = time.monotonic()
    with pytest.raises(CommandError):
        # bash itself ends in order; what it started does not.
        run(f"(trap '' TERM; echo $BASHPID >{pids}; while :; do sleep 0.1; done) & wait", timeout=0.5)
    assert 5 < time.monotonic() - started < 30
    eventually(lambda: not alive(int(pids.read_text())))


def test_what_is_left_in_the_background_is_not_waited_for(run: Run) -> None:
    started = time.monotonic()
    assert run("sleep 8 & echo done") == 0
    assert time.monotonic() - started < 7
    assert run.told == ["done"]
    assert run("true") == 0  # but before it is run once more, it is
    assert time.monotonic() - started > 7


CHILD = """
import signal, sys, threading
from pathlib import Path
from fleet.adapters import commands
# A shell that has started the tests in its background has had them ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    print(commands.run(sys.argv[1], timeout=20, log=Path(sys.argv[2]), cancel=None, tell=lambda line: None))
except KeyboardInterrupt:
    print("interrupted")
"""


def start(command: str, log: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": "lib"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, command, str(log)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        cwd=REPOSITORY,
    )
    eventually(lambda: log.exists() and "begun" in commands.last_line(log))
    return child


def test_an_interrupt_of_the_terminal_does_not_reach_it_and_ends_it_in_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = "trap 'echo got INT; exit' INT; trap 'echo got TERM; exit' TERM; echo begun; while :; do sleep 0.1; done"
    child = start(command, log)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to all of its foreground processes
    assert child.communicate(timeout=10)[0] == "interrupted\n"
    text = log.read_text().partition("begun\n")[2]
    assert "got TERM" in text
    assert "got INT" not in text


def test_an_earlier_start_that_outlived_its_run_is_waited_for(run: Run) -> None:
    child = start("echo begun; sleep 2; echo done", run.log)
    child.kill()
    child.wait()
    assert run("echo again") == 0
    lines = [line for line in run.log.read_text().splitlines() if line and not line.startswith("fleet runs")]
    assert lines == ["begun", "done", "again"]
    assert run.told == ["an earlier start of the command is waited for", "again"]


def test_an_earlier_start_is_not_waited_for_beyond_the_timeout(run: Run) -> None:
    child = start("echo begun; sleep 3", run.log)
    with pytest.raises(CommandError, match=r"not done within 0\.5 s"):
        run("echo again", timeout=0.5)
    assert "again" not in run.log.read_text()
    assert child.communicate(timeout=10)[0] == "0\n"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"cannot be written to .*absent/log: No such file"):
        commands.run("true", timeout=1, log=tmp_path / "absent" / "log", cancel=None, tell=print)
