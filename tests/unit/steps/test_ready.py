"""A node that is back after its reboot: what Kubernetes and Puppet tell of it, whatever the host's clock says."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.k8s.model import Node, parse_node
from fleet.engine.model import Kind, Target, TargetState, Verdict
from fleet.execution import Result
from fleet.steps.cluster import Cluster
from fleet.steps.ready import Ready
from fleet.steps.reboot import Puppet, Reboot
from support import clusters

OLD, NEW, LATER = (f"00000000-0000-0000-0000-00000000000{number}" for number in (1, 2, 3))
BEFORE = datetime(2026, 1, 31, 3, tzinfo=UTC)


def node(boot_id: str = OLD, heartbeat: datetime | None = BEFORE, *, ready: bool = True) -> Node:
    """Return a node as the API has it."""
    condition = {"type": "Ready", "status": str(ready)}
    if heartbeat:
        condition["lastHeartbeatTime"] = heartbeat.strftime("%Y-%m-%dT%H:%M:%SZ")
    status = {"nodeInfo": {"bootID": boot_id}, "conditions": [condition]}
    return parse_node({"metadata": {"name": "w1"}, "spec": {}, "status": status})


@dataclass
class World:
    """A host, which answers over SSH, and its node."""

    boot_id: str = OLD
    node: Node = field(default_factory=node)
    clock: float = BEFORE.timestamp()
    uptime: float = 5000.0
    puppet_run: int = int(BEFORE.timestamp()) - 600
    puppet_succeeds: bool = True
    is_away: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        """Run a command."""
        self.commands.append(command)
        if self.is_away:
            return dict.fromkeys(hosts, Result(None, "no route to host"))
        if "run-puppet-agent" in command:
            self.puppet_run = int(self.clock)
            return dict.fromkeys(hosts, Result(0 if self.puppet_succeeds else 1, "fleet-puppet=installed"))
        lines = [f"boot-id={self.boot_id}", f"uptime={self.uptime}", f"now={self.clock}", "puppet=installed"]
        lines += [f"puppet-run={self.puppet_run}"] if self.puppet_run else []
        lines += ["puppet-success=yes"] if self.puppet_run and self.puppet_succeeds else []
        return dict.fromkeys(hosts, Result(0, "\n".join(f"fleet-{line}" for line in lines)))

    @property
    def cluster(self) -> Cluster:
        """The cluster of this node."""
        return clusters.cluster({"w1": "w1.example.org"}, nodes=[self.node], remote=self)

    def query(self, query: str) -> list[str]:
        raise AssertionError(query)

    def look(self, step: type[Ready | Puppet | Reboot]) -> Verdict:
        """Check a step, and remember what it says."""
        return self._remember(step(self.cluster).check([TargetState(Target("w1"), facts=self.facts)])["w1"])

    def apply(self) -> Verdict:
        """Run Puppet."""
        return self._remember(
            Puppet(self.cluster).apply([TargetState(Target("w1"), facts=self.facts)], lambda *_: None)["w1"]
        )

    def _remember(self, verdict: Verdict) -> Verdict:
        self.facts |= verdict.facts
        return verdict

    def reboot(self, jump: float = 0.0, new: str = NEW) -> None:
        """Reboot the host, whose clock jumps, under the eyes of the run."""
        assert self.look(Reboot).kind is Kind.PENDING
        self.boot_id, self.uptime = new, 20.0
        self.clock += 60 + jump
        assert self.look(Reboot).kind is Kind.DONE

    def report(self, *, ready: bool = True) -> None:
        """Let the kubelet write the status."""
        self.node = node(self.boot_id, datetime.fromtimestamp(self.clock, UTC), ready=ready)


JUMPS = pytest.mark.parametrize("jump", [0.0, 3600.0, -3600.0, -59.0, 86400.0 * 365])


@JUMPS
def test_a_node_is_ready_with_the_first_status_of_its_boot_whatever_its_clock_says(jump: float) -> None:
    world = World()
    world.reboot(jump)
    assert world.look(Ready).detail == "the kubelet still reports the old boot id"
    world.report(ready=False)
    assert world.look(Ready).detail == "NotReady"
    world.report()
    assert world.look(Ready).kind is Kind.DONE


def test_a_clock_that_is_corrected_after_the_boot_changes_nothing() -> None:
    world = World()
    world.reboot(3600)
    world.clock -= 3600
    world.report()
    assert world.look(Ready).kind is Kind.DONE


def test_a_heartbeat_from_before_the_reboot_does_not_count() -> None:
    world = World()
    world.reboot()
    for boot_id in (NEW, ""):
        world.node = node(boot_id)
        assert world.look(Ready).detail == "no heartbeat since the boot"
        world.node = node(boot_id, None)
        assert world.look(Ready).detail == "no heartbeat since the boot"
        world.node = node(boot_id, BEFORE + timedelta(seconds=1))
        assert world.look(Ready).kind is Kind.DONE


def test_a_heartbeat_of_the_old_boot_does_not_count_however_late_it_is() -> None:
    world = World()
    world.reboot()
    world.node = node(OLD, BEFORE + timedelta(days=1))
    assert world.look(Ready).detail == "the kubelet still reports the old boot id"


def test_a_host_that_was_booted_once_more_counts_in_the_boot_that_it_runs() -> None:
    world = World()
    world.reboot()
    world.node = node(LATER, BEFORE + timedelta(minutes=5))
    assert world.look(Ready).detail == f"the kubelet reports the boot {LATER}, and w1.example.org runs {NEW}"
    world.is_away = True
    assert world.look(Ready).kind is Kind.UNKNOWN
    world.is_away, world.boot_id = False, LATER
    assert world.look(Ready).kind is Kind.DONE
    commands = len(world.commands)
    assert (world.look(Ready).kind, len(world.commands)) == (Kind.DONE, commands), "it is asked once"


def test_a_node_that_was_not_rebooted_has_to_be_ready() -> None:
    world = World(facts={"boot_id": OLD, "ordered": False})
    assert world.look(Ready).kind is Kind.DONE
    world.report(ready=False)
    assert world.look(Ready).detail == "NotReady"


def test_a_run_of_an_older_version_remembers_no_heartbeat() -> None:
    world = World(facts={"boot_id": OLD, "new_boot_id": NEW, "booted_at": 4e9, "replaced_at": 4e9})
    assert world.look(Ready).kind is Kind.PENDING
    world.node = node(NEW)
    assert world.look(Ready).kind is Kind.DONE


@JUMPS
def test_a_run_of_puppet_that_the_boot_started_counts(jump: float) -> None:
    world = World()
    world.reboot(jump)
    assert world.look(Puppet).detail == "no successful Puppet run since the boot"
    world.puppet_run = int(world.clock) + 10
    world.clock -= jump  # NTP puts it right
    assert world.look(Puppet).kind is Kind.DONE


def test_a_run_of_puppet_before_the_reboot_does_not_count_however_new_it_looks() -> None:
    world = World()
    world.puppet_run = int(world.clock) + 3600  # by a clock that was ahead
    world.reboot()
    assert world.look(Puppet).kind is Kind.PENDING
    world.clock += 86400
    assert world.look(Puppet).kind is Kind.PENDING


def test_a_run_of_puppet_that_may_be_from_before_the_reboot_is_done_again() -> None:
    """One that ended while the host went down is none of the new boot."""
    world = World()
    assert world.look(Reboot).kind is Kind.PENDING
    world.puppet_run += 900
    world.boot_id, world.uptime = NEW, 20.0
    assert world.look(Reboot).kind is Kind.DONE
    assert world.look(Puppet).kind is Kind.PENDING
    assert world.apply().kind is Kind.DONE
    assert world.look(Puppet).kind is Kind.DONE


def test_what_this_run_had_puppet_do_counts_even_if_the_clock_says_the_same() -> None:
    world = World()
    world.reboot()
    world.clock = world.puppet_run
    assert world.apply().kind is Kind.DONE
    assert world.look(Puppet).kind is Kind.DONE


def test_a_run_of_puppet_with_an_error_does_not_count() -> None:
    world = World()
    world.reboot()
    world.puppet_succeeds = False
    assert "Puppet: " in world.apply().detail
    assert world.look(Puppet).kind is Kind.PENDING
    world.puppet_succeeds = True
    assert world.look(Puppet).kind is Kind.DONE, "it is another run than at the boot"


def test_a_run_of_an_older_version_has_puppet_run() -> None:
    world = World(facts={"boot_id": OLD, "new_boot_id": NEW}, boot_id=NEW)
    assert world.look(Puppet).kind is Kind.PENDING
    world.apply()
    assert world.look(Puppet).kind is Kind.DONE


@given(st.floats(-1e8, 1e8), st.floats(-1e8, 1e8), st.integers(-(10**8), 10**8))
def test_no_clock_opens_or_closes_a_gate(now: float, jump: float, run: int) -> None:
    """Only what happened does."""
    world = World(clock=BEFORE.timestamp() + now, puppet_run=int(BEFORE.timestamp()) + run)
    world.report()
    before, ran = world.node, world.puppet_run
    world.reboot(jump)
    world.node = replace(before, boot_id=NEW)
    assert (world.look(Ready).kind, world.look(Puppet).kind) == (Kind.PENDING, Kind.PENDING)
    world.clock += 1
    world.report()
    world.puppet_run = int(world.clock)
    same = (world.node.ready_heartbeat == before.ready_heartbeat, world.puppet_run == ran)
    assert same == (world.look(Ready).kind is Kind.PENDING, world.look(Puppet).kind is Kind.PENDING)
