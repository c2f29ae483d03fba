"""Which BGP sessions a node must have, and when the routers prove that they are back."""

import json
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.adapters.bgp import verify
from fleet.adapters.bgp.summary import ESTABLISHED, Peer, Rib, Summary
from fleet.adapters.bgp.verify import Session
from fleet.adapters.k8s.model import parse_node
from fleet.config.model import BgpConfig
from fleet.errors import FleetError

ASN = 64601
NOW = 1_700_000_000.0
SINCE = NOW - 60
V4, V6 = ip_address("10.64.0.121"), ip_address("2620:0:861:101:10:64:0:121")
TABLES = {4: "inet.0", 6: "inet6.0"}
UNREAD = FleetError("cr2 cannot be reached: no route to host")
PROBLEM = f"1 of 2 core routers could not be asked: {UNREAD}"


def config(**changes):
    return BgpConfig.model_validate(
        {
            "routers": {"cr1": {}, "cr2": {}},
            "username": "fleet",
            "ssh_key": "/key",
            "known_hosts": "/known",
            "asn": ASN,
            **changes,
        }
    )


def node(*, annotations=None, addresses=("10.64.0.121", "2620:0:861:101:10:64:0:121")):
    status = {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]}
    status["addresses"].append({"type": "Hostname", "address": "worker1"})
    return parse_node({"metadata": {"name": "worker1", "annotations": annotations or {}}, "status": status})


def peer(address=V4, *, state=ESTABLISHED, elapsed=5000, flaps=2, accepted=2, asn=ASN):
    ribs = (Rib(TABLES[address.version], accepted, accepted, accepted, 0),) if state == ESTABLISHED else ()
    return Peer(address, asn, state, elapsed, flaps, ribs=ribs)


def reading(*peers, taken=NOW):
    return Summary(peers, taken)


def doubts(before, after, *, since=SINCE, stable=10.0):
    """What is not proven by cr1, which had some peers before and has others after the restart."""
    sessions = verify.expected([V4], ["cr1"])
    baseline = verify.baseline(sessions, {"cr1": before}, ASN)
    return verify.unproven(json.loads(json.dumps(baseline)), {"cr1": after}, ASN, since=since, stable=stable)


class TestAddresses:
    def test_internal_ones(self):
        assert verify.addresses_of(node(addresses=(str(V6), str(V4), str(V4))), config()) == (V4, V6)

    def test_those_of_the_configured_families(self):
        assert verify.addresses_of(node(), config(families=["ipv6"])) == (V6,)
        assert verify.addresses_of(node(addresses=["10.64.0.121"]), config(families=["ipv6"])) == ()

    def test_calicos(self):
        calico = {
            "projectcalico.org/IPv4Address": "10.1.2.3/24",
            "projectcalico.org/IPv6Address": "2001:db8::3/64",
            "projectcalico.org/IPv4IPIPTunnelAddr": "10.9.9.9",
        }
        assert verify.addresses_of(node(annotations=calico), config()) == (
            ip_address("10.1.2.3"),
            ip_address("2001:db8::3"),
        )

    def test_calico_with_one_family_has_sessions_in_no_other(self):
        calico = {"projectcalico.org/IPv4Address": "10.1.2.3", "projectcalico.org/IPv6Address": ""}
        assert verify.addresses_of(node(annotations=calico), config()) == (ip_address("10.1.2.3"),)

    def test_the_configurations(self):
        calico = {"projectcalico.org/IPv4Address": "10.1.2.3/24"}
        named = config(addresses={"worker1": ["2001:db8::9", "192.0.2.9"], "worker2": ["192.0.2.8"]})
        assert verify.addresses_of(node(annotations=calico), named) == (
            ip_address("192.0.2.9"),
            ip_address("2001:db8::9"),
        )

    def test_one_that_cannot_be_read(self):
        with pytest.raises(FleetError, match=r"worker1 has an address that cannot be read: .*10\.1\.2\.300"):
            verify.addresses_of(node(annotations={"projectcalico.org/IPv4Address": "10.1.2.300/24"}), config())


