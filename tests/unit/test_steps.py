"""What the reboot step remembers: above all, whether an order may be on its way."""

from types import SimpleNamespace
from typing import Any

import pytest

from fleet.hosts.probe import HostState
from fleet.maintenance.model import Kind, Unit, UnitState
from fleet.procedures import steps

OLD, NEW = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"


@pytest.fixture
def step(monkeypatch):
    def answer(boot_id: str, node_boot_id: str = OLD) -> steps.Reboot:
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
        monkeypatch.setattr("fleet.hosts.probe.probe", lambda remote, hosts: dict.fromkeys(hosts, host))
        node = SimpleNamespace(name="w1", boot_id=node_boot_id)
        cluster: Any = SimpleNamespace(hosts={"w1": "w1"}, remote=None, node=lambda name: node)
        return steps.Reboot(cluster)

    return answer


def look(step, **facts):
    return step.check([UnitState(Unit("w1"), facts=facts)])["w1"]


def test_the_first_look_notes_the_boot(step):
    verdict = look(step(OLD))
    assert (verdict.kind, verdict.facts) == (Kind.PENDING, {"boot_id": OLD, "reboot_ordered": True})


def test_an_order_that_was_not_given_once_may_be_given_the_next_time(step):
    verdict = look(step(OLD), boot_id=OLD, reboot_ordered=False)
    assert verdict.kind is Kind.PENDING
    assert verdict.facts["reboot_ordered"] is True


def test_another_boot_is_the_proof(step):
    verdict = look(step(NEW), boot_id=OLD)
    assert (verdict.kind, verdict.facts) == (Kind.DONE, {"new_boot_id": NEW, "booted_at": 990.0})


def test_a_host_that_is_not_the_nodes_machine_is_never_rebooted(step):
    verdict = look(step(OLD, node_boot_id=NEW))
    assert verdict.kind is Kind.FAILED
    assert "another machine" in verdict.detail
