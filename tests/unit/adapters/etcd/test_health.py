"""Which member of etcd may be taken down: quorum is never risked, whatever the members say."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.etcd import health
from fleet.adapters.etcd.health import MAX_LAG, Answer, Member, NoAnswer, Status, View


def members(count: int, learners: int = 0) -> tuple[Member, ...]:
    return tuple(Member(100 + n, f"m{n}", (f"https://m{n}:2379",), n >= count) for n in range(count + learners))


def cluster(voters: int, learners: int = 0, *, leader: int = 0) -> dict[str, Answer | NoAnswer]:
    """Return what a cluster says that is well; its hosts are h0, h1 … A learner cannot be asked for the list."""
    listed = members(voters, learners)
    return {
        f"h{n}": Answer(
            Status(f"h{n}", member.id, 100 + leader, 7, 5000, 4990, 1 << 20, member.learner, (), "3.5.1"),
            () if member.learner else listed,
            "",
        )
        for n, member in enumerate(listed)
    }


def change(view: View, host: str, **values: Any) -> dict[str, Answer | NoAnswer]:
    answer = view[host]
    assert isinstance(answer, Answer)
    return {**view, host: replace(answer, status=replace(answer.status, **values))}


@pytest.mark.parametrize(("voters", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_a_quorum_is_more_than_half_of_the_votes(voters: int, needed: int) -> None:
    assert health.quorum(members(voters, 2)) == needed


BREAKS = {
    "is silent": lambda view, host: {**view, host: NoAnswer("no answer within 20 s")},
    "is unhealthy": lambda view, host: {**view, host: replace(view[host], unhealthy="deadline exceeded")},
    "has an alarm": lambda view, host: change(view, host, errors=("memberID:100 alarm:NOSPACE",)),
    "follows nobody": lambda view, host: change(view, host, leader=0),
    "follows another": lambda view, host: change(view, host, leader=999),
    "is in an older term": lambda view, host: change(view, host, raft_term=6),
    "is far behind": lambda view, host: change(view, host, raft_applied_index=5000 - MAX_LAG - 1),
    "is a stranger": lambda view, host: change(view, host, member_id=999),
    "has another list": lambda view, host: {**view, host: replace(view[host], members=view[host].members[:-1])},
    "is a learner unawares": lambda view, host: change(view, host, is_learner=not view[host].status.is_learner),
}


@pytest.mark.parametrize("what", BREAKS)
@pytest.mark.parametrize("voters", [3, 5])
def test_a_member_that_is_not_well_keeps_all_others_up(what: str, voters: int) -> None:
    view = BREAKS[what](cluster(voters), "h1")
    assert "h1" in health.problem(view)
    assert "h1" in health.restart_problem(view, "h0")
    assert "h1" in health.caught_up(view, "h0", 0)
    assert health.restart_problem(view, "h1") == "" or what == "is a stranger"  # it may be restarted to mend it


@pytest.mark.parametrize("learners", [0, 1])
def test_small_clusters_cannot_spare_a_member(learners: int) -> None:
    view = cluster(2, learners)
    assert "without h0 1 voting member would be left, and 2 are needed" in health.restart_problem(view, "h0")


def test_learners_are_no_quorum() -> None:
    view = cluster(1, 2)
    assert health.restart_problem(view, "h0") == "of h1, h2 none has a vote: the cluster cannot do without h0"
    assert health.restart_problem(view, "h1") == "", "a learner is not missed"


def test_a_learner_that_is_not_in_the_list_keeps_all_others_up() -> None:
    view = change(cluster(3, 1), "h3", member_id=999)
    assert health.problem(view) == "h3 (3e7) is not in the member list that h0 has"
    assert "h3 (3e7) is not in the member list" in health.restart_problem(view, "h0")


def test_the_only_member_cannot_be_spared() -> None:
    assert "h0 is the only member" in health.restart_problem(cluster(1), "h0")


def test_a_member_that_nobody_asks_keeps_all_others_up() -> None:
    view = cluster(5)
    del view["h4"]
    assert "m1 (65), m4 (68) are members" in health.restart_problem(view, "h1")
    assert "etcd.hosts must find the hosts of all members" in health.restart_problem(view, "h1")


def test_a_host_without_a_member_is_not_restarted() -> None:
    view = {**cluster(3), "h9": NoAnswer("connection refused")}
    assert "h9 is no member in the list that h0 has" in health.restart_problem(view, "h9")


def test_hosts_that_ask_the_same_member_are_named() -> None:
    view = change(cluster(3), "h2", member_id=101)
    assert health.restart_problem(view, "h0").startswith("h1 and h2 are the same member, 65")


def test_a_member_that_was_never_started_is_named() -> None:
    listed = (*members(3), Member(103, "", (), False))
    view = {h: replace(a, members=listed) for h, a in cluster(3).items() if isinstance(a, Answer)}
    assert "one that was never started (67)" in health.restart_problem(view, "h1")


def test_a_member_catches_up() -> None:
    behind = change(cluster(3), "h1", raft_applied_index=4500)
    assert health.caught_up(behind, "h1", 4501) == "h1 has applied the log up to 4500 of 4501"
    assert health.caught_up(behind, "h1", 4500) == ""
    assert health.index(behind) == 5000
    assert health.index({"h0": NoAnswer("down")}) == 0


def test_a_split_cluster_follows_those_of_the_latest_term() -> None:
    view = change(cluster(3, leader=0), "h0", raft_term=6)
    view = change(change(view, "h1", leader=102), "h2", leader=102)
    assert health.leader(view) == "h2"
    assert health.problem(view) == "h0 follows h0 in term 6, while others follow h2 in term 7"


@st.composite
def views(draw: st.DrawFn) -> dict[str, Answer | NoAnswer]:
    """Clusters of any size, of which some members are not well, in any way, and some are not asked."""
    voters = draw(st.integers(1, 7))
    view = cluster(voters, draw(st.integers(0, 2)), leader=draw(st.integers(0, voters - 1)))
    for host in sorted(view):
        view = change(view, host, raft_applied_index=draw(st.integers(4000, 5000)))
    for host in draw(st.lists(st.sampled_from(sorted(view)), max_size=3, unique=True)):
        view = BREAKS[draw(st.sampled_from(sorted(BREAKS)))](view, host)
    if len(view) > 1 and draw(st.booleans()):
        del view[draw(st.sampled_from(sorted(view)))]
    if (
        draw(st.integers(0, 4)) == 0
    ):  # One that was added and never started is nobody's vote, and counts for the quorum.
        added = Member(900, "", (), draw(st.booleans()))
        for host, answer in view.items():
            if isinstance(answer, Answer) and answer.members:
                view[host] = replace(answer, members=(*answer.members, added))
    return view


def well(view: View, host: str) -> bool:
    """Say so in other words than the module does: the member would answer its clients, with a vote."""
    answer = view[host]
    return (
        isinstance(answer, Answer)
        and not answer.unhealthy
        and not answer.status.errors
        and not answer.status.is_learner
        and (answer.status.leader, answer.status.raft_term) != (0, 7)
        and answer.status.member_id in {member.id for member in answer.members if not member.learner}
    )


@given(views())
def test_what_may_be_taken_down_leaves_a_quorum_of_members_that_are_well(view: dict[str, Answer | NoAnswer]) -> None:
    for host in view:
        if health.restart_problem(view, host) == "":
            rest = [other for other in view if other != host]
            assert all(isinstance(view[other], Answer) for other in rest)
            lists = {a.members for o, a in view.items() if o != host and isinstance(a, Answer) and a.members}
            assert len(lists) == 1
            listed = lists.pop()
            assert len(listed) == len(view)  # its own member is one of them, and the only one that nothing was heard of
            votes = {
                a.status.member_id for o, a in view.items() if o in rest and isinstance(a, Answer) and well(view, o)
            }
            assert len(votes) >= sum(not member.learner for member in listed) // 2 + 1
            followed = {
                (a.status.leader, a.status.raft_term) for o, a in view.items() if o in rest and isinstance(a, Answer)
            }
            assert len(followed) == 1


@given(st.integers(3, 7), st.integers(0, 2), st.data())
def test_any_one_member_of_a_cluster_that_is_well_may_be_taken_down(
    voters: int, learners: int, data: st.DataObject
) -> None:
    view = cluster(voters, learners, leader=data.draw(st.integers(0, voters - 1)))
    assert health.problem(view) == ""
    assert [health.restart_problem(view, host) for host in view] == [""] * len(view)


@given(views())
def test_the_leader_is_the_last_and_hands_over_to_one_that_is_well(view: dict[str, Answer | NoAnswer]) -> None:
    order = health.order(view)
    assert sorted(order) == sorted(view)
    leader = health.leader(view)
    assert order[:-1] == sorted(order[:-1])
    if leader:
        assert order[-1] == leader
    for host in view:
        successor = health.successor(view, host)
        if successor is not None:
            assert successor.host != host
            assert well(view, successor.host)
        if health.restart_problem(view, host) == "":
            assert successor is not None
            best = max(
                answer.status.raft_applied_index
                for other, answer in view.items()
                if other != host and isinstance(answer, Answer) and not answer.status.is_learner
            )
            assert successor.raft_applied_index == best or not well(view, host)


def test_all_members_that_do_not_answer_are_named_in_one_message() -> None:
    silent = {"etcd2": NoAnswer("connection refused"), "etcd3": NoAnswer("no answer within 20 s")}

    assert health.problem(silent) == (
        "2 of 2 members of etcd could not be asked: etcd2 does not answer: connection refused; etcd3 does not answer:"
        " no answer within 20 s"
    )
    assert health.restart_problem({**silent, "etcd1": NoAnswer("x")}, "etcd1").startswith(
        "2 of 3 members of etcd could not"
    )
