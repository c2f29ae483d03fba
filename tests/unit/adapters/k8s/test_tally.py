"""The account of a watchdog: what counts as a failure, a gap, a lost event."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.adapters.k8s.tally import SHOWN_WITHIN, Report, Tally


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tally(clock):
    return Tally(("list", "write"), clock=clock)


def succeed(tally, clock, seconds, pause=0.5):
    for _ in range(round(seconds / pause)):
        clock.now += pause
        tally.succeeded("list")
        tally.succeeded("write")


def test_at_rest(tally, clock):
    succeed(tally, clock, 10)
    assert tally.report() == Report(40, 0, (), 0.5, 0, 0)
    assert tally.clean_for() == 10.0


def test_an_outage_is_a_gap_and_failures(tally, clock):
    succeed(tally, clock, 10)
    for _ in range(3):
        clock.now += 1
        tally.failed("list", "refused")
    assert tally.report().longest_gap == 3.0
    assert tally.clean_for() == 0.0
    succeed(tally, clock, 7)
    report = tally.report()
    assert (report.requests, report.failed, report.longest_gap) == (71, 3, 3.5)
    assert [text[9:] for text in report.failures] == ["list: refused"] * 3
    assert tally.clean_for() == 7.0


def test_the_gap_of_one_kind_is_not_closed_by_the_other(tally, clock):
    for _ in range(20):
        clock.now += 0.5
        tally.succeeded("list")
    assert tally.report().longest_gap == 10.0


def test_answers_that_fail_to_come_are_not_clean(tally, clock):
    succeed(tally, clock, 10)
    clock.now += 3
    assert tally.clean_for() == 0.0
    assert tally.report().failed == 0
    succeed(tally, clock, 1)
    assert tally.clean_for() == 14.0


def test_only_the_last_failures_are_kept_in_words(tally):
    for number in range(50):
        tally.failed("write", str(number))
    report = tally.report()
    assert report.failed == 50
    assert [text.split()[-1] for text in report.failures] == [str(number) for number in range(40, 50)]


def test_a_write_that_is_left_out_is_lost(tally):
    for number in (1, 2, 3):
        tally.wrote(number)
    tally.showed(1)
    tally.showed(3)
    report = tally.report()
    assert (report.events_lost, report.failed) == (1, 1)
    assert report.failures[0].endswith("watch: write 2 was left out")


def test_a_write_that_is_not_shown_in_time_is_lost_once(tally, clock):
    tally.wrote(1)
    clock.now += SHOWN_WITHIN - 0.1
    assert not tally.overdue()
    clock.now += 0.2
    assert tally.overdue()
    assert not tally.overdue()
    tally.showed(1)
    tally.wrote(2)
    tally.showed(2)
    assert tally.report().events_lost == 1


def test_a_write_whose_answer_was_lost_may_be_shown_or_not(tally, clock):
    tally.wrote(1)
    tally.showed(1)
    tally.failed("write", "timed out")  # the second, which nevertheless arrives late
    tally.wrote(3)
    tally.showed(3)
    tally.showed(2)
    tally.wrote(4)
    tally.showed(4)
    clock.now += 60
    assert not tally.overdue()
    assert tally.report().events_lost == 0


def test_nothing_counts_after_the_end(tally, clock):
    succeed(tally, clock, 10)
    before = tally.report()
    tally.end()
    clock.now += 100
    tally.succeeded("write")
    tally.failed("list", "refused")
    tally.reconnected()
    tally.wrote(1)
    tally.showed(2)
    assert tally.report() == before
    assert tally.clean_for() == 10.0


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans())))
def test_exactly_the_writes_that_the_watch_never_shows_are_lost(writes):
    """Events come in order, before or after the answer to their write, and some are left out."""
    clock = Clock()
    tally = Tally(("list", "write"), clock=clock)
    coming: list[int] = []
    for number, (works, shown, early) in enumerate(writes, 1):
        if shown:
            coming.append(number)
        while early and coming:
            tally.showed(coming.pop(0))
        if works:
            tally.wrote(number)
        else:
            tally.failed("write", "broken")
    for each in coming:
        tally.showed(each)
    clock.now += 60
    tally.overdue()
    assert tally.report().events_lost == sum(works and not shown for works, shown, _ in writes)
