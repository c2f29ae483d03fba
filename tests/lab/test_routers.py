"""The lab's network: sessions of every node at both routers, what a restart and each fault do to them, NETCONF.

What the routers see is read from FRR itself, not through NETCONF.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml
from jnpr.junos import Device
from jnpr.junos.exception import ConnectAuthError, ConnectError, RpcTimeoutError

from fleet_lab.errors import LabError
from fleet_lab.lab import Lab
from fleet_lab.waiting import is_listening

RESTART = "systemctl restart calico-node"


def eventually(check: Callable[[], bool], *, within: float = 15.0) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + within
    while not check():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.2)


def of_node(lab: Lab, name: str, version: int | None = None) -> dict[tuple[str, str], Any]:
    """A node's sessions at all routers, of both families or of one."""
    host = lab.hosts[name]
    addresses = {str(address) for address in (host.ipv4, host.ipv6) if version in (None, address.version)}
    return {key: session for key, session in lab.sessions().items() if key[1] in addresses}


def states(sessions: dict[tuple[str, str], Any]) -> set[str]:
    return {session["state"] for session in sessions.values()}


def prefixes(sessions: dict[tuple[str, str], Any]) -> set[int]:
    return {session["pfxRcd"] for session in sessions.values()}


def show(lab: Lab, router: str, what: str) -> Any:
    return json.loads(lab.enter(router, "vtysh", "-c", f"show {what} json"))


def main_pid(lab: Lab, host: str) -> str:
    return lab.enter(host, "systemctl", "show", "--property=MainPID", "--value", "calico-node").strip()


def test_every_node_has_a_session_of_each_family_at_each_router(lab: Lab) -> None:
    sessions = lab.sessions()
    nodes = lab.names("control-plane") + lab.names("worker")
    addresses = {str(address) for name in nodes for address in (lab.hosts[name].ipv4, lab.hosts[name].ipv6)}
    assert set(sessions) == {(router, address) for router in ("cr1", "cr2") for address in addresses}
    assert states(sessions) == {"Established"}
    assert prefixes(sessions) == {2}
    assert {session["remoteAs"] for session in sessions.values()} == {64601}
    for router in ("cr1", "cr2"):
        neighbours = show(lab, router, "bgp neighbors")
        for address in addresses:
            family = f"ipv{ip_address(address).version}"
            assert set(neighbours[address]["addressFamilyInfo"]) == {f"{family}Unicast"}
            assert neighbours[address]["peerGroup"] == f"kubernetes-{family}"
            assert neighbours[address]["nbrDesc"] in nodes
        groups = {peer: entry.get("peerGroup") for peer, entry in neighbours.items() if peer not in addresses}
        other = str(lab.hosts["cr2" if router == "cr1" else "cr1"].ipv4)
        assert groups == {other: "core", "192.0.2.1": None}
        assert neighbours[other]["bgpState"] == "Established"
        assert set(neighbours[other]["addressFamilyInfo"]) == {"ipv4Unicast", "ipv6Unicast"}
        assert neighbours["192.0.2.1"]["bgpState"] != "Established"
        assert set(neighbours) == {*addresses, other, "192.0.2.1"}


def test_nodes_do_not_speak_bgp_with_each_other(lab: Lab) -> None:
    protocols = lab.exec("worker1", "birdc -s /run/calico-node/bird.ctl show protocols").stdout.splitlines()
    assert sum(" BGP " in line for line in protocols) == 4


def test_routers_have_routes_to_the_pods_as_long_as_calico_node_runs(lab: Lab, healed: Lab) -> None:
    host = lab.hosts["worker1"]

    def routes() -> set[tuple[str, int]]:
        found: set[tuple[str, int]] = set()
        for router in ("cr1", "cr2"):
            for pods, gateway in ((host.pods_ipv4, host.ipv4), (host.pods_ipv6, host.ipv6)):
                half = next(iter(pods.subnets()))
                shown = lab.enter(router, "ip", f"-{gateway.version}", "route", "show", str(half))
                found |= {(router, gateway.version) for line in shown.splitlines() if f" via {gateway} " in line}
        return found

    everywhere = {(router, version) for router in ("cr1", "cr2") for version in (4, 6)}
    assert routes() == everywhere
    assert lab.exec("worker1", "systemctl stop calico-node").returncode == 0
    eventually(lambda: not routes())
    assert lab.exec("worker1", "systemctl start calico-node").returncode == 0
    lab.wait_for_sessions(timeout=60)
    eventually(lambda: routes() == everywhere)


