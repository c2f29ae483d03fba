"""The lab itself: its hosts, its cluster and its faults are what they claim to be."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fleet
from fleet_lab.binaries import CONTROL_PLANE
from fleet_lab.errors import LabError
from fleet_lab.faults import FAULTS
from fleet_lab.guest.kubelet.api import TROUBLE, Api, ApiError
from fleet_lab.lab import Lab
from fleet_lab.roles.alertmanager import PORT
from fleet_lab.ssh import key_pair
from fleet_lab.waiting import is_listening

NAMESPACE = f"lab-test-{os.getpid()}"  # that of a session that was killed may still be there


def eventually(check: Callable[[], Any], *, within: float = 30.0) -> Any:
    """Return what the check returns as soon as that is true."""
    deadline = time.monotonic() + within
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = check()
        except (*TROUBLE, LabError) as error:
            last = error
        else:
            if last:
                return last
        time.sleep(0.05)
    raise AssertionError(f"not within {within} s: {last!r}")


@pytest.fixture(scope="module")
def api(lab: Lab) -> Iterator[Api]:
    """The Kubernetes API, with a namespace for the tests."""
    client = lab.api()
    path = f"/api/v1/namespaces/{NAMESPACE}"
    client.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    eventually(lambda: client.request("GET", f"{path}/serviceaccounts/default"))
    yield client
    client.request("DELETE", path)


def node(api: Api, name: str) -> dict[str, Any]:
    return api.request("GET", f"/api/v1/nodes/{name}")


def condition(thing: dict[str, Any], kind: str = "Ready") -> str:
    return next((c["status"] for c in thing["status"].get("conditions", []) if c["type"] == kind), "")


def pod(api: Api, name: str) -> dict[str, Any]:
    return api.request("GET", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}")


def gone(api: Api, name: str) -> bool:
    try:
        pod(api, name)
    except ApiError as error:
        return error.status == 404
    return False


def start_pod(api: Api, name: str, host: str, *, annotations: dict[str, str] | None = None, **metadata: Any) -> None:
    """Start a pod on a node, and wait until it is Ready."""
    body = {
        "metadata": {"name": name, "annotations": annotations or {}, **metadata},
        "spec": {
            "nodeName": host,
            "terminationGracePeriodSeconds": 3,
            "containers": [{"name": "main", "image": "registry.invalid/main:1"}],
        },
    }
    # A new namespace refuses pods until its service account has a token.
    eventually(lambda: api.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", body))
    eventually(lambda: condition(pod(api, name)) == "True")


def delete_pod(api: Api, name: str, *, grace: int | None = None) -> None:
    query = "" if grace is None else f"?gracePeriodSeconds={grace}"
    api.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}{query}")


def boot_id(lab: Lab, host: str) -> str:
    return lab.exec(host, "cat /proc/sys/kernel/random/boot_id").stdout.strip()


def alerts(lab: Lab) -> set[str]:
    """The hosts for which HostDown is firing."""
    address = lab.hosts["alerts1"].ipv4
    with urllib.request.urlopen(f"http://{address}:{PORT}/api/v2/alerts", timeout=5) as response:
        return {alert["labels"]["instance"] for alert in json.load(response)}


def test_the_fleet(lab: Lab, api: Api) -> None:
    assert {status.state for status in lab.status()} == {"running"}
    for name, host in lab.hosts.items():
        assert lab.exec(name, "hostname").stdout.strip() == name
        route = lab.exec(name, "ip route show default; ip -6 route show default").stdout
        assert not route, f"{name} could reach the outside"
        if host.role != "worker":
            continue
        registered = node(api, name)
        addresses = [entry["address"] for entry in registered["status"]["addresses"]]
        assert addresses == [str(host.ipv4), str(host.ipv6), name]
        assert registered["metadata"]["labels"]["topology.kubernetes.io/zone"] == host.row
        assert registered["metadata"]["annotations"]["projectcalico.org/IPv4Address"] == f"{host.ipv4}/24"
        assert registered["metadata"]["annotations"]["projectcalico.org/IPv6Address"] == f"{host.ipv6}/64"
        assert registered["status"]["nodeInfo"]["bootID"] == boot_id(lab, name)


def test_a_host_runs_only_the_units_of_its_role(lab: Lab) -> None:
    command = "systemctl list-units --type=service --state=running --no-legend --plain"
    running = {name: {line.split()[0] for line in lab.exec(name, command).stdout.splitlines()} for name in lab.hosts}
    always = {"ssh.service", "systemd-journald.service"}
    for name, units in (
        ("worker1", {"kubelet.service", "calico-node.service"}),
        ("etcd1", {"etcd.service"}),
        ("etcd4", {"etcd.service"}),
        ("lb1", {"haproxy.service", "lab-pybal.service"}),
        ("cp1", {*(f"{name}.service" for name in CONTROL_PLANE), "calico-node.service"}),
        ("cr1", {"frr-zebra.service", "frr-bgpd.service", "lab-netconf.service"}),
    ):
        assert running[name] - {"lab-puppet.service"} == units | always


def test_etcd_and_the_components_speak_tls_with_certificates(lab: Lab) -> None:
    health = lab.exec("etcd1", ". /etc/profile; etcdctl endpoint health --cluster 2>&1")
    assert health.stdout.count("is healthy") == 3, health.stdout
    without = lab.exec("etcd1", f"curl -sk https://{lab.hosts['etcd2'].ipv4}:2379/v2/keys")
    assert without.returncode != 0


def test_a_kubelet_may_touch_its_own_node_only(lab: Lab) -> None:
    folder = lab.context.kubernetes_ca.path.parent
    kubelet = Api(
        {
            "server": lab.context.api_url,
            "ca": str(folder / "ca.pem"),
            "certificate": str(folder / "system-node-worker1.pem"),
            "key": str(folder / "system-node-worker1.key"),
        }
    )
    kubelet.patch("/api/v1/nodes/worker1", {"metadata": {"annotations": {"lab-test": "1"}}})
    with pytest.raises(ApiError, match="403"):
        kubelet.patch("/api/v1/nodes/worker2", {"metadata": {"annotations": {"lab-test": "1"}}})


def test_a_maintenance_may_do_what_the_example_roles_allow_and_no_more(lab: Lab) -> None:
    folder = lab.context.kubernetes_ca.path.parent
    maintenance = Api(
        {
            "server": lab.context.api_url,
            "ca": str(folder / "ca.pem"),
            "certificate": str(folder / "fleet-maintenance.pem"),
            "key": str(folder / "fleet-maintenance.key"),
        }
    )
    assert len(maintenance.request("GET", "/api/v1/nodes")["items"]) == 6
    for method, path in (("GET", "/api/v1/secrets"), ("DELETE", "/api/v1/nodes/worker1")):
        with pytest.raises(ApiError, match="403"):
            maintenance.request(method, path)


def test_ssh_verifies_the_host_and_takes_only_the_labs_key(lab: Lab, tmp_path: Path) -> None:
    config = lab.context.ssh.config.read_text()
    known = f"{lab.context.ssh.config.parent}/known_hosts"
    own = f"{lab.context.ssh.config.parent}/id_ed25519"
    other_host = tmp_path / "known_hosts"
    other_host.write_text(f"worker1,{lab.hosts['worker1'].ipv4} {lab.context.ssh.host_key('worker2').public}")
    key_pair(tmp_path / "stranger", "stranger")
    for changed, complaint in (
        (config.replace(known, str(other_host)), "Host key verification failed"),
        (config.replace(own, str(tmp_path / "stranger")), "Permission denied (publickey)"),
    ):
        path = tmp_path / "config"
        path.write_text(changed)
        command = ["ssh", "-F", str(path), "-o", "BatchMode=yes", "worker1", "true"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 255
        assert complaint in done.stderr


def test_a_reboot_is_a_reboot(lab: Lab, api: Api, healed: Lab) -> None:
    start_pod(api, "survivor", "worker1")
    before, boots = boot_id(lab, "worker1"), lab.status()
    seen: list[tuple[str, str, str]] = []
    started = time.monotonic()
    assert lab.exec("worker1", "reboot-host").returncode == 0

    def back() -> bool:
        now = node(api, "worker1")
        ssh = is_listening(lab.hosts["worker1"].ipv4, 22)
        look = ("ssh" if ssh else "no ssh", condition(now), now["status"]["nodeInfo"]["bootID"])
        if not seen or seen[-1] != look:
            seen.append(look)
            print(f"{time.monotonic() - started:5.1f} s {look}")
        return ssh and look[1] == "True" and look[2] != before

    eventually(back)
    assert any(look[0] == "no ssh" for look in seen)
    assert any(look[1:] == ("False", boot_id(lab, "worker1")) for look in seen), "NotReady after the boot"
    assert boot_id(lab, "worker1") not in (before, "")
    assert float(lab.exec("worker1", "cat /proc/uptime").stdout.split()[0]) < 30
    rebooted = {status.host.name: status.boots for status in lab.status()}
    assert rebooted == {status.host.name: status.boots + (status.host.name == "worker1") for status in boots}

    def restarted() -> bool:
        survivor = pod(api, "survivor")
        return condition(survivor) == "True" and survivor["status"]["containerStatuses"][0]["restartCount"] == 1

    eventually(restarted)
    eventually(lambda: lab.exec("worker1", "systemctl is-active lab-puppet").stdout.strip() == "active")
    run = lab.exec("worker1", ". /usr/local/share/bash/puppet-common.sh; last_run_success && cat $PUPPET_SUMMARY")
    last = int(next(line.split()[1] for line in run.stdout.splitlines() if "last_run:" in line))
    assert time.time() - last < 60
    delete_pod(api, "survivor")


def test_puppet_is_disabled_and_enabled(lab: Lab) -> None:
    assert lab.exec("worker2", "disable-puppet 'test - T1'").returncode == 0
    refused = lab.exec("worker2", "run-puppet-agent")
    assert refused.returncode != 0
    assert "test - T1" in refused.stdout + refused.stderr
    assert lab.exec("worker2", "enable-puppet 'test - T1' && run-puppet-agent --quiet").returncode == 0


def test_a_host_stays_down_and_an_alert_says_so(lab: Lab, api: Api, healed: Lab) -> None:
    before = boot_id(lab, "worker6")
    lab.inject("host-stays-down", "worker6")
    lab.exec("worker6", "reboot-host")
    eventually(lambda: "worker6" in alerts(lab))
    eventually(lambda: condition(node(api, "worker6")) == "Unknown")
    state = {status.host.name: (status.state, status.faults) for status in lab.status()}["worker6"]
    assert state == ("held down", ("host-stays-down",))
    with pytest.raises(LabError, match="worker6 is down"):
        lab.enter("worker6", "true")
    assert lab.heal() == ["worker6: host-stays-down"]
    assert boot_id(lab, "worker6") not in (before, "")
    eventually(lambda: "worker6" not in alerts(lab))
    eventually(lambda: condition(node(api, "worker6")) == "True")


def test_a_host_is_slow_to_come_back(lab: Lab, healed: Lab) -> None:
    lab.inject("host-slow-boot", "worker5", seconds=6)
    lab.exec("worker5", "reboot-host")
    address = lab.hosts["worker5"].ipv4
    eventually(lambda: not is_listening(address, 22))
    down = time.monotonic()
    eventually(lambda: is_listening(address, 22))
    assert time.monotonic() - down > 6
    lab.inject("host-slow-boot", "worker5", seconds=600)
    lab.exec("worker5", "reboot-host")
    eventually(lambda: next(s.state for s in lab.status() if s.host.name == "worker5") == "slow to boot")
    lab.heal("worker5")
    assert is_listening(address, 22)


def test_a_kubelet_is_not_ready(lab: Lab, api: Api, healed: Lab) -> None:
    start_pod(api, "unseen", "worker2")
    lab.inject("kubelet-not-ready", "worker2")
    eventually(lambda: condition(node(api, "worker2")) == "False")
    delete_pod(api, "unseen")
    lab.exec("worker2", "reboot-host")
    eventually(lambda: not is_listening(lab.hosts["worker2"].ipv4, 22))
    eventually(lambda: is_listening(lab.hosts["worker2"].ipv4, 22))
    time.sleep(3)  # longer than a kubelet needs to be Ready
    assert condition(node(api, "worker2")) == "False"
    assert not gone(api, "unseen")
    lab.heal()
    eventually(lambda: condition(node(api, "worker2")) == "True")
    eventually(lambda: gone(api, "unseen"))


def test_pods_terminate_as_they_are_told_to(lab: Lab, api: Api) -> None:
    start_pod(api, "quick", "worker3")
    start_pod(api, "slow", "worker3", annotations={"fleet-lab/termination-seconds": "2"})
    start_pod(api, "stubborn", "worker3", annotations={"fleet-lab/termination-seconds": "100"})
    started = time.monotonic()
    for name in ("quick", "slow", "stubborn"):
        delete_pod(api, name)
    took = {}
    for name in ("quick", "slow", "stubborn"):
        eventually(lambda name=name: gone(api, name))  # type: ignore[misc]
        took[name] = time.monotonic() - started
    assert took["quick"] < 1 < 2 <= took["slow"] < 3 <= took["stubborn"] < 4.5, took  # its grace period is 3 s


def test_a_finalizer_keeps_a_terminated_pod(api: Api) -> None:
    start_pod(api, "kept", "worker3", finalizers=["lab.test/keep"])
    delete_pod(api, "kept")
    eventually(lambda: pod(api, "kept")["metadata"].get("deletionGracePeriodSeconds") == 0)
    assert "terminated" in pod(api, "kept")["status"]["containerStatuses"][0]["state"]
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/kept"
    api.request("PATCH", path, {"metadata": {"finalizers": None}}, "application/merge-patch+json")
    eventually(lambda: gone(api, "kept"))


def test_pods_are_slow_to_terminate_or_never_do(lab: Lab, api: Api, healed: Lab) -> None:
    start_pod(api, "lame", "worker4")
    lab.inject("pod-slow-to-terminate", "worker4", seconds=4)
    time.sleep(1.5)  # the kubelet looks once a second
    started = time.monotonic()
    delete_pod(api, "lame")
    eventually(lambda: gone(api, "lame"))
    assert time.monotonic() - started > 4
    lab.heal()
    start_pod(api, "immortal", "worker4")
    lab.inject("pod-never-terminates", "worker4")
    time.sleep(1.5)
    delete_pod(api, "immortal", grace=1)
    time.sleep(3)
    assert not gone(api, "immortal")
    lab.heal()
    eventually(lambda: gone(api, "immortal"))


def test_ssh_is_refused(lab: Lab, healed: Lab) -> None:
    lab.inject("ssh-refused", "worker5")
    assert lab.exec("worker5", "true").returncode == 255
    assert lab.enter("worker5", "hostname").strip() == "worker5"
    lab.enter("worker5", "/usr/local/sbin/reboot-host")
    eventually(lambda: next(s.state for s in lab.status() if s.host.name == "worker5") == "rebooting")
    eventually(lambda: "kubelet.service" in lab.enter("worker5", "systemctl", "list-units", "--state=active"))
    assert not is_listening(lab.hosts["worker5"].ipv4, 22)
    lab.heal()
    assert lab.exec("worker5", "true").returncode == 0


def test_one_apiserver_is_stopped(lab: Lab, api: Api, healed: Lab) -> None:
    lab.inject("apiserver-stopped", "cp1")
    assert not is_listening(lab.hosts["cp1"].ipv4, 6443)
    assert is_listening(lab.hosts["cp2"].ipv4, 6443)
    for _ in range(10):  # new connections, over the load balancer
        assert len(lab.api().request("GET", "/api/v1/nodes")["items"]) == 6
    lab.heal()
    eventually(lambda: lab.api(host="cp1").request("GET", "/version"))


def test_healing_what_is_healthy_does_nothing(lab: Lab) -> None:
    assert lab.heal() == []
    assert lab.heal("worker1") == []


@pytest.mark.parametrize(
    ("arguments", "seconds", "message"),
    [
        (("flood", "worker1"), None, "There is no fault 'flood'. There are: host-stays-down"),
        (("ssh-refused",), None, "Name the hosts"),
        (("ssh-refused", "worker9"), None, "has no host worker9. It has: cp1"),
        (("apiserver-stopped", "worker1"), None, "for hosts with the role control-plane: worker1 is none"),
        (("ssh-refused", "worker1"), 5.0, "takes no such number"),
        (("host-slow-boot", "worker1"), -1.0, "takes no such number"),
    ],
)
def test_a_wrong_fault_is_named_and_not_injected(
    lab: Lab, arguments: tuple[str, ...], seconds: float | None, message: str
) -> None:
    with pytest.raises(LabError, match=message):
        lab.inject(*arguments, seconds=seconds)
    assert not any(status.faults for status in lab.status())


def test_all_faults_have_been_tried() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in FAULTS if f'"{name}"' not in source] == []


def test_the_operators_commands_talk_to_the_lab(lab: Lab) -> None:
    environment = {**os.environ, **lab.environment(), "PYTHONPATH": str(Path(fleet.__file__).parents[1])}
    listed = subprocess.run(["cookbook", "--list"], env=environment, capture_output=True, text=True, check=False)
    assert "sre.k8s" in listed.stdout, listed.stderr
    check = [sys.executable, "-c", "from fleet.cli.main import main; main()", "config", "check"]
    checked = subprocess.run(check, env=environment, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_spicerack_locks_live_in_the_lab(lab: Lab) -> None:
    from spicerack.locking import COOKBOOKS_CUSTOM_PREFIX, get_lock_instance

    config = lab.paths.operator / "spicerack" / "etcd.yaml"
    lock = get_lock_instance(config_file=config, prefix=COOKBOOKS_CUSTOM_PREFIX, owner="lab-test", dry_run=False)
    with lock.acquired("lab-test:key", concurrency=1, ttl=10):
        stored = lab.exec(
            "conf1",
            ". /etc/profile; curl -s --cacert $ETCDCTL_CACERT --cert $ETCDCTL_CERT --key $ETCDCTL_KEY "
            "'https://127.0.0.1:2379/v2/keys/spicerack?recursive=true'",
        ).stdout
        assert "lab-test" in stored
