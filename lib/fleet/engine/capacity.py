"""How much room the limits leave: never more targets unavailable than they allow, others' included. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping

from fleet.engine.model import Absent, Limits, Target


class Capacity:
    """What is unavailable, and whether another target may be.

    Args:
        limits: how much may be.
        ours: the targets that this run made, or is about to make, unavailable.
        absent: those that others made unavailable, by name.
    """

    def __init__(self, limits: Limits, ours: Iterable[Target], absent: Mapping[str, Absent]) -> None:
        self._limits = limits
        self._taken = {name: gone.group for name, gone in absent.items()}
        self._domains = {gone.domain for gone in absent.values() if gone.down}
        for target in ours:
            self._taken[target.name] = target.group
            self._domains.add(target.domain)
        self._groups = Counter(self._taken.values())

    def take(self, target: Target) -> bool:
        """Take the room that a target needs, if there is any.

        A target that is unavailable already needs no more of it.
        """
        if self._full(target) or self._group_full(target) or self._domains_full(target):
            return False
        self._groups[target.group] += target.name not in self._taken
        self._taken[target.name] = target.group
        self._domains.add(target.domain)
        return True

    def problem(self, target: Target) -> str:
        """Return why there is no room for a target, for the operator; empty if there is."""
        if self._full(target):
            names = sorted(self._taken)
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            return f"{', '.join(names[:5])}{more} unavailable, the limit is {self._limits.max_unavailable}"
        if self._group_full(target):
            return f"{target.name}: the limit of its taint group ({target.group}) is reached"
        if self._domains_full(target):
            others = ", ".join(sorted(self._domains - {target.domain}))
            most = self._limits.max_domains
            return f"{target.name}: {others} is being worked on or degraded; {most} domain at a time"
        return ""

    def _full(self, target: Target) -> bool:
        return len(self._taken) + (target.name not in self._taken) > self._limits.max_unavailable

    def _group_full(self, target: Target) -> bool:
        most = self._limits.groups.get(target.group, self._limits.max_unavailable)
        return self._groups[target.group] + (target.name not in self._taken) > most

    def _domains_full(self, target: Target) -> bool:
        return len(self._domains) + (target.domain not in self._domains) > self._limits.max_domains