def test_a_restart_is_a_flap_at_both_routers(lab: Lab) -> None:
    before = lab.sessions()
    started = time.time()
    assert lab.exec("worker1", RESTART).returncode == 0
    eventually(lambda: all(s["peerUptimeEstablishedEpoch"] >= int(started) for s in of_node(lab, "worker1").values()))
    lab.wait_for_sessions(timeout=60)
    print(f"all sessions are back after {time.time() - started:.1f} s")
    mine = of_node(lab, "worker1")
    for key, session in lab.sessions().items():
        dropped = session["connectionsDropped"] - before[key]["connectionsDropped"]
        assert dropped == (1 if key in mine else 0), key


def test_sessions_end_with_a_reboot_and_come_back_after_it(lab: Lab, healed: Lab) -> None:
    before = of_node(lab, "worker6")
    lab.exec("worker6", "reboot-host")
    eventually(lambda: states(of_node(lab, "worker6")).isdisjoint({"Established"}))
    lab.wait_for_sessions(timeout=60)
    after = of_node(lab, "worker6")
    assert all(after[key]["connectionsDropped"] == before[key]["connectionsDropped"] + 1 for key in before)


def test_faults_of_the_nodes_sessions(lab: Lab, healed: Lab) -> None:
    nodes = ("worker2", "cp1", "worker3")
    before = lab.sessions()
    lab.inject("bgp-down", "worker2")
    lab.inject("bgp-ipv6-down", "cp1")
    lab.inject("bgp-fewer-prefixes", "worker3")
    for name in nodes:
        assert lab.exec(name, f"{RESTART} && systemctl is-active calico-node").stdout.strip() == "active"
    eventually(lambda: states(of_node(lab, "worker2")) == {"Active"})
    eventually(lambda: states(of_node(lab, "cp1", 6)) == {"Active"})
    eventually(lambda: states(of_node(lab, "cp1", 4)) == {"Established"})
    eventually(lambda: states(of_node(lab, "worker3")) == {"Established"})
    eventually(lambda: prefixes(of_node(lab, "worker3")) == {1})
    restarted = {name: main_pid(lab, name) for name in nodes}
    others = set(before) - {key for name in nodes for key in of_node(lab, name)}
    now = lab.sessions()
    assert all(now[key]["connectionsDropped"] == before[key]["connectionsDropped"] for key in others)

    lab.heal("cp1", "worker2")
    lab.wait_for_sessions(without=["worker3"], timeout=60)
    assert prefixes(of_node(lab, "worker3")) == {1}
    lab.heal()
    lab.wait_for_sessions(timeout=60)
    assert restarted == {name: main_pid(lab, name) for name in nodes}, "it was healed by a restart"


def test_what_is_injected_shows_with_the_next_start_only(lab: Lab, healed: Lab) -> None:
    before = of_node(lab, "worker4")
    for fault in ("bgp-down", "calico-fails"):
        lab.inject(fault, "worker4")
    time.sleep(1)  # as long as the faults of routers and kubelets may take
    after = of_node(lab, "worker4")
    assert states(after) == {"Established"}
    assert all(after[key]["connectionsDropped"] == before[key]["connectionsDropped"] for key in before)


def test_calico_node_does_not_start(lab: Lab, healed: Lab) -> None:
    lab.inject("calico-fails", "worker5")
    failed = lab.exec("worker5", f"{RESTART} || systemctl is-active calico-node")
    assert failed.stdout.strip() != "active"
    assert "calico-node.service failed" in failed.stderr
    assert "injected fault" in lab.exec("worker5", "journalctl --unit calico-node --no-pager --lines 20").stdout
    assert states(of_node(lab, "worker5")).isdisjoint({"Established"})
    lab.heal()
    lab.wait_for_sessions(timeout=60)
    assert lab.exec("worker5", "systemctl is-active calico-node").stdout.strip() == "active"


def test_a_router_is_unreachable_and_routes_on(lab: Lab, healed: Lab) -> None:
    before = lab.sessions()
    lab.inject("router-unreachable", "cr1")
    assert not is_listening(lab.hosts["cr1"].ipv4, 22)
    assert not is_listening(lab.hosts["cr1"].ipv6, 830)
    assert is_listening(lab.hosts["cr2"].ipv4, 830)
    lab.enter("cr1", "systemctl", "reboot")
    eventually(lambda: {status.host.name: status.state for status in lab.status()}["cr1"] != "running")
    lab.wait_for_sessions(timeout=60)
    assert not is_listening(lab.hosts["cr1"].ipv4, 22)
    assert "never" not in {session["peerUptime"] for session in lab.sessions().values()}, (
        "the router's clock is at zero"
    )
    at_other = {key: session for key, session in lab.sessions().items() if key[0] == "cr2"}
    assert all(s["connectionsDropped"] == before[key]["connectionsDropped"] for key, s in at_other.items())
    lab.heal()
    assert is_listening(lab.hosts["cr1"].ipv4, 22)


