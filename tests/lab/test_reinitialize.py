"""A whole cluster moved onto a new etcd: killed in every stage, rolled back, and with all that goes wrong."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from conftool.cli import ConftoolClient

from fleet.engine import folders, journal
from fleet_lab import deployment, reinitialized
from fleet_lab.charts.objects import MANAGED, SERVICES
from fleet_lab.guest.kubelet.api import ApiError
from fleet_lab.lab import Lab
from fleet_lab.roles import control_plane
from support.rehearsal import LEASE, Rehearsal, eventually
from support.terminal import Terminal

REINITIALIZE = "sre.k8s.reinitialize-cluster"
YES = {'Type "go" to proceed': "go", 'Type "lab" to continue': "lab"}
NO = {'Type "lab" to continue|Invalid response': "no"}
NEW = ("--cluster", "lab", "--new-etcd", "lab-b", "--puppet-change", "etcd-b", "-r", "rehearsal")
OLD_ETCD, NEW_ETCD = "etcd1", "etcd4"


@pytest.fixture
def rehearsal(lab: Lab, tmp_path: Any) -> Any:
    if reinitialized.is_begun(lab):
        reinitialized.restore(lab)
    with suppress(ApiError):
        lab.api().request("DELETE", LEASE)  # Of a run that was killed and not resumed.
    deployment.load(lab.api())
    found = Rehearsal(lab, tmp_path, REINITIALIZE)
    found.hurry(puppet="120s", ready="120s", restart="60s", bgp="60s")
    yield found
    lab.heal()
    for file in deployment.folder(lab.context).glob("fail-*"):
        file.unlink()
    found.end_silences()


@pytest.fixture(scope="module", autouse=True)
def _as_it_was(lab: Lab) -> Any:
    yield
    reinitialized.restore(lab)
    deployment.unload(lab.api())


def on_terminal(rehearsal: Rehearsal, *arguments: str, replies: dict[str, str] = YES) -> Terminal:
    command = ("-c", str(rehearsal.lab.spicerack_config), REINITIALIZE, *arguments)
    return Terminal(command, rehearsal.environment, replies)


def carry_out(
    rehearsal: Rehearsal, *arguments: str, replies: dict[str, str] = YES, timeout: float = 600
) -> tuple[int, str]:
    with on_terminal(rehearsal, *arguments, replies=replies) as terminal:
        code = terminal.wait(timeout)
        return code, terminal.output


def events(rehearsal: Rehearsal) -> list[journal.Event]:
    runs = folders.list_runs(rehearsal.state_dir) if rehearsal.state_dir.exists() else []
    with suppress(folders.JournalError):  # It may be just being created.
        return journal.read(runs[-1]).events if runs else []
    return []


def run_id(rehearsal: Rehearsal) -> str:
    return folders.list_runs(rehearsal.state_dir)[-1].name


def kill_when(
    rehearsal: Rehearsal, terminal: Terminal, seen: Callable[[journal.Event], bool], *, after: int = 0
) -> bool:
    """Kill a run when its journal has an event; return whether that came, or the run has ended before."""
    while terminal.is_alive:
        if any(seen(event) for event in events(rehearsal)[after:]):
            terminal.kill()
            return True
        time.sleep(0.02)
    return False


def kill_in(rehearsal: Rehearsal, stage: str) -> None:
    """Start a run and kill it when it acts in a stage."""
    with on_terminal(rehearsal, *NEW) as terminal:
        assert kill_when(
            rehearsal, terminal, lambda event: event.stage.startswith(f"{stage} ") and event.kind == "intent"
        )


# What the fleet itself says


def revision(lab: Lab, host: str) -> tuple[int, int]:
    """A member's revision and the hash of all its keys."""
    answer = json.loads(lab.exec(host, ". /etc/profile.d/etcdctl.sh; etcdctl endpoint hashkv --write-out=json").stdout)
    return answer[0]["HashKV"]["header"]["revision"], answer[0]["HashKV"]["hash"]


def keys(lab: Lab, host: str) -> list[str]:
    command = ". /etc/profile.d/etcdctl.sh; etcdctl get / --prefix --keys-only"
    return lab.exec(host, command).stdout.split()


def assert_on(lab: Lab, etcd: str) -> None:
    """All apiservers run on an etcd, and all hosts' files name it."""
    members = [host for host in lab.hosts.values() if host.role == lab.hosts[etcd].role]
    endpoints = ",".join(f"https://{host.ipv4}:2379" for host in members)
    for name in lab.names("control-plane"):
        words = lab.exec(
            name, "tr '\\0' '\\n' </proc/$(systemctl show -P MainPID kube-apiserver)/cmdline"
        ).stdout.split()
        assert f"--etcd-servers={endpoints}" in words
        plugins = ",".join(["NodeRestriction", *control_plane.admission_plugins(lab.context)])
        assert f"--enable-admission-plugins={plugins}" in words
        assert lab.exec(name, "ls /etc/default").stdout.split().count("kube-apiserver") == 1
        assert not [n for n in lab.exec(name, "ls /etc/default").stdout.split() if n.startswith("kube-apiserver.")]
    for name in (*lab.names("control-plane"), *lab.names("worker")):
        assert endpoints in lab.exec(name, "cat /etc/calico/calicoctl.cfg").stdout, name


