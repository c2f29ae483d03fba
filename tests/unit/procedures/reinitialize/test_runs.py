"""Runs of a re-initialisation in a world in memory: hosts that are away, questions, what others did, what fails."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import urllib3

from fleet.adapters.k8s.client import Api
from fleet.engine import journal
from fleet.engine.model import Kind, Status, Target, TargetState
from fleet.procedures.procedure import Refused
from fleet.procedures.reinitialize.runs import Options
from fleet.procedures.reinitialize.traffic import NamespaceGone
from fleet.procedures.reinitialize.world import Store
from fleet.procedures.reinitialize.world import World as Everything
from fleet.session import DONE, INCOMPLETE
from support import official
from support.clusters import cluster
from worlds.reinitialize import BY_PEOPLE, CONFIG, World, config
from worlds.reinitialize_hosts import API, BY_HAND, CALICO, CALICO_FILE, KUBELET, NEW, OLD, PLUGIN, endpoint_of
from worlds.reinitialize_sessions import Play


@pytest.fixture
def world():
    return World()


@pytest.fixture
def play(world, tmp_path):
    return Play(world, tmp_path)


def away(world: World, host: str, *, is_away: bool = True) -> Any:
    """Return what takes a host away, or brings it back."""
    return lambda: setattr(world.hosts[host], "reachable", not is_away)


def killed_in(world: World, stage: int) -> None:
    """Let the process be killed soon after a stage has started."""
    world.at_begin(stage, partial(setattr, world, "moments_left", 5))


def tolerant(world: World, folder: Path, max_failed: int) -> Play:
    return Play(world, folder, options=Options("new", "change-1", max_failed=max_failed))


# Hosts that are away.


@pytest.mark.parametrize("stage", [6, 7, 9])
def test_a_worker_that_is_away_for_a_while_is_gone_on_without(world, tmp_path, stage):
    world.at_begin(stage, away(world, "w2"))
    world.at_begin(10, away(world, "w2", is_away=False))
    play = tolerant(world, tmp_path, 1)
    assert play.start() == DONE
    host = world.hosts["w2"]
    assert (host.puppet, endpoint_of(host.files[CALICO_FILE])) == (None, NEW)
    assert endpoint_of(host.services[CALICO].text) == NEW, "it was started again with the new file"
    assert host.services[KUBELET].registered == NEW


def test_a_worker_that_stays_away_is_held_in_the_end_and_taken_up_when_it_is_back(world, tmp_path):
    world.at_begin(7, away(world, "w2"))
    play = tolerant(world, tmp_path, 1)
    assert play.start() == INCOMPLETE
    assert play.held() == {"20 latecomers": ["w2"]}
    assert world.pooled == world.was_pooled, "what could be done is done"
    assert world.silenced, "its alerts stay silent until someone comes"
    away(world, "w2", is_away=False)()
    assert endpoint_of(world.hosts["w2"].services[CALICO].text) == OLD
    assert play.resume() == DONE
    assert endpoint_of(world.hosts["w2"].services[CALICO].text) == NEW
    assert (world.hosts["w2"].puppet, world.silenced) == (None, {})


@pytest.mark.parametrize(
    ("stage", "name"), [(6, "6 disable Puppet"), (7, "7 stop"), (9, "9 Puppet on nodes"), (15, "15 kubelets")]
)
def test_a_worker_that_may_not_be_away_is_held_at_once(world, tmp_path, stage, name):
    world.at_begin(stage, away(world, "w2"))
    play = tolerant(world, tmp_path, 0)
    assert play.start() == INCOMPLETE
    assert (world.begun, play.held()) == (stage, {name: ["w2"]})
    away(world, "w2", is_away=False)()
    assert play.resume() == DONE


@pytest.mark.parametrize("stage", [6, 7, 16])
@pytest.mark.parametrize("host", ["cp1", "cp2"])
def test_a_control_plane_host_may_never_be_away(world, tmp_path, stage, host):
    world.at_begin(stage, away(world, host))
    play = tolerant(world, tmp_path, 9)
    assert play.start() == INCOMPLETE
    assert world.begun == stage
    # In stage 16 all of them are asked at each one's turn: what does not answer may serve the old etcd.
    assert [["cp2"] if stage == 16 else [host]] == list(play.held().values())
    away(world, host, is_away=False)()
    assert play.resume() == DONE


def test_more_workers_than_may_be_away_are_all_held(tmp_path):
    world = World(workers=3)
    away(world, "w2")()
    world.at_begin(7, away(world, "w3"))
    play = tolerant(world, tmp_path, 1)
    assert play.start() == INCOMPLETE
    assert play.held() == {"7 stop": ["w2", "w3"]}


@pytest.mark.parametrize(
    ("since", "held"),
    [
        (12, {"13 start": ["cp1"]}),
        (14, {"14 initialise": ["cluster"]}),
        (15, {"15 kubelets": ["w1", "w2"]}),
        (16, {"16 control plane": ["cp2"]}),
    ],
)
def test_an_apiserver_that_was_rebooted_on_the_old_etcd_holds_the_run_until_it_is_stopped(world, play, since, held):
    other = world.hosts["cp2"].services[API]
    world.at_begin(since, partial(setattr, other, "active", True))
    assert play.start() == INCOMPLETE
    assert play.held() == held
    assert world.hosts["cp1"].services[API].active is (since > 12)
    assert [OLD in world.hosts["cp2"].services[API].text, other.number] == [True, 1], "it is left to the operator"
    other.active = False
    assert play.resume() == DONE


# Questions.


def test_who_does_not_type_the_name_deletes_nothing(world, play):
    world.declines = {"lab"}
    assert play.start() == INCOMPLETE
    assert (world.begun, world.deleted) == (4, False)
    assert "(--abort r1)" in world.said.getvalue()
    world.declines = set()
    assert play.resume() == DONE


def test_the_name_is_asked_for_once(world, play):
    killed_in(world, 6)
    assert play.start() is None
    assert play.resume() == DONE
    assert world.typed == []


def test_people_merge_and_say_so(world, tmp_path):
    play = Play(world, tmp_path, config=BY_PEOPLE)
    assert play.start() == DONE
    assert world.typed == ["lab", "done"]
    assert not world.ran["merge"]


def test_a_merge_that_is_said_to_be_done_and_is_not_is_found_out_and_asked_for_again(world, tmp_path):
    play = Play(world, tmp_path, config=BY_PEOPLE)
    world.lies = True
    assert play.start() == INCOMPLETE
    assert play.held() == {"8 merge": ["cluster"]}
    world.lies = False
    assert play.resume() == DONE
    assert world.typed == ["done"]


def test_people_revert_and_say_so(world, tmp_path):
    play = Play(world, tmp_path, config=BY_PEOPLE)
    killed_in(world, 9)
    assert play.start() is None
    world.declines = {"done"}
    assert play.abort() == INCOMPLETE
    assert world.merged, "Puppet is not run before it is reverted"
    world.declines = set()
    assert play.abort() == DONE
    assert (world.merged, world.typed) == (False, ["done"])


def test_with_new_data_the_way_back_is_asked_for_and_nothing_is_done_without_an_answer(world, play):
    killed_in(world, 16)
    assert play.start() is None
    before = {host: dict(known.files) for host, known in world.hosts.items()}
    world.declines = {"lab"}
    assert play.abort() == INCOMPLETE
    assert not world.going_back
    assert {host: known.files for host, known in world.hosts.items()} == before
    assert "what was created since is lost to the cluster; it stays in new" in world.said.getvalue()
    assert play.resume() == DONE, "as nothing was rolled back, the run may go on"


def test_a_run_that_was_gone_back_from_cannot_be_gone_on_with(world, play):
    killed_in(world, 9)
    assert play.start() is None
    assert play.abort(kill=20) is None
    assert world.going_back
    with pytest.raises(Refused, match="resume it with --abort"):
        play.resume()
    assert world.begun == 9
    assert play.abort() == DONE


# What others have done.


def test_puppet_that_others_have_disabled_holds_the_run_and_stays_disabled(world, play):
    world.hosts["w2"].puppet = BY_HAND
    assert play.start() == INCOMPLETE
    assert play.held() == {"9 Puppet on nodes": ["w2"]}
    assert world.hosts["w2"].puppet == BY_HAND
    assert play.abort() == DONE
    assert {name: host.puppet for name, host in world.hosts.items() if host.puppet} == {"w2": BY_HAND}
    assert all(host.services[CALICO].active for host in world.hosts.values())


def test_a_change_that_is_merged_already_ends_the_run_before_anything_is_touched(world, play):
    world.merged = True
    assert play.start() == INCOMPLETE
    assert play.held() == {"1 change": ["cluster"]}
    assert world.new.keys == set()


# What goes wrong.


@pytest.mark.parametrize(
    ("verb", "stage"), [("merge", 8), ("initialize", 14), ("components", 17), ("deploy", 18), ("revert", -1)]
)
def test_a_command_that_fails_holds_the_run_until_it_is_mended(world, play, verb, stage):
    if verb == "revert":
        killed_in(world, 9)
        assert play.start() is None
        world.broken[verb] = 1
        assert play.abort() == INCOMPLETE
        assert play.abort() == DONE
        return
    world.broken[verb] = 1
    assert play.start() == INCOMPLETE
    assert world.begun == stage
    assert play.resume() == DONE


def test_traffic_that_does_not_go_keeps_the_outage_from_being_asked_for(world, play, tmp_path):
    world.broken["idle"] = 1_000_000
    assert play.start() == INCOMPLETE
    assert (play.held(), world.typed) == ({"4 depool": ["shop", "search"]}, [])
    (silences,) = journal.read(tmp_path / "r1").targets["silences"]
    assert silences.status is Status.DONE, "they were seen to"


def test_a_question_whose_answer_is_not_known_is_no_answer(world, play):
    world.broken["merged"] = 1_000
    assert play.start() == INCOMPLETE
    assert world.begun == 1
    world.broken.clear()
    assert play.resume() == DONE


@pytest.mark.parametrize("name", ["others", "kube-system"])
def test_only_managed_namespaces_are_deleted(world, name):
    deleted: list[str] = []

    def request(method: str, url: str, _body: bytes | None) -> urllib3.HTTPResponse:
        assert method == "DELETE"
        deleted.append(url.removeprefix(official.SERVER))
        return official.answer(200, b"{}")

    section = CONFIG.reinitialize
    assert section
    store = Store("etcd", section.etcds["new"], ["new"])
    seen = cluster({}, api=Api(official.client(request)))
    there = Everything(seen, section, store, store, ["cp1"], ["w1"], "change-1", managed=["shop"], max_failed=0)
    found = NamespaceGone(there).apply(
        [TargetState(Target(name)), TargetState(Target("shop"))], lambda _unit, _line: None
    )
    assert (found[name].kind in (Kind.FAILED, Kind.UNKNOWN), found["shop"].kind) == (True, Kind.DONE)
    assert deleted == ["/api/v1/namespaces/shop"]


# Stages that are left out, and what is asked for.


def test_stages_before_the_first_one_are_left_out(world, tmp_path):
    play = Play(world, tmp_path, options=Options("new", "change-1", from_stage=3))
    assert play.start() == DONE
    assert world.new.calico.peers == (), "that was done by hand, it is said"
    assert "2 Calico: left out (--from-stage)" in world.said.getvalue()
    assert "0 keep: left out (--from-stage)" in world.said.getvalue()
    assert "3 silence: hosts, services 1\n   silence\n" in world.said.getvalue()


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Options(None, "c"), "needs --new-etcd and --puppet-change"),
        (Options("new", None), "needs --new-etcd and --puppet-change"),
        (Options("new", "c", reuse="old"), "--reuse old is not the etcd of --new-etcd, new"),
        (Options("new", "c", from_stage=21), "There is no stage 21 for this cluster: there are 0, 1, 2, "),
        (Options("other", "c"), r"There is no etcd 'other' for lab .*; there is new"),
    ],
)
def test_wishes_that_cannot_be_granted(world, tmp_path, wish, message):
    with pytest.raises(Exception, match=message):
        Play(world, tmp_path, options=wish).start()
    assert not (tmp_path / "r1").exists()


def test_an_etcd_that_is_used_again_is_not_wiped_on_the_way_back(world, tmp_path):
    world.new.keys.add("/registry/precious")
    play = Play(world, tmp_path, options=Options("new", "change-1", reuse="new"))
    killed_in(world, 5)
    assert play.start() is None
    assert play.abort() == DONE
    assert "/registry/precious" in world.new.keys


# Sessions.


def test_an_unattended_run_stops_where_an_operator_has_to_decide(world, tmp_path):
    assert Play(world, tmp_path, unattended=True).start() == INCOMPLETE
    assert (world.begun, world.typed, world.deleted) == (4, [], False)
    assert Play(world, tmp_path).resume() == DONE


def test_what_is_done_is_not_gone_back_from(world, play):
    assert play.start() == DONE
    with pytest.raises(Refused, match="is done already"):
        play.abort()


def test_plugins_that_are_not_configured_stay(world, tmp_path):
    play = Play(world, tmp_path, config=config(admission_plugins=[]))
    assert play.start() == INCOMPLETE
    assert play.held() == {"14 initialise": ["cluster"]}, "the world's command needs it out"
    assert PLUGIN in world.hosts["cp1"].services[API].text
