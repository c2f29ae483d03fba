"""What the acts remember that may happen only once: above all, whether an order may be on its way."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from freezegun import freeze_time

from fleet.adapters.hosts import probe
from fleet.adapters.k8s.model import parse_node
from fleet.clock import CLOCK, Moment
from fleet.engine.executor import Settled
from fleet.engine.model import Kind, Target, TargetState
from fleet.execution import Result
from fleet.steps.at_most_once import REPLACED
from fleet.steps.cluster import Cluster
from fleet.steps.daemon import Restart
from fleet.steps.reboot import Reboot
from fleet.steps.units import Active
from support import answers, clusters

OLD, NEW = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
FIRST, SECOND = "1" * 32, "2" * 32
UNIT = "calico-node.service"


@dataclass
class Host:
    """A host with one unit, which is only asked."""

    boot_id: str = OLD
    node_boot_id: str = OLD
    active: str = "active"
    result: str = "success"
    invocation: str = FIRST
    transitioning: bool = False
    is_away: bool = False

    def query(self, query: str) -> list[str]:
        raise AssertionError(query)

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        assert safe
        return dict.fromkeys(hosts, Result(None, "no route") if self.is_away else Result(0, self._answer(command)))

    def _answer(self, command: str) -> str:
        if command == probe._COMMAND:
            return f"fleet-boot-id={self.boot_id}\nfleet-uptime=10\nfleet-now=1000\nfleet-reboot-host=yes\n"
        assert UNIT in command
        return answers.of_unit(
            boot_id=self.boot_id,
            uptime=10.0,
            started=6.0,
            invocation=self.invocation,
            active=self.active,
            result=self.result,
            in_transition=self.transitioning,
        )

    @property
    def cluster(self) -> Cluster:
        """The cluster of this host."""
        ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-31T00:00:00Z"}
        status = {"nodeInfo": {"bootID": self.node_boot_id}, "conditions": [ready]}
        login = {"username": "u", "ssh_key": "/k", "known_hosts": "/h"}
        node = parse_node({"metadata": {"name": "w1"}, "status": status})
        return clusters.cluster(
            {"w1": "w1"}, nodes=[node], remote=self, bgp={"routers": {"cr1": {}}, **login, "asn": 64601, "unit": UNIT}
        )

    def reboot(self) -> Reboot:
        return Reboot(self.cluster)

    def restart(self) -> Restart:
        return Restart(self.cluster)


def look(step, **facts):
    return step.check([TargetState(Target("w1"), facts=facts)])["w1"]


def test_the_first_look_notes_the_boot():
    verdict = look(Host().reboot())
    assert (verdict.kind, verdict.facts) == (
        Kind.PENDING,
        {"boot_id": OLD, "heartbeat": "2026-01-31T00:00:00+00:00", "ordered": True},
    )


def test_an_order_that_was_not_given_once_may_be_given_the_next_time():
    verdict = look(Host().reboot(), boot_id=OLD, ordered=False)
    assert verdict.kind is Kind.PENDING
    assert verdict.facts["ordered"] is True


@freeze_time("2026-01-31 03:00:00")
def test_another_boot_is_the_proof():
    verdict = look(Host(NEW).reboot(), boot_id=OLD)
    moment = Moment.parse(verdict.facts[REPLACED])
    assert (verdict.kind, verdict.facts["new_boot_id"]) == (Kind.DONE, NEW)
    assert moment == Moment.now(CLOCK).minus(10), "as old as the boot"


def test_a_host_that_is_not_the_nodes_machine_is_never_rebooted():
    verdict = look(Host(node_boot_id=NEW).reboot())
    assert verdict.kind is Kind.FAILED
    assert "another machine" in verdict.detail


@freeze_time("2026-01-31 03:00:00")
def test_a_restart_is_proven_by_another_start_of_the_unit():
    host = Host()
    first = look(host.restart())
    assert (first.kind, first.facts) == (Kind.PENDING, {"invocation": FIRST, "ordered": True})
    assert look(host.restart(), **first.facts).kind is Kind.PENDING
    host.active = "inactive"
    assert look(host.restart(), **first.facts).detail == "not restarted yet: calico-node.service is inactive"
    host.active, host.invocation = "active", SECOND
    verdict = look(host.restart(), **first.facts)
    assert verdict.kind is Kind.DONE
    assert verdict.facts == {"new_invocation": SECOND, REPLACED: Moment.now(CLOCK).minus(4).stored()}


def test_an_order_that_may_be_on_its_way_is_waited_for(monkeypatch):
    host = Host()
    facts = {"invocation": FIRST, "ordered": True}
    settled = Settled(host.restart(), frozenset({"w1"}), CLOCK)
    assert look(settled, **facts).kind is Kind.PENDING
    monkeypatch.setattr(Settled, "GRACE", -1.0)
    host.transitioning = True
    assert look(settled, **facts).kind is Kind.PENDING, "systemd has the order, whoever gave it may be gone"
    host.transitioning = False
    assert (look(settled, **facts).kind, look(settled, **facts).detail) == (Kind.DONE, "it was not restarted")
    host.invocation = SECOND
    assert look(settled, **facts).facts["new_invocation"] == SECOND
    assert look(settled, **facts).detail == "it was restarted"
    assert look(Settled(host.restart(), frozenset(), CLOCK), **facts).facts == {}


@pytest.mark.parametrize(
    ("active", "kind"),
    [("active", Kind.DONE), ("activating", Kind.PENDING), ("inactive", Kind.PENDING), ("failed", Kind.FAILED)],
)
def test_a_unit_that_has_failed_is_not_waited_for(active, kind):
    verdict = look(Active(Host(active=active, result="exit-code").cluster, UNIT))
    assert verdict.kind is kind
    assert kind is not Kind.FAILED or "journalctl -u calico-node.service" in verdict.detail


def test_a_host_that_does_not_answer_proves_nothing():
    host = Host(is_away=True)
    for step in (host.restart(), Active(host.cluster, UNIT)):
        verdict = look(step, invocation=FIRST)
        assert (verdict.kind, verdict.detail) == (Kind.UNKNOWN, "w1 does not answer: no route")