def assert_served(rehearsal: Rehearsal, *, without: tuple[str, ...] = ()) -> None:
    """All services are Ready and pooled, all nodes and sessions are there, Puppet is enabled, nothing is silenced."""
    lab = rehearsal.lab
    lab.wait_for_nodes([name for name in lab.names("worker") if name not in without], timeout=60)
    lab.wait_for_sessions(without=without, timeout=60)
    ready = {
        item["metadata"]["name"]: item["status"].get("readyReplicas", 0)
        for namespace in MANAGED
        for item in lab.api().request("GET", f"/apis/apps/v1/namespaces/{namespace}/deployments")["items"]
    }
    assert ready == dict.fromkeys(SERVICES, 2)
    assert pooled(lab) == dict.fromkeys(SERVICES, True)
    assert disabled(lab) == []
    assert rehearsal.silences() == []


def record(lab: Lab, name: str) -> Any:
    folder = lab.paths.operator / "conftool"
    files = {"configfile": str(folder / "config.yaml"), "schemafile": str(folder / "schema.yaml")}
    return ConftoolClient(**files, irc_logging=False).get("discovery")(name, deployment.DATACENTER)


def pooled(lab: Lab) -> dict[str, bool]:
    return {name: record(lab, name).pooled for name in SERVICES}


def disabled(lab: Lab) -> list[str]:
    """The hosts where Puppet is disabled."""
    hosts = (*lab.names("control-plane"), *lab.names("worker"))
    command = ". /usr/local/share/bash/puppet-common.sh; test ! -e $PUPPET_DISABLEDLOCK || echo off"
    return [name for name in hosts if "off" in lab.exec(name, command).stdout]


def test_before_the_deletion_an_abort_restores_everything(rehearsal, lab):
    """First, as the lab is as before afterwards."""
    before = keys(lab, OLD_ETCD)
    kill_in(rehearsal, "4")
    assert keys(lab, NEW_ETCD)
    code, output = carry_out(rehearsal, "--abort", run_id(rehearsal))
    assert code == 0, output
    assert keys(lab, NEW_ETCD) == []
    assert_on(lab, OLD_ETCD)
    assert_served(rehearsal)
    assert {key for key in before if "/deployments/" in key} <= set(keys(lab, OLD_ETCD))
    again, said = carry_out(rehearsal, "--resume", run_id(rehearsal))
    assert (again, "is aborted already" in said) == (2, True)


def test_a_run_that_is_killed_in_every_stage_is_resumed_to_its_end(rehearsal, lab):
    killed: list[str] = []
    code, output = -1, ""
    arguments: tuple[str, ...] = NEW

    def is_next(event: journal.Event) -> bool:
        return event.kind in ("intent", "start") and event.stage[:1].isdigit() and event.stage not in killed

    for _ in range(40):
        after = len(events(rehearsal))
        with on_terminal(rehearsal, *arguments) as terminal:
            if kill_when(rehearsal, terminal, is_next, after=after):
                fresh = [event.stage for event in events(rehearsal)[after:] if is_next(event)]
                killed += dict.fromkeys(fresh)
            else:
                code, output = terminal.wait(60), terminal.output
                break
        arguments = ("--resume", run_id(rehearsal))
    assert code == 0, output
    assert [stage.split()[0] for stage in killed] == [str(number) for number in range(20)]
    assert_on(lab, NEW_ETCD)
    assert_served(rehearsal)
    noted = next(unit["facts"]["fingerprint"] for unit in rehearsal.report()["units"] if "fingerprint" in unit["facts"])
    assert revision(lab, noted["host"])[0] == noted["of"][1]
    run = rehearsal.folder()
    assert {"calico.json", "objects.jsonl"} <= {file.name for file in run.iterdir()}
    assert (run / "objects.jsonl").stat().st_mode & 0o077 == 0
    refused, said = carry_out(rehearsal, "--abort", run_id(rehearsal))
    assert (refused, "is done already" in said) == (2, True)


@pytest.mark.long
def test_who_does_not_type_the_name_deletes_nothing(rehearsal, lab):
    with on_terminal(rehearsal, *NEW, replies={'Type "go" to proceed': "go", **NO}) as terminal:
        code = terminal.wait(300)
        output = terminal.output
    assert code == 1, output
    assert "the operator did not type 'lab'" in output
    assert all(
        lab.api().request("GET", f"/api/v1/namespaces/{name}")["status"]["phase"] == "Active" for name in MANAGED
    )
    assert rehearsal.silences()
    unattended = rehearsal.cookbook(REINITIALIZE, "--resume", run_id(rehearsal), "--unattended")
    assert unattended.code == 1, unattended.output
    assert "an operator has to type 'lab'" in unattended.output
    code, output = carry_out(rehearsal, "--abort", run_id(rehearsal))
    assert code == 0, output
    assert_served(rehearsal)


