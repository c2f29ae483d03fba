"""The rollback of a re-initialisation in a world in memory, where others or the night have changed what there was."""

from functools import partial

import pytest

from fleet.errors import FleetError
from fleet.procedures.reinitialize.runs import Options
from fleet.session import DONE, INCOMPLETE
from worlds.reinitialize import World
from worlds.reinitialize_hosts import API, CALICO_FILE, DEFAULTS, OLD, PLUGIN, endpoint_of
from worlds.reinitialize_sessions import Play

PRECIOUS = {"/registry/secrets/production", "/registry/deployed/shop", "/registry/deployed/search"}


@pytest.fixture
def world():
    return World()


@pytest.fixture
def play(world, tmp_path):
    return Play(world, tmp_path)


def killed_in(world: World, play: Play, stage: int, moments: int = 5) -> None:
    world.at_begin(stage, partial(setattr, world, "moments_left", moments))
    assert play.start() is None


def finish_by_hand(world: World, *, nodes: bool) -> None:
    """Let colleagues finish the move, without the run."""
    world.merged = world.frozen = True
    for host in world.hosts.values():
        host.puppet = None
        host.files |= {path: world.file_of(path) for path in (CALICO_FILE, DEFAULTS) if path in host.files}
        for service in host.services.values():
            service.text, service.active = host.files.get(DEFAULTS, "") or host.files[CALICO_FILE], True
    world.new.keys |= PRECIOUS
    if nodes:
        world.new.keys |= {f"/registry/minions/{name}" for name in world.workers}
    world.pooled = dict.fromkeys(world.pooled, True)


def test_what_others_have_finished_stays_when_an_old_run_is_tidied_up(world, play):
    world.declines = {"lab"}
    assert play.start() == INCOMPLETE
    finish_by_hand(world, nodes=True)
    assert play.abort() == DONE
    assert world.new.keys >= PRECIOUS
    assert world.new.calico.peers, "the nodes' sessions come from there"
    assert world.served() is world.new


@pytest.mark.parametrize("nodes", [True, False])
def test_a_cluster_that_serves_from_the_new_etcd_by_others_doing_is_asked_for(world, play, nodes):
    killed_in(world, play, 9)
    finish_by_hand(world, nodes=nodes)
    world.declines = {"lab"}
    assert play.abort() == INCOMPLETE
    assert world.served() is world.new
    assert "serves from new already" in world.said.getvalue()
    world.declines = set()
    assert play.abort(kill=100) is None
    assert play.abort() == DONE
    assert world.new.keys >= PRECIOUS, "it stays, as the question says"


def test_without_the_old_etcd_nothing_is_stopped_to_go_back_to_it(world, play):
    killed_in(world, play, 17)
    world.ill[OLD] = "no leader"
    with pytest.raises(FleetError, match=r"No member of the old etcd .* Nothing was touched"):
        play.abort()
    assert world.served() is world.new
    assert play.resume() == DONE


def test_traffic_is_gone_before_the_api_is_stopped_once_more(world, play, monkeypatch):
    usual_pool = world.set_pooled

    def set_pooled(service: str, datacenter: str, *, pooled: bool) -> None:
        usual_pool(service, datacenter, pooled=pooled)
        if all(world.pooled.values()):
            world.moments_left = 1

    monkeypatch.setattr(world, "set_pooled", set_pooled)
    assert play.start() is None
    monkeypatch.setattr(world, "set_pooled", usual_pool)
    assert (world.begun, all(world.pooled.values())) == (19, True)
    pooled: list[bool] = []
    usual = world._carry_out

    def carry_out(host: str, unit: str, verb: str) -> None:
        pooled.extend(world.pooled.values() if verb == "stop" else ())
        usual(host, unit, verb)

    monkeypatch.setattr(world, "_carry_out", carry_out)
    assert play.abort() == DONE
    assert pooled
    assert not any(pooled)
    assert world.pooled == world.was_pooled
    assert "services that are pooled again already are depooled once more" in world.said.getvalue()


def test_an_apiserver_that_was_rebooted_on_the_new_etcd_holds_the_way_back(world, play):
    killed_in(world, play, 17)
    world.broken["revert"] = 1
    assert play.abort() == INCOMPLETE
    world.begin("cp2", API)
    assert play.abort() == INCOMPLETE
    assert play.held()["abort Puppet"] == ["cp1", "cp2", "w1", "w2"]
    assert not world.hosts["cp1"].services[API].active
    world.hosts["cp2"].services[API].active = False
    assert play.abort() == DONE
    assert world.served() is world.old


def test_a_puppet_that_edits_the_endpoints_only_has_the_last_word(world, play):
    world.puppet_edits = True
    killed_in(world, play, 14, 3)
    assert play.abort() == DONE
    for host in world.planes:
        service = world.hosts[host].services[API]
        assert (endpoint_of(service.text), PLUGIN in service.text) == (OLD, True)


def test_services_that_were_never_taken_away_are_not_deployed(world, play):
    world.at_begin(5, lambda: world.pooled.update(shop=True))
    assert play.start() == INCOMPLETE
    world.ran.clear()
    assert play.abort() == DONE
    assert (world.ran["deploy"], world.deleted) == (0, False)


def test_services_that_were_taken_away_by_hand_are_deployed_on_the_way_back(world, tmp_path):
    play = Play(world, tmp_path, options=Options("new", "change-1", from_stage=7))
    killed_in(world, play, 9)
    assert play.abort() == DONE
    assert world.ran["deploy"] == 2


@pytest.mark.parametrize("left", [{"compact_rev_key"}, set()])
def test_what_an_apiserver_left_of_an_earlier_attempt_is_no_data(world, play, left):
    world.new.keys |= left
    killed_in(world, play, 4)
    assert play.abort() == DONE
    assert world.new.keys == left
    assert world.new.calico.peers == ()


def test_commands_that_have_outlived_their_run_and_namespaces_that_are_going_are_waited_for(world, play):
    killed_in(world, play, 15)
    world.outliving = True
    assert play.abort() == INCOMPLETE
    assert play.held()["abort commands"] == ["cluster"]
    assert world.served() is world.new, "nothing is stopped before"
    world.outliving = False
    world.old.keys.add("/registry/api/v1/namespaces/shop")
    world.old.deleting.add("shop")
    assert play.abort() == INCOMPLETE
    assert play.held()["abort namespaces"] == ["cluster"]
    world.old.deleting.clear()
    assert play.abort() == DONE


@pytest.mark.parametrize("is_back", [False, True])
def test_a_cluster_that_was_moved_stays_so_when_its_latecomers_are_given_up(world, play, caplog, is_back):
    world.at_begin(7, partial(setattr, world.hosts["w2"], "reachable", False))
    play = Play(world, play.folder, options=Options("new", "change-1", max_failed=1))
    assert play.start() == INCOMPLETE
    assert play.held() == {"20 latecomers": ["w2"]}
    world.typed.clear()
    world.hosts["w2"].reachable = is_back
    world.said.truncate(world.said.seek(0))
    assert play.abort() == DONE
    assert (world.typed, world.served() is world.new, world.silenced) == ([], True, {})
    assert (world.hosts["w2"].puppet is None) is is_back
    assert ("No answer from w2: before they are used again run Puppet there" in caplog.text) is not is_back
    assert f"given back: {'w2' if is_back else 'nothing'}." in " ".join(world.said.getvalue().split())
    assert all(world.pooled.values())
    with pytest.raises(FleetError, match="is aborted already"):
        play.resume()
