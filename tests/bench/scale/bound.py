"""The best schedule that the limits allow, from the hosts' own times and nothing else."""

import heapq
from collections.abc import Mapping, Sequence


def least(rows: Mapping[str, Sequence[float]], *, most: int, rows_at_once: int) -> float:
    """Return the seconds that no schedule can stay below.

    Args:
        rows: the times of the hosts in each row.
        most: hosts at once.
        rows_at_once: rows at once.
    """
    if rows_at_once == 1:
        return sum(least_of(times, most) for times in rows.values())
    return least_of([each for times in rows.values() for each in times], most)


def least_of(times: Sequence[float], most: int) -> float:
    """Return the seconds that no schedule can stay below where nothing but the places is limited.

    With k times ``most`` hosts and one more, some place has to take k + 1 of the longest: at least the shortest ones of
    these.
    """
    longest_first = sorted(times, reverse=True)
    bounds = [sum(times) / most, longest_first[0] if longest_first else 0.0]
    for rounds in range(1, (len(times) - 1) // most + 1):
        first = longest_first[: rounds * most + 1]
        bounds.append(sum(first[-(rounds + 1) :]))
    return max(bounds)


def in_order(times: Sequence[float], most: int) -> float:
    """Return the seconds of the schedule that takes hosts in their order, each as soon as there is a place."""
    places = [0.0] * most
    for each in times:
        heapq.heapreplace(places, places[0] + each)
    return max(places)
