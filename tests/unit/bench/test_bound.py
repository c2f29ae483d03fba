"""The bound that a run's wall time is compared with."""

import itertools
import random

import pytest

from bench.scale.bound import in_order, least, least_of


def best(times: list[float], most: int) -> float:
    """Return what the best schedule takes, by trying all."""
    found = float("inf")
    for places in itertools.product(range(most), repeat=len(times)):
        loads = [0.0] * most
        for place, each in zip(places, times, strict=True):
            loads[place] += each
        found = min(found, max(loads))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_no_schedule_is_better_and_the_plain_one_is_not_much_worse(seed):
    source = random.Random(seed)
    most, times = source.choice([1, 2, 3]), [source.uniform(5, 9) for _ in range(source.randint(1, 7))]
    assert least_of(times, most) <= best(times, most) + 1e-9
    assert best(times, most) <= in_order(times, most) + 1e-9


def test_one_more_than_there_are_places_takes_two_rounds():
    assert least_of([5.0, 5.0, 5.0], 2) == 10.0
    assert least_of([9.0, 1.0], 2) == 9.0
    assert least_of([4.0] * 6, 2) == 12.0


def test_rows_follow_each_other_where_only_one_may_be_worked_on():
    rows = {"a": [5.0, 5.0, 5.0], "b": [7.0]}
    assert least(rows, most=2, rows_at_once=1) == 17.0
    assert least(rows, most=2, rows_at_once=2) == 11.0
