"""BGP as a gate: what is noted, what opens it, and what the preflight says; the routers are played."""

import itertools
import json
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from fleet.adapters.bgp.junos import Restarts
from fleet.adapters.bgp.summary import ESTABLISHED, Peer, Rib, Summary
from fleet.adapters.k8s.model import parse_node
from fleet.adapters.k8s.nodes import OWNER_ANNOTATION
from fleet.clock import CLOCK, Moment
from fleet.engine.findings import Level
from fleet.engine.model import Kind, Target, TargetState
from fleet.errors import FleetError
from fleet.steps.at_most_once import REPLACED
from fleet.steps.bgp import DOWN, FACT, Baseline, Proven, Routes, examine
from fleet.steps.cluster import Cluster
from support import clusters

ADDRESSES = {"w1": ("10.0.0.1", "fd00::1"), "w2": ("10.0.0.2", "fd00::2")}
ONE = "1 of 2 core routers could not be asked:"
CONFIG: dict[str, Any] = {
    "routers": {"cr1": {}, "cr2": {}},
    "username": "u",
    "ssh_key": Path("/k"),
    "known_hosts": Path("/h"),
    "asn": 64601,
    "stable": "2s",
}


class Routers:
    """Routers that have all sessions up for an hour, but for what a test changes."""

    def __init__(self) -> None:
        self.changed: dict[tuple[str, str], dict[str, Any]] = {}
        self.then: dict[tuple[str, str], dict[str, Any]] = {}
        """What changes once they have told of the end of RIBs."""
        self.broken: dict[str, str] = {}
        self.incomplete_peers: dict[str, set[str]] = {}
        self.not_graceful: set[str] = set()
        self.asked = 0
        self.names: tuple[str, ...] = ("cr1", "cr2")

    def summaries(self) -> dict[str, Any]:
        self.asked += 1
        return {
            router: FleetError(f"{router} {self.broken[router]}")
            if router in self.broken
            else Summary(
                [self._peer(router, address) for pair in ADDRESSES.values() for address in pair], time.monotonic()
            )
            for router in self.names
        }

    def restarts(self, addresses: Any = None) -> dict[str, Any]:
        asked = frozenset(map(ip_address, itertools.chain(*ADDRESSES.values()))) if addresses is None else addresses
        for key, values in self.then.items():
            self.changed[key] |= values
        return {
            router: Restarts(
                negotiated=frozenset(a for a in asked if str(a) not in self.not_graceful),
                incomplete=frozenset(a for a in asked if str(a) in self.incomplete_peers.get(router, ())),
            )
            for router in self.names
        }

    def _peer(self, router: str, address: str) -> Peer:
        rib = Rib("inet6.0" if ":" in address else "inet.0", 2, 2, 2, 0)
        values = {"state": ESTABLISHED, "elapsed": 3600, "flaps": 3, "ribs": (rib,)}
        return Peer(address=ip_address(address), asn=64601, **{**values, **self.changed.get((router, address), {})})

    def restarted(self, **more: Any) -> None:
        for router in ("cr1", "cr2"):
            for pair in ADDRESSES.values():
                for address in pair:
                    self.changed[router, address] = {"elapsed": 5, "flaps": 4, **more}


@pytest.fixture
def routers() -> Routers:
    return Routers()


OWNER = json.dumps({"run": "r1", "operator": "o", "reason": "why", "was_cordoned": False})


def cluster(played: Routers, /, *, cordoned: bool = True, **config: Any) -> Cluster:
    nodes = [
        parse_node(
            {
                "metadata": {"name": name, "annotations": {OWNER_ANNOTATION: OWNER}},
                "spec": {"unschedulable": cordoned},
                "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
            }
        )
        for name, addresses in ADDRESSES.items()
    ]
    hosts = {"w1": "w1.example.org", "w2": "w2.example.org"}
    return clusters.cluster(hosts, nodes=nodes, routers=played, bgp={**CONFIG, **config})


def ago(seconds: float) -> dict[str, Any]:
    """Return a moment as it is remembered."""
    return Moment.now(CLOCK).minus(seconds).stored()


def states(**facts: Any) -> list[TargetState]:
    return [TargetState(Target(name), facts=facts) for name in ADDRESSES]


def noted(routers: Routers) -> dict[str, Any]:
    return dict(Baseline(cluster(routers), graceful=False).check(states())["w1"].facts)


