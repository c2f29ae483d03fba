"""The commands of config/hosts, run by a real bash against a folder that stands in for Puppet's."""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.places import CONFIG

HOSTS = CONFIG / "hosts"
GOOD = """\
---
version:
  puppet: 7.23.0
resources:
  failed: 0
  failed_to_restart: 0
  total: 8
time:
  last_run: 1
events:
  failure: 0
"""
BAD = GOOD.replace("  failed: 0", "  failed: 2")
NO_CATALOG = "---\nversion:\n  config:\n  puppet: 7.23.0\ntime:\n  last_run: 1700000000\n"


@dataclass(frozen=True)
class Host:
    """A folder with Puppet's files, and the commands run on it."""

    folder: Path

    @property
    def lock(self) -> Path:
        return self.folder / "state" / "agent_disabled.lock"

    @property
    def run_lock(self) -> Path:
        return self.folder / "state" / "agent_catalog_run.lock"

    @property
    def summary(self) -> Path:
        return self.folder / "public" / "last_run_summary.yaml"

    def puppet(self, command: str) -> None:
        (self.folder / "defaults").write_text(f"VARDIR={self.folder}\nPUPPET_COMMAND='{command}'\n")

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C",  # what sshd gives to a command
            "PUPPET_COMMON": str(HOSTS / "puppet-common.sh"),
            "PUPPET_DEFAULTS": str(self.folder / "defaults"),
            "PUPPET_PATHS_CACHE": str(self.folder / "paths"),
            "PUPPET_WRAPPER_LOCK": str(self.folder / "wrapper.lock"),
            "SUMMARY": str(self.summary),
        }

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.execute([str(HOSTS / command), *arguments])

    def execute(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )

    def message(self) -> str | None:
        return json.loads(self.lock.read_text())["disabled_message"] if self.lock.exists() else None


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    for path in (host.lock, host.summary):
        path.parent.mkdir()
    (tmp_path / "good").write_text(GOOD)
    (tmp_path / "bad").write_text(BAD)
    (tmp_path / "none").write_text(NO_CATALOG)
    host.puppet(f"echo applied; cp {tmp_path}/good $SUMMARY")
    return host


REASONS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(reason=REASONS.filter(lambda text: text not in ("-h", "--help")))
@settings(max_examples=60, deadline=None)
def test_any_reason_disables_and_the_same_enables(tmp_path_factory: pytest.TempPathFactory, reason: str) -> None:
    host = Host(tmp_path_factory.mktemp("puppet"))
    host.puppet("true")

    assert host.run("disable-puppet", reason).returncode == 0
    assert host.message() == reason
    assert host.run("enable-puppet", reason + "x").returncode == 0
    assert host.message() == reason

    host.run("enable-puppet", reason)

    # The shell drops newlines at the end of what it reads, so such a reason is never taken for the same.
    assert host.message() == (None if reason == reason.rstrip("\n") else reason)


def test_what_puppet_and_other_tools_write_is_understood(host: Host) -> None:
    for text, reason in (
        ('{"disabled_message":"a - b@c - T1"}', "a - b@c - T1"),
        (json.dumps({"x": 1, "disabled_message": 'ü "/" \\ \t'}, indent=2), 'ü "/" \\ \t'),
        (r'{"disabled_message": "a\/b"}', "a/b"),
    ):
        host.lock.write_text(text)
        assert reason in host.run("run-puppet-agent").stdout
        host.run("enable-puppet", reason)
        assert not host.lock.exists(), text


def test_a_lock_without_a_message_stays(host: Host) -> None:
    host.lock.write_text("{}")

    host.run("enable-puppet", "mine")
    host.run("disable-puppet", "mine")

    assert host.lock.read_text() == "{}"
    assert host.run("run-puppet-agent").returncode == 3


def test_the_first_reason_stays(host: Host) -> None:
    host.run("disable-puppet", "first")

    result = host.run("disable-puppet", "second")

    assert (result.returncode, host.message()) == (0, "first")
    assert "first" in result.stdout
    assert host.run("enable-puppet", "second").returncode == 0
    assert host.message() == "first"


@pytest.mark.parametrize("command", ["disable-puppet", "enable-puppet"])
@pytest.mark.parametrize("arguments", [(), ("",), ("a", "b"), ("--help",)])
def test_wrong_usage(host: Host, command: str, arguments: tuple[str, ...]) -> None:
    result = host.run(command, *arguments)

    assert result.returncode == 2
    assert result.stdout.startswith(f"Usage: {command} REASON")
    assert not host.lock.exists()


def test_run(host: Host) -> None:
    result = host.run("run-puppet-agent")

    assert (result.returncode, result.stdout) == (0, "applied\n")


def test_run_is_refused_while_disabled(host: Host) -> None:
    host.run("disable-puppet", "work - anna@mgmt1 - T1")

    result = host.run("run-puppet-agent")

    assert result.returncode == 3
    assert "work - anna@mgmt1 - T1" in result.stdout
    assert not host.summary.exists()


