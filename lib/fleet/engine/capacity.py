"""How much room the limits leave: never more units unavailable than they allow, others' included. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping

from fleet.engine.model import Absent, Limits, Unit


class Capacity:
    """What is unavailable, and whether another unit may be.

    Args:
        limits: how much may be.
        ours: the units that this run made, or is about to make, unavailable.
        absent: those that others made unavailable, by name.
    """

    def __init__(self, limits: Limits, ours: Iterable[Unit], absent: Mapping[str, Absent]) -> None:
        self._limits = limits
        self._taken = {name: gone.group for name, gone in absent.items()}
        self._domains = {gone.domain for gone in absent.values() if gone.down}
        for unit in ours:
            self._taken[unit.name] = unit.group
            self._domains.add(unit.domain)
        self._groups = Counter(self._taken.values())

    def take(self, unit: Unit) -> bool:
        """Take the room that a unit needs, if there is any.

        A unit that is unavailable already needs no more of it.
        """
        if self._full(unit) or self._group_full(unit) or self._domains_full(unit):
            return False
        self._groups[unit.group] += unit.name not in self._taken
        self._taken[unit.name] = unit.group
        self._domains.add(unit.domain)
        return True

    def problem(self, unit: Unit) -> str:
        """Return why there is no room for a unit, for the operator; empty if there is."""
        if self._full(unit):
            names = sorted(self._taken)
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            return f"{', '.join(names[:5])}{more} unavailable, the limit is {self._limits.max_unavailable}"
        if self._group_full(unit):
            return f"{unit.name}: the limit of its taint group ({unit.group}) is reached"
        if self._domains_full(unit):
            others = ", ".join(sorted(self._domains - {unit.domain}))
            most = self._limits.max_domains
            return f"{unit.name}: {others} is being worked on or degraded; {most} domain at a time"
        return ""

    def _full(self, unit: Unit) -> bool:
        return len(self._taken) + (unit.name not in self._taken) > self._limits.max_unavailable

    def _group_full(self, unit: Unit) -> bool:
        most = self._limits.groups.get(unit.group, self._limits.max_unavailable)
        return self._groups[unit.group] + (unit.name not in self._taken) > most

    def _domains_full(self, unit: Unit) -> bool:
        return len(self._domains) + (unit.domain not in self._domains) > self._limits.max_domains
