"""The arguments of a unit's main process: what is read of a host's answer, and the command itself in a shell."""

import base64
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.hosts import processes
from fleet.execution import Result, Unreachable

words = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1).filter(
    lambda found: found != [""]
)


def answer(arguments: Sequence[str]) -> str:
    """Return what a host says of a process; the kernel ends each word with a zero byte."""
    line = "".join(f"{word}\0" for word in arguments)
    return f"Welcome to cp1\nfleet-arguments={base64.b64encode(line.encode()).decode()}\n"


@given(words)
def test_arguments_are_read_as_they_are(arguments: list[str]) -> None:
    assert processes.parse(answer(arguments)) == tuple(arguments)


def test_a_unit_that_does_not_run_has_none() -> None:
    assert processes.parse("fleet-arguments=\n") == ()


@pytest.mark.parametrize("output", ["", "systemctl: not found", "fleet-arguments=Zm9", "fleet-arguments=Zm9v$(x)"])
def test_what_cannot_be_read_is_no_answer(output: str) -> None:
    found = processes.parse(output)

    assert isinstance(found, Unreachable)
    assert "cannot be read" in found.reason


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["x", "--etcd-servers=a,b"], "a,b"),
        (["x", "--etcd-servers", "a,b", "--v=2"], "a,b"),
        (["x", "--etcd-servers=a", "--etcd-servers", "b"], "b"),
        (["x", "--etcd-servers", "a", "--etcd-servers=b=c"], "b=c"),
        (["x", "--etcd-servers="], ""),
        (["x", "--etcd-servers"], None),
        (["x", "--etcd-servers-overrides=a", "-etcd-servers=a", "etcd-servers=a"], None),
        ([], None),
    ],
)
def test_the_last_value_of_a_flag_counts(arguments: list[str], value: str | None) -> None:
    assert processes.flag(arguments, "etcd-servers") == value


class Hosts:
    """Runs every command in a shell of this host, with a systemctl that knows a main process."""

    def __init__(self, folder: Path, pid: object) -> None:
        self.commands: list[str] = []
        self._folder = folder
        systemctl = folder / "systemctl"
        systemctl.write_text(f'#!/bin/sh\n[ "$*" = "show --property=MainPID --value -- api.service" ] && echo {pid}\n')
        systemctl.chmod(0o755)

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        self.commands.append(command)
        assert safe, "it only reads"
        bash = shutil.which("bash")
        assert bash
        done = subprocess.run(
            [bash, "-c", command], env={"PATH": f"{self._folder}:/usr/bin:/bin"}, capture_output=True, text=True
        )
        return dict.fromkeys(hosts, Result(done.returncode, done.stdout))


def test_a_process_is_asked_for_its_own_arguments(tmp_path: Path) -> None:
    command = ["sleep", "--", "30"]
    with subprocess.Popen(command) as process:
        try:
            found = processes.arguments(Hosts(tmp_path, process.pid), ["cp1", "cp2"], "api.service")
        finally:
            process.kill()

    assert found == {"cp1": tuple(command), "cp2": tuple(command)}


def test_a_unit_that_does_not_run_has_no_arguments(tmp_path: Path) -> None:
    assert processes.arguments(Hosts(tmp_path, 0), ["cp1"], "api.service") == {"cp1": ()}


@pytest.mark.parametrize("pid", ["", 2**22 + 1, "; exit 1; echo 0"])
def test_a_systemd_that_does_not_say_or_a_process_that_has_just_ended_is_no_answer(tmp_path: Path, pid: object) -> None:
    found = processes.arguments(Hosts(tmp_path, pid), ["cp1"], "api.service")
    assert isinstance(found["cp1"], Unreachable), "it may run all the same"


def test_the_unit_is_quoted(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, 0)
    processes.arguments(hosts, ["cp1"], f"a;touch {tmp_path}/harm.service")

    assert not list(tmp_path.glob("harm*"))
    assert "-- 'a;touch" in hosts.commands[0]


def test_a_host_that_is_gone_is_no_answer() -> None:
    class Gone:
        def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
            return dict.fromkeys(hosts, Result(None, "no answer within 15 s"))

    assert processes.arguments(Gone(), ["cp1"], "api.service") == {"cp1": Unreachable("no answer within 15 s")}
