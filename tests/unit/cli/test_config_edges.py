"""``fleet config check --live``: what is said of what is around the clusters, each in a line with its key."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fleet.adapters.alertmanager.silence_model import Silence
from fleet.adapters.bgp.errors import RouterError
from fleet.adapters.bgp.summary import Summary
from fleet.cli import config_edges, config_live
from fleet.config.loading import load
from fleet.errors import FleetError
from fleet.execution import Result
from support.plain import Operator


class Hosts:
    """Hosts that say what they are given to say; the others do not answer."""

    def __init__(self, **says: str) -> None:
        self.says = says

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        assert safe, "a check changes nothing"
        return {
            host: Result(0, self.says[host]) if host in self.says else Result(None, "no route\nto host")
            for host in hosts
        }


def test_hosts_that_have_all_are_not_named() -> None:
    assert list(config_edges.of_hosts(Hosts(w1="asked", w2="asked"), ["w1", "w2"], ["reboot-host"])) == []


def test_hosts_that_lack_something_or_do_not_answer_are_named_together() -> None:
    hosts = Hosts(w1="lacks:reboot-host\nasked", w2="lacks:reboot-host\nasked", w3="asked", w5="cut of")

    found = list(config_edges.of_hosts(hosts, ["w1", "w2", "w3", "w4", "w5"], ["reboot-host"]))

    assert found == [
        "w1, w2: no reboot-host in PATH: config/hosts has what is this project's",
        "w4: no answer over SSH: no route to host",
        "w5: no answer over SSH: cut of",
    ]


def test_many_hosts_are_one_line() -> None:
    (line,) = config_edges.of_hosts(Hosts(), [f"w{n}" for n in range(8)], ["reboot-host"])

    assert line == "w0, w1, w2, w3, w4 and 3 more: no answer over SSH: no route to host"


class Routers:
    def summaries(self) -> Mapping[str, Summary | RouterError]:
        return {"cr1": Summary([], 0.0), "cr2": RouterError("cr2 does not\nlet us in.")}


def test_routers_are_named_that_cannot_be_asked() -> None:
    found = list(config_edges.keyed("bgp.routers", lambda: config_edges.of_routers(Routers())))

    assert found == ["bgp.routers.cr2: cr2 does not let us in."]


class Alertmanager:
    def __init__(self, unasked: str = "", error: FleetError | None = None) -> None:
        self.unasked, self._error = unasked, error

    def find(self, *, comment_contains: str) -> list[Silence]:
        if self._error:
            raise self._error
        return []


@pytest.mark.parametrize(
    ("silences", "found"),
    [
        (Alertmanager(), []),
        (Alertmanager("1 of 2 members could not be asked"), ["alerts: 1 of 2 members could not be asked"]),
        (Alertmanager(error=FleetError("none\nanswers")), ["alerts: none answers"]),
    ],
)
def test_alertmanager(silences: Alertmanager, found: list[str]) -> None:
    assert list(config_edges.keyed("alerts", lambda: config_edges.of_alertmanager(silences))) == found


class Balancer:
    def states(self, hosts: Sequence[str]) -> Mapping[str, Any]:
        raise FleetError("lb1 knows no server cp1.")


def test_a_load_balancer_that_does_not_know_its_servers() -> None:
    balancer: Any = Balancer()
    key = "control_plane.load_balancer"

    found = list(config_edges.keyed(key, lambda: config_edges.of_balancer(balancer, ["cp1"])))

    assert found == [f"{key}: lb1 knows no server cp1."]


def test_all_is_asked_and_each_answer_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is there: neither an API, nor hosts, an Alertmanager or the lock's etcd."""
    operator = Operator(tmp_path, locks="1")
    for name, value in operator.environment.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "fleet" / "config.yaml"

    found = config_live.check(load(path), path, spicerack=tmp_path / "config.yaml")

    lab = f"{path}: clusters.lab."
    starts = [f"{lab}kubeconfig: ", f"{lab}alerts: ", f"{lab}hosts.workers: ", f"{lab}hosts.control_plane: "]
    starts.append(f"{tmp_path}/config.yaml: etcd_config: Spicerack's lock cannot be had: its etcd does not answer.")
    assert len(found) == len(starts), found
    assert all(line.startswith(start) for line, start in zip(found, starts, strict=True)), found
    assert all(line.isprintable() for line in found)
