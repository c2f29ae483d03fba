"""Which BGP sessions a node must have, and whether the routers prove that they are back. Pure: no I/O."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_interface
from typing import Any, Protocol

from fleet import members
from fleet.adapters.bgp.summary import Address, Peer, Summary
from fleet.config.model import BgpConfig
from fleet.errors import FleetError
from fleet.text import count

Readings = Mapping[str, Summary | FleetError]
"""What each router said, or why it could not be asked (an error that names it), by its name."""

ROUTERS = "core routers"
"""What routers are called in messages."""

ANNOTATIONS = ("projectcalico.org/IPv4Address", "projectcalico.org/IPv6Address")
"""Where Calico writes the addresses that its BGP daemon uses, with their prefix lengths."""

_SLACK = 1.0
"""Seconds: routers tell ages in whole ones, and how long ago a node was restarted is known to less than one."""
_CLEARLY = 2.0
"""Seconds by which a session must be younger than the restart to be a new one by its age alone."""
YOUNG = 4
"""Seconds that a session must have been up before a restart, in whole ones: otherwise the next one seems to be it."""
_DRIFT = 60.0
"""The same, where the clock of this host was trusted over its own boot."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session that a node must have: with a router, from one of its addresses."""

    router: str
    address: Address

    def __str__(self) -> str:
        """Return ``cr1 10.64.0.121``."""
        return f"{self.router} {self.address}"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a router has of a session: one peer, or those of several routing instances taken together.

    Attributes:
        peers: all of them.
        up: those that are Established.
    """

    peers: Sequence[Peer]
    up: Sequence[Peer]

    @property
    def down(self) -> Sequence[Peer]:
        """Those that are not Established."""
        return [peer for peer in self.peers if not peer.established]

    @property
    def flaps(self) -> int:
        return sum(peer.flaps for peer in self.peers)

    @property
    def accepted(self) -> Mapping[str, int]:
        total: Counter[str] = Counter()
        for peer in self.up:
            for rib in peer.ribs:
                total[rib.name] += rib.accepted
        return total


class Speaker(Protocol):
    """A node that keeps BGP sessions, as Kubernetes has it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def annotations(self) -> Mapping[str, str]:
        """Its annotations."""

    @property
    def addresses(self) -> Sequence[str]:
        """Its internal addresses."""


def addresses_of(node: Speaker, config: BgpConfig) -> tuple[Address, ...]:
    """Return the addresses from which a node keeps its sessions, IPv4 first.

    They are the configuration's for this node, else those that Calico uses, else the node's internal ones; always only
    those of the configured families.

    Raises:
        FleetError: an annotation or address of the node cannot be read.
    """
    found: Iterable[Address]
    if node.name in config.addresses:
        found = config.addresses[node.name]
    else:
        written = [node.annotations[name] for name in ANNOTATIONS if node.annotations.get(name)] or node.addresses
        found = [_address(node.name, text) for text in written]
    wanted = {address for address in found if f"ipv{address.version}" in config.families}
    return tuple(sorted(wanted, key=lambda address: (address.version, int(address))))


def _address(node: str, text: str) -> Address:
    try:
        return ip_interface(text).ip
    except ValueError as error:
        raise FleetError(
            f"{node} has an address that cannot be read: {error}. Correct it, or name its addresses in bgp.addresses."
        ) from error


def expected(addresses: Sequence[Address], routers: Iterable[str]) -> tuple[Session, ...]:
    """Return the sessions that there must be: every address with every router."""
    return tuple(Session(router, address) for router in routers for address in addresses)


