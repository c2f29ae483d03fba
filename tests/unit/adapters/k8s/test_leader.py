"""Leader election: what makes a leader count, and what makes it a dead one."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.adapters.k8s.leader import Election, Leadership, judge, parse, same_host

LEASE = {
    "metadata": {"name": "kube-scheduler", "resourceVersion": "812"},
    "spec": {
        "holderIdentity": "cp1_8f3c9b0e-6d0c-4b43-a0cb-2f6f33e6a5b1",
        "leaseDurationSeconds": 15,
        "acquireTime": "2021-03-01T10:00:00.000000Z",
        "renewTime": "2021-03-01T10:05:00.000000Z",
        "leaseTransitions": 3,
    },
}


def reading(holder="cp1_x", renewed="1", acquired="0", duration=15.0):
    return Leadership(holder, holder.partition("_")[0], acquired, renewed, duration)


def follow(readings):
    """Judge readings, each with the time of our clock, as a step does that keeps its facts as JSON."""
    facts, judgements = None, []
    for seen, now in readings:
        judgement = judge(seen, facts, now)
        facts = json.loads(json.dumps(judgement.facts))
        judgements.append(judgement)
    return judgements


def test_a_lease_is_read():
    assert parse(LEASE) == Leadership(
        holder="cp1_8f3c9b0e-6d0c-4b43-a0cb-2f6f33e6a5b1",
        host="cp1",
        acquired="2021-03-01T10:00:00.000000Z",
        renewed="2021-03-01T10:05:00.000000Z",
        duration=15.0,
    )


def test_a_lease_that_was_given_back_has_no_leader():
    lease = {"metadata": {"resourceVersion": "1"}, "spec": {"holderIdentity": "", "leaseDurationSeconds": 1}}
    assert (parse(lease).holder, parse(lease).host) == ("", "")
    assert judge(parse(lease), None, 0.0).election is Election.WAITING
    assert judge(None, None, 0.0).detail == "it has no leader: there is no Lease"


def test_a_leader_counts_once_it_renews():
    judgements = follow([(reading(renewed="1"), 0), (reading(renewed="1"), 1), (reading(renewed="2"), 2)])
    assert [each.election for each in judgements] == [Election.WAITING, Election.WAITING, Election.SETTLED]
    assert judgements[-1].detail == "cp1 leads"


def test_a_new_leader_has_to_renew_as_well():
    readings = [(reading(renewed="1"), 0), (reading(renewed="2"), 1), (reading("cp2_y", renewed="3"), 2)]
    assert follow(readings)[-1].election is Election.WAITING
    assert follow([*readings, (reading("cp2_y", renewed="4"), 3)])[-1].election is Election.SETTLED


def test_a_holder_that_acquired_the_lease_again_has_to_renew_again():
    readings = [(reading(renewed="1"), 0), (reading(renewed="2"), 1), (reading(renewed="9", acquired="9"), 30)]
    assert follow(readings)[-1].election is Election.WAITING


def test_a_leader_that_stops_to_renew_is_dead_after_its_lease_by_our_clock():
    readings = [(reading(renewed="1"), 100), (reading(renewed="2"), 102), (reading(renewed="2"), 116.9)]
    assert follow(readings)[-1].election is Election.SETTLED
    judgement = follow([*readings, (reading(renewed="2"), 119)])[-1]
    assert judgement.election is Election.DEAD
    assert judgement.detail == "its Lease is held by cp1_x, which has not renewed it for 17 s"


def test_a_leader_that_comes_back_to_life_is_none_any_more_dead():
    readings = [(reading(renewed="1"), 0), (reading(renewed="1"), 20), (reading(renewed="2"), 21)]
    assert [each.election for each in follow(readings)] == [Election.WAITING, Election.DEAD, Election.SETTLED]


def test_the_leader_s_clock_does_not_matter():
    """A renewal counts whether the leader's clock is years off or is set back."""
    readings = [
        (reading(renewed="2031-01-01T00:00:10.000000Z"), 0),
        (reading(renewed="2031-01-01T00:00:05.000000Z"), 2),
    ]
    assert follow(readings)[-1].election is Election.SETTLED


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "a_1", "b_2"]),
            st.integers(0, 3).map(str),
            st.floats(0, 100, allow_nan=False),
        ),
        min_size=1,
    )
)
def test_only_a_leader_seen_to_renew_within_its_duration_counts(history):
    """Whatever was read, and however our clock jumped."""
    judgements = follow([(reading(holder, renewed), now) for holder, renewed, now in history])
    for index, judgement in enumerate(judgements):
        holder, _, now = history[index]
        tenure: list[tuple[str, str, float]] = []  # the readings of this leader without another one in between
        for earlier in reversed(history[: index + 1]):
            if earlier[0] != holder:
                break
            tenure.insert(0, earlier)
        renewed = len({each[1] for each in tenure}) > 1
        if judgement.election is Election.SETTLED:
            assert holder
            assert renewed
            assert now - judgement.facts["since"] < 15
        elif judgement.election is Election.DEAD:
            assert holder
            assert any(now - each[2] >= 15 for each in tenure)
        else:
            assert not holder or not renewed


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("cp1", "cp1", True),
        ("cp1", "cp1.example.org", True),
        ("CP1.example.org", "cp1", True),
        ("cp1.example.org", "cp1.example.org.", True),
        ("cp1", "cp10", False),
        ("cp1", "cp10.example.org", False),
        ("cp1.a.example.org", "cp1.b.example.org", False),
        ("cp1.example", "cp1.example.org", False),
        ("", "", False),
        ("", "cp1", False),
    ],
)
def test_names_of_the_same_host(one, other, same):
    assert same_host(one, other) is same
    assert same_host(other, one) is same
