"""``sre.network.bgp-summary``: its rows, its output, its exit codes, and what is refused."""

import importlib
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from fleet.adapters.bgp import junos, table
from fleet.adapters.bgp.errors import RouterError
from fleet.adapters.bgp.summary import ESTABLISHED, Peer, Rib, Summary
from fleet.adapters.k8s.client import JSON, Api
from fleet.adapters.k8s.model import parse_node
from fleet.config.model import BgpConfig
from fleet.edges import SystemEdges
from fleet.errors import FleetError
from support import official
from support.places import CONFIG
from support.spicerack import Ann

NAME = "sre.network.bgp-summary"
EXAMPLE = CONFIG / "fleet.yaml"
BGP = yaml.safe_load(EXAMPLE.read_text())["clusters"]["lab"]["bgp"]
AWAY = RouterError("cr2 cannot be reached: no route to host [113]")


def node(index, **metadata):
    addresses = [{"type": "InternalIP", "address": address} for address in (f"10.77.0.{index}", f"fd00:77::{index}")]
    return {"metadata": {"name": f"worker{index}", **metadata}, "status": {"addresses": addresses}}


NODES = [node(10), node(1), node(2)]


def peer(address, state=ESTABLISHED, *, asn=64601):
    of = ip_address(address)
    ribs = (Rib("inet.0" if of.version == 4 else "inet6.0", 1, 3, 2, 0),) if state == ESTABLISHED else ()
    return Peer(of, asn, state, 1933, 4, ribs=ribs)


def reading(*, but=(), taken=0.0):
    every = [peer(f"{network}{index}") for index in (1, 2, 10) for network in ("10.77.0.", "fd00:77::")]
    instead = {other.address: other for other in but}
    return Summary([instead.get(one.address, one) for one in every], taken)


ALL_UP = {"cr1": reading(), "cr2": reading()}


class Routers(junos.Routers):
    """Routers that have told what they know already."""

    def __init__(self, config: BgpConfig, readings: dict[str, Summary | RouterError]) -> None:
        super().__init__(config)
        self._readings = readings

    def summaries(self) -> dict[str, Summary | RouterError]:
        return self._readings


class Played(SystemEdges):
    """The edges of the cookbook: a cluster with some nodes, and routers."""

    def __init__(self, nodes: Sequence[JSON], readings: dict[str, Summary | RouterError]) -> None:
        super().__init__(Ann())
        self._nodes, self._readings, self.closed = nodes, readings, False

    def api(self, kubeconfig: Path) -> Api:
        answer = {"metadata": {"resourceVersion": "1"}, "items": self._nodes}
        return Api(official.client(lambda *_: official.answer(200, json.dumps(answer).encode())))

    @contextmanager
    def routers(self, config: BgpConfig) -> Iterator[Routers]:
        yield Routers(config, self._readings)
        self.closed = True


@pytest.fixture
def module(monkeypatch, request):
    """The cookbook, imported as the runner does."""
    monkeypatch.syspath_prepend(str(request.config.rootpath))
    return importlib.import_module(f"cookbooks.{NAME}")


@pytest.fixture
def run(module, monkeypatch, tmp_path, capsys):
    """Run the cookbook with some nodes and readings; return its exit code and what it printed."""

    def run(*arguments, nodes=NODES, readings=ALL_UP, bgp=BGP):
        config = yaml.safe_load(EXAMPLE.read_text())
        config["clusters"]["lab"]["bgp"] = bgp
        (tmp_path / "fleet.yaml").write_text(yaml.safe_dump(config))
        monkeypatch.setenv("FLEET_CONFIG", str(tmp_path / "fleet.yaml"))
        spicerack, edges = Ann(tmp_path), Played(nodes, readings)
        args = module.BgpSummary(spicerack).argument_parser().parse_args(["--cluster", "lab", *arguments])
        code = module.BgpSummaryRunner(args, spicerack, edges).run()
        assert edges.closed or code == 2, "connections are left open"
        return code, capsys.readouterr().out

    return run


def test_all_sessions_are_up(run):
    code, output = run()
    assert code == 0
    lines = [re.split(r" *│ *", line.strip()) for line in output.splitlines()]
    assert lines[2] == ["worker1", "cr1", "10.77.0.1", "Established", "32 min", "1/3/2 inet.0", "4"]
    assert [line[:3] for line in lines[2:-1]] == [
        [f"worker{index}", router, address]
        for index in (1, 2, 10)
        for router in ("cr1", "cr2")
        for address in (f"10.77.0.{index}", f"fd00:77::{index}")
    ]
    assert lines[-1] == ["All 12 sessions are up."]


