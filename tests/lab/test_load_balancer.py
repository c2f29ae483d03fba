"""The load balancers as a run sees them: the real HAProxy, and conftool's objects that a stand-in for PyBal follows."""

import http.client
import ssl
import time
from collections.abc import Iterator

import pytest
import yaml
from spicerack import Spicerack

from fleet.adapters.hosts.remote import Remote
from fleet.adapters.load_balancer.connect import connect
from fleet.adapters.load_balancer.model import LoadBalancer, LoadBalancerError, ServerState
from fleet.config.loading import load
from fleet.config.model import LoadBalancerConfig
from fleet_lab import operator
from fleet_lab.lab import Lab
from fleet_lab.roles.load_balancer import BACKEND, SOCKET
from support.rehearsal import eventually

CP1, CP2 = "cp1", "cp2"


def spicerack(lab: Lab, *, dry_run: bool = False) -> Spicerack:
    params = yaml.safe_load(lab.spicerack_config.read_text())["instance_params"]
    return Spicerack(dry_run=dry_run, **params)


def connected(lab: Lab, config: LoadBalancerConfig, *, dry_run: bool = False) -> LoadBalancer:
    runner = spicerack(lab, dry_run=dry_run)
    balancer = connect(config, Remote(runner), runner)
    assert balancer
    return balancer


def haproxy_config(lab: Lab) -> LoadBalancerConfig:
    return load(lab.fleet_config).cluster(operator.CLUSTER).control_plane.load_balancer


def conftool_config(lab: Lab) -> LoadBalancerConfig:
    return LoadBalancerConfig.model_validate(operator.conftool(lab.context))


def check_at(lab: Lab, port: int, *, paused: bool = False) -> None:
    """Have HAProxy check cp1's health at another port, where only 6443 is good; it takes that while checks go on."""
    server = f"{BACKEND}/{CP1}"
    orders = [f"enable health {server}", f"set server {server} check-addr {lab.hosts[CP1].ipv4} port {port}"]
    orders += [f"disable health {server}"] if paused else []
    said = lab.exec("lb1", f"echo '{'; '.join(orders)}' | socat - UNIX-CONNECT:{SOCKET}")
    assert (said.returncode, said.stdout.strip()) == (0, "")


@pytest.fixture
def haproxy(lab: Lab) -> Iterator[LoadBalancer]:
    balancer = connected(lab, haproxy_config(lab))
    eventually(lambda: all(state.up for state in balancer.states([CP1, CP2]).values()), within=60)
    yield balancer
    check_at(lab, 6443)
    for host in (CP1, CP2):
        balancer.pool(host, ["lb1"])
    eventually(lambda: all(state.up for state in balancer.states([CP1, CP2]).values()))


class Connections:
    """Connections to the API's address that stay open."""

    def __init__(self, lab: Lab) -> None:
        lab.api()  # its certificate is there from now on
        authority = lab.context.kubernetes_ca.path
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._tls.load_cert_chain(authority.with_name("admin.pem"), authority.with_name("admin.key"))
        self._address = str(lab.context.topology.api_host.ipv4)
        self._all: list[http.client.HTTPSConnection] = []

    def open(self, count: int) -> None:
        for _ in range(count):
            connection = http.client.HTTPSConnection(self._address, 6443, timeout=10, context=self._tls)
            connection.connect()
            connection.auto_open = 0  # what is sent over a connection that was closed fails
            self._all.append(connection)

    def ask(self) -> list[int]:
        statuses = []
        for connection in self._all:
            connection.request("GET", "/version")
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
        return statuses

    def close(self) -> None:
        for connection in self._all:
            connection.close()


@pytest.fixture
def connections(lab: Lab) -> Iterator[Connections]:
    opened = Connections(lab)
    yield opened
    opened.close()


def sessions(state: ServerState) -> int:
    assert state.connections is not None
    return state.connections


def test_open_connections_outlive_a_drain_and_failing_checks(
    lab: Lab, haproxy: LoadBalancer, connections: Connections
) -> None:
    connections.open(6)  # round robin: both have some
    before = haproxy.states([CP1])[CP1]
    assert before.pooled_at == ("lb1",)
    assert sessions(before) > 0

    haproxy.depool(CP1, before.pooled_at)
    haproxy.depool(CP1, before.pooled_at)

    out = haproxy.states([CP1, CP2])
    assert (out[CP1].out, out[CP1].up, out[CP1].pooled_at) == (True, False, ())
    assert "health checks paused" in out[CP1].detail
    assert out[CP2].up
    assert connections.ask() == [200] * 6
    fewer = sessions(out[CP1])
    connections.open(4)
    assert sessions(haproxy.states([CP1])[CP1]) <= fewer
    # Its checks would fail for as long as it says that it stops: at least two of them in this time.
    check_at(lab, 1, paused=True)
    time.sleep(3)
    assert haproxy.states([CP1])[CP1].out
    assert connections.ask() == [200] * 10


