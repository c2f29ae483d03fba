"""Two Alertmanagers in a mesh, in memory, behind the real :class:`fleet.adapters.alertmanager.silences.Silences`.

The mesh gossips silences, never alerts. Each member goes by a clock of its own. Facts: ``silence/silence.go`` and
``api/v2/api.go`` of Alertmanager.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fleet.adapters.alertmanager.alertmanager import Reply, SilenceError, timestamp
from fleet.adapters.alertmanager.alertmanager import epoch as parse
from worlds.timeline import Time

URLS = ("http://am1:9093", "http://am2:9093")
OTHERS = "bob"
"""The author of silences of others."""


@dataclass(frozen=True)
class Kept:
    """A silence, with its end by the world's time."""

    id: str
    host: str
    comment: str
    author: str
    matchers: tuple[Any, ...]
    ends_at: float


@dataclass
class Member:
    """One Alertmanager.

    Attributes:
        ahead: seconds that its clock is ahead.
        silences: those that it has, by id.
        firing: the alerts that Prometheus sent it, by host.
    """

    is_up: bool = True
    ahead: float = 0.0
    silences: dict[str, Kept] = field(default_factory=dict)
    firing: dict[str, set[str]] = field(default_factory=dict)


@dataclass
class Alertmanagers:
    """The members; a :class:`fleet.adapters.alertmanager.alertmanager.Transport`.

    Attributes:
        moment: called before and after each change.
        on_change: called with a silence that is about to be created, extended or ended by us, and its end.
        is_meshed: whether the members tell each other of silences.
    """

    time: Time
    moment: Callable[[], None]
    on_change: Callable[[Kept, float], None]
    members: dict[str, Member] = field(default_factory=lambda: {url: Member() for url in URLS})
    is_meshed: bool = True
    numbers: int = 0

    def in_force(self, member: Member) -> list[Kept]:
        return [silence for silence in member.silences.values() if silence.ends_at > self.time.now]

    def loud(self, host: str) -> list[str]:
        """Return the members that would page for a host."""
        return [
            url
            for url, member in self.members.items()
            if member.is_up and not any(silence.host == host for silence in self.in_force(member))
        ]

    def ours(self) -> list[Kept]:
        """Return the silences of the run that are in force at any member, down or not."""
        found = (self.in_force(member) for member in self.members.values())
        return [silence for silences in found for silence in silences if silence.author != OTHERS]

    def add(self, silence: Kept, to: str = "") -> None:
        """Keep a silence at a member, or at all, and at those that it tells."""
        for url, member in self.members.items():
            if to in ("", url) or (self.is_meshed and member.is_up):
                member.silences[silence.id] = silence

    def end(self, silence_id: str, at: str = "") -> None:
        """End a silence, whoever wants that."""
        for url, member in self.members.items():
            found = member.silences.get(silence_id)
            if found is not None and (at in ("", url) or (self.is_meshed and member.is_up)):
                member.silences[silence_id] = replace(found, ends_at=min(found.ends_at, self.time.now))

    def gossip(self) -> None:
        """Let members that see each other again exchange what they have: of each silence the latest word."""
        if self.is_meshed:
            together: dict[str, Kept] = {}
            for member in self.members.values():
                together |= member.silences if member.is_up else {}
            for member in self.members.values():
                if member.is_up:
                    member.silences = {**together, **member.silences}

    def __call__(self, method: str, url: str, *, params: Mapping[str, str] | None = None, json: Any = None) -> Reply:
        if method == "GET":
            return self._answer(method, url, json)
        self.moment()
        reply = self._answer(method, url, json)
        self.moment()
        return reply

    def _answer(self, method: str, url: str, json: Any) -> Reply:
        base, _, path = url.partition("/api/v2/")
        member = self.members[base]
        if not member.is_up:
            self.time.advance(3.0)
            raise SilenceError("connection refused")
        status, data = self._handle(base, member, method, path, json)
        return Reply(status, data, "" if status < 400 else str(data), float(int(self.time.now + member.ahead)))

    def _handle(self, base: str, member: Member, method: str, path: str, json: Any) -> tuple[int, Any]:
        if path == "alerts":
            return 200, [
                {
                    "labels": {"instance": f"{host}:9100", "alertname": name, "severity": "page"},
                    "startsAt": timestamp(self.time.now + member.ahead),
                    "status": {"state": "suppressed" if host not in self.loud(host) else "active"},
                }
                for host, names in sorted(member.firing.items())
                for name in sorted(names)
            ]
        if (method, path) == ("GET", "silences"):
            return 200, [self._shown(silence, member) for silence in member.silences.values()]
        if (method, path) == ("POST", "silences"):
            return self._post(base, member, json)
        found = member.silences.get(path.removeprefix("silence/"))
        if found is None:
            return 404, f"silence {path} not found"
        if method == "DELETE":
            if found.ends_at <= self.time.now:
                return 500, "silence is already expired"
            self.on_change(found, self.time.now)
            self.end(found.id, base)
            return 200, None
        return 200, self._shown(found, member)

    def _post(self, base: str, member: Member, json: Any) -> tuple[int, Any]:
        ends_at = parse(json["endsAt"]) - member.ahead
        if ends_at <= self.time.now:
            return 400, "invalid silence: end time can't be in the past"
        host = re.findall(r"w[a-z]*\d+", json["matchers"][0]["value"])[0]
        before = member.silences.get(json.get("id", ""))
        if json.get("id") and before is None:
            return 404, "silence not found"
        self.numbers += 1
        is_new = before is None or before.ends_at <= self.time.now
        number = f"s{self.numbers}" if before is None or is_new else before.id
        silence = Kept(number, host, json["comment"], json["createdBy"], tuple(json["matchers"]), ends_at)
        self.on_change(silence, ends_at)
        self.add(silence, base)
        return 200, {"silenceID": number}

    def _shown(self, silence: Kept, member: Member) -> dict[str, Any]:
        state = "active" if silence.ends_at > self.time.now else "expired"
        return {
            "id": silence.id,
            "status": {"state": state},
            "comment": silence.comment,
            "createdBy": silence.author,
            "startsAt": timestamp(self.time.now + member.ahead - 1),
            "endsAt": timestamp(silence.ends_at + member.ahead),
            "matchers": list(silence.matchers),
        }
