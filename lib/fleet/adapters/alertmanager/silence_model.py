"""Silences and alerts as plain data: what one Alertmanager has, and what all members of a cluster have together."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fleet.adapters.alertmanager.alertmanager import timestamp
from fleet.config.matchers import Matcher


@dataclass(frozen=True)
class Silence:
    """A silence; times are seconds since the epoch, by this host's clock."""

    id: str
    """One of its ids, if members have it under several."""
    state: str
    """``active``, ``pending`` or ``expired``."""
    comment: str
    author: str
    starts_at: float
    ends_at: float
    """When the first of the members lets it end."""
    matchers: tuple[Matcher, ...]
    lacking: tuple[str, ...] = ()
    """The members that answered and do not have it in force."""


@dataclass(frozen=True)
class Alert:
    """A firing alert."""

    host: str
    """The host that was asked for."""
    name: str
    instance: str
    """The label that names the host, as it is."""
    severity: str
    """The label ``severity``, perhaps empty."""
    starts_at: float
    """Since when, in seconds since the epoch, by this host's clock."""
    silenced: bool
    """Whether a silence, or another alert that inhibits this one, keeps it quiet, at every member that has it."""


@dataclass(frozen=True)
class Copy:
    """A silence as one member has it; times are the API's, by Alertmanager's clocks."""

    id: str
    """Empty for one that is to be created."""
    state: str
    comment: str
    author: str
    starts_at: str
    ends_at: str
    matchers: tuple[Matcher, ...]

    @property
    def in_force(self) -> bool:
        """Whether it has not ended."""
        return self.state != "expired"

    @cached_property
    def content(self) -> object:
        """What is the same of two copies of a silence that members have under different ids."""
        return self.comment, self.author, frozenset(self.matchers)

    def until(self, end: float) -> dict[str, Any]:
        """Return what is posted for it to end at a time, in seconds since the epoch by Alertmanager's clock."""
        return {
            **({"id": self.id} if self.id else {}),
            "matchers": [matcher.to_api() for matcher in self.matchers],
            "startsAt": self.starts_at,
            "endsAt": timestamp(end),
            "comment": self.comment,
            "createdBy": self.author,
        }

    @classmethod
    def from_api(cls, data: Mapping[str, Any]) -> "Copy":
        """Read it from the API.

        Raises:
            LookupError, TypeError, ValueError: it is none.
        """
        return cls(
            id=data["id"],
            state=data["status"]["state"],
            comment=data["comment"],
            author=data["createdBy"],
            starts_at=data["startsAt"],
            ends_at=data["endsAt"],
            matchers=tuple(Matcher.from_api(matcher) for matcher in data["matchers"]),
        )
