"""The members of the lab's etcd: what is read of them over SSH, and the faults that they can have."""

import time

import pytest
import yaml
from spicerack import Spicerack

from fleet.config import EtcdConfig, load
from fleet.etcd import health, members
from fleet.etcd.health import Answer, View
from fleet.hosts import services
from fleet.hosts.remote import Remote
from fleet_lab.lab import Lab
from fleet_lab.operator import CLUSTER


class Etcd:
    """The members, as a procedure sees them."""

    def __init__(self, lab: Lab) -> None:
        params = yaml.safe_load(lab.spicerack_config.read_text())["instance_params"]
        self.remote = Remote(Spicerack(dry_run=False, **params))
        config = load(lab.fleet_config).cluster(CLUSTER).etcd
        assert config is not None
        self.config: EtcdConfig = config
        self.hosts = self.remote.query(config.hosts)

    def view(self) -> View:
        return members.view(self.remote, self.hosts, self.config)

    def wait(self) -> View:
        """Wait until all members are well."""
        give_up = time.monotonic() + 30
        while why := health.problem(view := self.view()):
            assert time.monotonic() < give_up, why
        return view


@pytest.fixture
def etcd(lab: Lab) -> Etcd:
    return Etcd(lab)


def test_all_members_are_well_and_one_leads(lab: Lab, etcd: Etcd) -> None:
    view = etcd.wait()

    assert sorted(view) == lab.names("etcd")
    assert {host: health.restart_problem(view, host) for host in view} == dict.fromkeys(view, "")
    listed = view["etcd1"]
    assert isinstance(listed, Answer)
    assert sorted(member.name for member in listed.members) == lab.names("etcd")
    assert health.order(view)[-1] == health.leader(view)


def test_leadership_moves_and_a_snapshot_is_taken(lab: Lab, etcd: Etcd) -> None:
    view = etcd.wait()
    leader = health.leader(view)
    successor = health.successor(view, leader)
    assert successor is not None

    members.move_leader(etcd.remote, leader, etcd.config, successor.member_id)
    taken = members.snapshot(etcd.remote, leader, etcd.config, "test.db")

    assert health.leader(etcd.wait()) == successor.host
    assert taken is not None
    assert taken.keys > 100  # Kubernetes lives in it
    assert lab.exec(leader, f"stat -c '%a %U' {taken.path.parent} {taken.path}").stdout == "700 root\n600 root\n"
    lab.exec(leader, f"rm {taken.path}")


def test_the_faults_of_members(lab: Lab, etcd: Etcd, healed: Lab) -> None:
    paused, other, _ = health.order(etcd.wait())
    lab.inject("etcd-slow", paused)
    view = etcd.view()
    assert health.restart_problem(view, other).startswith(f"{paused} does not answer: ")
    assert health.restart_problem(view, paused) == ""

    lab.exec(paused, "systemctl restart etcd")  # a restart does not heal it
    assert health.problem(etcd.view()).startswith(f"{paused} does not answer: ")
    lab.heal()

    leader = health.leader(etcd.wait())
    lab.inject("etcd-stopped", leader)
    lab.exec(leader, "systemctl start etcd")
    view = etcd.view()
    assert health.problem(view).startswith(f"{leader} does not answer: ")
    unit = services.state(etcd.remote, [leader], etcd.config.unit)[leader]
    assert isinstance(unit, services.ServiceState)
    assert unit.active != "active"
    lab.heal()

    etcd.wait()
    lab.inject("etcd-fails", other)
    etcd.wait()  # it runs on
    lab.exec(other, "systemctl restart etcd")
    assert health.problem(etcd.view()).startswith(f"{other} does not answer: ")
    lab.heal()
    etcd.wait()