def test_every_address_has_a_session_with_every_router():
    sessions = verify.expected([V4, V6], ["cr1", "cr2"])
    assert list(map(str, sessions)) == [f"cr1 {V4}", f"cr1 {V6}", f"cr2 {V4}", f"cr2 {V6}"]


class TestUnproven:
    def test_all_is_well(self):
        assert doubts(reading(peer()), reading(peer(elapsed=30, flaps=3))) == []

    @pytest.mark.parametrize(
        ("after", "why"),
        [
            ((), "no such peer"),
            ((peer(elapsed=30, flaps=3, asn=65000),), "no such peer"),
            ((peer(state="Active", elapsed=30, flaps=3),), "Active"),
            ((peer(state="OpenConfirm", elapsed=1, flaps=3),), "OpenConfirm"),
            ((peer(),), "has not gone down yet"),
            ((peer(elapsed=62, flaps=3),), "has not gone down yet"),
            ((peer(elapsed=30, flaps=3, accepted=1),), "1 of 2 prefixes in inet.0"),
            ((replace(peer(elapsed=30, flaps=3), ribs=()),), "0 of 2 prefixes in inet.0"),
            ((peer(elapsed=3, flaps=3),), "up for 3 s of 10 s"),
        ],
    )
    def test_what_is_not(self, after, why):
        assert doubts(reading(peer()), reading(*after)) == [f"cr1 10.64.0.121: {why}"]

    @pytest.mark.parametrize(("before", "now"), [(0, 0), (0, 1), (2, 2), (7, 0), (5, 1), (2**32 - 1, 0)])
    def test_its_age_proves_it_whatever_its_counter_says(self, before, now):
        """Dynamic peers, a routing process that restarted, counts that were cleared or wrapped."""
        assert doubts(reading(peer(flaps=before)), reading(peer(elapsed=30, flaps=now))) == []

    @pytest.mark.parametrize("flaps", [0, 1, 2, 3, 9])
    def test_no_counter_makes_an_old_session_a_new_one(self, flaps):
        assert doubts(reading(peer()), reading(peer(elapsed=62, flaps=flaps))) == [
            "cr1 10.64.0.121: has not gone down yet"
        ]

    def test_one_that_is_only_just_young_enough_must_be_another_one(self):
        """Routers round ages down: it may have gone up right before the restart."""
        why = ["cr1 10.64.0.121: went up with the restart or just before it, and its flap count is still 2"]
        for age in (59, 60, 61):
            assert doubts(reading(peer(elapsed=10)), reading(peer(elapsed=age))) == why
            assert doubts(reading(peer(elapsed=10)), reading(peer(elapsed=age, flaps=3))) == []
            assert doubts(reading(peer(elapsed=5000)), reading(peer(elapsed=age))) == [], "it is younger than it was"
        assert doubts(reading(peer(elapsed=10)), reading(peer(elapsed=58))) == []

    def test_one_that_went_up_clearly_later_than_that_of_the_baseline_is_another_one(self):
        """A peer that is made anew has no count that tells it, and grows older than it was when it is waited for."""
        sessions = verify.expected([V4], ["cr1"])
        for earlier, left in ((1.0, 1), (2.9, 1), (3.5, 0), (300.0, 0)):
            noted = verify.baseline(sessions, {"cr1": reading(peer(elapsed=5), taken=SINCE - earlier + 5)}, ASN)
            now = {"cr1": reading(peer(elapsed=60))}
            assert len(verify.unproven(noted, now, ASN, since=SINCE, stable=10)) == left, earlier

    @given(st.floats(0, 3600), st.floats(0, 1), st.floats(0, 1), st.floats(0, 300))
    def test_the_same_session_is_never_taken_for_another_one(self, age, first, second, later):
        """Ages are rounded down, and each answer takes up to a second."""
        sessions = verify.expected([V4], ["cr1"])
        up = SINCE - 1
        noted = verify.baseline(sessions, {"cr1": reading(peer(elapsed=int(age)), taken=up + age + first)}, ASN)
        now = {"cr1": reading(peer(elapsed=int(age + later)), taken=up + age + later + second)}
        assert verify.unproven(noted, now, ASN, since=SINCE, stable=0)

    def test_a_baseline_of_an_older_version_tells_no_age(self):
        sessions = verify.expected([V4], ["cr1"])
        noted = verify.baseline(sessions, {"cr1": reading(peer())}, ASN)
        del noted["cr1"][str(V4)]["age"], noted["cr1"][str(V4)]["began"]
        for age, left in ((58, 0), (60, 1)):
            now = {"cr1": reading(peer(elapsed=age))}
            assert len(verify.unproven(noted, now, ASN, since=SINCE, stable=10)) == left

    def test_where_only_a_clock_tells_of_the_restart_one_other_sign_is_enough(self):
        """This host was booted since, and its clock may have been set."""
        sessions = verify.expected([V4], ["cr1"])
        noted = verify.baseline(sessions, {"cr1": reading(peer())}, ASN)

        def left(now, since):
            readings = {"cr1": reading(now)}
            return verify.unproven(noted, readings, ASN, since=since, stable=10, is_certain=False)

        behind, ahead = NOW - 10_000, NOW + 10_000
        for since in (behind, NOW - 60, ahead):
            assert left(peer(elapsed=20), since) == [], "it is younger than it was"
            assert left(peer(elapsed=9000, flaps=3), since) == [], "it went down"
        why = ["cr1 10.64.0.121: nothing tells that it has gone down"]
        assert left(peer(elapsed=9000), NOW - 9100) == [], "it is clearly younger than the restart"
        assert left(peer(elapsed=9000), NOW - 9030) == why
        assert left(peer(elapsed=9000), NOW - 60) == why

    def test_sessions_of_any_age_will_do_where_nothing_was_restarted(self):
        assert doubts(reading(peer()), reading(peer()), since=None) == []
        assert doubts(reading(peer()), reading(peer(elapsed=3)), since=None) == ["cr1 10.64.0.121: up for 3 s of 10 s"]
        assert doubts(reading(peer()), reading(peer(state="Idle")), since=None) == ["cr1 10.64.0.121: Idle"]

    def test_no_stability_asked_for(self):
        assert doubts(reading(peer()), reading(peer(elapsed=0, flaps=3)), stable=0.0) == []

    def test_more_prefixes_and_tables_are_fine(self):
        more = peer(elapsed=30, flaps=3, accepted=5)
        assert doubts(reading(peer()), reading(replace(more, ribs=(*more.ribs, Rib("inet.2", 0, 0, 0, 0))))) == []

    def test_every_table_counts(self):
        before = replace(peer(), ribs=(Rib("inet.0", 2, 2, 2, 0), Rib("inet.2", 1, 1, 1, 0)))
        assert doubts(reading(before), reading(peer(elapsed=30, flaps=3))) == [
            "cr1 10.64.0.121: 0 of 1 prefix in inet.2"
        ]

    def test_it_is_what_was_accepted_that_counts(self):
        unaccepted = replace(peer(elapsed=30, flaps=3), ribs=(Rib("inet.0", 2, 2, 1, 0),))
        assert doubts(reading(peer()), reading(unaccepted)) == ["cr1 10.64.0.121: 1 of 2 prefixes in inet.0"]

    @pytest.mark.parametrize("before", [(), (peer(state="Active"),), (peer(asn=65000),)])
    def test_a_session_that_was_down_before_is_not_asked_for(self, before):
        assert doubts(reading(*before), reading(peer(state="Active"))) == []

    def test_one_that_was_in_several_routing_instances(self):
        before = reading(peer(), peer(flaps=3))
        assert doubts(before, reading(peer(elapsed=30, flaps=3), peer(elapsed=31, flaps=4))) == []
        assert doubts(before, reading(peer(elapsed=30, flaps=3), peer(flaps=4))) == [
            "cr1 10.64.0.121: has not gone down yet"
        ]
        assert doubts(before, reading(peer(elapsed=30, flaps=3), peer(elapsed=9, flaps=4, state="Idle"))) == [
            "cr1 10.64.0.121: Idle"
        ]
        assert doubts(before, reading(peer(elapsed=30, flaps=4))) == ["cr1 10.64.0.121: 1 of 2 sessions"]
        assert doubts(before, reading(peer(elapsed=30, flaps=3), peer(elapsed=9, flaps=4))) == [
            "cr1 10.64.0.121: up for 9 s of 10 s"
        ]
        assert doubts(before, reading(peer(elapsed=30, flaps=3), peer(elapsed=30, flaps=3))) == []

    def test_the_one_of_several_that_was_up(self):
        before = reading(peer(), peer(state="Idle", flaps=0))
        assert doubts(before, reading(peer(elapsed=30, flaps=3), peer(state="Idle", flaps=0))) == []

    def test_a_router_that_cannot_be_asked_is_named_once(self):
        sessions = verify.expected([V4, V6], ["cr1", "cr2"])
        well = reading(peer(), peer(V6))
        baseline = verify.baseline(sessions, {"cr1": well, "cr2": well}, ASN)
        now = reading(peer(elapsed=30, flaps=3), peer(V6, elapsed=30, flaps=3))
        assert verify.unproven(baseline, {"cr1": now, "cr2": UNREAD}, ASN, since=SINCE, stable=10) == [PROBLEM]
        assert verify.unproven(baseline, {"cr1": now}, ASN, since=SINCE, stable=10) == [
            PROBLEM.replace(str(UNREAD), "cr2 was not asked")
        ]

    def test_a_router_that_had_no_session_keeps_the_gate_closed_as_well(self):
        assert verify.unproven({}, {"cr2": UNREAD}, ASN, since=None, stable=0) == [PROBLEM.replace("1 of 2", "1 of 1")]