def gate(routers: Routers, facts: dict[str, Any], **config: Any) -> Any:
    return Proven(cluster(routers, **config)).check([TargetState(Target("w1"), facts=facts)])["w1"]


def test_all_nodes_are_judged_by_one_round(routers):
    verdicts = Baseline(cluster(routers), graceful=False).check(states())
    assert routers.asked == 1
    assert {name: verdict.kind for name, verdict in verdicts.items()} == {"w1": Kind.DONE, "w2": Kind.DONE}
    assert set(verdicts["w1"].facts[FACT]) == {"cr1", "cr2"}
    assert set(verdicts["w1"].facts[FACT]["cr1"]) == set(ADDRESSES["w1"])


def test_nothing_is_noted_while_a_router_cannot_be_asked(routers):
    routers.broken["cr2"] = "refuses the connection"
    verdict = Baseline(cluster(routers), graceful=False).check(states())["w1"]
    assert (verdict.kind, verdict.detail, verdict.facts) == (
        Kind.PENDING,
        f"{ONE} cr2 refuses the connection",
        {},
    )


def test_a_session_that_was_lost_since_the_plan_keeps_its_node_in_service(routers):
    routers.changed["cr2", "fd00::1"] = {"state": "Active", "ribs": (), "elapsed": 60}
    verdicts = Baseline(cluster(routers), graceful=False).check(states())
    message = "down since the run began: cr2 fd00::1 is Active since 1 min"
    assert (verdicts["w1"].kind, verdicts["w1"].detail) == (Kind.PENDING, message)
    assert verdicts["w2"].kind is Kind.DONE


def test_a_session_that_was_down_when_the_plan_was_agreed_to_is_let_go(routers):
    routers.changed["cr2", "fd00::1"] = {"state": "Active", "ribs": (), "elapsed": 60}
    own = cluster(routers)
    _, facts = examine(own, own.nodes.snapshot(), graceful=False)
    assert facts == {"w1": {DOWN: ["cr2 fd00::1"]}}
    verdict = Baseline(own, graceful=False).check([TargetState(Target("w1"), facts=facts["w1"])])["w1"]
    assert verdict.kind is Kind.DONE
    routers.restarted()
    routers.changed["cr2", "fd00::1"] = {"state": "Active", "ribs": (), "elapsed": 60}
    assert gate(routers, {**verdict.facts, REPLACED: ago(10)}).kind is Kind.DONE


def test_the_gate_opens_when_every_session_is_new_and_complete(routers):
    facts = noted(routers) | {REPLACED: ago(10)}
    assert gate(routers, facts).kind is Kind.PENDING
    routers.restarted()
    assert gate(routers, facts).kind is Kind.DONE


@pytest.mark.parametrize("flaps", [0, 3])
def test_counts_that_start_anew_keep_no_gate_closed(routers, flaps):
    facts = noted(routers) | {REPLACED: ago(10)}
    routers.restarted(flaps=flaps)
    assert gate(routers, facts).kind is Kind.DONE
    routers.changed["cr1", "10.0.0.1"]["elapsed"] = 3600
    assert gate(routers, facts).detail == "cr1 10.0.0.1: has not gone down yet"


@pytest.mark.parametrize("jump", [-7200, 0, 7200])
def test_a_clock_that_was_set_meanwhile_changes_nothing(routers, jump):
    facts = noted(routers) | {REPLACED: {**ago(10), "time": time.time() - 10 + jump}}
    assert gate(routers, facts).kind is Kind.PENDING
    routers.restarted(flaps=3)
    assert gate(routers, facts).kind is Kind.DONE


@pytest.mark.parametrize("moment", [1_600_000_000.0, 1_900_000_000.0])
def test_a_restart_that_only_a_clock_tells_of_is_proven_by_other_sessions(routers, moment):
    """As runs of older versions noted it, or this host was booted since; the clock may have been wrong."""
    for stored in (moment, {**ago(10), "time": moment, "boot": "another"}):
        facts = noted(routers) | {REPLACED: stored}
        routers.restarted(flaps=3)
        assert gate(routers, facts).kind is Kind.DONE
        routers.changed.clear()


def test_prefixes_that_a_router_merely_kept_open_no_gate(routers):
    facts = noted(routers) | {REPLACED: ago(10)}
    routers.restarted()
    routers.incomplete_peers = {"cr2": {"fd00::1", "fd00::2"}}
    verdict = gate(routers, facts)
    message = "cr2 fd00::1: has not sent all its routes (End-of-RIB)"
    assert (verdict.kind, verdict.detail) == (Kind.PENDING, message)
    routers.incomplete_peers = {"cr2": {"fd00::2"}}
    assert gate(routers, facts).kind is Kind.DONE


