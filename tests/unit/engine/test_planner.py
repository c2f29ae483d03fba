"""Plans: order, limits and estimates."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.engine.model import Limits, Target
from fleet.engine.planner import estimate, group_limits, natural, order, resolve

units = st.lists(
    st.builds(Target, st.from_regex(r"w[0-9]{1,4}", fullmatch=True), st.sampled_from("abc")), unique_by=lambda u: u.name
)


@given(units, st.sets(st.sampled_from("abc")))
def test_a_domain_is_done_as_a_whole_and_nothing_is_lost(fleet, first):
    ordered = order(fleet, first=first)
    assert sorted(ordered, key=str) == sorted(fleet, key=str)
    domains = [unit.domain for unit in ordered]
    changes = sum(a != b for a, b in pairwise(domains))
    assert changes == max(0, len(set(domains)) - 1)
    degraded = [domain in first for domain in domains]
    assert degraded == sorted(degraded, reverse=True)


def test_numbers_in_names_are_numbers():
    assert sorted(["w10", "w2", "w1.b", "w1.a"], key=natural) == ["w1.a", "w1.b", "w2", "w10"]


@given(st.integers(1, 100), st.integers(1, 6000))
def test_a_percentage_is_never_exceeded(percent, total):
    try:
        number = resolve(f"{percent}%", total)
    except ValueError as error:
        assert total * percent < 100
        least = int(str(error).rsplit(" ", 1)[1].rstrip("%"))
        assert least > 100 or resolve(f"{least}%", total) >= 1
    else:
        assert 1 <= number <= total * percent / 100


def test_a_number_stays():
    assert resolve(3, 2) == 3


def test_groups_have_their_share_but_at_least_one():
    assert group_limits(["gpu"] * 3 + [""] * 20, "10%") == {"gpu": 1, "": 2}
    assert group_limits(["gpu"], 2) == {}


@pytest.mark.parametrize(
    ("sizes", "limits", "expected"),
    [
        ({"a": 2, "b": 2, "c": 2}, Limits(max_unavailable=2), 3),
        ({"a": 2, "b": 2, "c": 2}, Limits(max_unavailable=1), 6),
        ({"a": 3, "b": 1}, Limits(max_unavailable=2), 3),
        ({"a": 2, "b": 2}, Limits(max_unavailable=4, max_domains=2), 1),
        ({}, Limits(), 0),
    ],
)
def test_the_estimate_is_by_domain(sizes, limits, expected):
    fleet = [Target(f"{domain}{i}", domain) for domain, size in sizes.items() for i in range(size)]
    assert estimate(fleet, limits, 1.0) == expected
