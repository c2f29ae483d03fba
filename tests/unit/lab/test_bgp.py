"""The lab's network as it is configured: FRR on the routers, BIRD on the nodes, and what the operator has of it."""

import json
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from fleet.config.loading import load as load_config
from fleet_lab import operator
from fleet_lab.container import FAULTS as FAULT_FOLDER
from fleet_lab.context import make
from fleet_lab.faults import FAULTS
from fleet_lab.files import File
from fleet_lab.paths import Paths
from fleet_lab.roles import ROLES, Context, calico, puppet_code
from fleet_lab.roles.router import bgpd, neighbours
from fleet_lab.topology import DEFAULT, Bgp, Topology, load

from .test_topology import SMALL


def make_context(folder: Path, topology: Topology) -> Context:
    """A lab as it is before its hosts are started."""
    context = make(Paths(folder / "state", folder / "cache"), topology)
    context.paths.kubernetes.mkdir()
    apiserver = context.paths.kubernetes / "kube-apiserver"
    apiserver.write_text(
        "#!/bin/sh\necho --enable-admission-plugins strings: NodeRestriction, PodSecurityPolicy\n", encoding="ascii"
    )
    apiserver.chmod(0o755)
    puppet_code.create(context, {})
    return context


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return make_context(tmp_path, load(DEFAULT))


def files(context: Context, name: str) -> dict[str, File]:
    host = context.topology.hosts[name]
    found = ROLES[host.role].files(context, host)
    return {file.path: file for file in found if isinstance(file, File)}


def test_a_router_has_a_session_of_one_family_for_each_address_of_a_node() -> None:
    topology = load(DEFAULT)
    lines = bgpd(topology.hosts["cr1"], topology).splitlines()
    assert lines[:3] == ["hostname cr1", "router bgp 65000", " bgp router-id 10.77.0.25"]
    assert " neighbor 10.77.0.17 peer-group kubernetes-ipv4" in lines
    assert " neighbor fd00:77::11 peer-group kubernetes-ipv6" in lines
    assert " neighbor fd00:77::11 description worker1" in lines
    assert sum(" peer-group kubernetes-ipv" in line for line in lines) == 2 * len(topology.bgp_nodes)
    assert {f" neighbor kubernetes-{family} passive" for family in ("ipv4", "ipv6")} < set(lines)
    assert " no bgp ebgp-requires-policy" in lines
    ipv4, ipv6 = (lines.index(f" address-family {family} unicast") for family in ("ipv4", "ipv6"))
    assert lines[ipv4 + 1 : ipv6 - 1] == [
        f"  neighbor {peer} activate" for peer in ("kubernetes-ipv4", "core", "192.0.2.1")
    ]
    assert lines[ipv6 + 1 : -2] == [f"  neighbor {peer} activate" for peer in ("kubernetes-ipv6", "core")]


def test_routers_have_other_peers_too() -> None:
    topology = load(DEFAULT)
    others = {
        address: peer
        for address, peer in neighbours(topology.hosts["cr2"], topology).items()
        if not peer[0].startswith("kubernetes")
    }
    assert others == {"10.77.0.25": ("core", "cr1"), "192.0.2.1": ("transit", "transit")}


def test_a_node_speaks_with_the_routers_alone() -> None:
    topology = load(DEFAULT)
    host = topology.hosts["worker1"]
    pieces = calico.configuration(host, topology.with_role("router"), topology.bgp)
    assert "local as 64601;" in pieces["bird.conf"]
    assert "router id 10.77.0.17;" in pieces["bird.conf"]
    for family, addresses in (("ipv4", ["10.77.0.25", "10.77.0.26"]), ("ipv6", ["fd00:77::19", "fd00:77::1a"])):
        text = pieces[f"sessions-{family}.conf"]
        neighbors = [line.split()[1:] for line in text.splitlines() if "neighbor" in line]
        assert neighbors == [[address, "as", "65000;"] for address in addresses]
        assert text.count(f"    {family} {{") == 2
    routes = [line.split()[1] for name in ("prefixes-1.conf", "prefixes-2.conf") for line in _routes(pieces[name])]
    assert routes == ["10.78.17.0/25", "fd00:78:0:11::/65", "10.78.17.128/25", "fd00:78:0:11:8000::/65"]


def _routes(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip().startswith("route ")]


def test_restarts_are_graceful_where_the_topology_says_so(context: Context) -> None:
    topology = context.topology
    assert "graceful-restart" not in bgpd(topology.hosts["cr1"], topology)
    assert "graceful restart off;" in files(context, "worker1")["/etc/calico/bird.conf"].content
    assert "KillSignal" not in str(files(context, "worker1")["/etc/systemd/system/calico-node.service"].content)
    graceful = topology.model_copy(update={"bgp": Bgp(graceful_restart=True)})
    assert " bgp graceful-restart" in bgpd(graceful.hosts["cr1"], graceful).splitlines()
    graceful_context = make(context.paths, graceful)
    assert "graceful restart on;" in files(graceful_context, "worker1")["/etc/calico/bird.conf"].content
    assert "KillSignal=SIGKILL" in str(
        files(graceful_context, "worker1")["/etc/systemd/system/calico-node.service"].content
    )