def test_sessions_that_are_missing():
    sessions = verify.expected([V4, V6], ["cr1", "cr2", "cr3"])
    readings = {"cr1": reading(peer(state="Active", elapsed=1933)), "cr2": UNREAD, "cr3": reading(peer(), peer(V6))}
    assert verify.missing(sessions, readings, ASN) == [
        (Session("cr1", V4), "is Active since 32 min"),
        (Session("cr1", V6), "is no peer in AS 64601"),
        (Session("cr2", V4), f"is not known: {UNREAD}"),
        (Session("cr2", V6), f"is not known: {UNREAD}"),
    ]


def test_sessions_that_are_too_young_to_be_told_from_the_next_ones():
    sessions = [Session("cr1", ip_address(V4)), Session("cr2", ip_address(V4)), Session("cr3", ip_address(V4))]
    readings = {"cr1": reading(peer(elapsed=verify.YOUNG - 1)), "cr2": reading(peer(elapsed=verify.YOUNG))}
    assert verify.young(sessions, readings, ASN) == [(sessions[0], "is up for 3 s only")]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172799, "47 h"),
        (172800, "2 d"),
        (7422351, "85 d"),
    ],
)
def test_times_for_people(seconds, words):
    assert verify.lasting(seconds) == words


ROUTERS = ("cr1", "cr2")
SESSIONS = verify.expected([V4, V6], ROUTERS)
STABLE = 10.0


