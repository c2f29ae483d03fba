"""Silences and alerts of a cluster of Alertmanagers, all of whose members are asked.

Spicerack's own accessor creates and removes silences; a run also extends them while a host is in flight, finds those
that a crash left behind, and reads alerts. Facts: the members' mesh gossips silences within a second and alerts never,
so that each knows those only that Prometheus sent to it since its start; and a mesh may be broken. So alerts and
silences are the union over all members, and a silence is brought to members that lack it. There it has another id:
silences of the same comment, author and matchers are one here. Alertmanager's ``api/v2/openapi.yaml`` and
``silence/silence.go`` tell the rest.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, TypeVar

from spicerack import Spicerack
from wmflib.config import load_yaml_config
from wmflib.exceptions import WmflibError

from fleet.adapters.alertmanager.alertmanager import (
    Http,
    NoSuchSilenceError,
    SilenceError,
    Transport,
    epoch,
    find_instance,
    timestamp,
)
from fleet.adapters.alertmanager.alertmanagers import Alertmanagers
from fleet.adapters.alertmanager.silence_model import Alert, Copy, Silence
from fleet.clock import CLOCK, THREADS, Clock, Threads
from fleet.config.matchers import Matcher, host_matcher
from fleet.errors import FleetError
from fleet.members import Answers

__all__ = ["NoSuchSilenceError", "Silence", "Silences"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_GOSSIP = 3.0
"""Seconds that the members' mesh has to bring a silence to all of them; it takes it less than one."""
_PAUSE = 0.2
"""Seconds between two looks whether it has."""
_EARLY = 60.0
"""Seconds that a silence begins in the past, which is taken for now."""
_HOSTS_AT_A_TIME = 50
"""Alerts are asked for in an URL, which takes so many hosts and not thousands."""

_Copies = Mapping[str, Sequence[Copy]]
"""Silences of members, by the members' names."""


