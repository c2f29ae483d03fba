"""Puppet's code in the lab: its change is merged and reverted, and hosts have from the start what it would write."""

import subprocess
from pathlib import Path

import pytest

from fleet_lab.context import make
from fleet_lab.paths import Paths
from fleet_lab.roles import Context, puppet_code
from fleet_lab.topology import DEFAULT, load

CHANGE = puppet_code.CHANGE
FLAGS = {"secure-port": "6443"}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    context = make(Paths(tmp_path / "a lab's state", tmp_path / "cache"), load(DEFAULT))
    puppet_code.create(context, {"cp1": {"kube_apiserver::flags": FLAGS}})
    return context


def run(context: Context, action: str, *arguments: str) -> int:
    script = puppet_code.scripts(context)[f"puppet-change-{action}"]
    return subprocess.run(["sh", "-c", script, action, *arguments], capture_output=True, check=False).returncode


def points_at(context: Context) -> list[str]:
    urls = puppet_code.endpoints(context.paths)
    return [host.name for host in context.topology.hosts.values() if f"//{host.ipv4}:" in urls]


OLD, NEW = ["etcd1", "etcd2", "etcd3"], ["etcd4", "etcd5", "etcd6"]


def test_merged_is_what_hosts_see(context: Context) -> None:
    assert run(context, "merged", CHANGE) == 1
    for action in ("revert", "merge", "merge", "revert", "revert", "merge", "revert", "merge"):
        assert run(context, action, CHANGE) == 0
        assert points_at(context) == (NEW if action == "merge" else OLD)
        assert run(context, "merged", CHANGE) == (0 if action == "merge" else 1)


def test_what_no_change_is(context: Context) -> None:
    for arguments in ([], ["main"], ["etcd-c"], [CHANGE, CHANGE], ["--all"], [""]):
        assert [run(context, action, *arguments) for action in ("merged", "merge", "revert")] == [2, 2, 2]
    assert points_at(context) == OLD


def test_what_was_ended_half_way_is_done_again(context: Context) -> None:
    (context.paths.puppet / ".git" / "index.lock").touch()
    (context.paths.puppet / "data" / "common.yaml").write_text("half", encoding="utf-8")

    assert run(context, "merge", CHANGE) == 0

    assert points_at(context) == NEW


def test_other_changes_are_left_alone(context: Context) -> None:
    git = ["git", "-c", "user.name=anna", "-c", "user.email=anna@example.org", "-C", str(context.paths.puppet)]
    assert run(context, "merge", CHANGE) == 0
    (context.paths.puppet / "README").write_text("other", encoding="utf-8")
    subprocess.run([*git, "add", "README"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", f"Merge {CHANGE}2"], check=True)

    assert run(context, "merged", CHANGE) == 0
    assert run(context, "revert", CHANGE) == 0

    assert points_at(context) == OLD
    assert (context.paths.puppet / "README").exists()


def test_hosts_have_what_puppet_would_write(context: Context) -> None:
    for action, names in (("revert", OLD), ("merge", NEW)):
        run(context, action, CHANGE)
        urls = ",".join(f"https://{context.topology.hosts[name].ipv4}:2379" for name in names)
        defaults = puppet_code.apiserver_defaults(context.paths, FLAGS)
        assert defaults.endswith(f'\nDAEMON_ARGS="--secure-port=6443 \\\n--etcd-servers={urls}"\n')
        assert f'  etcdEndpoints: "{urls}"\n' in puppet_code.calicoctl_cfg(context.paths)
    puppet_code.create(context, {})
    assert points_at(context) == NEW, "a repository that is there stays as it is"
