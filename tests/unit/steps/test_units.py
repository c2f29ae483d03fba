"""Units that are restarted: what stands in the way of it, and that what runs afterwards is what is on disk."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from fleet.adapters.hosts.services import ServiceState
from fleet.config.scope import SystemdConfig
from fleet.engine.findings import Level
from fleet.engine.model import Kind, Phase, Target, TargetState
from fleet.execution import Result
from fleet.procedures.reinitialize.nodes import RestartedAnew
from fleet.procedures.restart_control_plane import of_targets
from fleet.steps.control_plane_health import ControlPlane
from fleet.steps.daemon import of_unit
from fleet.steps.units import Active, RestartUnit, of_definition
from worlds.hosts import BOOT, World

SCHEDULER = "kube-scheduler"
UNIT = "kube-scheduler.service"


@pytest.fixture
def world() -> World:
    return World(["cp1", "cp2"])


def cluster(world: World, *, reload: bool = False) -> Any:
    known = world.cluster(["cp1"])
    systemd = SystemdConfig(daemon_reload="reload" if reload else "refuse")
    return replace(known, config=known.config.model_copy(update={"systemd": systemd}))


def service(**values: Any) -> ServiceState:
    known = {"load": "loaded", "active": "active", "result": "success", "invocation": "1" * 32, "age": 4.0}
    return ServiceState(**{**known, "boot_id": BOOT, "transitioning": False, **values})


@pytest.mark.parametrize(
    ("state", "what", "todo"),
    [
        (service(load="not-found"), "cp1 has no a.service.", "Correct it."),
        (
            service(load="masked"),
            "a.service on cp1 is masked: it could not be started again.",
            "systemctl unmask a.service there. Correct it.",
        ),
        (
            service(load="bad-setting", error="Target has a bad setting"),
            "a.service on cp1 has a bad setting: Target has a bad setting: it could not be started again.",
            "See systemctl status a.service there. Correct it.",
        ),
        (
            service(stale=True),
            "a.service on cp1 was changed on disk, and nobody ran systemctl daemon-reload.",
            "Look at the change, and run it there; or set systemd.daemon_reload to reload.",
        ),
    ],
)
def test_what_stands_in_the_way_of_a_start_is_named(world, state, what, todo):
    (finding,) = of_definition(cluster(world), "cp1", "a.service", state, "Correct it.")
    assert (finding.level, finding.what, finding.todo) == (Level.STOP, what, todo)


def test_a_unit_as_it_should_be_is_no_finding(world):
    assert of_definition(cluster(world), "cp1", "a.service", service(), "Correct it.") == []


def test_it_is_told_that_the_run_reloads(world):
    (finding,) = of_definition(cluster(world, reload=True), "cp1", "a.service", service(stale=True), "Correct it.")
    assert (finding.level, "the run does" in finding.what) == (Level.NOTE, True)


def test_every_preflight_looks_at_the_definition(world):
    here: Any = world
    for host in world.names:
        for unit in world.hosts[host].services.values():
            unit.stale = True
    known = cluster(world)
    plane = ControlPlane(known, world.names, apiservers=here, balancer=here)
    for found in (of_targets(plane, [SCHEDULER]), of_unit(known, UNIT)):
        assert [(finding.level, "daemon-reload" in finding.what) for finding in found] == [(Level.STOP, True)]


def test_a_host_whose_systemd_has_loaded_another_definition_refuses(world):
    world.hosts["cp1"].services[UNIT].stale = True
    world.create(["cp1"], comment="why - T1 - run r1 - cp1", author="ann", duration=9e9, matchers=())
    state = TargetState(Target("cp1"), facts={"invocation": f"{1:032x}", "ordered": True})
    act = RestartUnit(cluster(world), UNIT, lambda _host: "", patient=True)
    refused = act.apply([state], lambda *_: None)["cp1"]
    assert refused.kind is Kind.FAILED
    assert "run systemctl daemon-reload" in refused.detail
    assert not world.restarts


class Answering:
    """Hosts whose systemd says the same of every unit."""

    def __init__(self, **said: str) -> None:
        known = {"LoadState": "loaded", "ActiveState": "active", "Result": "success", "NeedDaemonReload": "no"}
        known |= {"InvocationID": "1" * 32, "InactiveExitTimestampMonotonic": "1", "boot-id": BOOT, "uptime": "9"}
        self.text = "\n".join(f"fleet-{key}={value}" for key, value in {**known, **said}.items())

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        assert safe
        return dict.fromkeys(hosts, Result(0, self.text))


@pytest.mark.parametrize(
    ("said", "kind", "says"),
    [
        ({}, Kind.DONE, ""),
        ({"NeedDaemonReload": "yes"}, Kind.FAILED, "nobody ran systemctl daemon-reload: run there: systemctl daemon-"),
        ({"started": "8.5", "file": "8.6 /etc/a.conf"}, Kind.FAILED, "was started before /etc/a.conf was changed: run"),
        ({"started": "8.5", "file": "8.4 /etc/a.conf"}, Kind.DONE, ""),
        ({"ActiveState": "inactive", "LoadState": "masked"}, Kind.FAILED, "a.service is masked; see journalctl -u a.s"),
        ({"ActiveState": "inactive", "LoadState": "masked", "Job": "7"}, Kind.PENDING, "a job is queued"),
        ({"SubState": "exited", "Type": "forking"}, Kind.PENDING, "its process has ended"),
    ],
)
def test_what_runs_after_the_start_is_what_is_on_disk(world, said, kind, says):
    remote: Any = Answering(**said)
    known = replace(cluster(world), remote=remote)
    found = Active(known, "a.service").check([TargetState(Target("cp1"), phase=Phase.VERIFY)])["cp1"]
    assert (found.kind, says in found.detail) == (kind, True)


@pytest.mark.parametrize(("said", "kind"), [({}, Kind.DONE), ({"NeedDaemonReload": "yes"}, Kind.PENDING)])
def test_a_kubelet_that_is_started_anew_runs_what_is_on_disk(world, said, kind):
    remote: Any = Answering(InvocationID="2" * 32, **said)
    step = RestartedAnew(replace(cluster(world), remote=remote), "kubelet.service", "kubelet")
    found = step.check([TargetState(Target("cp1"), phase=Phase.VERIFY, facts={"kubelet": "1" * 32})])["cp1"]
    assert (found.kind, found.facts.get("new_kubelet")) == (kind, "2" * 32 if kind is Kind.DONE else None)
