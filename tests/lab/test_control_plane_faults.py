"""The faults of the control plane as an operator sees them: with curl, systemctl, the leases and HAProxy's stats."""

from collections.abc import Iterator

import pytest

from fleet_lab.lab import Lab
from haproxy import servers, wait_until_in_service
from rehearsal import eventually

SOON = 120.0
"""Seconds for an apiserver to start on a machine that has much else to do; a few on another."""


@pytest.fixture
def control_plane(lab: Lab) -> Iterator[Lab]:
    """The lab with both apiservers in service, before and after."""
    wait_until_in_service(lab)
    yield lab
    lab.heal()
    wait_until_in_service(lab)


def ask(lab: Lab, url: str) -> str:
    """What curl gets, from another host."""
    return lab.exec("worker1", f"curl --silent --insecure --max-time 3 '{url}'").stdout


def readyz(lab: Lab, host: str) -> str:
    return ask(lab, f"https://{lab.hosts[host].ipv4}:6443/readyz?verbose")


def state(lab: Lab, host: str, unit: str) -> str:
    return lab.exec(host, f"systemctl is-active {unit}").stdout.strip()


def start_anew(lab: Lab, host: str, *units: str) -> None:
    """Kill what units run, which systemd starts again at once: asked to end, an apiserver waits for its watchers."""
    lab.enter(host, "systemctl", "kill", "--kill-whom=main", "--signal=KILL", *units)


def test_an_apiserver_does_not_start_with_a_typing_error(lab: Lab, control_plane: Lab) -> None:
    lab.inject("apiserver-bad-flag", "cp2")
    assert "readyz check passed" in readyz(lab, "cp2")  # Not before its next start.
    assert "--secure-prot=" in lab.exec("cp2", "cat /etc/default/kube-apiserver").stdout

    start_anew(lab, "cp2", "kube-apiserver")

    log = "journalctl --unit kube-apiserver --output cat"
    eventually(lambda: "unknown flag: --secure-prot" in lab.exec("cp2", log).stdout, within=SOON)
    assert state(lab, "cp2", "kube-apiserver") != "active"
    assert readyz(lab, "cp2") == ""
    eventually(lambda: servers(lab)["cp2"]["status"].startswith("DOWN"))
    assert lab.api().request("GET", "/api/v1/nodes")["items"]
    lab.heal("cp2")
    eventually(lambda: state(lab, "cp2", "kube-apiserver") == "active", within=SOON)
    assert "--secure-prot=" not in lab.exec("cp2", "cat /etc/default/kube-apiserver").stdout


def test_an_apiserver_comes_back_and_is_not_ready(lab: Lab, control_plane: Lab) -> None:
    lab.inject("apiserver-etcd-cut", "cp2")

    start_anew(lab, "cp2", "kube-apiserver")

    eventually(lambda: "[-]etcd failed" in readyz(lab, "cp2"), within=SOON)
    eventually(lambda: state(lab, "cp2", "kube-apiserver") == "active")
    eventually(lambda: servers(lab)["cp2"]["check_status"].lstrip("* ") == "L7STS")
    eventually(lambda: servers(lab)["cp2"]["status"].startswith("DOWN"))
    assert lab.api().request("GET", "/api/v1/nodes")["items"]
    lab.heal("cp2")
    eventually(lambda: "readyz check passed" in readyz(lab, "cp2"), within=SOON)


def test_a_load_balancer_does_not_take_an_apiserver_back(lab: Lab, control_plane: Lab) -> None:
    lab.inject("lb-unreachable", "cp2")
    assert servers(lab)["cp2"]["status"] == "UP"

    start_anew(lab, "cp2", "kube-apiserver")

    eventually(lambda: servers(lab)["cp2"]["status"].startswith("DOWN"))
    eventually(lambda: "readyz check passed" in readyz(lab, "cp2"), within=SOON)  # To everybody else.
    assert servers(lab)["cp2"]["status"].startswith("DOWN")
    eventually(lambda: servers(lab)["cp2"]["check_status"].lstrip("* ") == "L4TOUT")
    assert lab.api().request("GET", "/api/v1/nodes")["items"]


def test_nobody_leads(lab: Lab, control_plane: Lab) -> None:
    components = {"kube-controller-manager": 10257, "kube-scheduler": 10259}

    def renewed() -> list[str]:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
        return [lab.api().request("GET", f"{path}/{name}")["spec"]["renewTime"] for name in components]

    def paused(host: str, name: str) -> bool:
        return lab.exec(host, f"ps -o state= -C {name}").stdout.strip() == "T"

    lab.inject("leader-stuck", "cp1", "cp2")
    for host in ("cp1", "cp2"):
        assert not any(paused(host, name) for name in components)
        start_anew(lab, host, *components)
    for host in ("cp1", "cp2"):
        for name, port in components.items():
            eventually(lambda host=host, name=name: paused(host, name), within=SOON)  # type: ignore[misc]
            eventually(lambda host=host, name=name: state(lab, host, name) == "active")  # type: ignore[misc]
            url = f"https://127.0.0.1:{port}/healthz"
            assert lab.exec(host, f"curl --silent --insecure --max-time 1 {url}").returncode == 28  # It timed out.
    last = renewed()
    lab.heal()
    eventually(lambda: all(new != old for new, old in zip(renewed(), last, strict=True)), within=SOON)
    assert not any(paused(host, name) for host in ("cp1", "cp2") for name in components)
