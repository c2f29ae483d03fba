"""Leader election: who leads kube-controller-manager and kube-scheduler, and whether the leader is alive.

Both keep a Lease of their own name in kube-system (Kubernetes 1.20 and newer). Its times are those of the leader's
clock, which may differ from ours; so readings are compared with each other, and seconds are counted by our clock alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fleet.adapters.k8s.client import JSON, Api

NAMESPACE = "kube-system"
"""Where the Leases are."""

_DURATION = 15.0  # seconds: the default of --leader-elect-lease-duration, for a Lease that does not say


@dataclass(frozen=True, slots=True)
class Leadership:
    """What the Lease of a component says.

    Attributes:
        holder: the identity of the leader, another one for each start of a process; empty if nobody leads.
        host: the leader's host name, short or with its domain, as the host knows itself.
        acquired: when it became the leader, by its own clock; as the Lease has it.
        renewed: when it last said so, by its own clock; as the Lease has it.
        duration: seconds without a renewal after which another one may take over.
    """

    holder: str
    host: str
    acquired: str
    renewed: str
    duration: float


class Election(StrEnum):
    """How a leader election stands."""

    SETTLED = "settled"
    """There is a leader, and it has been seen to renew."""
    WAITING = "waiting"
    """There is no leader, or it has not yet been seen to renew."""
    DEAD = "dead"
    """The leader has not renewed for as long as its Lease lasts, and nobody has taken over."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a leader election stands.

    Attributes:
        election: in a word.
        detail: in a line for the operator.
        facts: what the next judgement has to be told: plain JSON values.
    """

    election: Election
    detail: str
    facts: Mapping[str, Any]


def read(api: Api, component: str) -> Leadership | None:
    """Read who leads a component. Always the newest state: the API asks etcd's quorum.

    Args:
        api: the cluster's API.
        component: ``kube-controller-manager`` or ``kube-scheduler``.

    Returns:
        Nothing if there is no Lease.

    Raises:
        ApiError: the API refused.
        ApiUnreachable: there was no answer within the client's patience.
    """
    lease = api.find(f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{component}")
    return None if lease is None else parse(lease)


def parse(lease: JSON) -> Leadership:
    """Read a component's Lease from the API's JSON."""
    spec = lease.get("spec") or {}
    holder = spec.get("holderIdentity") or ""
    return Leadership(
        holder=holder,
        host=holder.rpartition("_")[0] or holder,
        acquired=spec.get("acquireTime") or "",
        renewed=spec.get("renewTime") or "",
        duration=float(spec.get("leaseDurationSeconds") or _DURATION),
    )


def judge(seen: Leadership | None, before: Mapping[str, Any] | None, now: float) -> Judgement:
    """Judge a leader election by a reading and what was seen before it.

    A leader counts once it has renewed between two of our readings. So the first reading, without anything before it,
    has to be made when what may upset the election has happened: when the restart of a leader is proven.

    Args:
        seen: the reading.
        before: the facts of the last judgement; nothing at first.
        now: our monotonic clock.
    """
    if seen is None or not seen.holder:
        what = "there is no Lease" if seen is None else "nobody holds the Lease"
        return Judgement(Election.WAITING, f"it has no leader: {what}", {})
    since, renews = now, False
    if before and (before["holder"], before["acquired"]) == (seen.holder, seen.acquired):
        moved = before["renewed"] != seen.renewed
        renews = moved or before["renews"]
        if not moved:
            since = min(before["since"], now)  # the facts may be older than this host's boot
    silent = now - since
    facts = {
        "holder": seen.holder,
        "acquired": seen.acquired,
        "renewed": seen.renewed,
        "renews": renews,
        "since": since,
    }
    if silent >= seen.duration:
        dead = f"its Lease is held by {seen.holder}, which has not renewed it for {silent:.0f} s"
        return Judgement(Election.DEAD, dead, facts)
    if not renews:
        return Judgement(Election.WAITING, f"its leader {seen.holder} has not been seen to renew yet", facts)
    return Judgement(Election.SETTLED, f"{seen.host} leads", facts)


def same_host(one: str, other: str) -> bool:
    """Tell whether two names may be those of the same host: equal, or one of them the other's first label.

    Args:
        one: a host's name, short or with its domain.
        other: another one.
    """
    one, other = one.rstrip(".").lower(), other.rstrip(".").lower()
    if not one or not other:
        return False
    return one in (other, other.partition(".")[0]) or other == one.partition(".")[0]