@pytest.mark.parametrize(
    ("faults", "missing"),
    [
        ([], set()),
        (["bgp-down"], {"sessions-ipv4.conf", "sessions-ipv6.conf"}),
        (["bgp-ipv6-down"], {"sessions-ipv6.conf"}),
        (["bgp-fewer-prefixes"], {"prefixes-2.conf"}),
        (["bgp-ipv6-down", "bgp-fewer-prefixes"], {"sessions-ipv6.conf", "prefixes-2.conf"}),
        (["ssh-refused"], set()),
    ],
)
def test_faults_leave_out_pieces(context: Context, tmp_path: Path, faults: list[str], missing: set[str]) -> None:
    run, folder = tmp_path / "run", tmp_path / "faults"
    run.mkdir()
    folder.mkdir()
    (run / "prefixes-2.conf").symlink_to("/before")
    for fault in faults:
        assert fault in FAULTS
        (folder / fault).touch()
    script = str(files(context, "worker1")["/usr/local/lib/fleet-lab/calico-select"].content)
    script = script.replace(FAULT_FOLDER, str(folder)).replace("/run/calico-node", str(run))
    subprocess.run(["sh", "-ec", script], check=True)
    pieces = {path.name: str(path.readlink()) for path in run.iterdir()}
    everything = {f"{kind}.conf" for kind in ("prefixes-1", "prefixes-2", "sessions-ipv4", "sessions-ipv6")}
    assert pieces == {name: f"/etc/calico/{name}" for name in everything - missing}


def test_the_netconf_server_gets_keys_a_login_and_the_groups(context: Context) -> None:
    on_router = files(context, "cr1")
    settings = json.loads(on_router["/etc/lab-netconf.json"].content)
    assert settings["listen"] == ["10.77.0.25", "fd00:77::19"]
    assert settings["groups"]["10.77.0.17"] == "kubernetes-ipv4"
    assert settings["groups"]["192.0.2.1"] == "transit"
    password = context.paths.operator / "netconf" / "password"
    assert settings["users"]["fleet"]["password"] == password.read_text().strip()
    assert len(settings["users"]["fleet"]["password"]) > 20
    secrets = [file for path, file in on_router.items() if path.startswith("/etc/lab-netconf")]
    assert {file.mode for file in secrets} == {0o600}
    keys = {settings["host_key"], settings["other_host_key"]}
    assert len({str(files(context, name)[key].content) for name in ("cr1", "cr2") for key in keys}) == 4
    assert files(context, "cr1")["/etc/lab-netconf.json"] == on_router["/etc/lab-netconf.json"]
    assert "/usr/local/lib/fleet-lab/netconf/__main__.py" in on_router


def test_the_operator_knows_the_routers(context: Context) -> None:
    operator.write(context)
    bgp = load_config(operator.fleet_config(context)).cluster("lab").bgp
    assert bgp is not None
    assert {name: router.address for name, router in bgp.routers.items()} == {"cr1": "10.77.0.25", "cr2": "10.77.0.26"}
    assert bgp.asn == 64601
    assert bgp.ssh_key is not None
    known = bgp.known_hosts.read_text().splitlines()
    assert [line.split()[0] for line in known] == [
        "[10.77.0.25]:830,[fd00:77::19]:830",
        "[10.77.0.26]:830,[fd00:77::1a]:830",
    ]
    for path in (bgp.ssh_key, bgp.known_hosts):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_operator_can_move_the_cluster_onto_the_other_etcd(context: Context) -> None:
    operator.write(context)
    cluster = load_config(operator.fleet_config(context)).cluster("lab")
    assert cluster.etcd is not None
    assert cluster.reinitialize is not None
    assert cluster.etcd.endpoints == tuple(f"https://10.77.0.{number}:2379" for number in (13, 14, 15))
    other = cluster.reinitialize.etcds[operator.NEW_ETCD]
    assert other.endpoints == tuple(f"https://10.77.0.{number}:2379" for number in (27, 28, 29))
    assert other.environment == cluster.etcd.environment
    assert cluster.reinitialize.admission_plugins == ("PodSecurityPolicy",)
    assert len(cluster.reinitialize.services.names) == 10
    change = cluster.reinitialize.puppet_change
    for command in (change.merged, change.merge, change.revert):
        assert command is not None
        assert Path(shlex.split(command)[0]).exists()


def test_a_lab_without_routers_and_without_another_etcd(tmp_path: Path) -> None:
    small = tmp_path / "topology.yaml"
    small.write_text(SMALL, encoding="utf-8")
    context = make_context(tmp_path, load(small))
    operator.write(context)
    cluster = load_config(operator.fleet_config(context)).cluster("lab")
    assert (cluster.bgp, cluster.reinitialize) == (None, None)
    assert files(context, "worker1")["/etc/calico/sessions-ipv4.conf"].content == ""
