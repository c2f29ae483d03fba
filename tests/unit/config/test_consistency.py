"""Configuration that is well-formed and cannot be right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.config.consistency import contradictions, overlaps
from fleet.config.file import ConfigError
from fleet.config.loading import load
from fleet.config.model import Config
from support.places import CONFIG

EXAMPLE = CONFIG / "fleet.yaml"
Change = Callable[[dict[str, Any]], object]


def changed(change: Change) -> dict[str, Any]:
    """Return the example with a change of its cluster."""
    data: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    change(data["clusters"]["lab"])
    return data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["lease"].update(duration="1s"), ["lease.duration: 1s is too short: at least 10s: it is renewed"]),
        (lambda c: c["lease"].update(duration="2h"), ["lease.duration: 7200s is too long: at most 3600s"]),
        (lambda c: c["deadlines"].update(drain="500ms"), ["deadlines.drain: 0.5s is too short: at least 1s"]),
        (lambda c: c["deadlines"].update(reboot="31d"), ["deadlines.reboot: 2.6784e+06s is too long"]),
        (lambda c: c["alerts"].update(silence="10s"), ["alerts.silence: 10s is too short: at least 60s"]),
        (lambda c: c["alerts"].update(held_silence="1s"), ["alerts.held_silence: 1s is too short"]),
        (lambda c: c["bgp"].update(rpc_timeout="1ms"), ["bgp.rpc_timeout: 0.001s is too short"]),
        (lambda c: c["control_plane"].update(settle="1ms"), ["control_plane.settle: 0.001s is too short"]),
        (lambda c: c["control_plane"].update(settle="0s"), []),
        (
            lambda c: c["reinitialize"].update(command_timeout="1ms"),
            ["reinitialize.command_timeout: 0.001s is too short"],
        ),
        (
            lambda c: c["reinitialize"]["services"].update(names=["shop", "media", "shop"]),
            ["reinitialize.services.names: shop is there 2 times: name it once"],
        ),
        (
            lambda c: c["reinitialize"]["discovery"].update(services=["shop", "shop"]),
            ["reinitialize.discovery.services: shop is there 2 times"],
        ),
        (lambda c: c["bgp"].update(families=["ipv4", "ipv4"]), ["bgp.families: ipv4 is there 2 times"]),
        (lambda c: c["reinitialize"].update(managed=["a", "a"]), ["reinitialize.managed: a is there 2 times"]),
        (lambda c: c["alerts"].update(ignore=["a", "a", "a"]), ["alerts.ignore: a is there 3 times"]),
        (
            lambda c: c["hosts"].update(control_plane=" A:lab-workers"),
            ["hosts.control_plane: asks for the same hosts as hosts.workers"],
        ),
        (
            lambda c: c["etcd"].update(hosts="A:lab-workers"),
            ["etcd.hosts: asks for the same hosts as hosts.workers"],
        ),
        (lambda c: c["etcd"].update(hosts="A:lab-control-plane"), []),
        (
            lambda c: c["bgp"].update(addresses={"w1": ["10.0.0.1"], "w2": ["10.0.0.1"]}),
            ["bgp.addresses.w2: 10.0.0.1 is that of w1 as well"],
        ),
        (
            lambda c: c["control_plane"].update(addresses={"a": "10.0.0.1", "b": "10.0.0.1"}),
            ["control_plane.addresses.b: 10.0.0.1 is that of a as well"],
        ),
        (
            lambda c: c["control_plane"].update(
                components={"a": {"check": "true"}, "b": {"check": "true", "unit": "a.service"}}
            ),
            ["control_plane.components.b: a.service is that of a as well"],
        ),
        (
            lambda c: c["reinitialize"]["etcds"]["lab-b"].update(endpoints=c["etcd"]["endpoints"][:1]),
            ["reinitialize.etcds.lab-b.endpoints: https://etcd1.example.org:2379 is that of etcd.endpoints as well"],
        ),
    ],
)
def test_what_cannot_be_right_is_named(change: Change, said: list[str]) -> None:
    found = contradictions(Config.model_validate(changed(change)))

    assert len(found) == len(said), found
    for line, start in zip(found, said, strict=True):
        assert line.startswith(f"clusters.lab.{start}")


@pytest.mark.parametrize("folder", ["/proc/fleet", "/sys/x", "/dev/shm/x", "/run/fleet", "/"])
def test_where_nothing_is_kept(folder: str) -> None:
    data = changed(lambda cluster: None)
    data["state_dir"] = folder

    (line,) = contradictions(Config.model_validate(data))

    assert line.startswith(f"state_dir: {folder} keeps nothing")


def test_clusters_have_what_is_theirs() -> None:
    data = changed(lambda cluster: None)
    data["clusters"]["Lab"] = data["clusters"]["lab"]

    found = contradictions(Config.model_validate(data))

    assert [line.split(": ")[0] for line in found] == [
        "clusters.Lab.kubeconfig",
        "clusters.Lab.reinitialize.kubeconfig",
        "clusters.Lab",
    ]


def test_a_run_is_refused_as_well(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(changed(lambda c: c["lease"].update(duration="1s"))))

    with pytest.raises(ConfigError, match=r"fleet\.yaml: clusters\.lab\.lease\.duration: 1s is too short"):
        load(path)


WORKERS, PLANE, ETCD, NEW = "hosts.workers", "hosts.control_plane", "etcd.hosts", "reinitialize.etcds.b.hosts"
BALANCERS = "control_plane.load_balancer.haproxy.hosts"


def hosts(**of: str) -> dict[str, dict[str, frozenset[str]]]:
    keys = {"workers": WORKERS, "plane": PLANE, "etcd": ETCD, "new": NEW, "balancers": BALANCERS}
    found: dict[str, dict[str, frozenset[str]]] = {}
    for name, names in of.items():
        cluster, _, key = name.partition("_")
        found.setdefault(cluster, {})[keys[key]] = frozenset(names.split())
    return found


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (hosts(a_workers="w1 w2", a_plane="c1", a_etcd="e1", a_new="e2"), []),
        (hosts(a_workers="w1 w2", a_plane="w1 c1"), [f"clusters.a.{PLANE}: w1 is among those of {WORKERS} as well"]),
        (hosts(a_workers="w1 w2", a_etcd="w1 w2"), [f"clusters.a.{ETCD}: w1, w2 are among those of {WORKERS}"]),
        (hosts(a_workers="w1 w2", a_new="w2"), [f"clusters.a.{NEW}: w2 is among those of {WORKERS}"]),
        (hosts(a_etcd="e1 e2", a_new="e2"), [f"clusters.a.{NEW}: e2 is among those of {ETCD}"]),
        (hosts(a_plane="c1", a_etcd="c1"), []),
        (hosts(a_plane="c1", a_balancers="c1"), []),
        (hosts(a_workers="w1", b_workers="w1"), [f"clusters.b.{WORKERS}: w1 is in clusters.a.{WORKERS} as well"]),
        (hosts(a_workers="w1", b_plane="w1"), [f"clusters.b.{PLANE}: w1 is in clusters.a.{WORKERS} as well"]),
        (hosts(a_balancers="l1", b_balancers="l1"), []),
        (
            hosts(a_workers="w1 w2 w3 w4 w5 w6 w7", a_plane="w1 w2 w3 w4 w5 w6 w7"),
            [f"clusters.a.{PLANE}: w1, w2, w3, w4, w5 and 2 more are among those of {WORKERS}"],
        ),
    ],
)
def test_hosts_that_stand_in_two_places(groups: dict[str, dict[str, frozenset[str]]], said: list[str]) -> None:
    found = list(overlaps(groups))

    assert len(found) == len(said), found
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True)), found
