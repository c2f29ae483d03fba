"""Time and threads of the operating system."""

import threading

import pytest

from fleet.clock import CLOCK, THREADS


def test_the_monotonic_clock_goes_on():
    before = CLOCK.monotonic()
    CLOCK.sleep(0.01)
    assert CLOCK.monotonic() >= before + 0.01


def test_a_call_is_repeated_until_it_is_stopped():
    calls: list[int] = []
    enough = threading.Event()

    def call() -> bool:
        calls.append(1)
        if len(calls) == 3:
            enough.set()
        return True

    repeating = THREADS.repeat(call, 0.001, "test")
    assert enough.wait(5)
    repeating.stop(wait=5)
    count = len(calls)
    CLOCK.sleep(0.02)
    assert len(calls) == count


def test_a_call_that_returns_false_is_not_repeated():
    calls: list[int] = []
    ended = threading.Event()

    def call() -> bool:
        calls.append(1)
        ended.set()
        return False

    repeating = THREADS.repeat(call, 0.001, "test")
    assert ended.wait(5)
    CLOCK.sleep(0.02)
    repeating.stop(wait=5)
    assert calls == [1]


def test_results_come_in_the_order_of_the_items():
    assert THREADS.map(lambda item: item * 2, [3, 1, 2], "test", most=2) == [6, 2, 4]
    assert THREADS.map(str, [], "test") == []


def test_an_error_of_one_item_is_raised():
    with pytest.raises(ZeroDivisionError):
        THREADS.map(lambda item: 1 // item, [1, 0, 2], "test")


def test_calls_are_made_at_the_same_time_and_a_hanging_one_does_not_keep_the_process():
    together = threading.Barrier(3, timeout=5)

    def call(_item: int) -> bool:
        together.wait()
        return threading.current_thread().daemon

    assert THREADS.map(call, [1, 2, 3], "test") == [True] * 3


def test_no_more_calls_than_asked_for_are_in_progress():
    going: list[int] = []

    def call(item: int) -> int:
        going.append(item)
        CLOCK.sleep(0.01)
        count = len(going)
        going.remove(item)
        return count

    assert max(THREADS.map(call, range(6), "test", most=2)) <= 2
