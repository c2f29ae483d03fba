"""Every proof of a re-initialisation's stages, in a world in memory: what is not so holds the run where it is seen."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest

from fleet.adapters.k8s.apiserver import Health, Strange
from fleet.execution import Unreachable
from fleet.session import DONE, INCOMPLETE
from worlds.reinitialize import World
from worlds.reinitialize_hosts import API, CALICO, CONTROLLERS, KUBELET, NEW, OLD
from worlds.reinitialize_sessions import Play

Change = Callable[[World], object]
UP, DOWN = {"active": True}, {"active": False}
BOTH = ["shop", "search"]


def put(name: str, key: str, value: Any) -> Change:
    return lambda world: getattr(world, name).__setitem__(key, value)


def drop(name: str, key: str) -> Change:
    return lambda world: getattr(world, name).pop(key)


def add(name: str, value: str) -> Change:
    return lambda world: getattr(world, name).add(value)


def clear(name: str) -> Change:
    return lambda world: getattr(world, name).clear()


def service(host: str, unit: str, **attributes: Any) -> Change:
    def act(world: World) -> None:
        for name, value in attributes.items():
            setattr(world.hosts[host].services[unit], name, value)

    return act


def flag(name: str, value: bool) -> Change:
    return lambda world: setattr(world, name, value)


def node_on(endpoint: str) -> Change:
    return service("w1", KUBELET, registered=endpoint)


def _do(change: Change, world: World) -> None:
    change(world)


@pytest.mark.parametrize(
    ("stage", "change", "held", "mend"),
    [
        (4, put("elsewhere", "shop", False), {"4 depool": ["shop"]}, put("elsewhere", "shop", True)),
        (5, put("pooled", "shop", True), {"5 delete namespaces": BOTH}, put("pooled", "shop", False)),
        (5, put("elsewhere", "shop", False), {"5 delete namespaces": BOTH}, put("elsewhere", "shop", True)),
        (6, add("puppet_runs", "w1"), {"6 disable Puppet": ["w1"]}, clear("puppet_runs")),
        (7, service("w1", CALICO, loaded=False), {"7 stop": ["w1"]}, service("w1", CALICO, loaded=True)),
        (8, put("answering", "cp2", Health(True, (), True)), {"8 merge": ["cluster"]}, clear("answering")),
        (8, put("answering", "cp2", Strange("a certificate")), {"8 merge": ["cluster"]}, clear("answering")),
        (10, put("ill", NEW, "no leader"), {"10 first Puppet": ["cp1"]}, clear("ill")),
        (10, service("cp2", API, active=True), {"10 first Puppet": ["cp1"]}, service("cp2", API, active=False)),
        (13, put("ill", NEW, "no leader"), {"13 start": ["cp1"]}, clear("ill")),
        (
            13,
            service("cp2", CONTROLLERS, **UP),
            {"13 start": ["cp1"]},
            service("cp2", CONTROLLERS, **DOWN),
        ),
        (13, put("answering", "cp1", Health(False, ("etcd",), False)), {"13 start": ["cp1"]}, clear("answering")),
        (13, put("answering", "cp1", Unreachable("refused")), {"13 start": ["cp1"]}, clear("answering")),
        (13, flag("leaks", True), {"13 start": ["cp1"]}, flag("leaks", False)),
        (14, add("lazy", "initialize"), {"14 initialise": ["cluster"]}, None),
        (15, add("mute", "w1"), {"15 kubelets": ["w1"]}, clear("mute")),
        (16, add("unused", "cp2"), {"16 control plane": ["cp2"]}, clear("unused")),
        (17, lambda world: world.unready.append("a"), {"17 components": ["cluster"]}, clear("unready")),
        (18, put("broken", "check", 9999), {"18 services": BOTH}, clear("broken")),
        (19, put("broken", "check", 9999), {"19 verify": ["cluster"]}, clear("broken")),
        (
            19,
            service("w1", KUBELET, registered=OLD),
            {"19 verify": ["cluster"]},
            service("w1", KUBELET, registered=NEW),
        ),
    ],
)
def test_what_is_not_proven_holds_the_run_until_it_is(
    tmp_path, stage: int, change: Change, held: Mapping[str, list[str]], mend: Change | None
):
    world = World()
    play = Play(world, tmp_path)
    world.at_begin(stage, partial(_do, change, world))
    assert play.start() == INCOMPLETE
    assert (world.begun, play.held()) == (stage, held)
    if mend:
        mend(world)
        assert play.resume() == DONE


def test_the_new_etcd_is_asked_again_before_an_apiserver_serves_from_it(tmp_path):
    world = World()
    play = Play(world, tmp_path)
    world.at_begin(13, lambda: world.answering.update(cp1=Unreachable("refused")))
    assert play.start() == INCOMPLETE, "it is started, and not ready"
    world.answering.clear()
    world.hosts["cp2"].services[API].active = True
    world.hosts["cp1"].services[API].active = False
    assert play.resume() == INCOMPLETE, "cp2 was rebooted in the night, and serves the old etcd"
    assert not world.hosts["cp1"].services[API].active
    world.hosts["cp2"].services[API].active = False
    assert play.resume() == DONE


def test_what_was_written_to_the_old_etcd_is_told_and_holds_nothing(tmp_path, caplog):
    world = World()
    world.at_begin(19, lambda: setattr(world.old, "revision", world.old.revision + 1))
    world.newest = world.old.revision + 9999
    assert Play(world, tmp_path).start() == DONE
    assert "The old etcd was written to since stage 8" in caplog.text


def test_what_has_expired_in_the_old_etcd_is_no_write(tmp_path, caplog):
    world = World()
    world.at_begin(19, lambda: setattr(world.old, "revision", world.old.revision + 1))
    assert Play(world, tmp_path).start() == DONE
    assert "written to" not in caplog.text


def test_what_was_deleted_in_the_old_etcd_is_told(tmp_path, caplog):
    world = World()

    def delete() -> None:
        world.old.revision += 1
        world.old.keys.discard("/registry/api/v1/namespaces/others")

    world.at_begin(19, delete)
    assert Play(world, tmp_path).start() == DONE
    assert "The old etcd was written to since stage 8: 1 key was deleted" in caplog.text


def test_an_old_etcd_that_is_gone_in_the_end_holds_nothing(tmp_path, caplog):
    world = World()
    world.at_begin(19, lambda: world.ill.update({OLD: "it is switched off"}))
    assert Play(world, tmp_path).start() == DONE
    assert "The old etcd was not compared with what it was in stage 8" in caplog.text


def test_a_merge_that_takes_its_time_to_be_seen_is_made_once(tmp_path, monkeypatch):
    world = World()
    play = Play(world, tmp_path)
    usual = world.command

    def command(words: str) -> int:
        if words.startswith("merge "):
            world.ran["merge"] += 1
            world.at(30.0, lambda: setattr(world, "merged", True))
            return 0
        return usual(words)

    monkeypatch.setattr(world, "command", command)
    assert play.start() == DONE
    assert world.ran["merge"] == 1


def test_namespaces_are_deleted_only_as_long_as_their_services_are_away(tmp_path):
    """What was proven before a night need not be true after it."""
    world = World()
    play = Play(world, tmp_path)
    world.refuses_deletion = True
    assert play.start() == INCOMPLETE
    assert (play.held(), world.deleted) == ({"5 delete namespaces": BOTH}, False)
    world.refuses_deletion = False
    world.pooled = dict.fromkeys(world.pooled, True)
    assert play.resume() == INCOMPLETE
    assert not world.deleted
    world.pooled = dict.fromkeys(world.pooled, False)
    assert play.resume() == DONE