def baseline(sessions: Iterable[Session], readings: Readings, asn: int) -> dict[str, Any]:
    """Remember what the routers have of a node's sessions before it is touched.

    Sessions of routers that could not be asked count as down: ask all routers before.

    Args:
        sessions: those that the node must have.
        readings: what the routers say.
        asn: the node's AS number.

    Returns:
        Plain JSON: for every router and address how many sessions are up (one, or one for each routing instance that
        has that peer), their flaps, the age of the youngest one in seconds, when that one went up by this host's
        monotonic clock, and the accepted prefixes by table:
        ``{"cr1": {"10.64.0.121": {"up": 1, "flaps": 2, "age": 86400, "began": 5021.5, "accepted": {"inet.0": 3}}}}``.
    """
    remembered: dict[str, Any] = {}
    for session in sessions:
        reading = readings.get(session.router)
        seen = _see(session, reading, asn) if isinstance(reading, Summary) else _Seen((), ())
        age = min((peer.elapsed for peer in seen.up), default=0)
        remembered.setdefault(session.router, {})[str(session.address)] = {
            "up": len(seen.up),
            "flaps": seen.flaps,
            "age": age,
            "began": reading.taken - age if isinstance(reading, Summary) else 0.0,
            "accepted": dict(seen.accepted),
        }
    return remembered


def lowered(baseline: Mapping[str, Any], readings: Readings, asn: int) -> dict[str, Any]:
    """Return a baseline that asks for no more prefixes than there are now; all else stays as it was.

    Args:
        baseline: from :func:`baseline`.
        readings: what the routers say now.
        asn: the node's AS number.
    """
    lower: dict[str, Any] = {}
    for router, addresses in baseline.items():
        reading = readings.get(router)
        for text, before in addresses.items():
            accepted = before["accepted"]
            if isinstance(reading, Summary):
                seen = _see(Session(router, ip_interface(text).ip), reading, asn)
                if len(seen.up) >= before["up"]:  # of one that is down nothing can be said
                    accepted = {rib: min(prefixes, seen.accepted.get(rib, 0)) for rib, prefixes in accepted.items()}
            lower.setdefault(router, {})[text] = {**before, "accepted": accepted}
    return lower


def unproven(
    baseline: Mapping[str, Any],
    readings: Readings,
    asn: int,
    *,
    since: float | None,
    stable: float,
    is_certain: bool = True,
) -> list[str]:
    """Return what is not proven yet of the sessions that a node had; nothing left is the proof.

    Every session that was Established in the baseline must be Established again; have gone up after the restart; bring
    as many accepted prefixes to every table as before; and have been up for a while. Of a peer that several routing
    instances have, as many as before must be up, and all that are up must be that young.

    Its age proves that a session went up after the restart. Flap counts prove nothing by themselves: a peer that is
    made anew when the session comes (``allow`` of Junos, ``bgp listen range`` of FRR) starts at 0, as all counts do
    when a router's routing process restarts, or somebody clears them.

    A router tells ages in whole seconds, rounded down, so that a session looks younger than it is by up to one, and by
    the time that the answer took. So one that is only just young enough must be another one than that of the baseline:
    its flap count is another one, it is younger than that one was, or it went up clearly later than that one did. A
    session that went up after the restart is never mistaken for an older one.

    Where this host was booted since, it knows only by its clock how long ago the restart was. Then either will do: a
    session that is another one than that of the baseline, or one that is clearly younger than the restart.

    Args:
        baseline: from :func:`baseline`, before the node was touched.
        readings: what the routers say now.
        asn: the node's AS number.
        since: when the node, or what keeps its sessions, was started again, by this host's monotonic clock, as the
            readings are; None if sessions of any age will do.
        stable: seconds for which the sessions must have been up.
        is_certain: whether ``since`` is known without trusting a clock that may have been set.

    Returns:
        A line for each session, such as ``cr1 10.64.0.121: Active``, and one for all routers that cannot be asked.
    """
    is_old = partial(_is_old, since=since, is_certain=is_certain)
    left = [problem] if (problem := unread(readings, also=baseline)) else []
    for router, addresses in baseline.items():
        reading = readings.get(router)
        if isinstance(reading, Summary):
            for text, before in addresses.items():
                session = Session(router, ip_interface(text).ip)
                why = _doubt(before, _see(session, reading, asn), reading.taken, is_old, stable)
                left += [f"{session}: {why}"] if why else []
    return left