class Silences:
    """Alertmanager's silences and alerts; may be used from several threads."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        label: str = "instance",
        needed: int | None = None,
        transport: Transport | None = None,
        clock: Clock = CLOCK,
        threads: Threads = THREADS,
        dry_run: bool = False,
    ) -> None:
        """Initialize the instance.

        Args:
            urls: the members of one Alertmanager cluster, all of which are asked.
            label: the label of alerts that names the host.
            needed: how many members have to answer; None for all.
            transport: the way to the members; by requests if None.
            clock: the time.
            threads: how to ask several at the same time.
            dry_run: whether nothing is to be changed.
        """
        self._members = Alertmanagers(urls, needed=needed, transport=transport or Http(), clock=clock, threads=threads)
        self._label = label
        self._dry_run = dry_run

    @classmethod
    def from_spicerack(
        cls,
        spicerack: Spicerack,
        *,
        clock: Clock,
        threads: Threads,
        instance: str = "",
        label: str = "instance",
        needed: int | None = None,
    ) -> "Silences":
        """Use the Alertmanager of spicerack's configuration, ``alertmanager/config.yaml`` in its folder.

        Args:
            spicerack: for the configuration, and whether this is a dry-run.
            clock: the time.
            threads: how to ask several at the same time.
            instance: the instance to use; empty for the default one.
            label: the label of alerts that names the host.
            needed: how many members have to answer; None for all.

        Raises:
            SilenceError: the file cannot be read, or has no such instance.
        """
        path = spicerack.config_dir / "alertmanager" / "config.yaml"
        try:
            found = find_instance(load_yaml_config(path), instance)
        except (WmflibError, ValueError) as error:
            raise SilenceError(f"{path}: {error}") from error
        transport = Http(
            auth=(found["http_username"], found["http_password"]) if "http_username" in found else None,
            proxies=spicerack.requests_proxies if found.get("http_use_proxy") else None,
        )
        return cls(
            found["urls"],
            label=label,
            needed=needed,
            transport=transport,
            clock=clock,
            threads=threads,
            dry_run=spicerack.dry_run,
        )

    @property
    def unasked(self) -> str:
        """Which members could not be asked the last time, where the others suffice; empty if all answered."""
        return self._members.unasked

    @property
    def clock_differences(self) -> tuple[str, ...]:
        """Which members' clocks differ from this host's, a sentence each; as of the last answers."""
        return self._members.clock_differences

    def create(
        self, hosts: Sequence[str], *, comment: str, author: str, duration: float, matchers: Sequence[Matcher] = ()
    ) -> str:
        """Silence all alerts of hosts, or all that match, at all members; what is in force already is extended.

        Args:
            hosts: their names, as Cumin knows them; none if the matchers alone are to say what is silenced.
            comment: why; with the run's id, by which :meth:`find` finds it.
            author: who.
            duration: for how long, in seconds.
            matchers: what else must hold of the alerts; one at least where there are no hosts.

        Returns:
            The silence's id; an empty string in a dry-run.

        Raises:
            SilenceError: not enough members have it, as they could not be asked or refused; others may have it.
        """
        of_hosts = [host_matcher(hosts, label=self._label)] if hosts or not matchers else []
        silence = Copy("", "", comment, author, "", "", (*of_hosts, *matchers))
        if self._dry_run:
            logger.debug("Would have created the silence %s", silence)
            return ""
        return self._ensure(silence, self._members.ask(lambda name: self._list(name, comment)), duration)

    def extend(self, silence_id: str, duration: float) -> str:
        """Let a silence end in ``duration`` seconds from now, or later if it does already, at all members.

        Returns:
            The silence's id: the same, or a new one if the silence had expired and was made anew.

        Raises:
            NoSuchSilenceError: no Alertmanager knows it.
            SilenceError: not enough members could be asked, or they refused.
        """
        if self._dry_run:
            return silence_id
        asked = self._members.ask(self._list)
        return self._ensure(self._known(silence_id, asked), asked, duration)

    def expire(self, silence_id: str) -> None:
        """End a silence now, wherever it is; one that has ended, or that nobody knows any more, is fine.

        Raises:
            SilenceError: not enough members could be asked, or one refused; it has ended at the others.
        """
        if self._dry_run:
            return
        asked = self._members.ask(self._list)
        try:
            silence = self._known(silence_id, asked)
        except NoSuchSilenceError:
            return
        before = {name: found for name, found in _in_force(silence.content, asked.given).items() if found}

        def end(name: str) -> None:
            for copy in before[name]:
                reply = self._members.call("DELETE", name, f"silence/{copy.id}")
                # Of one that has expired, releases answer differently (500, 404, 200); look instead of guessing.
                if not reply.ok and any(other.id == copy.id and other.in_force for other in self._list(name)):
                    raise SilenceError(f"it does not end the silence {copy.id}: {reply.reason}")

        ended = self._members.ask(end, list(before))
        self._members.suffice(_less(asked, ended.failed))

    def get(self, silence_id: str) -> Silence:
        """Return a silence.

        Raises:
            NoSuchSilenceError: no Alertmanager knows it.
            SilenceError: not enough members could be asked.
        """
        asked = self._members.ask(self._list)
        self._members.suffice(asked)
        silence = self._known(silence_id, asked)
        in_force = _in_force(silence.content, asked.given)
        return replace(self._merged(in_force if silence.in_force else {next(iter(in_force)): [silence]}), id=silence_id)

    def find(self, *, comment_contains: str) -> list[Silence]:
        """Return the silences in force whose comment contains a text, such as a run's id; those of all members.

        Raises:
            SilenceError: not enough members could be asked.
        """
        asked = self._members.ask(lambda name: self._list(name, comment_contains))
        self._members.suffice(asked)
        found: dict[object, dict[str, list[Copy]]] = {}
        for name, copies in asked.given.items():
            for copy in copies:
                if copy.in_force:
                    found.setdefault(copy.content, {every: [] for every in asked.given})[name].append(copy)
        return [self._merged(have) for have in found.values()]

    def alerts(self, hosts: Sequence[str]) -> list[Alert]:
        """Return the alerts of hosts that are firing, silenced ones included; those of all members.

        Args:
            hosts: their names, as Cumin knows them.

        Raises:
            SilenceError: not enough members could be asked.
        """
        return [
            alert
            for start in range(0, len(hosts), _HOSTS_AT_A_TIME)
            for alert in self._alerts(hosts[start : start + _HOSTS_AT_A_TIME])
        ]

    def _alerts(self, hosts: Sequence[str]) -> list[Alert]:
        query = {"filter": str(host_matcher(hosts, label=self._label))}
        patterns = {host: host_matcher([host], label=self._label).regex() for host in hosts}

        def parse(data: Any, name: str) -> list[tuple[object, Alert]]:
            labels = data["labels"]
            instance = labels.get(self._label, "")
            return [
                (
                    (host, frozenset(labels.items())),
                    Alert(
                        host=host,
                        name=labels.get("alertname", ""),
                        instance=instance,
                        severity=labels.get("severity", ""),
                        starts_at=self._members.ours(data["startsAt"], name),
                        silenced=data["status"]["state"] == "suppressed",
                    ),
                )
                for host, pattern in patterns.items()
                if pattern.fullmatch(instance)
            ]

        asked = self._members.ask(lambda name: self._members.read(name, "alerts", lambda d: parse(d, name), query))
        self._members.suffice(asked)
        union: dict[object, Alert] = {}
        for key, alert in chain.from_iterable(asked.given.values()):
            other = union.setdefault(key, alert)
            # A member where it is not silenced pages for it.
            silenced, starts_at = other.silenced and alert.silenced, min(other.starts_at, alert.starts_at)
            union[key] = replace(other, silenced=silenced, starts_at=starts_at)
        return list(union.values())

    def _ensure(self, silence: Copy, asked: Answers[list[Copy]], duration: float) -> str:
        """Have a silence in force for so long at every member that answered; return its id.

        Args:
            silence: what it is about.
            asked: what all members have.
            duration: for how long from now, in seconds.
        """
        if not asked.given:
            self._members.suffice(asked)
        clocks = {name: self._members.now(name) for name in asked.given}
        end = max(clocks.values()) + duration  # by the latest, so that it is long enough at every member
        have = _in_force(silence.content, asked.given)
        ids = sorted({copy.id for copy in chain.from_iterable(have.values())})
        short = {name: [copy for copy in found if epoch(copy.ends_at) < end] for name, found in have.items()}
        extended = self._post({name: [copy.until(end) for copy in found] for name, found in short.items() if found})
        anew = replace(silence, id="", starts_at=timestamp(min(clocks.values()) - _EARLY)).until(end)
        # The clock that is furthest behind comes first: once it has started there, it has started everywhere.
        lacking = sorted((name for name, found in have.items() if not found), key=lambda name: clocks[name])
        first = self._post({name: [anew] for name in lacking[:1] if not ids})
        ids += chain.from_iterable(first.given.values())
        without = self._without(ids, [name for name in lacking if name not in (*first.given, *first.failed)])
        others = self._post({name: [anew] for name in without})
        ids += chain.from_iterable(others.given.values())
        self._members.suffice(_less(asked, {**extended.failed, **first.failed, **others.failed}))
        return silence.id if silence.id in ids else ids[0]

    def _post(self, bodies: Mapping[str, Iterable[Mapping[str, Any]]]) -> Answers[list[str]]:
        """Post silences to members; return their ids."""

        def post(name: str) -> list[str]:
            replies = [self._members.call("POST", name, "silences", json=body) for body in bodies[name]]
            for reply in replies:
                if not reply.ok:
                    raise SilenceError(f"it refuses the silence: {reply.reason}")
            return [str(reply.data["silenceID"]) for reply in replies]

        return self._members.ask(post, list(bodies))

    def _without(self, ids: Sequence[str], names: Sequence[str]) -> Sequence[str]:
        """Return the members to which the mesh does not bring any of the silences in time."""

        def lacks(name: str) -> bool:
            return not any(copy.in_force and copy.id in ids for copy in self._list(name))

        clock = self._members.clock
        deadline = clock.monotonic() + _GOSSIP
        while ids and names:
            answers = self._members.ask(lacks, names)
            names = [name for name in names if answers.given.get(name, True)]
            if clock.monotonic() > deadline:
                break
            if names:
                clock.sleep(_PAUSE)
        return names

    def _known(self, silence_id: str, asked: Answers[list[Copy]]) -> Copy:
        """Return a silence by its id, in force rather than expired."""
        found = [copy for copy in chain.from_iterable(asked.given.values()) if copy.id == silence_id]
        if not found:
            self._members.suffice(asked)  # otherwise one that was not asked may know it
            raise NoSuchSilenceError(f"No Alertmanager knows silence {silence_id} (asked: {', '.join(asked.given)}).")
        return next((copy for copy in found if copy.in_force), found[0])

    def _list(self, name: str, comment_contains: str = "") -> list[Copy]:
        """Return a member's silences whose comment contains a text; it keeps expired ones for days."""

        def parse(data: Any) -> list[Copy]:
            # Before anything else of it is read: a member has thousands of others.
            return [Copy.from_api(data)] if comment_contains in data["comment"] else []

        return self._members.read(name, "silences", parse)

    def _merged(self, have: _Copies) -> Silence:
        """Return a silence as all members have it; one at least must."""
        found = {name: [self._read(copy, name) for copy in copies] for name, copies in have.items()}
        first = min(chain.from_iterable(found.values()), key=lambda silence: (silence.state, silence.starts_at))
        ends_at = min(max(silence.ends_at for silence in silences) for silences in found.values() if silences)
        return replace(first, ends_at=ends_at, lacking=tuple(name for name, silences in found.items() if not silences))

    def _read(self, copy: Copy, name: str) -> Silence:
        starts_at, ends_at = self._members.ours(copy.starts_at, name), self._members.ours(copy.ends_at, name)
        return Silence(copy.id, copy.state, copy.comment, copy.author, starts_at, ends_at, copy.matchers)


def _in_force(content: object, copies: _Copies) -> dict[str, list[Copy]]:
    """Return what each member has in force of a silence."""
    return {
        name: [copy for copy in found if copy.in_force and copy.content == content] for name, found in copies.items()
    }


def _less(asked: Answers[T], failed: Mapping[str, FleetError]) -> Answers[T]:
    """Return what members answered, less those that failed afterwards."""
    given = {name: answer for name, answer in asked.given.items() if name not in failed}
    return Answers(asked.what, given, {**asked.failed, **failed})
