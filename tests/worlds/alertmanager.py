"""Alertmanager in memory: silences, and alerts that fire for hosts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fleet.hosts.silences import Alert, NoSuchSilenceError, Silence, SilenceError
from worlds.timeline import Time


@dataclass
class Alertmanager:
    """Silences and alerts; stands for :class:`fleet.hosts.silences.Silences`.

    Attributes:
        moment: called before and after each change.
        on_expire: called with a silence that is about to be ended by us.
        silenced: all silences there ever were, by id, with the host.
        firing: the alerts that fire, by host.
        is_up: whether it answers.
    """

    time: Time
    moment: Callable[[], None]
    on_expire: Callable[[Silence], None]
    silenced: dict[str, tuple[str, Silence]] = field(default_factory=dict)
    firing: dict[str, set[str]] = field(default_factory=dict)
    is_up: bool = True

    def of(self, host: str) -> list[Silence]:
        """Return the silences of a host that are in force."""
        return [silence for of, silence in self.silenced.values() if of == host and silence.ends_at > self.time.now]

    def find(self, *, comment_contains: str) -> list[Silence]:
        self._ask()
        return [
            silence
            for _, silence in self.silenced.values()
            if silence.ends_at > self.time.now and comment_contains in silence.comment
        ]

    def create(
        self, hosts: Sequence[str], *, comment: str, author: str, duration: float, matchers: Sequence[Any] = ()
    ) -> str:
        self.moment()
        self._ask()
        number = f"s{len(self.silenced)}"
        now = self.time.now
        self.silenced[number] = hosts[0], Silence(number, "active", comment, author, now, now + duration, ())
        self.moment()
        return number

    def extend(self, silence_id: str, duration: float) -> str:
        self.moment()
        self._ask()
        if silence_id not in self.silenced:
            raise NoSuchSilenceError("No Alertmanager knows it.")
        host, silence = self.silenced[silence_id]
        if silence.ends_at <= self.time.now:
            return self.create([host], comment=silence.comment, author=silence.author, duration=duration)
        ends_at = max(silence.ends_at, self.time.now + duration)
        self.silenced[silence_id] = host, replace(silence, ends_at=ends_at)
        self.moment()
        return silence_id

    def expire(self, silence_id: str) -> None:
        self.moment()
        self._ask()
        if silence_id in self.silenced:
            self.on_expire(self.silenced[silence_id][1])
            self.end(silence_id)
        self.moment()

    def end(self, silence_id: str) -> None:
        """End a silence, whoever wants that."""
        host, silence = self.silenced[silence_id]
        if silence.ends_at > self.time.now:
            self.silenced[silence_id] = host, replace(silence, ends_at=self.time.now)

    def alerts(self, hosts: Sequence[str]) -> list[Alert]:
        self._ask()
        return [
            Alert(host, name, host, "page", self.time.now, True)
            for host in hosts
            for name in sorted(self.firing.get(host, ()))
        ]

    def _ask(self) -> None:
        if not self.is_up:
            self.time.advance(5.0)
            raise SilenceError("Alertmanager could not be asked")
