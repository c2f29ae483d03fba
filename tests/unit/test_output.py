"""Output that nobody can take, in processes of their own: pipes without a reader, full disks; and ignored signals."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.engine import journal
from support.cookbook_help import cookbook
from support.plain import NAME, Operator

FULL = "/dev/full"
COOKBOOKS = (
    "sre.etcd.restart",
    "sre.hosts.downtime",
    "sre.hosts.remove-downtime",
    "sre.k8s.reboot-nodes",
    "sre.k8s.reinitialize-cluster",
    "sre.k8s.restart-calico",
    "sre.k8s.restart-control-plane",
    "sre.network.bgp-summary",
)


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


def closed_pipe() -> int:
    """Return the end of a pipe that nobody reads."""
    ours, theirs = os.pipe()
    os.close(ours)
    return theirs


def full_disk() -> int:
    return os.open(FULL, os.O_WRONLY)


TARGETS = pytest.mark.parametrize("target", [closed_pipe, full_disk])


def into(operator: Operator, command: list[str], target: Callable[[], int]) -> subprocess.CompletedProcess[str]:
    """Run a command whose output nobody takes; return it with what it said on stderr."""
    descriptor = target()
    try:
        return operator.run(command, stdout=descriptor)
    finally:
        os.close(descriptor)


def the_run(operator: Operator) -> journal.RunRecord:
    (folder,) = operator.state.iterdir()
    return journal.read(folder)


def complaints(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines of its log that say something of output; there must not be anything that Python says."""
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    assert "Logging error" not in result.stderr
    return [line for line in result.stderr.splitlines() if "could not be written" in line]


@TARGETS
def test_nothing_is_started_if_the_plan_cannot_be_read(operator: Operator, target: Callable[[], int]) -> None:
    result = into(operator, operator.work(), target)

    (line,) = complaints(result)
    assert line.endswith("Nothing was changed.")
    assert result.returncode == 3
    assert operator.done == []
    assert not operator.state.exists()


@TARGETS
def test_a_dry_run_says_so_too(operator: Operator, target: Callable[[], int]) -> None:
    command = operator.work()
    command.insert(command.index(NAME), "--dry-run")

    result = into(operator, command, target)

    assert len(complaints(result)) == 1
    assert result.returncode == 3


def test_a_reader_that_has_had_enough_of_a_plan(operator: Operator) -> None:
    process = subprocess.Popen(
        operator.work("--units", "2000"),
        env=operator.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline().startswith("unit0 ")
    process.stdout.close()
    assert process.stderr
    said = process.stderr.read()

    assert process.wait(180) == 3
    assert said.count("could not be written") == 1
    assert "Traceback" not in said
    assert operator.done == []


def test_a_reader_that_leaves_in_the_middle_stops_nothing(operator: Operator) -> None:
    process = subprocess.Popen(
        operator.work("--units", "3", "--seconds", "0.5"),
        env=operator.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stderr
    while not (line := process.stdout.readline()).startswith("Run "):
        assert line
    process.stdout.close()
    said = process.stderr.read()

    assert process.wait(180) == 3
    assert operator.done == ["unit0", "unit1", "unit2"]
    record = the_run(operator)
    assert record.status == "done"
    assert (operator.state / record.info.id / "report.json").is_file()
    (told,) = [line for line in said.splitlines() if "could not be written" in line]
    assert told.endswith(f"The run went on without that: see `fleet runs show {record.info.id}`.")
    assert "Traceback" not in said


def test_both_streams_may_go(operator: Operator) -> None:
    """As with ``2>&1 | head -3``: the log goes as well, and nobody is left to be told."""
    process = subprocess.Popen(
        operator.work("--units", "3", "--seconds", "0.5"),
        env=operator.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    while "started" not in process.stdout.readline():
        pass
    process.stdout.close()

    assert process.wait(180) == 3
    assert operator.done == ["unit0", "unit1", "unit2"]
    assert the_run(operator).status == "done"


def test_a_closed_output_is_no_place_for_a_plan(operator: Operator) -> None:
    result = operator.run(["bash", "-c", 'exec "$@" >&-', "bash", *operator.work()])

    assert len(complaints(result)) == 1
    assert result.returncode == 3
    assert operator.done == []


def test_all_is_well_where_all_can_be_read(operator: Operator) -> None:
    result = operator.run(operator.work())

    assert result.returncode == 0, result.stderr
    assert complaints(result) == []
    assert operator.done == ["unit0", "unit1"]


def test_what_the_output_cannot_show_is_written_as_codes(operator: Operator) -> None:
    result = subprocess.run(
        operator.work("--units", "1", "-t", "T1"),
        env={**operator.environment, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=180,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    assert b"UnicodeEncodeError" not in result.stderr


@pytest.mark.parametrize("name", COOKBOOKS)
def test_every_cookbook_looks_after_its_output(
    name: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.syspath_prepend(str(request.config.rootpath))
    monkeypatch.setattr(sys, "stderr", io.StringIO())

    with Path(FULL).open("w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        parser = cookbook(name).argument_parser()
        with pytest.raises(SystemExit) as caught:
            parser.parse_args(["--help"])

    assert caught.value.code == 3


def test_help_into_a_full_disk(operator: Operator) -> None:
    result = into(operator, operator.cookbook("sre.etcd.restart", "--help"), full_disk)

    assert len(complaints(result)) == 1
    assert result.returncode == 3


@pytest.mark.parametrize(
    ("arguments", "target"),
    [(["--help"], full_disk), (["runs", "list"], closed_pipe), (["runs", "list", "--json"], full_disk)],
)
def test_the_command_fleet(operator: Operator, arguments: list[str], target: Callable[[], int]) -> None:
    result = into(operator, operator.fleet(*arguments), target)

    assert complaints(result)
    assert len(result.stderr.splitlines()) == 1
    assert result.returncode == 3


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_what_was_ignored_at_the_start_stays_ignored(operator: Operator, number: signal.Signals) -> None:
    trap = f'trap "" {number.name.removeprefix("SIG")}; exec "$@"'
    code = interrupted(operator, ["bash", "-c", trap, "bash", *operator.work("--seconds", "0.7")], number)

    assert code == 0
    assert operator.done == ["unit0", "unit1"]
    assert the_run(operator).status == "done"


def test_nohup_outlives_its_terminal(operator: Operator) -> None:
    code = interrupted(operator, ["nohup", *operator.work("--seconds", "0.7")], signal.SIGHUP)

    assert code == 0
    assert operator.done == ["unit0", "unit1"]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_what_was_not_ignored_interrupts(operator: Operator, number: signal.Signals) -> None:
    code = interrupted(operator, operator.work("--seconds", "0.7"), number)

    assert code == 3
    assert "unit1" not in operator.done
    assert the_run(operator).status in ("interrupted", "stopped")


def interrupted(operator: Operator, command: list[str], number: signal.Signals) -> int:
    """Run a command, and send it a signal while its first unit is worked on; return its exit code."""
    # As a terminal starts it: tests that were started in the background of a shell ignore some signals themselves.
    command = ["env", "--default-signal", *command]
    with (operator.folder / "said").open("w") as said:
        process = subprocess.Popen(
            command, env=operator.environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    end = time.monotonic() + 180
    while "unit0: started" not in (operator.folder / "said").read_text():
        assert time.monotonic() < end, (operator.folder / "said").read_text()
        time.sleep(0.02)
    process.send_signal(number)
    return process.wait(180)
