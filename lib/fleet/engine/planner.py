"""Plans: which targets, in which order, how many at once, and about how long. Pure functions over plain data."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from fleet.engine.model import Limits, Target


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key that puts ``worker2`` before ``worker10``."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name))


def order(targets: Iterable[Target], *, first: Iterable[str] = ()) -> tuple[Target, ...]:
    """Put targets in the order in which they are maintained: domain by domain, by name within a domain.

    Args:
        targets: the targets.
        first: domains to begin with: those that are degraded already.
    """
    degraded = frozenset(first)
    return tuple(
        sorted(
            targets, key=lambda target: (target.domain not in degraded, natural(target.domain), natural(target.name))
        )
    )


def resolve(amount: int | str, total: int) -> int:
    """Turn a number or percentage of targets into a number.

    Args:
        amount: ``2`` or ``"10%"``, as the configuration's ``Amount``.
        total: how many targets there are.

    Returns:
        The number, rounded down: never more than was allowed.

    Raises:
        ValueError: the percentage is less than one target.
    """
    if isinstance(amount, int):
        return amount
    number = total * int(amount.rstrip("%")) // 100
    if number < 1:
        least = math.ceil(100 / total) if total else 100
        raise ValueError(f"{amount} of {total} is less than one; write a number, or at least {least}%")
    return number


def group_limits(groups: Iterable[str], amount: int | str) -> Mapping[str, int]:
    """Return how many targets of each taint group may be unavailable at once.

    A group has the limit of the whole, applied to the group: a percentage of its members, but at least one, so that a
    small group can be maintained at all.

    Args:
        groups: the group of each target of the cluster.
        amount: the limit as configured.
    """
    if isinstance(amount, int):
        return {}
    share = int(amount.rstrip("%"))
    return {group: max(1, size * share // 100) for group, size in Counter(groups).items()}


def estimate(targets: Sequence[Target], limits: Limits, seconds: float) -> float:
    """Return about how long a stage takes, in seconds, when every target takes the given time.

    Args:
        targets: the targets.
        limits: how many at once.
        seconds: the time of one target.
    """
    sizes = sorted(Counter(target.domain for target in targets).values(), reverse=True)
    if limits.max_domains == 1:
        return sum(math.ceil(size / limits.max_unavailable) for size in sizes) * seconds
    rounds = math.ceil(len(targets) / min(limits.max_unavailable, len(targets) or 1))
    return rounds * seconds