@contextmanager
def netconf(lab: Lab, router: str, folder: Path) -> Iterator[Device]:
    """A session of PyEZ with what an operator has: the rendered configuration, key and known hosts."""
    bgp = yaml.safe_load(lab.fleet_config.read_text())["clusters"]["lab"]["bgp"]
    ssh_config = folder / "ssh_config"
    ssh_config.write_text(f"Host *\n    UserKnownHostsFile {bgp['known_hosts']}\n")
    device = Device(
        host=bgp["routers"][router]["address"],
        port=bgp["routers"][router]["port"],
        user=bgp["username"],
        ssh_private_key_file=bgp["ssh_key"],
        ssh_config=str(ssh_config),
        hostkey_verify=True,
        look_for_keys=False,
        allow_agent=False,
        gather_facts=False,
        conn_open_timeout=3,
    )
    device.open()
    device.timeout = 2
    try:
        yield device
    finally:
        if device.connected:
            device._conn._session.close()  # a router that hangs would not answer to close-session


def established(reply: Any) -> set[str]:
    return {
        peer.findtext("peer-address").strip()
        for peer in reply.iter("bgp-peer")
        if peer.findtext("peer-state").strip() == "Established"
    }


def test_netconf_tells_what_frr_knows(lab: Lab, tmp_path: Path) -> None:
    for router in ("cr1", "cr2"):
        with netconf(lab, router, tmp_path) as device:
            reply = device.rpc.get_bgp_summary_information()
        expected = {address for known, address in lab.sessions() if known == router}
        assert expected < established(reply)
        assert "192.0.2.1" not in established(reply)
        assert "192.0.2.1" in {peer.findtext("peer-address").strip() for peer in reply.iter("bgp-peer")}


def test_netconf_takes_the_labs_password_as_well(lab: Lab) -> None:
    host, password = lab.hosts["cr1"], (lab.paths.operator / "netconf" / "password")
    assert password.stat().st_mode & 0o777 == 0o600
    options = {"port": 830, "user": "fleet", "gather_facts": False, "look_for_keys": False, "allow_agent": False}
    with Device(host=str(host.ipv4), password=password.read_text().strip(), **options) as device:
        assert established(device.rpc.get_bgp_summary_information())
    with pytest.raises(ConnectAuthError):
        Device(host=str(host.ipv4), password="guess", **options).open()


@pytest.mark.parametrize(
    ("inject", "trouble"),
    [
        (lambda lab: lab.inject("netconf-host-key", "cr2"), "SSHUnknownHostError"),
        (lambda lab: lab.inject("netconf-login", "cr2"), "AuthenticationError"),
    ],
    ids=["host-key", "login"],
)
def test_a_router_lets_nobody_in(
    lab: Lab, healed: Lab, tmp_path: Path, inject: Callable[[Lab], None], trouble: str
) -> None:
    with netconf(lab, "cr2", tmp_path) as device:
        inject(lab)
        eventually(lambda: not device._conn._session.connected, within=15)
    with pytest.raises(ConnectError) as refused, netconf(lab, "cr2", tmp_path):
        pass
    assert type(refused.value.__context__).__name__ == trouble
    with netconf(lab, "cr1", tmp_path) as device:
        assert established(device.rpc.get_bgp_summary_information())
    lab.heal()
    with netconf(lab, "cr2", tmp_path) as device:
        assert established(device.rpc.get_bgp_summary_information())


def test_a_router_hangs_in_the_middle_of_a_reply(lab: Lab, healed: Lab, tmp_path: Path) -> None:
    with netconf(lab, "cr2", tmp_path) as device:
        lab.inject("netconf-hangs", "cr2")
        with pytest.raises(RpcTimeoutError):
            device.rpc.get_bgp_summary_information()
    assert states(lab.sessions()) == {"Established"}
    lab.heal()
    with netconf(lab, "cr2", tmp_path) as device:
        assert established(device.rpc.get_bgp_summary_information())


@pytest.mark.parametrize(("fault", "role"), [("router-unreachable", "router"), ("bgp-down", "control-plane, worker")])
def test_faults_are_for_those_who_can_have_them(lab: Lab, fault: str, role: str) -> None:
    with pytest.raises(LabError, match=f"for hosts with the role {role}: etcd1 is none"):
        lab.inject(fault, "etcd1")
