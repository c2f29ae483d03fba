"""Plans: which units, in which order, how many at once, and about how long. Pure functions over plain data."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from fleet.engine.model import Limits, Unit


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key that puts ``worker2`` before ``worker10``."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name))


def order(units: Iterable[Unit], *, first: Iterable[str] = ()) -> tuple[Unit, ...]:
    """Put units in the order in which they are maintained: domain by domain, by name within a domain.

    Args:
        units: the units.
        first: domains to begin with: those that are degraded already.
    """
    degraded = frozenset(first)
    return tuple(
        sorted(units, key=lambda unit: (unit.domain not in degraded, natural(unit.domain), natural(unit.name)))
    )


def resolve(amount: int | str, total: int) -> int:
    """Turn a number or percentage of units into a number.

    Args:
        amount: ``2`` or ``"10%"``, as the configuration's ``Amount``.
        total: how many units there are.

    Returns:
        The number, rounded down: never more than was allowed.

    Raises:
        ValueError: the percentage is less than one unit.
    """
    if isinstance(amount, int):
        return amount
    number = total * int(amount.rstrip("%")) // 100
    if number < 1:
        least = math.ceil(100 / total) if total else 100
        raise ValueError(f"{amount} of {total} is less than one; write a number, or at least {least}%")
    return number


def group_limits(groups: Iterable[str], amount: int | str) -> Mapping[str, int]:
    """Return how many units of each taint group may be unavailable at once.

    A group has the limit of the whole, applied to the group: a percentage of its members, but at least one, so that a
    small group can be maintained at all.

    Args:
        groups: the group of each unit of the cluster.
        amount: the limit as configured.
    """
    if isinstance(amount, int):
        return {}
    share = int(amount.rstrip("%"))
    return {group: max(1, size * share // 100) for group, size in Counter(groups).items()}


def estimate(units: Sequence[Unit], limits: Limits, seconds: float) -> float:
    """Return about how long a stage takes, in seconds, when every unit takes the given time.

    Args:
        units: the units.
        limits: how many at once.
        seconds: the time of one unit.
    """
    sizes = sorted(Counter(unit.domain for unit in units).values(), reverse=True)
    if limits.max_domains == 1:
        return sum(math.ceil(size / limits.max_unavailable) for size in sizes) * seconds
    rounds = math.ceil(len(units) / min(limits.max_unavailable, len(units) or 1))
    return rounds * seconds
