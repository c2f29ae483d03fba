"""The control plane's steps: one host out of the load balancer at a time, and only what was in it goes back."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from freezegun import freeze_time

from fleet.adapters.k8s.errors import ApiError
from fleet.adapters.load_balancer.model import LoadBalancerError
from fleet.clock import SystemClock
from fleet.engine.declaration import Seen, Stage, specs
from fleet.engine.findings import Level
from fleet.engine.journal import Journal, RunInfo
from fleet.engine.model import Kind, Phase, Status, Target, TargetState
from fleet.errors import FleetError
from fleet.execution import Unreachable
from fleet.procedures import restart_control_plane
from fleet.procedures.restart_control_plane import of_spared
from fleet.steps.balancing import REPOOL, Connections, Depool, Pool, Repool, Watched, forget_put_back
from fleet.steps.control_plane import Calm, Elected, Serving
from fleet.steps.control_plane_health import API, LED, ControlPlane
from support.watchdogs import QuietWatchdog
from worlds.hosts import LB, World

HOSTS = ("cp1", "cp2", "cp3")


@pytest.fixture
def world():
    return World(HOSTS)


def plane(world: World, targets=HOSTS, **values: Any) -> ControlPlane:
    fake: Any = world
    return ControlPlane(world.cluster(targets), world.names, **{"apiservers": fake, "balancer": fake, **values})


def unit(name="cp1", **facts: Any) -> TargetState:
    return TargetState(Target(name), facts=facts)


def tell(_unit: str, _line: str) -> None:
    """Say nothing."""


def look(step, **facts: Any):
    """Look at a host: for the first time in a session where nothing is known yet, again otherwise."""
    phase = Phase.VERIFY if facts else Phase.CHECK
    return step.check([replace(unit(**facts), phase=phase)])["cp1"]


@pytest.fixture
def clock(world):
    """Let this host's clock go with the world's."""
    with freeze_time() as frozen:
        frozen.move_to("2027-01-15 08:00:00")

        def go(seconds: float) -> None:
            frozen.tick(seconds)
            world.advance(max(seconds, 0.0))

        yield go


# Out of the load balancer.


def test_who_sends_connections_is_noted_before_it_is_told_otherwise(world):
    step = Depool(plane(world), world)
    found = look(step)
    assert (found.kind, found.facts["pooled_at"]) == (Kind.PENDING, [LB])
    assert world.told == []
    step.apply([unit(**found.facts)], tell)
    assert world.told == [("depool", "cp1")]
    out = look(step, **found.facts)
    assert (out.kind, out.facts["pooled_at"]) == (Kind.DONE, [LB]), "what it was before is not forgotten"


def test_a_host_that_was_out_before_is_known_as_such(world):
    del world.pooled["cp1"]
    found = look(Depool(plane(world), world))
    assert (found.kind, found.facts) == (Kind.DONE, {"pooled_at": []})


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (lambda w: setattr(w.hosts["cp2"], "ready", False), "kube-apiserver on cp2 is not ready: etcd"),
        (lambda w: w.pooled.pop("cp3"), "cp3 gets no connections from the load balancer"),
        (lambda w: setattr(w.hosts["cp2"].services[f"{API}.service"], "active", "failed"), "on cp2 is failed"),
        (lambda w: setattr(w.hosts["cp3"], "reachable", False), "cp3 does not answer"),
    ],
)
def test_a_host_stays_in_while_another_one_is_not_well(world, trouble, says):
    step = Depool(plane(world), world)
    facts = look(step).facts
    trouble(world)
    refused = step.apply([unit(**facts)], tell)["cp1"]
    assert (refused.kind, says in refused.detail) == (Kind.PENDING, True)
    assert world.told == []


def test_a_host_stays_in_while_the_others_cannot_be_asked(world):
    step = Depool(plane(world), world)
    facts = look(step).facts
    world.balancer_fails = True
    assert step.apply([unit(**facts)], tell)["cp1"].kind is Kind.UNKNOWN
    assert world.told == []
    with pytest.raises(LoadBalancerError):
        look(step)


def test_connections_are_waited_for_until_none_is_left(world, clock):
    world.drains = 3.0
    step = Connections(plane(world), world)
    world.depool("cp1", [LB])
    first = look(step)
    assert (first.kind, first.detail) == (Kind.PENDING, "still open: 3")
    clock(2.9)
    assert look(step, **first.facts).kind is Kind.PENDING
    clock(0.2)
    assert (look(step, **first.facts).kind, look(step, **first.facts).detail) == (Kind.DONE, "none is left")


def test_connections_that_do_not_end_have_their_time(world, clock):
    world.drains = 1e9
    step = Connections(plane(world), world)
    world.depool("cp1", [LB])
    facts = look(step).facts
    clock(3.9)
    assert look(step, **facts).kind is Kind.PENDING
    clock(0.2)
    over = look(step, **facts)
    assert (over.kind, over.detail) == (Kind.DONE, "left for the apiserver to end: 3")


def test_connections_that_cannot_be_counted_have_their_time(world, clock, monkeypatch):
    step = Connections(plane(world), world)
    world.depool("cp1", [LB])
    states = world.states(HOSTS)
    monkeypatch.setattr(
        world, "states", lambda hosts: {host: replace(states[host], connections=None) for host in hosts}
    )
    facts = look(step).facts
    assert look(step, **facts).detail == "still open: it is not known how many"
    clock(4.1)
    assert look(step, **facts).kind is Kind.DONE


def test_a_clock_that_is_set_back_makes_no_wait_endless(world, clock):
    world.drains = 1e9
    step = Connections(plane(world), world)
    world.depool("cp1", [LB])
    facts = look(step).facts
    clock(-3600)
    facts = {**facts, **look(step, **facts).facts}
    clock(4.1)
    assert look(step, **facts).kind is Kind.DONE


def test_connections_get_their_time_again_when_the_host_was_back_meanwhile(world, clock):
    world.drains = 1e9
    world.depool("cp1", [LB])
    facts = {"pooled_at": [LB], **look(Connections(plane(world), world)).facts}
    world.pool("cp1", [LB])
    clock(3600)
    depool = Depool(plane(world), world)
    facts |= look(depool, **facts).facts
    assert facts["pooled_at"] == [LB]
    depool.apply([unit(**facts)], tell)
    assert look(Connections(plane(world), world), **facts).kind is Kind.PENDING


def test_a_host_that_is_out_is_not_gone_on_with_when_another_one_falls_ill(world, clock):
    world.depool("cp1", [LB])
    world.hosts["cp2"].ready = False
    found = look(Connections(plane(world), world))
    assert (found.kind, found.detail) == (Kind.FAILED, "not continued: kube-apiserver on cp2 is not ready: etcd")


# Back into the load balancer.


def test_a_host_is_back_when_the_load_balancer_says_so(world):
    step = Pool(plane(world), world)
    facts = {"pooled_at": [LB]}
    world.depool("cp1", facts["pooled_at"])
    assert look(step, **facts).kind is Kind.PENDING
    step.apply([unit(**facts)], tell)
    assert look(step, **facts).kind is Kind.PENDING, "told, but not yet taken back"
    world.advance(1.5)
    assert look(step, **facts).kind is Kind.DONE


@pytest.mark.parametrize("facts", [{"pooled_at": []}, {}])
def test_a_host_that_was_out_before_stays_out(world, facts):
    del world.pooled["cp1"]
    found = look(Pool(plane(world), world), **facts)
    assert (found.kind, found.detail) == (Kind.DONE, "left out of the load balancer, as it was found")


def held(phase=Phase.CHECK, step="connections", **facts: Any) -> tuple[Any, TargetState]:
    """Return the work on apiservers, and a host that is held at one of its steps."""
    work = restart_control_plane.stages_of(plane(World(HOSTS)), [API])[0]
    index = [spec.name for spec in specs(work.steps)].index(step)
    return work, TargetState(Target("cp1"), Status.HELD, index, phase, facts={"pooled_at": [LB], **facts})


def seen(work: Stage, state: TargetState) -> Seen:
    """Return what is known of a host."""
    return Seen(lambda: {}, lambda: {"cp1": state}, specs(work.steps))


@pytest.mark.parametrize(
    ("step", "phase", "facts", "told"),
    [
        ("connections", Phase.VERIFY, {}, "pool"),
        ("restart", Phase.APPLY, {"ordered": False}, "pool"),
        ("restart", Phase.APPLY, {"unconfirmed": True}, "watch again"),
        ("restart", Phase.VERIFY, {}, "watch again"),
        ("ready", Phase.VERIFY, {}, "watch again"),
    ],
)
def test_only_a_held_host_that_was_not_restarted_goes_back(world, step, phase, facts, told):
    work, state = held(phase, step, **facts)
    world.depool("cp1", [LB])
    repool = Repool(plane(world), world, seen(work, state))
    me = [unit("repool")]
    assert repool.check(me)["repool"].kind is Kind.PENDING
    repool.apply(me, tell)
    assert world.told[1:] == [(told, "cp1")]
    assert repool.check(me)["repool"].kind is Kind.DONE


def test_a_held_host_that_was_out_before_stays_out(world):
    work, state = held()
    out = replace(state, facts={"pooled_at": []})
    running = replace(state, status=Status.RUNNING)
    for known in (out, running):
        step = Repool(plane(world), world, seen(work, known))
        assert step.check([unit("repool")])["repool"].kind is Kind.DONE


def test_the_load_balancer_is_told_once_to_look_after_a_host_again(world):
    step = Watched(plane(world), world)
    assert look(step).kind is Kind.PENDING
    assert step.apply([unit()], tell)["cp1"].kind is Kind.DONE
    assert world.told == [], "its checks are as others want them"
    facts = step.apply([unit(pooled_at=[LB])], tell)["cp1"].facts
    assert look(step, **facts).kind is Kind.DONE
    assert world.told == [("watch again", "cp1")]


# All well again.


def test_a_host_serves_when_its_own_apiserver_is_ready(world):
    step = Serving(plane(world))
    assert look(step).kind is Kind.DONE
    world.hosts["cp1"].ready = False
    assert look(step).detail == "kube-apiserver on cp1 is not ready: etcd"
    world.hosts["cp1"].ready, world.hosts["cp2"].ready = True, False
    assert look(step).kind is Kind.DONE


def settle(step, clock, seconds: int, **facts: Any) -> tuple[list[Kind], dict[str, Any]]:
    """Ask once a second."""
    kinds = []
    for _ in range(seconds):
        found = look(step, **facts)
        facts |= found.facts
        kinds.append(found.kind)
        clock(1)
    return kinds, facts


IN = {"pooled_at": [LB]}


def test_all_have_to_be_well_for_a_while(world, clock):
    kinds, _ = settle(Calm(plane(world)), clock, 4, **IN)
    assert kinds == [*[Kind.PENDING] * 3, Kind.DONE]


@pytest.mark.parametrize(
    "trouble",
    [
        lambda w, on: setattr(w.hosts["cp2"], "ready", not on),
        lambda w, on: w.pooled.pop("cp3") if on else w.pooled.update(cp3=-1e9),
        lambda w, on: setattr(w, "balancer_fails", on),
    ],
)
def test_whatever_is_wrong_makes_the_while_begin_anew(world, clock, trouble):
    step = Calm(plane(world))
    _, facts = settle(step, clock, 3, **IN)
    trouble(world, True)
    kinds, facts = settle(step, clock, 1, **facts)
    assert kinds == [Kind.PENDING]
    trouble(world, False)
    kinds, _ = settle(step, clock, 4, **facts)
    assert kinds[:2] == [Kind.PENDING] * 2
    assert kinds[-1] is Kind.DONE


def test_a_failed_request_makes_the_while_begin_anew(world, clock):
    watchdog = QuietWatchdog(clean=100.0)
    step = Calm(plane(world, watchdog=watchdog))
    _, facts = settle(step, clock, 3, **IN)
    watchdog.clean = 0.5
    assert look(step, **facts).detail == "for 2 s more"
    watchdog.clean = 3.0
    assert look(step, **facts).kind is Kind.DONE


def test_the_while_survives_a_clock_that_is_set_back(world, clock):
    step = Calm(plane(world))
    _, facts = settle(step, clock, 2, **IN)
    clock(-3600)
    kinds, _ = settle(step, clock, 4, **facts)
    assert kinds[-1] is Kind.DONE


def test_a_host_that_was_found_out_is_not_waited_for(world, clock):
    del world.pooled["cp1"]
    step = Calm(plane(world, ["cp1"]))
    kinds, _ = settle(step, clock, 4, pooled_at=[])
    assert kinds[-1] is Kind.DONE
    world.hosts["cp1"].ready = False
    assert look(step, pooled_at=[]).kind is Kind.PENDING
    world.hosts["cp1"].ready, world.pooled = True, {}
    assert "cp2 gets no connections" in look(step, pooled_at=[]).detail


# Leaders.


def test_a_leader_counts_when_it_has_been_seen_to_renew(world, clock):
    step = Elected(plane(world), LED[0])
    first = look(step)
    assert first.kind is Kind.PENDING
    clock(2)
    second = look(step, **first.facts)
    assert (second.kind, second.detail) == (Kind.DONE, "cp1 leads")


def test_a_standby_that_ends_again_and_again_is_not_gone_on_with(world, clock):
    step = Elected(plane(world, ["cp2"]), LED[0])
    service = world.hosts["cp2"].services[f"{LED[0]}.service"]
    facts: dict[str, Any] = {}
    for _ in range(10):
        service.number, service.started = service.number + 1, world.now
        clock(2)
        found = step.check([replace(unit("cp2", **facts), phase=Phase.VERIFY)])["cp2"]
        facts |= found.facts
        assert found.kind is Kind.PENDING, "another one leads, and renews"
    assert found.detail == f"{LED[0]}.service is active, started 2 s ago"
    clock(4)
    assert step.check([replace(unit("cp2", **facts), phase=Phase.VERIFY)])["cp2"].kind is Kind.DONE


def test_a_component_without_a_leader_is_not_gone_on_with(world, clock):
    step = Elected(plane(world), LED[0])
    facts = look(step).facts
    world.leads[LED[0]] = ""
    clock(2)
    nobody = look(step, **facts)
    assert (nobody.kind, nobody.facts["election"]) == (Kind.PENDING, {})
    world.leads[LED[0]] = "cp2"
    world.acquired[LED[0]] += 1
    assert look(step, **nobody.facts).kind is Kind.PENDING, "a new leader has to be seen to renew as well"


def test_a_leader_that_is_dead_is_never_settled(world, clock, monkeypatch):
    frozen = world.get(f"/leases/{LED[0]}")
    monkeypatch.setattr(world, "get", lambda path: frozen)
    step = Elected(plane(world), LED[0])
    facts: dict[str, Any] = {}
    for _ in range(20):
        found = look(step, **facts)
        facts |= found.facts
        assert found.kind is Kind.PENDING
        clock(1)
    assert "has not renewed it for" in found.detail


def order(world: World, component: str, targets=HOSTS) -> list[str]:
    return [unit.name for unit in restart_control_plane.stages_of(plane(world, targets), [component])[0].targets()]


def test_the_leader_goes_last(world):
    world.leads = {LED[0]: "cp1", LED[1]: "cp2.example.org"}
    assert order(world, LED[0]) == ["cp2", "cp3", "cp1"]
    assert order(world, LED[1]) == ["cp1", "cp3", "cp2"]
    assert order(world, API) == ["cp1", "cp2", "cp3"]
    assert order(world, LED[0], ["cp3", "cp2"]) == ["cp2", "cp3"], "a leader that is not restarted does not matter"


def test_hosts_are_ordered_by_number():
    world = World([f"cp{number}" for number in (10, 9, 1)])
    assert order(world, API, ["cp10", "cp9", "cp1"]) == ["cp1", "cp9", "cp10"]


@pytest.mark.parametrize("status", [404, 500])
def test_an_unknown_leader_leaves_the_order_of_names(world, status, monkeypatch):
    def get(path: str) -> Mapping[str, Any]:
        raise ApiError("GET", status, "reason", "text")

    monkeypatch.setattr(world, "get", get)
    assert order(world, LED[0]) == ["cp1", "cp2", "cp3"]


# Who can be spared.


@pytest.mark.parametrize("allowed", [True, False])
def test_the_only_host_is_restarted_when_that_is_allowed(allowed):
    alone = plane(World(["cp1"]), ["cp1"], allow_outage=allowed)
    assert (alone.problem(API, "cp1") == "") is allowed
    found = of_spared(alone, [API])[0]
    assert found.level is (Level.NOTE if allowed else Level.STOP)
    assert allowed or "--allow-outage" in found.what


def test_an_outage_that_is_allowed_spares_no_host_of_several(world):
    world.hosts["cp2"].ready = False
    assert "cp2" in plane(world, allow_outage=True).problem(API, "cp1")


def test_a_host_is_never_its_own_obstacle(world):
    world.hosts["cp1"].ready = False
    assert plane(world).problem(API, "cp1") == ""
    assert "cp1" in plane(world).problem(API, "cp2")


def test_hosts_that_a_run_leaves_alone_count_as_well(world):
    world.hosts["cp3"].ready = False
    assert "cp3" in plane(world, ["cp1"]).problem(API, "cp1")
    stopped = of_spared(plane(world, ["cp1"]), [API])[0]
    assert (stopped.level, stopped.what) == (Level.STOP, "kube-apiserver on cp3 is not ready: etcd.")
    world.hosts["cp3"].ready = True
    world.hosts["cp1"].ready = False
    assert of_spared(plane(world, ["cp1"]), [API])[0].level is Level.ASK


def test_an_apiserver_that_cannot_be_asked_is_not_well(world, monkeypatch):
    monkeypatch.setattr(world, "examine", lambda hosts: dict.fromkeys(hosts, Unreachable("refused")))
    assert plane(world).problem(API, "cp1") == "kube-apiserver on cp2: refused"


def test_the_unit_of_the_component_counts(world):
    world.hosts["cp2"].services[f"{LED[1]}.service"].active = "inactive"
    assert plane(world).problem(API, "cp1") == ""
    assert plane(world).problem(LED[1], "cp1") == f"{LED[1]}.service on cp2 is inactive"


def test_without_a_load_balancer_nothing_is_asked_of_it(world):
    bare = plane(world, balancer=None)
    world.balancer_fails = True
    assert bare.problem(API, "cp1") == ""
    names = [spec.name for spec in specs(restart_control_plane.stages_of(bare, [API])[0].steps)]
    assert not {"depool", "connections", "pool"} & set(names)
    with pytest.raises(FleetError):
        plane(world).problem(API, "cp1")


def test_the_only_host_is_not_taken_out_of_the_load_balancer(world):
    """Nobody, the run included, could reach the API any more."""
    alone = replace(plane(world), hosts=["cp1"], allow_outage=True)
    names = [spec.name for spec in specs(restart_control_plane.stages_of(alone, [API])[0].steps)]
    assert not {"depool", "connections", "pool"} & set(names)
    assert {"restart", "ready", "settle"} <= set(names)


def test_what_an_earlier_session_has_put_back_is_others_affair(tmp_path):
    info = RunInfo("r1", "p", "c", "o", "r", "", 1.0, {"steps": {}})
    left = [unit(name, pooled_at=[LB], draining_since=1.0, invocation="i") for name in ("cp1", "cp2")]
    book = Journal.create(tmp_path, info, {API: left, REPOOL: [unit(REPOOL, back=["cp1"])]})
    for _ in range(2):
        forget_put_back(book)
        assert {name: state.facts for name, state in book.states(API).items()} == {
            "cp1": {"invocation": "i"},
            "cp2": {"pooled_at": [LB], "draining_since": 1.0, "invocation": "i"},
        }
    book.close()


def test_proofs_of_an_earlier_session_prove_nothing(world, clock):
    """A leader that has renewed since a run was held may be dead when it is continued."""
    step = Elected(plane(world), LED[0])
    first = look(step)
    clock(10.0)
    later = replace(unit(**first.facts), phase=Phase.CHECK)
    assert step.check([later])["cp1"].kind is Kind.PENDING
    calm = Calm(plane(world))
    assert calm.check([replace(unit(calm_since=1.0, pooled_at=[LB]), phase=Phase.CHECK)])["cp1"].kind is Kind.PENDING


class SetClock(SystemClock):
    """A clock that is set now and then, and tells a time of its own."""

    def __init__(self) -> None:
        self.wrong, self.passed = 0.0, 50.0

    def time(self) -> float:
        return 1_800_000_000 + self.passed + self.wrong

    def monotonic(self) -> float:
        return self.passed


@pytest.mark.parametrize("jump", [-10_800.0, 10_800.0])
def test_a_clock_that_is_set_makes_no_while_shorter_or_longer(world, jump):
    world.drains = 1e9
    world.depool("cp1", [LB])
    set_clock = SetClock()
    own = replace(plane(world), cluster=replace(plane(world).cluster, clock=set_clock))
    step = Connections(own, world)
    facts = look(step).facts
    set_clock.wrong = jump
    assert look(step, **facts).kind is Kind.PENDING
    set_clock.passed += own.cluster.config.control_plane.load_balancer.drain
    assert look(step, **facts).kind is Kind.DONE
    for stored in (1_700_000_000.0, {**facts["draining_since"], "boot": "another", "monotonic": 0.0}):
        assert look(step, draining_since=stored).kind is Kind.PENDING, "nobody knows how long that is ago"

    calm = Calm(own)
    facts = look(calm).facts
    set_clock.wrong = 0.0
    set_clock.passed += own.cluster.config.control_plane.settle - 0.1
    assert look(calm, **facts).kind is Kind.PENDING
    set_clock.passed += 0.2
    assert look(calm, **facts).kind is Kind.DONE