@pytest.mark.parametrize("state", ["Active", "Idle"])
def test_a_session_that_is_down(run, state):
    readings = {"cr1": reading(but=[peer("fd00:77::2", state)]), "cr2": reading()}
    code, output = run(readings=readings)
    assert code == 1
    assert re.search(rf"worker2 +│ cr1 +│ fd00:77::2 +│ {state} +│ +32 min │ +│ +4", output)
    assert "1 of 12 sessions is not up, or not known." in output
    assert run("--node", "worker[1,10]", readings=readings)[0] == 0


def test_a_peer_in_another_as_is_no_peer(run):
    code, output = run(readings={**ALL_UP, "cr2": reading(but=[peer("10.77.0.1", asn=65000)])})
    assert code == 1
    assert re.search(r"worker1 +│ cr2 +│ 10.77.0.1 +│ no such peer", output)


def test_a_router_that_cannot_be_asked_keeps_no_other_back(run):
    code, output = run(readings={"cr1": reading(), "cr2": AWAY})
    assert code == 1
    assert output.count("Established") == output.count("not known ") == 6
    assert output.count(str(AWAY)) == 1


def test_a_node_whose_address_is_unknown_keeps_no_other_back(run):
    spoilt = node(2, annotations={"projectcalico.org/IPv4Address": "10.1.2.300/24"})
    nowhere = {"metadata": {"name": "worker3"}}
    code, output = run(nodes=[node(1), spoilt, nowhere])
    assert code == 1
    assert output.count("Established") == 4
    assert "worker2 has an address that cannot be read: '10.1.2.300/24'" in output
    assert "worker3 has no address of ipv4 or ipv6; bgp.addresses may name one." in output
    assert "2 of 6 sessions are not up, or not known." in output


def test_a_peer_of_several_routing_instances_has_a_row_for_each(run):
    twice = Summary([peer("10.77.0.1"), peer("fd00:77::1"), peer("10.77.0.1", "Idle")], 0.0)
    code, output = run("--node", "worker1", readings={"cr1": twice, "cr2": reading()})
    assert code == 1
    assert re.findall(r"cr1 +│ 10.77.0.1 +│ (\w+)", output) == ["Established", "Idle"]


def test_json(run):
    readings = {"cr1": reading(but=[peer("fd00:77::1", "Connect")]), "cr2": AWAY}
    code, output = run("--node", "worker1", "--json", readings=readings)
    assert code == 1
    of: dict = {"node": "worker1", "prefixes": {}, "error": None}
    unknown = {**of, "router": "cr2", "state": "not known", "up": False, "seconds": None, "flaps": None}
    assert json.loads(output) == [
        {
            **of,
            "router": "cr1",
            "address": "10.77.0.1",
            "family": "ipv4",
            "state": "Established",
            "up": True,
            "seconds": 1933,
            "flaps": 4,
            "prefixes": {"inet.0": {"active": 1, "received": 3, "accepted": 2}},
        },
        {
            **of,
            "router": "cr1",
            "address": "fd00:77::1",
            "family": "ipv6",
            "state": "Connect",
            "up": False,
            "seconds": 1933,
            "flaps": 4,
        },
        {**unknown, "address": "10.77.0.1", "family": "ipv4", "error": str(AWAY)},
        {**unknown, "address": "fd00:77::1", "family": "ipv6", "error": str(AWAY)},
    ]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (["--node", "worker[2-3,9]"], {}, "Kubernetes knows no node worker[3,9]; it knows worker[1-2,10]."),
        (["--node", "worker[1-"], {}, "--node 'worker[1-' is no list of nodes such as worker1,worker[3-5]"),
        (["--node", "worker[1-2]!worker[1-2]"], {}, "names no node"),
        ([], {"nodes": []}, "Kubernetes knows no nodes."),
        ([], {"bgp": None}, "The cluster lab has no section bgp in the configuration"),
        (["--cluster", "moon"], {}, "moon"),
    ],
)
def test_what_is_refused(run, caplog, arguments, options, message):
    code, output = run(*arguments, **options)
    assert (code, output) == (2, "")
    assert message in caplog.text


def test_the_examples_in_the_help_are_right(module):
    parser = module.BgpSummary(None).argument_parser()
    examples = re.findall(rf"^ *cookbook {NAME} (.+)$", parser.format_help(), re.MULTILINE)
    assert len(examples) == 2
    for example in examples:
        assert parser.parse_args(shlex.split(example)).cluster == "lab"


def test_it_is_in_nobodys_way(module):
    cookbook = module.BgpSummary(None)
    runner = cookbook.get_runner(cookbook.argument_parser().parse_args(["--cluster", "lab", "--node", "worker1"]))
    assert runner.counted.concurrency == 0
    assert runner.runtime_description == "of lab: worker1"


def test_brackets_in_errors_are_no_markup():
    rows = table.rows_of([parse_node(node(1))], BgpConfig.model_validate(BGP), {"cr2": FleetError("cr2: [red]")})
    console = Console(width=200, record=True)
    table.render(rows, console)
    assert "cr2: [red]" in console.export_text()