def test_run_enables_with_the_same_reason_only(host: Host) -> None:
    host.run("disable-puppet", "mine")

    assert host.run("run-puppet-agent", "--enable", "yours").returncode == 3
    assert host.run("run-puppet-agent", "--enable", "mine").returncode == 0
    assert not host.lock.exists()


def test_run_by_force(host: Host) -> None:
    host.run("disable-puppet", "mine")

    assert host.run("run-puppet-agent", "--force", "--quiet").returncode == 0
    assert not host.lock.exists()


@pytest.mark.parametrize(
    "command", ["exit 4", "true", "cp bad $SUMMARY", "cp none $SUMMARY", "cp good $SUMMARY; exit 1"]
)
def test_failed_runs(host: Host, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(host.folder)
    host.summary.write_text(GOOD)
    host.puppet(f"echo the reason; {command}")

    result = host.run("run-puppet-agent", "--quiet")

    assert result.returncode == 1
    assert "the reason" in result.stdout


def test_failed_only(host: Host) -> None:
    host.summary.write_text(GOOD)
    assert "nothing to do" in host.run("run-puppet-agent", "--failed-only").stdout
    host.summary.write_text(BAD)
    assert host.run("run-puppet-agent", "--failed-only").stdout == "applied\n"


def test_run_waits_for_a_run_in_progress(host: Host) -> None:
    program = shutil.copy("/bin/sleep", host.folder / "puppet")
    with subprocess.Popen([program, "1"]) as other:
        threading.Thread(target=other.wait).start()
        host.run_lock.write_text(str(other.pid))
        started = time.monotonic()

        result = host.run("run-puppet-agent")

        assert other.poll() is not None or time.monotonic() - started >= 1
    assert result.returncode == 0
    assert "Waiting" in result.stdout


def test_the_lock_of_a_killed_run_is_no_run_in_progress(host: Host) -> None:
    host.run_lock.write_text(str(os.getpid()))  # the process id was used again, by something that is no Puppet

    assert host.run("run-puppet-agent").stdout == "applied\n"


def test_two_runs_take_turns(host: Host) -> None:
    host.puppet(f"mkdir {host.folder}/busy && sleep 0.5 && rmdir {host.folder}/busy && cp {host.folder}/good $SUMMARY")
    command = [str(HOSTS / "run-puppet-agent")]
    with subprocess.Popen(command, env=host.environment()) as first:
        assert host.run("run-puppet-agent").returncode == 0
        assert first.wait() == 0


@pytest.mark.parametrize("arguments", [("--attempts", "0"), ("--attempts", "x"), ("--nonsense",), ("--attempts",)])
def test_wrong_arguments(host: Host, arguments: tuple[str, ...]) -> None:
    assert host.run("run-puppet-agent", *arguments).returncode in (1, 2)
    assert not host.summary.exists()


def test_paths_are_asked_of_puppet_once(host: Host) -> None:
    program = host.folder / "bin" / "puppet"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\necho asked >> {host.folder}/asked\n"
        f"echo agent_catalog_run_lockfile = {host.run_lock}\n"
        f"echo agent_disabled_lockfile = {host.lock}\n"
        f"echo lastrunfile = {host.summary}\n"
    )
    program.chmod(0o755)
    (host.folder / "defaults").write_text(f"PATH={program.parent}:$PATH\n")

    host.run("disable-puppet", "reason")
    host.run("enable-puppet", "reason")
    host.run("disable-puppet", "reason")

    assert host.message() == "reason"
    assert (host.folder / "asked").read_text() == "asked\n"


def test_no_puppet_is_said(host: Host) -> None:
    (host.folder / "defaults").write_text("PATH=/usr/bin:/bin\nputs() { :; }\npuppet() { return 1; }\n")

    result = host.run("disable-puppet", "reason")

    assert result.returncode == 1
    assert "set VARDIR in" in result.stdout


def test_what_spicerack_asks(host: Host) -> None:
    host.summary.write_text(GOOD.replace("last_run: 1", "last_run: 1700000000"))
    source = f"source {HOSTS}/puppet-common.sh && "

    last_run = host.execute(
        ["bash", "-c", source + "last_run_success && awk /last_run/'{ print $2 }' \"${PUPPET_SUMMARY}\""]
    )
    disabled = host.execute(["bash", "-c", source + 'test -f "${PUPPET_DISABLEDLOCK}" && echo "1" || echo "0"'])

    assert last_run.stdout == "1700000000\n"
    assert disabled.stdout == "0\n"


def test_reboot_host_takes_nothing(host: Host) -> None:
    assert host.run("reboot-host", "now").returncode == 2


def test_reboot_host_returns_first(host: Host) -> None:
    program = host.folder / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {host.folder}/asked.part && mv {host.folder}/asked.part {host.folder}/asked\n'
    )
    program.chmod(0o755)
    environment = host.environment() | {"PATH": f"{program.parent}:{os.environ['PATH']}"}

    subprocess.run([str(HOSTS / "reboot-host")], env=environment, check=True)

    assert not (host.folder / "asked").exists()
    deadline = time.monotonic() + 10
    while not (host.folder / "asked").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (host.folder / "asked").read_text() == "reboot\n"