def test_a_node_that_somebody_has_opened_is_not_waited_for(routers):
    facts = noted(routers) | {REPLACED: ago(10)}
    opened = Proven(cluster(routers, cordoned=False))
    verdict = opened.check([TargetState(Target("w1"), facts=facts)])["w1"]
    assert verdict.kind is Kind.FAILED
    assert verdict.detail.startswith("somebody has uncordoned it: it takes pods without proven sessions")
    assert "has not gone down yet" in verdict.detail
    routers.restarted()
    assert opened.check([TargetState(Target("w1"), facts=facts)])["w1"].kind is Kind.DONE


def test_a_session_of_another_node_keeps_no_gate_closed(routers):
    facts = noted(routers) | {REPLACED: ago(10)}
    routers.restarted()
    routers.changed["cr1", "fd00::2"] = {"state": "Active", "ribs": ()}
    assert gate(routers, facts).kind is Kind.DONE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": "Active", "ribs": ()}, "cr2 fd00::1: Active"),
        ({"elapsed": 3600}, "cr2 fd00::1: has not gone down yet"),
        ({"ribs": (Rib("inet6.0", 1, 2, 1, 0),)}, "cr2 fd00::1: 1 of 2 prefixes in inet6.0"),
        ({"elapsed": 1}, "cr2 fd00::1: up for 1 s of 2 s"),
    ],
)
def test_one_session_at_one_router_keeps_the_gate_closed(routers, change, message):
    facts = noted(routers) | {REPLACED: ago(10)}
    routers.restarted()
    routers.changed["cr2", "fd00::1"] |= change
    verdict = gate(routers, facts)
    assert (verdict.kind, verdict.detail) == (Kind.PENDING, message)


def test_a_router_that_cannot_be_asked_keeps_the_gate_closed_until_it_is_taken_out(routers):
    facts = noted(routers) | {REPLACED: ago(10)}
    routers.restarted()
    routers.broken["cr2"] = "does not answer"
    verdict = gate(routers, facts)
    assert (verdict.kind, verdict.detail) == (
        Kind.PENDING,
        f"{ONE} cr2 does not answer",
    )
    routers.names = ("cr1",)
    only = cluster(routers, routers={"cr1": {}})
    assert Proven(only).check([TargetState(Target("w1"), facts=facts)])["w1"].kind is Kind.DONE


def test_at_a_router_that_is_new_all_sessions_must_be_up(routers):
    facts = noted(routers)
    facts = {FACT: {"cr1": facts[FACT]["cr1"]}, REPLACED: ago(10)}
    routers.restarted()
    assert gate(routers, facts).kind is Kind.DONE
    routers.changed["cr2", "fd00::1"] = {"state": "Active", "ribs": (), "elapsed": 60}
    verdict = gate(routers, facts)
    assert (verdict.kind, verdict.detail) == (Kind.PENDING, "cr2 fd00::1 is Active since 1 min")
    renamed = {FACT: {"core1": facts[FACT]["cr1"]}}
    assert gate(routers, renamed).detail == "cr2 fd00::1 is Active since 1 min"


def test_a_node_without_sessions_proves_nothing(routers):
    nowhere = cluster(routers, addresses={"w1": [], "w2": []})
    for step in (Baseline(nowhere, graceful=False), Proven(nowhere)):
        remembered: list[dict[str, Any]] = [{}, {FACT: {}}]
        for facts in remembered:
            verdict = step.check(states(**facts))["w1"]
            assert verdict.kind is Kind.PENDING
            assert "bgp.addresses may name one" in verdict.detail


def test_what_was_noted_with_a_life_is_kept_while_that_life_is_to_end(routers):
    facts = {**noted(routers), "invocation": "1", "ordered": False}
    routers.restarted()  # by somebody else, before this run came to it again
    verdict = Baseline(cluster(routers), graceful=False).check(states(**facts))["w1"]
    assert (verdict.kind, verdict.facts) == (Kind.DONE, {})
    assert gate(routers, {**facts, REPLACED: ago(10)}).kind is Kind.DONE


