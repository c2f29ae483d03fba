"""Rolling restarts and reboots of a group of hosts, with the real session, engine and steps over a world in memory."""

import json
import sqlite3
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from fleet.config.model import ClusterConfig
from fleet.engine.model import Status
from fleet.execution import RemoteError
from fleet.procedures.roll_hosts import Selection
from fleet.procedures.way_out import WayOut
from fleet.steps.serving import Away, HostWatch
from worlds.groups import LOCK, ROWS, World
from worlds.locks import Kept
from worlds.timeline import AtOnce

DONE, INCOMPLETE, REFUSED, INTERRUPTED = 0, 1, 2, 3


@pytest.fixture(params=[True, False], ids=["restart", "reboot"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(tmp_path, restarts=request.param)


def test_all_hosts_are_done_once_and_nothing_is_left(world: World) -> None:
    assert world.start() == DONE
    assert dict(world.machines.acts) == dict.fromkeys(ROWS, 1)
    assert world.left() == []
    assert world.locks is not None
    assert world.locks.keys == {}


def test_a_dry_run_touches_nothing(world: World) -> None:
    assert world.start(dry_run=True) == DONE
    assert not world.machines.acts
    assert world.run == ""
    assert world.left() == []


def test_two_at_once_keep_to_one_domain(tmp_path: Path) -> None:
    world = World(tmp_path, restarts=False, most=2)
    assert world.start() == DONE
    (tmp_path / "alone").mkdir()
    alone = World(tmp_path / "alone", restarts=False)
    assert alone.start() == DONE
    assert world.now - world.began < 0.7 * (alone.now - alone.began)


def test_some_hosts_only(world: World) -> None:
    world.selection = Selection(query="web1,web2,web3", exclude=("web2",))
    assert world.start() == DONE
    assert dict(world.machines.acts) == {"web1": 1, "web3": 1}


@pytest.mark.parametrize(
    ("selection", "why"),
    [
        (Selection(query="web1,db1"), "db1, which is not in the group web"),
        (Selection(exclude=("web9",)), "--exclude names what the query does not give: web9"),
    ],
)
def test_what_the_group_does_not_have_is_refused(world: World, selection: Selection, why: str) -> None:
    world.selection = selection
    assert world.start() == REFUSED
    assert why in world.refusal


def test_hosts_of_a_cluster_are_refused_with_the_cookbook_that_is_for_them(
    world: World,
) -> None:
    told = StringIO()
    world.console = Console(file=told, width=200)
    hosts = {"workers": "w1", "control_plane": "web3"}
    world.clusters = {
        "lab": ClusterConfig.model_validate(
            {"kubeconfig": "/k", "hosts": hosts, "etcd": {"hosts": "web1", "snapshots": "/var/backups"}}
        )
    }
    assert world.start() == REFUSED
    assert not world.machines.acts
    text = told.getvalue()
    assert "lab has web3 among its control-plane hosts." in text
    assert "cookbook sre.k8s.restart-control-plane" in text
    assert "lab has web1 among its members of etcd." in text
    assert "cookbook sre.etcd.restart" in text


def test_a_host_that_fails_afterwards_is_held_and_no_other_is_taken(world: World) -> None:
    world.hosts["web2"].breaks = True
    assert world.start() == INCOMPLETE
    assert set(world.held()) == {"web2"}
    assert "connection refused" in world.held()["web2"]
    assert world.machines.acts["web3"] == 0
    world.mend("web2")
    assert world.resume() == DONE
    assert dict(world.machines.acts) == dict.fromkeys(ROWS, 1)
    assert world.left() == []


def test_an_abort_gives_back_a_held_host_only_if_it_serves(world: World) -> None:
    world.hosts["web1"].breaks = True
    assert world.start() == INCOMPLETE
    assert world.abort() == INCOMPLETE
    world.mend("web1")
    assert world.abort() == DONE
    assert not world.alertmanagers.ours()
    assert all(host.puppet is None for host in world.hosts.values())


def test_an_operator_gives_their_word_for_a_host_that_does_not_serve(world: World) -> None:
    world.hosts["web1"].breaks = True
    assert world.start() == INCOMPLETE
    assert world.abort(way_out=WayOut(reason="known", give_up=("web1",))) == DONE
    assert world.states()["web1"].given_up is not None


def test_a_host_whose_before_fails_is_not_touched(world: World) -> None:
    world.hosts["web1"].is_busy = True
    assert world.start() == INCOMPLETE
    assert world.machines.acts["web1"] == 0
    assert "a deployment is in progress" in world.held()["web1"]
    world.hosts["web1"].is_busy = False
    assert world.resume() == DONE


def test_a_host_that_others_have_broken_counts(world: World) -> None:
    world.break_down("web4", seconds=None)
    world.selection = Selection(query="web1,web2,web3")
    assert world.start() == REFUSED  # Nothing could start.
    assert not world.machines.acts


def test_a_host_that_breaks_meanwhile_is_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path, restarts=False)
    world.at(3.0, lambda: world.break_down("web4", seconds=100.0))
    assert world.start() == DONE
    assert world.now - world.began > 100.0


def test_the_hosts_that_cannot_be_looked_at_any_more_stop_the_run(tmp_path: Path) -> None:
    world = World(tmp_path, restarts=False)

    def silence() -> None:
        for host in world.hosts.values():
            host.answers = False

    world.at(3.0, silence)
    assert world.start() in (INCOMPLETE, INTERRUPTED)
    assert sum(world.machines.acts.values()) <= 1


def test_a_command_that_cannot_be_run_is_found_out_before_anything_is_touched(world: World) -> None:
    world.selection = Selection(before="tset -e /run/busy")
    assert world.start() == REFUSED
    assert not world.machines.acts


def test_a_command_that_can_be_run_is_no_reason_to_refuse(world: World) -> None:
    world.hosts["web1"].is_busy = True
    assert world.start(dry_run=True) == DONE


def test_another_run_on_the_group_is_named(world: World) -> None:
    assert world.locks is not None
    holder = {"run": "r0", "host": "cumin2", "operator": "bob@cumin2", "reason": "disks"}
    world.locks.keys[LOCK] = Kept(json.dumps(holder), world.now + 60)
    assert world.start() == REFUSED
    assert not world.machines.acts


def test_a_lock_that_expired_and_was_taken_stops_the_run(tmp_path: Path) -> None:
    world = World(tmp_path, restarts=False)
    store = world.locks
    assert store is not None

    def take() -> None:
        store.keys[LOCK] = Kept('{"run": "r0"}', world.now + 1e6)

    world.at(5.0, take)
    assert world.start() in (INCOMPLETE, INTERRUPTED)
    assert sum(world.machines.acts.values()) <= 1


def test_an_etcd_of_locks_that_goes_away_starts_nothing_new(tmp_path: Path) -> None:
    world = World(tmp_path, restarts=False)
    store = world.locks
    assert store is not None
    world.hosts["web1"].lasts = 60.0

    def vanish() -> None:
        store.is_up = False

    world.at(1.0, vanish)
    assert world.start() in (INCOMPLETE, INTERRUPTED)
    assert dict(world.machines.acts) == {"web1": 1}
    assert world.states()["web1"].status is Status.DONE


def test_all_others_are_looked_at_once_more_right_before_the_act_and_waited_for_in_service(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.selection = Selection(query="web1,web2,web3")
    world.hosts["web1"].is_busy = True
    world.at(16.0, lambda: world.break_down("web4", seconds=100.0))  # between two looks at all hosts
    world.at(17.0, lambda: setattr(world.hosts["web1"], "is_busy", False))
    acted: list[float] = []
    world.on_act = lambda: acted.append(world.now - world.began)
    assert world.start() == DONE
    assert min(acted) > 116.0


def test_a_host_that_left_the_group_does_not_keep_a_run_from_its_end(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.selection = Selection(query="web1,web2,web3")
    world.hosts["web2"].breaks = True
    assert world.start() == INCOMPLETE
    world.mend("web2")
    world.machines.left = {"web4"}
    world.break_down("web4", seconds=None)
    world.most = 2  # The world still counts it.
    world.max_domains = 2
    assert world.resume() == DONE
    assert dict(world.machines.acts) == {"web1": 1, "web2": 1, "web3": 1}


def test_hosts_that_are_to_go_at_the_same_moment_are_counted_together(tmp_path: Path) -> None:
    world = World(tmp_path, most=2, max_domains=2)
    world.selection = Selection(query="web1,web2")
    world.hosts["web1"].is_busy = world.hosts["web2"].is_busy = True

    def rest() -> None:
        world.hosts["web1"].is_busy = world.hosts["web2"].is_busy = False

    world.at(20.5, rest)
    world.at(21.0, lambda: world.break_down("web4", seconds=100.0))  # after the looks at all hosts, before the acts
    acted: list[float] = []
    world.on_act = lambda: acted.append(world.now)
    assert world.start() == DONE
    assert len(set(acted)) == 2


def test_what_an_older_look_said_of_a_host_that_is_proven_since_does_not_count(tmp_path: Path) -> None:
    world = World(tmp_path)
    proven: set[str] = set()
    found = {"web1": "connection refused", "web2": "connection refused"}
    with HostWatch(lambda: found, lambda: frozenset(proven), world, AtOnce(world)) as watch:
        assert set(watch.away()) == {"web1", "web2"}
        proven.add("web1")
        assert set(watch.away()) == {"web2"}
        world.advance(HostWatch.PAUSE)
        assert set(watch.away()) == {"web1", "web2"}


def test_hosts_that_cumin_cannot_ask_are_not_known(tmp_path: Path) -> None:
    world = World(tmp_path)
    looks: Iterator[Away] = iter([{}])

    def look() -> Away:
        try:
            return next(looks)
        except StopIteration:
            raise RemoteError("Cumin has no transport") from None

    with HostWatch(look, frozenset, world, AtOnce(world)) as watch:
        assert watch.problem() == ""
        world.advance(HostWatch.STALE + 1)
        assert watch.problem() == "the hosts could not be looked at for 61 s: Cumin has no transport"


def test_a_look_that_fails_in_an_unforeseen_way_does_not_end_the_looks(tmp_path: Path) -> None:
    world = World(tmp_path)
    fails = [False]

    def look() -> Away:
        if fails[0]:
            raise sqlite3.OperationalError("disk I/O error")
        return {}

    with HostWatch(look, frozenset, world, AtOnce(world)) as watch:
        fails[0] = True
        world.advance(HostWatch.STALE + 1)
        assert "disk I/O error" in watch.problem()
        fails[0] = False
        world.advance(HostWatch.PAUSE)
        assert watch.problem() == ""


def test_without_an_etcd_of_locks_an_unattended_run_does_not_start(world: World) -> None:
    world.locks = None
    assert world.start() == REFUSED
    assert not world.machines.acts


@pytest.mark.parametrize("moment", range(1, 40))
def test_a_run_that_is_killed_anywhere_is_resumed_or_aborted(tmp_path: Path, moment: int) -> None:
    for restarts, verb in ((True, "resume"), (True, "abort"), (False, "resume"), (False, "abort")):
        folder = tmp_path / f"{restarts}-{verb}"
        folder.mkdir()
        world = World(folder, restarts=restarts)
        if world.start(kill=moment) is not None:
            return
        world.advance(5.0)
        if verb == "resume" or not world.run:
            assert world.resume() == DONE
            assert dict(world.machines.acts) == dict.fromkeys(ROWS, 1)
        else:
            assert world.abort() == DONE
        assert world.left() == []


@pytest.mark.parametrize("verb", ["resume", "abort"])
@pytest.mark.parametrize("moment", [0, 30, 60, 75])
def test_two_units_are_restarted_on_all_hosts_one_after_the_other(tmp_path: Path, moment: int, verb: str) -> None:
    world = World(tmp_path, units=("nginx.service", "php-fpm.service"))
    code = world.start(kill=moment or -1)
    world.advance(5.0)
    if code is None:
        code = world.resume() if verb == "resume" else world.abort()
    assert code == DONE
    if verb == "resume":
        assert dict(world.machines.acts) == dict.fromkeys(ROWS, 2)
    assert world.left() == []