def missing(sessions: Iterable[Session], readings: Readings, asn: int) -> list[tuple[Session, str]]:
    """Return the sessions that are not up at a router, or of which it cannot be asked, each with what is the matter.

    Args:
        sessions: those that the node must have.
        readings: what the routers say.
        asn: the node's AS number.

    Returns:
        Each such session and the rest of a sentence that begins with it: ``is Active since 32 min``.
    """
    found = []
    for session in sessions:
        reading = readings.get(session.router)
        if not isinstance(reading, Summary):
            found.append((session, f"is not known: {_unread(session.router, reading)}"))
            continue
        seen = _see(session, reading, asn)
        if not seen.peers:
            found.append((session, f"is no peer in AS {asn}"))
        elif seen.down:
            found.append((session, f"is {seen.down[0].state} since {lasting(seen.down[0].elapsed)}"))
    return found


def young(sessions: Iterable[Session], readings: Readings, asn: int) -> list[tuple[Session, str]]:
    """Return the sessions that went up so recently that one of after a restart could not be told from them.

    Args:
        sessions: those that the node must have.
        readings: what the routers say.
        asn: the node's AS number.

    Returns:
        Each such session and the rest of a sentence that begins with it: ``is up for 2 s only``.
    """
    found = []
    for session in sessions:
        reading = readings.get(session.router)
        seen = _see(session, reading, asn) if isinstance(reading, Summary) else None
        if seen and seen.up and (age := min(peer.elapsed for peer in seen.up)) < YOUNG:
            found.append((session, f"is up for {age} s only"))
    return found


def lasting(seconds: int) -> str:
    """Return a time for people, rounded down: ``7 s``, ``32 min``, ``5 h``, ``85 d``."""
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 2 * 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 2 * 86400 else f"{seconds // 86400} d"


def _see(session: Session, summary: Summary, asn: int) -> _Seen:
    peers = summary.find(session.address, asn)
    return _Seen(peers, [peer for peer in peers if peer.established])


def _is_old(before: Mapping[str, Any], now: _Seen, taken: float, *, since: float | None, is_certain: bool) -> str:
    """Return why sessions that are up may be those from before a restart; nothing if they are new."""
    if since is None:
        return ""
    began = taken - max(peer.elapsed for peer in now.up)
    moved_on = not before["flaps"] <= now.flaps < before["flaps"] + before["up"]
    # Nothing is compared with a monotonic clock of another boot of this host, nor with what older journals do not tell.
    later = is_certain and "began" in before and began > before["began"] + _CLEARLY + _SLACK
    is_another = moved_on or later or max(peer.elapsed for peer in now.up) < before.get("age", 0)
    if not is_certain:
        return "" if is_another or began >= since + _DRIFT else "nothing tells that it has gone down"
    if began < since - _SLACK:
        return "has not gone down yet"
    if not is_another and began < since + _CLEARLY:
        return f"went up with the restart or just before it, and its flap count is still {now.flaps}"
    return ""


def _doubt(before: Mapping[str, Any], now: _Seen, taken: float, is_old: Callable[..., str], stable: float) -> str:
    """Return why a session does not count as it did before; nothing if it does, or was down then."""
    if not before["up"]:
        return ""
    if not now.peers:
        return "no such peer"
    if len(now.up) < before["up"]:
        return now.down[0].state if now.down else f"{len(now.up)} of {count(before['up'], 'session')}"
    if old := is_old(before, now, taken):
        return old
    fewer = [
        f"{now.accepted.get(rib, 0)} of {count(prefixes, 'prefix', 'prefixes')} in {rib}"
        for rib, prefixes in before["accepted"].items()
        if now.accepted.get(rib, 0) < prefixes
    ]
    if fewer:
        return ", ".join(fewer)
    youngest = min(peer.elapsed for peer in now.up)
    return f"up for {youngest} s of {stable:g} s" if youngest < stable else ""


def unread(readings: Mapping[str, object], *, also: Iterable[str] = ()) -> str:
    """Return which routers could not be asked and why, without a full stop; empty if all answered.

    Args:
        readings: what they said, or why they did not.
        also: routers that should have been asked.
    """
    reasons = {router: str(error) for router, error in readings.items() if isinstance(error, FleetError)}
    reasons |= {router: _unread(router, None) for router in also if router not in readings}
    return members.problem(ROUTERS, reasons, of=len({*readings, *also}))


def _unread(router: str, error: FleetError | None) -> str:
    return str(error).rstrip(".") if error else f"{router} was not asked"
