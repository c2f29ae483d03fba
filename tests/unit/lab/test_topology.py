"""The lab's topology file: what it gives, and what is said of mistakes."""

from pathlib import Path

import pytest

from fleet_lab import topology
from fleet_lab.errors import LabError

SMALL = """\
hosts:
  cp1: {role: control-plane}
  etcd1: {role: etcd}
  lb1: {role: load-balancer}
  worker1: {role: worker, row: row-b}
  alerts1: {role: alertmanager}
  conf1: {role: lock-store}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "topology.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_default_is_the_fleet_of_the_documentation() -> None:
    default = topology.load(topology.DEFAULT)
    assert [host.name for host in default.with_role("control-plane")] == ["cp1", "cp2"]
    assert len(default.with_role("etcd")) == len(default.with_role("new-etcd")) == 3
    rows = [host.row for host in default.with_role("worker")]
    assert sorted(rows) == ["row-a", "row-a", "row-b", "row-b", "row-c", "row-c"]
    assert default.firmware_delay == 2.0
    addresses = {host.ipv4 for host in default.hosts.values()} | {host.ipv6 for host in default.hosts.values()}
    assert len(addresses) == 2 * len(default.hosts)
    assert default.network.machine_ipv4 not in addresses
    assert [host.name for host in default.with_role("router")] == ["cr1", "cr2"]
    assert [host.name for host in default.with_role("alertmanager")] == ["alerts1", "alerts2"]
    assert [host.name for host in default.bgp_nodes][:3] == ["cp1", "cp2", "worker1"]
    assert len(default.bgp_nodes) == 8
    assert default.bgp == topology.Bgp(routers_asn=65000, nodes_asn=64601, graceful_restart=False)
    pods = default.hosts["worker1"]
    assert (str(pods.pods_ipv4), str(pods.pods_ipv6)) == ("10.78.17.0/24", "fd00:78:0:11::/64")


def test_a_small_one(tmp_path: Path) -> None:
    small = topology.load(write(tmp_path, SMALL))
    assert small.api_host.name == "lb1"
    assert str(small.hosts["worker1"].ipv4) == "10.77.0.14"
    assert small.hosts["worker1"].row == "row-b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hosts: {}", "hosts: "),
        ("[", "cannot be read"),
        ("hosts: {a: {role: worker}}", "there is no host with the role control-plane"),
        (SMALL.replace("alertmanager", "worker"), "there is no host with the role alertmanager"),
        (SMALL + "  lb2: {role: load-balancer}\n", "there must be exactly one host with the role load-balancer"),
        (SMALL + "  Worker2: {role: worker}\n", "hosts.Worker2"),
        (SMALL + "  a-very-long-name: {role: worker}\n", "hosts.a-very-long-name"),
        (SMALL + "  worker2: {role: cook}\n", "hosts.worker2.role"),
        (SMALL + "  worker2: {role: worker, rack: a}\n", "hosts.worker2.rack"),
        (SMALL + "firmware_delay: soon\n", "firmware_delay: 'soon' is no duration"),
        (SMALL + "network: {ipv4: 10.0.0.0/28}\n", "10.0.0.0/28 is too small for 6 hosts"),
        (SMALL + "bgp: {nodes_asn: 4294967296}\n", "bgp.nodes_asn"),
        (SMALL + "bgp: {graceful: true}\n", "bgp.graceful"),
        (SMALL + "network: {bridge: a-bridge-with-a-long-name}\n", "network.bridge"),
    ],
)
def test_mistakes_are_named_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(LabError) as caught:
        topology.load(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
