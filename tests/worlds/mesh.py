"""A cluster of Alertmanagers in memory, on simulated time: members that are down, refuse, or whose mesh is broken."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.adapters.alertmanager.alertmanager import Reply, SilenceError, epoch, timestamp

START = 1_700_000_000.0


@dataclass
class Time:
    """A :class:`fleet.clock.Clock` that goes on when somebody sleeps; a jump is not seen by the monotonic one."""

    now: float = 0.0
    jumped: float = 0.0

    def time(self) -> float:
        return START + self.now + self.jumped

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Member:
    """One Alertmanager."""

    down: str = ""
    """Why it cannot be asked."""
    refuses: str = ""
    """What it says to whatever would change something."""
    ahead: float = 0.0
    """Seconds that its clock is ahead of the true time."""
    dateless: bool = False
    silences: dict[str, dict[str, Any]] = field(default_factory=dict)
    alerts: list[dict[str, Any]] = field(default_factory=list)

    def fire(self, instance: str, name: str = "HostDown", state: str = "active", **labels: str) -> None:
        """Have Prometheus send it an alert."""
        labels |= {"alertname": name, "instance": instance}
        self.alerts.append({"labels": labels, "startsAt": timestamp(START), "status": {"state": state}})


class Mesh:
    """A ``Transport`` to members of Alertmanager; a change is gossiped when somebody asks later.

    Args:
        names: the members' URLs.
        clock: the true time.
        delay: seconds that gossip takes.
    """

    def __init__(self, *names: str, clock: Time, delay: float = 0.3) -> None:
        self.members = {name: Member() for name in names}
        self.clock = clock
        self.delay = delay
        self.cut = False
        self.calls: list[tuple[str, str]] = []
        self._ids = 0
        self._gossip: list[tuple[float, str, dict[str, Any]]] = []

    def __call__(self, method: str, url: str, *, params: Mapping[str, str] | None = None, json: Any = None) -> Reply:
        name, _, path = url.partition("/api/v2/")
        member = self.members[name]
        self.calls.append((method, name))
        self._deliver()
        if member.down:
            raise SilenceError(member.down)
        now = START + self.clock.now + member.ahead
        date = None if member.dateless else float(int(now))
        if method != "GET" and member.refuses:
            return Reply(500, None, member.refuses, date)
        if path == "alerts":
            return Reply(200, member.alerts, date=date)
        if path == "silences" and method == "GET":
            return Reply(200, [self._shown(silence, now) for silence in member.silences.values()], date=date)
        if method == "POST":
            return self._set(name, json, now, date)
        silence = member.silences.get(path.removeprefix("silence/"))
        if silence is None:
            return Reply(404, None, "404 Not Found", date)
        if epoch(silence["endsAt"]) <= now:
            return Reply(500, None, "silence already expired", date)
        self._store(name, silence | {"endsAt": timestamp(now)})
        return Reply(200, None, date=date)

    def in_force(self, name: str) -> list[dict[str, Any]]:
        """Return the silences that a member has in force."""
        now = START + self.clock.now + self.members[name].ahead
        return [silence for silence in self.members[name].silences.values() if epoch(silence["endsAt"]) > now]

    def _set(self, name: str, json: dict[str, Any], now: float, date: float | None) -> Reply:
        if epoch(json["endsAt"]) <= now:
            return Reply(400, None, "400 Bad Request: end time can't be in the past", date)
        if "id" in json and json["id"] not in self.members[name].silences:
            return Reply(404, None, "404 Not Found: silence not found", date)
        self._ids += "id" not in json
        silence = {"id": f"s{self._ids}", **json, "startsAt": timestamp(max(now, epoch(json["startsAt"])))}
        self._store(name, silence)
        return Reply(200, {"silenceID": silence["id"]}, date=date)

    def _store(self, name: str, silence: dict[str, Any]) -> None:
        self.members[name].silences[silence["id"]] = silence
        self._gossip.append((self.clock.now + self.delay, name, silence))

    def _deliver(self) -> None:
        due = [told for told in self._gossip if told[0] <= self.clock.now]
        self._gossip = [] if self.cut else [told for told in self._gossip if told not in due]
        for _, _, silence in [] if self.cut else due:
            for member in self.members.values():
                member.silences[silence["id"]] = silence

    @staticmethod
    def _shown(silence: dict[str, Any], now: float) -> dict[str, Any]:
        pending, expired = epoch(silence["startsAt"]) > now, epoch(silence["endsAt"]) <= now
        return silence | {"status": {"state": "expired" if expired else "pending" if pending else "active"}}


class InTurn:
    """:class:`fleet.clock.Threads` of which only ``map`` is used: one item after the other."""

    def start(self, call: Any, name: str) -> None:
        raise NotImplementedError

    def repeat(self, call: Any, pause: float, name: str) -> Any:
        raise NotImplementedError

    def map(self, call: Any, items: Any, name: str, *, most: int = 16) -> Any:
        return [call(item) for item in items]