def test_prefixes_that_go_with_the_pods_are_not_asked_for_again(routers):
    facts = noted(routers)
    for router in ("cr1", "cr2"):
        routers.changed[router, "10.0.0.1"] = {"ribs": (Rib("inet.0", 1, 1, 1, 0),)}
    drained = Routes(cluster(routers)).check([TargetState(Target("w1"), facts=facts)])["w1"]
    assert drained.kind is Kind.DONE
    routers.restarted()
    after = {**facts, **drained.facts, REPLACED: ago(10)}
    assert gate(routers, after).kind is Kind.DONE
    for count, kind in ((1, Kind.DONE), (0, Kind.PENDING)):
        routers.changed["cr2", "10.0.0.1"] |= {"ribs": (Rib("inet.0", count, count, count, 0),)}
        assert gate(routers, after).kind is kind
    routers.broken["cr1"] = "does not answer"
    assert Routes(cluster(routers)).check([TargetState(Target("w1"), facts=facts)])["w1"].kind is Kind.PENDING


def test_counts_are_read_once_more_after_the_end_of_rib(routers):
    facts = noted(routers) | {REPLACED: ago(10)}
    routers.restarted()
    routers.then["cr1", "10.0.0.1"] = {"ribs": (Rib("inet.0", 0, 0, 0, 0),)}
    assert gate(routers, facts).detail == "cr1 10.0.0.1: 0 of 2 prefixes in inet.0"


def test_graceful_restart_is_asked_for_again_at_each_nodes_turn(routers):
    assert Baseline(cluster(routers), graceful=True).check(states())["w1"].kind is Kind.DONE
    routers.not_graceful.add("10.0.0.1")
    verdicts = Baseline(cluster(routers), graceful=True).check(states())
    message = "no graceful restart: cr1 10.0.0.1, cr2 10.0.0.1"
    assert (verdicts["w1"].kind, verdicts["w1"].detail) == (Kind.PENDING, message)
    assert verdicts["w2"].kind is Kind.DONE
    found = findings(routers, graceful=True)
    assert (Level.STOP, "Graceful restart was not negotiated at cr1 in all sessions of w1.") in found


def test_addresses_of_nobody_are_noticed(routers):
    what = "bgp.addresses names nodes that Kubernetes does not know: w3."
    assert findings(routers, addresses={"w3": ["10.0.0.3"]})[0] == (Level.NOTE, what)


def test_without_a_baseline_all_expected_sessions_must_be_up(routers):
    assert gate(routers, {}).kind is Kind.DONE
    routers.changed["cr1", "10.0.0.1"] = {"state": "Connect", "ribs": (), "elapsed": 125}
    verdict = gate(routers, {})
    assert (verdict.kind, verdict.detail) == (Kind.PENDING, "cr1 10.0.0.1 is Connect since 2 min")


def test_a_node_that_was_not_restarted_is_given_back_with_its_old_sessions(routers):
    assert gate(routers, noted(routers)).kind is Kind.DONE


def findings(routers: Routers, *, graceful: bool = False, **config: Any) -> list[tuple[Level, str]]:
    own = cluster(routers, **config)
    return [(finding.level, finding.what) for finding in examine(own, own.nodes.snapshot(), graceful=graceful)[0]]


def test_the_preflight_says_that_all_is_well(routers):
    assert findings(routers) == [(Level.NOTE, "All 8 BGP sessions of the nodes are up at cr1, cr2.")]


def test_the_preflight_names_what_is_down(routers):
    for router in ("cr1", "cr2"):
        for address in ADDRESSES["w2"]:
            routers.changed[router, address] = {"state": "Active", "ribs": (), "elapsed": 7200}
    routers.changed["cr2", "fd00::1"] = {"state": "Idle", "ribs": (), "elapsed": 30}
    found = findings(routers)
    assert found[0] == (Level.ASK, "w1 has BGP sessions that are down: cr2 fd00::1 is Idle since 30 s.")
    assert found[1][0] is Level.STOP
    assert found[1][1].startswith("w2 has no BGP session with any router: cr1 10.0.0.2 is Active since 2 h, ")


def test_the_preflight_stops_at_a_router_that_cannot_be_asked(routers):
    routers.broken["cr1"] = "lets fleet not in"
    assert findings(routers) == [(Level.STOP, f"{ONE} cr1 lets fleet not in.")]


def test_a_node_without_an_address_of_a_family_has_no_session_to_lose(routers):
    assert findings(routers, addresses={"w1": [], "w2": ["10.0.0.2"]}) == [
        (Level.STOP, "w1 has no BGP session with any router.")
    ]
