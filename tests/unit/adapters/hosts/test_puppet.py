"""Probe, Puppet and the hosts' own commands together, on this machine's bash instead of over SSH."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.adapters.hosts import puppet
from fleet.adapters.hosts.probe import PUPPET_COMMON, HostState, probe
from fleet.adapters.hosts.puppet import PuppetError, PuppetResult
from fleet.adapters.hosts.remote import mark, parse
from fleet.execution import Result
from support.places import CONFIG

HOSTS = CONFIG / "hosts"
SUMMARY = "---\nversion:\n  puppet: 7.23.0\nresources:\n  failed: {failed}\ntime:\n  last_run: {last_run}\n"
REASONS = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=40).filter(
    lambda text: text.strip() and text.isprintable() and text not in ("-h", "--help")
)


@dataclass
class LocalRunner:
    """A host whose Puppet keeps its files in a folder."""

    folder: Path
    unsafe: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("state", "public"):
            (self.folder / name).mkdir(exist_ok=True)
        self.write_summary(source="good", failed=0)
        self.command(f"cp {self.folder}/good {self.folder}/public/last_run_summary.yaml")

    def command(self, command: str) -> None:
        (self.folder / "defaults").write_text(f"VARDIR={self.folder}\nPUPPET_COMMAND='{command}'\n")

    def write_summary(self, *, source: str, failed: int = 0, last_run: int = 1_700_000_000) -> None:
        (self.folder / source).write_text(SUMMARY.format(failed=failed, last_run=last_run))

    @property
    def lock(self) -> Path:
        return self.folder / "state" / "agent_disabled.lock"

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        if not safe:
            self.unsafe.append(command)
        common = str(HOSTS / "puppet-common.sh")
        environment = {
            "PATH": f"{HOSTS}:{os.environ['PATH']}",
            "PUPPET_COMMON": common,
            "PUPPET_DEFAULTS": str(self.folder / "defaults"),
            "PUPPET_PATHS_CACHE": str(self.folder / "paths"),
            "PUPPET_WRAPPER_LOCK": str(self.folder / "wrapper.lock"),
        }
        run = subprocess.run(
            ["/bin/sh", "-c", mark(command.replace(PUPPET_COMMON, common))],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
        return dict.fromkeys(hosts, parse(run.stdout.decode(), timeout=None))


@pytest.fixture
def remote(tmp_path: Path) -> LocalRunner:
    return LocalRunner(tmp_path)


def state(remote: LocalRunner) -> HostState:
    found = probe(remote, ["a"])["a"]
    assert isinstance(found, HostState)
    return found


@given(reason=REASONS, other=REASONS)
@settings(max_examples=25, deadline=None)
def test_reasons_arrive_as_they_are(tmp_path_factory: pytest.TempPathFactory, reason: str, other: str) -> None:
    remote = LocalRunner(tmp_path_factory.mktemp("host"))

    assert puppet.disable(remote, ["a"], reason) == {"a": PuppetResult(disabled=reason, error=None)}
    assert json.loads(remote.lock.read_text()) == {"disabled_message": reason}
    assert state(remote).puppet_disabled == reason
    kept = None if other == reason else reason
    assert puppet.enable(remote, ["a"], other) == {"a": PuppetResult(disabled=kept, error=None)}
    assert state(remote).puppet_disabled == kept


@pytest.mark.parametrize("reason", ["$(touch owned)", "`touch owned`", "'; touch owned; '", '"; touch owned; "'])
def test_nothing_in_a_reason_is_carried_out(remote: LocalRunner, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(remote.folder)

    puppet.disable(remote, ["a"], reason)

    assert state(remote).puppet_disabled == reason
    assert not (remote.folder / "owned").exists()


def test_somebody_elses_lock_stays(remote: LocalRunner) -> None:
    remote.lock.write_text('{"disabled_message":"disk swap - bob@mgmt1"}')
    theirs = PuppetResult(disabled="disk swap - bob@mgmt1", error=None)

    assert puppet.disable(remote, ["a", "b"], "ours") == {"a": theirs, "b": theirs}
    assert puppet.enable(remote, ["a"], "ours") == {"a": theirs}
    result = puppet.run(remote, ["a"], timeout=20)["a"]

    assert result.disabled == "disk swap - bob@mgmt1"
    assert result.error
    assert result.error.endswith("disk swap - bob@mgmt1 (exit code 3)")


@pytest.mark.parametrize(("content", "message"), [("", ""), ("{}", ""), ("not JSON", "not JSON")])
def test_locks_without_a_message(remote: LocalRunner, content: str, message: str) -> None:
    remote.lock.write_text(content)

    assert state(remote).puppet_disabled == message


def test_runs(remote: LocalRunner) -> None:
    puppet.disable(remote, ["a"], "ours")

    assert puppet.run(remote, ["a"], timeout=20, enable_reason="ours") == {"a": PuppetResult(None, None)}

    assert state(remote).puppet_last_success == 1_700_000_000


def test_a_failed_run_is_no_success(remote: LocalRunner) -> None:
    remote.write_summary(source="bad", failed=2)
    remote.command(f"echo broken; cp {remote.folder}/bad {remote.folder}/public/last_run_summary.yaml")

    error = puppet.run(remote, ["a"], timeout=20)["a"].error

    assert error
    assert "failed" in error
    assert (state(remote).puppet_last_success, state(remote).puppet_failed) == (None, True)


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "bell\a"])
def test_reasons_that_no_shell_can_keep(remote: LocalRunner, reason: str) -> None:
    with pytest.raises(PuppetError, match="one line"):
        puppet.disable(remote, ["a"], reason)
    assert not remote.unsafe


def test_a_host_without_puppet(tmp_path: Path) -> None:
    remote = LocalRunner(tmp_path)
    (tmp_path / "defaults").write_text("puppet() { return 1; }\n")

    found = state(remote)

    assert (found.puppet_installed, found.puppet_disabled, found.puppet_failed) == (False, None, False)


def test_a_host_with_puppet_that_never_ran(remote: LocalRunner) -> None:
    found = state(remote)

    assert (found.puppet_installed, found.puppet_disabled) == (True, None)
    assert (found.puppet_last_success, found.puppet_failed) == (None, False)
