"""What the acts remember that may happen only once: above all, whether an order may be on its way."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from freezegun import freeze_time

from fleet.adapters.hosts.probe import HostState
from fleet.adapters.hosts.services import ServiceState
from fleet.clock import CLOCK, Moment
from fleet.engine.executor import Settled
from fleet.engine.model import Kind, Unit, UnitState
from fleet.execution import Unreachable
from fleet.steps.at_most_once import REPLACED
from fleet.steps.daemon import Restart
from fleet.steps.reboot import Reboot
from fleet.steps.units import Active

OLD, NEW = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
FIRST, SECOND = "1" * 32, "2" * 32


def cluster(node_boot_id: str = OLD) -> Any:
    node = SimpleNamespace(name="w1", boot_id=node_boot_id, ready_heartbeat=datetime(2026, 1, 31, tzinfo=UTC))
    config = SimpleNamespace(bgp=SimpleNamespace(unit="calico-node.service"))
    return SimpleNamespace(
        name="lab",
        routers=object(),
        hosts={"w1": "w1"},
        remote=None,
        node=lambda name: node,
        config=config,
        clock=CLOCK,
    )


@pytest.fixture
def reboot(monkeypatch):
    def answer(boot_id: str, node_boot_id: str = OLD) -> Reboot:
        host = HostState(
            boot_id=boot_id,
            uptime=10.0,
            now=1000.0,
            reboot_required=False,
            can_reboot=True,
            puppet_installed=True,
            puppet_disabled=None,
            puppet_last_success=None,
            puppet_failed=False,
        )
        monkeypatch.setattr("fleet.adapters.hosts.probe.probe", lambda remote, hosts: dict.fromkeys(hosts, host))
        return Reboot(cluster(node_boot_id))

    return answer


@pytest.fixture
def service(monkeypatch):
    def answer(**values: Any) -> None:
        known = {"load": "loaded", "active": "active", "result": "success", "invocation": FIRST, "age": 4.0}
        found = ServiceState(**{**known, "boot_id": OLD, "transitioning": False, **values})
        monkeypatch.setattr(
            "fleet.adapters.hosts.services.state", lambda remote, hosts, unit: dict.fromkeys(hosts, found)
        )

    return answer


def look(step, **facts):
    return step.check([UnitState(Unit("w1"), facts=facts)])["w1"]


def test_the_first_look_notes_the_boot(reboot):
    verdict = look(reboot(OLD))
    assert (verdict.kind, verdict.facts) == (
        Kind.PENDING,
        {"boot_id": OLD, "heartbeat": "2026-01-31T00:00:00+00:00", "ordered": True},
    )


def test_an_order_that_was_not_given_once_may_be_given_the_next_time(reboot):
    verdict = look(reboot(OLD), boot_id=OLD, ordered=False)
    assert verdict.kind is Kind.PENDING
    assert verdict.facts["ordered"] is True


@freeze_time("2026-01-31 03:00:00")
def test_another_boot_is_the_proof(reboot):
    verdict = look(reboot(NEW), boot_id=OLD)
    moment = Moment.parse(verdict.facts[REPLACED])
    assert (verdict.kind, verdict.facts["new_boot_id"]) == (Kind.DONE, NEW)
    assert moment == Moment.now(CLOCK).minus(10), "as old as the boot"


def test_a_host_that_is_not_the_nodes_machine_is_never_rebooted(reboot):
    verdict = look(reboot(OLD, node_boot_id=NEW))
    assert verdict.kind is Kind.FAILED
    assert "another machine" in verdict.detail


@freeze_time("2026-01-31 03:00:00")
def test_a_restart_is_proven_by_another_start_of_the_unit(service):
    service()
    first = look(Restart(cluster()))
    assert (first.kind, first.facts) == (Kind.PENDING, {"invocation": FIRST, "ordered": True})
    assert look(Restart(cluster()), **first.facts).kind is Kind.PENDING
    service(active="inactive")
    assert look(Restart(cluster()), **first.facts).detail == "not restarted yet: calico-node.service is inactive"
    service(invocation=SECOND)
    verdict = look(Restart(cluster()), **first.facts)
    assert verdict.kind is Kind.DONE
    assert verdict.facts == {"new_invocation": SECOND, REPLACED: Moment.now(CLOCK).minus(4).stored()}


def test_an_order_that_may_be_on_its_way_is_waited_for(service, monkeypatch):
    service()
    facts = {"invocation": FIRST, "ordered": True}
    settled = Settled(Restart(cluster()), frozenset({"w1"}), CLOCK)
    assert look(settled, **facts).kind is Kind.PENDING
    monkeypatch.setattr(Settled, "GRACE", -1.0)
    service(transitioning=True)
    assert look(settled, **facts).kind is Kind.PENDING, "systemd has the order, whoever gave it may be gone"
    service()
    assert (look(settled, **facts).kind, look(settled, **facts).detail) == (Kind.DONE, "it was not restarted")
    service(invocation=SECOND)
    assert look(settled, **facts).facts["new_invocation"] == SECOND
    assert look(settled, **facts).detail == "it was restarted"
    assert look(Settled(Restart(cluster()), frozenset(), CLOCK), **facts).facts == {}


@pytest.mark.parametrize(
    ("active", "kind"),
    [("active", Kind.DONE), ("activating", Kind.PENDING), ("inactive", Kind.PENDING), ("failed", Kind.FAILED)],
)
def test_a_unit_that_has_failed_is_not_waited_for(service, active, kind):
    service(active=active, result="exit-code")
    verdict = look(Active(cluster(), "calico-node.service"))
    assert verdict.kind is kind
    assert kind is not Kind.FAILED or "journalctl -u calico-node.service" in verdict.detail


def test_a_host_that_does_not_answer_proves_nothing(monkeypatch):
    monkeypatch.setattr(
        "fleet.adapters.hosts.services.state", lambda remote, hosts, unit: {"w1": Unreachable("no route")}
    )
    for step in (Restart(cluster()), Active(cluster(), "calico-node.service")):
        verdict = look(step, invocation=FIRST)
        assert (verdict.kind, verdict.detail) == (Kind.UNKNOWN, "w1 does not answer: no route")
