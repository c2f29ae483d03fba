"""What a re-initialisation meets in the lab: Puppet's change, Calico's datastore, an empty etcd; and the rollback."""

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fleet_lab.errors import LabError
from fleet_lab.guest.kubelet.api import TROUBLE, Api, ApiError
from fleet_lab.lab import Lab
from fleet_lab.reinitialized import restore
from fleet_lab.roles import control_plane
from fleet_lab.roles.puppet_code import CHANGE, FOLDER

PEERS = [f"{router}-{family}" for router in ("cr1", "cr2") for family in ("ipv4", "ipv6")]
KEYS = ". /etc/profile; etcdctl get '' --from-key --keys-only"
RUN = "run-puppet-agent --quiet"
NOTHING_TO_DO = f"puppet apply --test {FOLDER}/manifests"
"""With ``--test`` the exit code tells of changes as well."""


def eventually(check: Callable[[], Any], *, within: float = 60.0) -> Any:
    """Return what the check returns as soon as that is true."""
    deadline = time.monotonic() + within
    last: object = None
    while time.monotonic() < deadline:
        try:
            if last := check():
                return last
        except TROUBLE as error:
            last = error
        time.sleep(0.2)
    raise AssertionError(f"not within {within} s: {last!r}")


def on(lab: Lab, host: str, command: str) -> str:
    """Return what a command on a host prints; it must succeed."""
    done = lab.exec(host, command, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_puppet(lab: Lab, *hosts: str, command: str = RUN) -> None:
    """Run Puppet on several hosts at once; all runs must succeed."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        for done in [pool.submit(on, lab, host, command) for host in hosts]:
            done.result()


def puppet_change(lab: Lab, action: str, change: str = CHANGE) -> int:
    return subprocess.run([lab.paths.bin / f"puppet-change-{action}", change], check=False).returncode


def nodes(api: Api) -> set[str]:
    return {node["metadata"]["name"] for node in api.request("GET", "/api/v1/nodes")["items"]}


@pytest.fixture
def restored(lab: Lab) -> Iterator[Lab]:
    """The lab for a test that moves it and brings it back; brought back here if the test did not get that far."""
    yield lab
    if puppet_change(lab, "merged") == 0:
        restore(lab)


def test_the_new_etcd_is_healthy_and_empty(lab: Lab) -> None:
    assert on(lab, "etcd4", ". /etc/profile; etcdctl endpoint health --cluster 2>&1").count("is healthy") == 3
    assert on(lab, "etcd5", KEYS) == ""


def test_puppet_fails(lab: Lab, healed: Lab) -> None:
    lab.inject("puppet-fails", "worker2")
    failed = lab.exec("worker2", RUN)
    assert failed.returncode == 1
    assert "this host has the fault puppet-fails" in failed.stdout
    lab.heal()
    on(lab, "worker2", RUN)


def test_calicoctl_does_what_the_real_one_does(lab: Lab) -> None:
    listed = on(lab, "worker1", "calicoctl get bgpPeers")
    assert [line.split()[0] for line in listed.splitlines()] == ["NAME", *PEERS]
    assert "asNumber: 64601" in on(lab, "cp1", "calicoctl get bgpconfig default -o yaml")

    copy = "calicoctl get ippool default-ipv4-ippool -o yaml | sed 's/default-ipv4/test/'"
    refused = lab.exec("worker1", f"{copy} | calicoctl create -f -")
    assert refused.returncode == 1
    assert "field must not be set for a Create request" in refused.stderr
    copy = f"{copy} | grep -v 'resourceVersion\\|uid'"
    on(lab, "worker1", f"{copy} | calicoctl create -f -")
    again = lab.exec("worker1", f"{copy} | calicoctl create -f -")
    assert again.returncode == 1
    assert "resource already exists: IPPool(test-ippool)" in again.stderr
    on(lab, "worker1", f"{copy} | sed 's/ipipMode: Never/ipipMode: Always/' | calicoctl apply -f -")
    assert '"ipipMode": "Always"' in on(lab, "worker2", "calicoctl get ippool test-ippool -o json")
    on(lab, "worker1", "calicoctl delete ippool test-ippool")
    missing = lab.exec("worker1", "calicoctl get ippool test-ippool")
    assert missing.returncode == 1
    assert "resource does not exist: IPPool(test-ippool)" in missing.stderr


@pytest.mark.long
def test_an_empty_cluster_lets_in_what_its_plugins_do_and_nodes_come_with_their_kubelets(restored: Lab) -> None:
    lab = restored
    assert [puppet_change(lab, action) for action in ("merged", "merge", "merged")] == [1, 0, 0]
    on(lab, "cp2", "systemctl kill --signal=KILL kube-apiserver; systemctl stop kube-apiserver")
    run_puppet(lab, "cp1", "cp2", "worker1")
    assert lab.exec("cp2", "systemctl is-active kube-apiserver").returncode != 0, "Puppet started what was stopped"
    api = lab.api(host="cp1")
    eventually(lambda: api.request("GET", "/api/v1/namespaces/kube-node-lease"))
    assert "/registry/namespaces/kube-system" in on(lab, "etcd6", KEYS).splitlines()

    # What calico-node needs is not there yet.
    restarted = lab.exec("worker1", "systemctl restart calico-node")
    assert restarted.returncode == 1
    assert "no bgpconfigurations/default" in on(lab, "worker1", "journalctl --unit=calico-node --lines=20")

    account = {"metadata": {"name": "test"}}
    eventually(lambda: api.request("POST", "/api/v1/namespaces/default/serviceaccounts", account))
    container = {"name": "main", "image": "registry.invalid/main:1"}
    spec = {"serviceAccountName": "test", "automountServiceAccountToken": False, "containers": [container]}
    pods, pod = "/api/v1/namespaces/default/pods", {"metadata": {"name": "test"}, "spec": spec}
    if control_plane.admission_plugins(lab.context):
        with pytest.raises(ApiError, match="PodSecurityPolicy: no providers available"):
            api.request("POST", pods, pod)
    else:
        assert api.request("POST", pods, pod)["metadata"]["name"] == "test", "Kubernetes 1.25 has no such plugin"
        api.request("DELETE", f"{pods}/test?gracePeriodSeconds=0")

    on(lab, "worker1", "systemctl restart kubelet")
    eventually(lambda: "worker1" in nodes(api))
    said = eventually(lambda: lab.exec("worker2", "journalctl --unit=kubelet --lines=5 | grep '404: '").stdout)
    assert 'nodes "worker2" not found' in said
    assert nodes(api) == {"worker1"}, "a kubelet that runs does not register again"

    started = time.monotonic()
    restore(lab)
    print(f"restored in {time.monotonic() - started:.1f} s")

    assert puppet_change(lab, "merged") == 1
    assert nodes(lab.api(host="cp2")) == set(lab.names("worker"))
    assert on(lab, "etcd4", KEYS) == ""
    # What was written is what Puppet itself would write, as on a host that boots for the first time.
    run_puppet(lab, "cp1", "cp2", "worker1", command=NOTHING_TO_DO)


def test_a_change_that_is_not_there(lab: Lab) -> None:
    assert [puppet_change(lab, action, "etcd-c") for action in ("merged", "merge", "revert")] == [2, 2, 2]
    with pytest.raises(LabError, match="for hosts with the role"):
        lab.inject("puppet-fails", "lb1")