@pytest.mark.long
@pytest.mark.parametrize("stage", ["7", "12"])
def test_before_there_is_new_data_an_abort_goes_back(rehearsal, lab, stage):
    kill_in(rehearsal, stage)
    code, output = carry_out(rehearsal, "--abort", run_id(rehearsal))
    assert code == 0, output
    assert 'Type "lab"' not in output
    assert_on(lab, OLD_ETCD)
    assert_served(rehearsal)
    assert keys(lab, NEW_ETCD) == []


@pytest.mark.long
def test_with_new_data_an_abort_asks_first(rehearsal, lab):
    kill_in(rehearsal, "16")
    run = run_id(rehearsal)
    declined, said = carry_out(rehearsal, "--abort", run, replies=NO)
    assert declined == 1, said
    assert "what was created since is lost to the cluster" in said
    code, output = carry_out(rehearsal, "--abort", run)
    assert code == 0, output
    assert_on(lab, OLD_ETCD)
    assert_served(rehearsal)
    assert [key for key in keys(lab, NEW_ETCD) if key.startswith("/registry/")]


@pytest.mark.long
def test_whatever_goes_wrong_is_told_and_gone_on_with_once_it_is_mended(rehearsal, lab):
    folder = deployment.folder(lab.context)
    (folder / "fail-initialize").touch()
    (folder / "fail-service-shop-cart").touch()
    deployment.load(lab.api(), hanging_finalizer=True)
    rehearsal.change_config(lambda cluster: cluster["reinitialize"].update({"command_timeout": "20s"}))
    arguments: tuple[str, ...] = (*NEW, "--max-failed", "1")

    def stopped(*, because: str) -> str:
        nonlocal arguments
        code, output = carry_out(rehearsal, *arguments)
        assert code == 1, output
        assert because in " ".join(output.split()), output
        arguments = ("--resume", run_id(rehearsal))
        return output

    stopped(because="data: HELD: delete: not within 20 s: it is being deleted: a finalizer keeps configmaps/held")
    release(lab)
    rehearsal.change_config(lambda cluster: cluster["reinitialize"].update({"command_timeout": "90s"}))
    after = len(events(rehearsal))
    with on_terminal(rehearsal, *arguments) as terminal:
        assert kill_when(rehearsal, terminal, lambda event: event.stage.startswith("7 "), after=after)
    lab.inject("host-stays-down", "worker6")  # Puppet is disabled there already: it will come back as it is.
    lab.exec("worker6", "systemctl reboot")
    lab.inject("puppet-fails", "worker2")
    stopped(because="worker2: HELD: Puppet: The run of Puppet failed")
    assert disabled(lab) == lab.names("control-plane")
    lab.heal("worker2")
    lab.inject("etcd-stopped", "etcd5")
    stopped(because="cp1: HELD: new etcd: not within 10 s: 1 of 3 members of etcd could not be asked: etcd5")
    lab.heal("etcd5")
    lab.inject("apiserver-bad-flag", "cp1")
    rehearsal.hurry(restart="15s", ready="15s")
    stopped(because="cp1: HELD: ")
    lab.heal("cp1")
    rehearsal.hurry(restart="60s", ready="120s")
    stopped(because="ended with 1; its output is in")
    (folder / "fail-initialize").unlink()
    lab.heal("worker6")  # With the old configuration: it was away when Puppet ran.
    said = stopped(because="shop-cart: HELD: deploy: ")
    assert "worker6: Puppet: /etc/calico/calicoctl.cfg names the old etcd: running Puppet" in said
    (folder / "fail-service-shop-cart").unlink()
    code, output = carry_out(rehearsal, *arguments)
    assert code == 0, output
    assert_on(lab, NEW_ETCD)
    assert_served(rehearsal)


@pytest.mark.long
def test_a_cluster_whose_etcd_is_lost_begins_anew_from_an_export(rehearsal, lab):
    kill_in(rehearsal, "2")
    code, output = carry_out(rehearsal, "--abort", run_id(rehearsal))
    assert code == 0, output
    export = rehearsal.folder() / "calico.json"
    for name in lab.names("etcd"):
        lab.inject("etcd-stopped", name)
    code, output = carry_out(rehearsal, *NEW, "--calico-export", str(export))
    assert code == 0, output
    assert "5 delete namespaces" not in output
    assert_on(lab, NEW_ETCD)
    assert_served(rehearsal)
    refused, said = carry_out(rehearsal, "--resume", run_id(rehearsal))
    assert (refused, "is done already" in said) == (2, True)


def release(lab: Lab) -> None:
    """Take the finalizer away, as whoever owns it would."""
    patch = {"metadata": {"finalizers": None}}
    lab.api().request("PATCH", "/api/v1/namespaces/data/configmaps/held", patch, "application/merge-patch+json")
    eventually(lambda: _gone(lab), within=60)


def _gone(lab: Lab) -> bool:
    try:
        lab.api().request("GET", "/api/v1/namespaces/data")
    except ApiError as error:
        return error.status == 404
    return False