@st.composite
def baselines(draw):
    """What the routers had: each session up or down, with some flaps and prefixes."""
    return {
        router: reading(
            *(
                peer(
                    address,
                    state=draw(st.sampled_from((ESTABLISHED, ESTABLISHED, "Active"))),
                    elapsed=draw(st.integers(0, 10**7)),
                    flaps=draw(st.integers(0, 5)),
                    accepted=draw(st.integers(1, 3)),
                )
                for address in (V4, V6)
            ),
            taken=SINCE - draw(st.floats(1, 600)),
        )
        for router in ROUTERS
    }


@st.composite
def recovered(draw, before):
    """What the routers say when all is well again: everything went up at some time after the restart."""
    taken = NOW + draw(st.floats(0, 600))
    longest = int(taken - SINCE) - 2  # whole seconds, as routers round them
    peers = {
        router: [
            replace(
                old,
                state=ESTABLISHED,
                elapsed=draw(st.integers(int(STABLE), longest)),
                flaps=draw(st.integers(0, 9)),  # counts start anew at any time
                ribs=tuple(replace(rib, accepted=rib.accepted + draw(st.integers(0, 2))) for rib in old.ribs),
            )
            for old in before[router].peers
        ]
        for router in ROUTERS
    }
    return {router: reading(*peers[router], taken=taken) for router in ROUTERS}


