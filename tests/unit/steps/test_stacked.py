"""Members of etcd that a kube-apiserver has alone: none is restarted before that apiserver is out of use."""

import base64
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fleet.adapters.etcd import members
from fleet.adapters.k8s import watchdog
from fleet.adapters.k8s.errors import ApiError
from fleet.engine.findings import Level
from fleet.engine.journal import Journal
from fleet.engine.model import Kind, Target, TargetState
from fleet.errors import FleetError
from fleet.execution import Result
from fleet.procedures.restart_etcd import RestartEtcd
from fleet.steps import stacked
from fleet.steps.cluster import Cluster
from fleet.steps.control_plane_health import API, ControlPlane
from fleet.steps.stacked import APISERVERS, Uses
from fleet.steps.units import RestartUnit
from support.watchdogs import QuietWatchdog
from worlds.etcd import NAMES, Members
from worlds.hosts import Killed, World, rule
from worlds.hosts_sessions import Lock, MortalJournal, carry_out

HOSTS = NAMES[:3]


class Stacked(Members):
    """Hosts that have a member and a kube-apiserver each, which has that member alone."""

    def __init__(self, **values: Any) -> None:
        super().__init__(HOSTS, units=("etcd", API), **values)
        self.servers = dict.fromkeys(HOSTS, "https://127.0.0.1:2379")
        self.comes_back, self.depooling = True, False

    def _run(self, host: str, command: str) -> Result:
        if "/comm" in command:
            words = f"kube-apiserver\0--etcd-servers={self.servers[host]}\0"
            return Result(0, f"fleet-arguments={base64.b64encode(words.encode()).decode()}\n")
        return super()._run(host, command)

    def get(self, path: str) -> dict[str, Any]:
        if path.endswith(watchdog.NAME):
            raise ApiError(path, 404, "NotFound", "not found")
        return super().get(path)

    def depool(self, host: str, at: Sequence[str]) -> None:
        self.depooling = True
        super().depool(host, at)

    def may_be_closed(self, host: str) -> None:
        if self.depooling:  # Whether the member leads does not matter to the clients of its apiserver.
            self.depooling = False
            World.may_be_closed(self, host)
        else:
            super().may_be_closed(host)

    def _restart(self, host: str, unit: str, named: Sequence[str]) -> None:
        service = self.hosts[host].services[unit]
        if service.transitioning or service.invocation not in named:
            return
        rule(f"{host} goes while its apiserver is in use", holds=host not in self.pooled)
        rule(f"{host} goes while connections are open", holds=self.connections(host) == 0)
        World.may_be_closed(self, host)
        super()._restart(host, unit, named)
        self.hosts[host].ready = False
        if self.comes_back:
            self.at(2.5, partial(self.recover, host))
        else:
            self.at(1.1, partial(self.down.add, host))


class Runs(RestartEtcd):
    """Runs over a world, with a watchdog that has seen some failures."""

    def __init__(self, world: Stacked, failed: int = 0) -> None:
        fake: Any = world
        super().__init__(connect=lambda _cluster: fake)
        self.world, self.failed = world, failed

    def plane(self, cluster: Cluster, watchdog: Any = None) -> ControlPlane:
        fake: Any = self.world
        return ControlPlane(cluster, list(HOSTS), fake, fake, watchdog)

    def watchdog(self, cluster: Cluster) -> QuietWatchdog:
        return QuietWatchdog(self.failed)


@pytest.fixture
def world() -> Stacked:
    found = Stacked()
    MortalJournal.world = found
    return found


@pytest.fixture
def cluster(world: Stacked) -> Cluster:
    """Give the cluster of a new run, which has looked at who uses which member."""
    known = world.of(HOSTS)
    return replace(known, run=replace(known.run, options=Runs(world).options(known)))


def begin(world: Stacked, cluster: Cluster, folder: Path) -> None:
    waiting = {stage.key: [TargetState(unit) for unit in stage.targets()] for stage in Runs(world).stages(cluster)}
    Journal.create(folder, cluster.run, waiting).close()


def session(
    world: Stacked, cluster: Cluster, folder: Path, *, failed: int = 0, abort: bool = False, kill: int = -1
) -> str:
    """Carry out a session; return what it left undone."""
    world.moments_left = kill
    runs, lock = Runs(world, failed), Lock(world)
    with closing(MortalJournal.open(folder, "r1")) as book:
        if abort:
            return carry_out(partial(runs.abort, cluster, book), book, world, cluster)
        fake: Any = lock
        with runs.work(cluster, book, fake) as procedure:
            return carry_out(lambda: procedure, book, world, cluster)


def test_each_apiserver_is_out_of_use_while_its_member_is_restarted(world, cluster, tmp_path):
    assert cluster.run.options[APISERVERS] == {host: host for host in HOSTS}
    begin(world, cluster, tmp_path)
    assert session(world, cluster, tmp_path) == ""
    assert world.restarts == {(host, "etcd"): 1 for host in HOSTS}
    order = ["etcd2", "etcd3", "etcd1"]
    assert world.told == [(word, host) for host in order for word in ("depool", "pool")]
    assert set(world.pooled) == set(HOSTS)