def test_one_that_comes_back_is_up_when_a_check_of_now_says_so(lab: Lab, haproxy: LoadBalancer) -> None:
    haproxy.depool(CP1, ["lb1"])
    check_at(lab, 1, paused=True)  # what checks found before is of no worth now
    haproxy.pool(CP1, ["lb1"])

    for _ in range(5):
        state = haproxy.states([CP1])[CP1]
        assert (state.pooled_at, state.up) == (("lb1",), False)
    check_at(lab, 6443)
    started = time.monotonic()
    eventually(lambda: haproxy.states([CP1])[CP1].up)
    print(f"up again {time.monotonic() - started:.1f} s after it is well")


def test_a_server_that_is_held_is_looked_at_again(lab: Lab, haproxy: LoadBalancer) -> None:
    haproxy.depool(CP1, ["lb1"])
    check_at(lab, 1)
    haproxy.watch_again(CP1)

    eventually(lambda: haproxy.states([CP1])[CP1].detail.startswith("lb1: DOWN, L4CON"))
    assert haproxy.states([CP1])[CP1].out


def test_a_dry_run_looks_and_changes_nothing(lab: Lab, haproxy: LoadBalancer) -> None:
    dry = connected(lab, haproxy_config(lab), dry_run=True)
    dry.depool(CP1, ["lb1"])
    dry.watch_again(CP1)
    assert dry.states([CP1])[CP1].up


def test_what_haproxy_does_not_have_is_named(lab: Lab, haproxy: LoadBalancer) -> None:
    with pytest.raises(LoadBalancerError, match="has no server worker1 for worker1, but cp1, cp2"):
        haproxy.states(["worker1"])
    with pytest.raises(LoadBalancerError, match="No such server"):
        haproxy.depool("worker1", ["lb1"])
    config = haproxy_config(lab).model_dump(exclude_none=True)
    for key, value, message in (("backend", "web", "has no backend web"), ("socket", "/run/none", "/run/none")):
        other = LoadBalancerConfig.model_validate({"haproxy": config["haproxy"] | {key: value}})
        with pytest.raises(LoadBalancerError, match=message):
            connected(lab, other).states([CP1])


def test_conftool_haproxy_and_pybals_answer_agree(lab: Lab, haproxy: LoadBalancer, connections: Connections) -> None:
    conftool = connected(lab, conftool_config(lab))
    connections.open(4)
    before = conftool.states([CP1, CP2])
    assert all((state.pooled_at, state.up) == (("conftool",), True) for state in before.values()), before

    connected(lab, conftool_config(lab), dry_run=True).depool(CP1, ["conftool"])
    conftool = connected(lab, conftool_config(lab))  # conftool itself keeps a dry-run in a class
    assert conftool.states([CP1])[CP1] == before[CP1]
    conftool.depool(CP1, ["conftool"])
    conftool.depool(CP1, ["conftool"])

    eventually(lambda: conftool.states([CP1])[CP1].out)
    assert haproxy.states([CP1])[CP1].out
    assert connections.ask() == [200] * 4
    # What is said to HAProxy itself stays until an object changes.
    haproxy.pool(CP1, ["lb1"])
    eventually(lambda: haproxy.states([CP1])[CP1].up)
    assert conftool.states([CP1])[CP1].detail == "conftool: pooled=no; {}: disabled/up/pooled".format(
        lab.hosts["lb1"].ipv4
    )
    assert not conftool.states([CP1])[CP1].out
    haproxy.depool(CP1, ["lb1"])
    conftool.pool(CP1, ["conftool"])
    eventually(lambda: conftool.states([CP1])[CP1].up)
    assert haproxy.states([CP1])[CP1].up


def test_what_conftool_does_not_have_is_named(lab: Lab) -> None:
    conftool = connected(lab, conftool_config(lab))
    with pytest.raises(LoadBalancerError, match=r"no object worker1 for worker1 .* but lab/kubernetes/kubemaster/cp1"):
        conftool.states(["worker1"])
    section = operator.conftool(lab.context)["conftool"]
    for change, message in (
        ({"selector": {"service": "web"}}, "no objects for service=web"),
        ({"selector": {"colour": "red"}}, "colour"),
        ({"selector": {"service": "("}}, r"no objects for service=\("),
        ({"pybal": [section["pybal"][0] + "x"]}, "1 of 1 PyBals could not be asked: .*404"),
        (
            {"pybal": [f"http://{lab.hosts['lb1'].ipv4}:9/pools/x"]},
            "1 of 1 PyBals could not be asked: .*: connection refused",
        ),
    ):
        config = LoadBalancerConfig.model_validate({"conftool": section | change})
        with pytest.raises(LoadBalancerError, match=message):
            connected(lab, config).states([CP1])