def left(before, now):
    return verify.unproven(verify.baseline(SESSIONS, before, ASN), now, ASN, since=SINCE, stable=STABLE)


@given(st.data())
@settings(deadline=None)
def test_the_gate_opens_when_all_is_well(data):
    before = data.draw(baselines())
    assert left(before, data.draw(recovered(before))) == []


def _down(peer, **_):
    return replace(peer, state="OpenSent", ribs=())


def _old(peer, *, taken, **_):
    return replace(peer, elapsed=int(taken - SINCE) + 2)


def _unstable(peer, **_):
    return replace(peer, elapsed=int(STABLE) - 1)


def _elsewhere(peer, **_):
    return replace(peer, asn=ASN + 1)


def _fewer(peer, *, old, **_):
    return replace(peer, ribs=tuple(replace(rib, accepted=rib.accepted - 1) for rib in old.ribs))


@given(st.data(), st.sampled_from((_down, _old, _unstable, _elsewhere, _fewer)))
@settings(deadline=None)
def test_one_session_keeps_it_closed(data, spoil):
    before = data.draw(baselines())
    now = data.draw(recovered(before))
    router, index = data.draw(st.sampled_from(ROUTERS)), data.draw(st.sampled_from((0, 1)))
    old, peers, taken = before[router].peers[index], list(now[router].peers), now[router].taken
    peers[index] = spoil(peers[index], old=old, taken=taken)

    doubt = left(before, {**now, router: reading(*peers, taken=taken)})

    assert [line.partition(": ")[0] for line in doubt] == ([f"{router} {old.address}"] if old.established else [])


@given(st.data(), st.sampled_from(ROUTERS))
@settings(deadline=None)
def test_one_router_that_is_not_read_keeps_it_closed(data, router):
    before = data.draw(baselines())
    now = data.draw(recovered(before))
    away = FleetError(f"{router} is away")
    problem = f"1 of {len({*now, router})} core routers could not be asked: {away}"
    assert left(before, {**now, router: away}) == [problem]
    del now[router]
    (told,) = left(before, now)
    assert told.endswith(f"could not be asked: {router} was not asked")


@given(st.floats(0, 300), st.floats(0, 30), st.floats(0, 1))
@settings(deadline=None)
def test_a_session_that_went_up_after_the_restart_is_never_too_old(up, later, latency):
    """Whatever the moments are: the router rounds an age down, and its answer takes a while."""
    asked = SINCE + up + later
    now = reading(peer(elapsed=int(asked - (SINCE + up)), flaps=3), taken=asked + latency)
    assert doubts(reading(peer()), now, stable=0) == []


@given(st.floats(2, 10**6), st.floats(0, 300))
@settings(deadline=None)
def test_a_session_that_went_up_before_the_restart_never_passes(before, later):
    """However often it flapped, and whatever else it brings."""
    asked = SINCE + later
    now = reading(peer(elapsed=int(later + before), flaps=9, accepted=9), taken=asked)
    assert doubts(reading(peer()), now, stable=0) == ["cr1 10.64.0.121: has not gone down yet"]