@pytest.mark.parametrize("kill", [3, 14, 25, 33, 41, 60])
@pytest.mark.parametrize("abort", [False, True])
def test_a_run_that_is_killed_leaves_no_apiserver_out_of_use(world, cluster, tmp_path, kill, abort):
    begin(world, cluster, tmp_path)
    with suppress(Killed):
        session(world, cluster, tmp_path, kill=kill)
    world.advance(5.0)
    assert session(world, cluster, tmp_path, abort=abort) == ""
    assert all(count == 1 for count in world.restarts.values())
    assert abort or set(world.restarts) == {(host, "etcd") for host in HOSTS}
    assert set(world.pooled) == set(HOSTS)
    assert not world.silenced
    assert [host.puppet for host in world.hosts.values()] == [None] * 3


def test_an_apiserver_stays_out_of_use_whose_member_does_not_come_back(world, cluster, tmp_path):
    world.comes_back = False
    begin(world, cluster, tmp_path)
    assert session(world, cluster, tmp_path).startswith("1 held")
    assert world.told == [("depool", "etcd2"), ("watch again", "etcd2")]
    assert set(world.restarts) == {("etcd2", "etcd")}


def test_nothing_is_begun_once_clients_notice_something(world, cluster, tmp_path):
    begin(world, cluster, tmp_path)
    left = session(world, cluster, tmp_path, failed=1)
    assert "requests of the watchdog failed" in left
    assert not world.restarts
    assert set(world.pooled) == set(HOSTS)


def test_another_apiserver_that_is_not_well_keeps_a_member_up(world, cluster, tmp_path):
    world.hosts["etcd3"].ready = False
    begin(world, cluster, tmp_path)
    session(world, cluster, tmp_path)
    assert ("etcd2", "etcd") not in world.restarts
    assert ("etcd1", "etcd") not in world.restarts


def test_no_work_on_a_member_begins_while_another_apiserver_is_not_well(world, cluster):
    members = Runs(world).stages(cluster)[-1]
    others = next(step for step in members.steps if step.spec.name == "others")
    assert others.check([TargetState(Target("etcd2"))])["etcd2"].kind is Kind.DONE
    world.hosts["etcd3"].ready = False
    found = others.check([TargetState(Target("etcd2"))])["etcd2"]
    assert (found.kind, found.detail) == (Kind.PENDING, "kube-apiserver on etcd3 is not ready: etcd")


def test_a_member_whose_apiserver_somebody_has_put_back_is_not_restarted(world, cluster):
    act = Runs(world).stages(cluster)[-1].act
    assert isinstance(act, RestartUnit)
    found = act.safe(TargetState(Target("etcd2")))
    assert (found.kind, "somebody has put etcd2 back into the load balancer" in found.detail) == (Kind.PENDING, True)
    world.pooled.pop("etcd2")
    assert act.safe(TargetState(Target("etcd2"))).kind is Kind.DONE


def test_apiservers_with_all_members_are_left_in_use(world):
    world.servers = dict.fromkeys(HOSTS, "https://etcd1:2379,https://etcd2:2379,https://etcd3:2379")
    assert Runs(world).options(world.of(HOSTS))[APISERVERS] == {}


def test_the_way_back_needs_the_load_balancer_that_was_told(world, cluster):
    with pytest.raises(FleetError, match="restore control_plane"):
        RestartEtcd().stages(cluster)


# Who uses what.


def test_apiservers_that_have_one_member_are_found(world):
    known = world.of(HOSTS)
    world.servers |= {"etcd1": "https://etcd2:2379", "etcd3": "https://etcd.service:2379"}
    world.hosts["etcd3"].reachable = True
    view = members.view(known.remote, HOSTS, known.config.etcd)
    found = stacked.uses(known, view, list(HOSTS))
    assert found == Uses({"etcd2": ["etcd1", "etcd2"]}, {"etcd3": "https://etcd.service:2379"}, {})
    world.hosts["etcd3"].reachable = False
    assert stacked.uses(known, view, list(HOSTS)).silent == {"etcd3": "no route to host"}


@pytest.mark.parametrize(
    ("alone", "planes", "has_balancer", "out"),
    [
        ({"m1": ["cp1"], "m2": ["cp2"]}, ["cp1", "cp2"], True, {"m1": "cp1", "m2": "cp2"}),
        ({"m1": ["cp1"]}, ["cp1", "cp2"], False, {}),
        ({"m1": ["cp1"]}, ["cp1"], True, {}),
        ({"m1": ["cp1", "cp2"]}, ["cp1", "cp2", "cp3"], True, {}),
    ],
)
def test_only_an_apiserver_that_others_stand_in_for_goes_out_of_use(alone, planes, has_balancer, out):
    assert stacked.spared(Uses(alone, {}, {}), planes, has_balancer=has_balancer) == out


def test_the_plan_tells_what_clients_will_notice():
    found = Uses({"m1": ["cp1"], "m2": ["cp2"], "m3": ["cp3"]}, {"cp4": "https://x:1"}, {"cp5": "no route"})
    findings = stacked.of_uses(found, {"m1": "cp1"}, ["m1", "m2"])
    assert [(finding.level, finding.what) for finding in findings] == [
        (
            Level.NOTE,
            "kube-apiserver on cp1 uses the member on m1 alone: it is out of the load balancer while that is"
            " restarted.",
        ),
        (
            Level.ASK,
            "kube-apiserver on cp2 uses the member on m2 alone, and stays in use: requests fail while that is"
            " restarted.",
        ),
        (Level.ASK, "kube-apiserver on cp4 uses https://x:1 alone, which is no address of a member."),
        (Level.ASK, "It cannot be read which members kube-apiserver on cp5 uses: no route."),
    ]
