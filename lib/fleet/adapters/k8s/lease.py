"""The Lease of a cluster, and whether the run that holds it is alive.

That is judged as leader elections judge it (``LeaderElector.tryAcquireOrRenew`` in client-go): by one's own monotonic
clock, since the Lease was last *seen to change*. The times in a Lease are those of its holder's clock. They are for
people, and compared with nothing.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from fleet.adapters.k8s.client import JSON, Api
from fleet.clock import Clock
from fleet.config.model import LeaseConfig
from fleet.errors import FleetError

logger = logging.getLogger(__name__)

ANNOTATION = "fleet-cookbooks/maintenance"
"""On the Lease: who started the run that holds it, and why; for people."""

_PATIENCE = 1.1
"""A Lease that has not changed for this many times its duration has no living holder: those have stopped before."""
_PAUSE = 1.0
"""Seconds between two looks at a Lease that another run holds."""


def collection(config: LeaseConfig) -> str:
    """Return the path of the Leases in the configured namespace."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{config.namespace}/leases"


def read(api: Api, config: LeaseConfig) -> JSON | None:
    """Return a cluster's Lease; None if there is none.

    Raises:
        ApiError: the API refused.
        ApiUnreachable: there was no answer.
    """
    return api.find(f"{collection(config)}/{config.name}")


def holder_of(lease: JSON | None) -> str:
    """Return the identity of a Lease's holder, ``RUN@HOST``; empty if nobody holds it.

    Raises:
        FleetError: the Lease cannot be understood.
    """
    return str(_spec(lease).get("holderIdentity") or "")


def describe(lease: JSON | None) -> str:
    """Return who holds a Lease, for people: ``run r1@cumin1 (ann: kernel)``."""
    about = ((lease or {}).get("metadata", {}).get("annotations") or {}).get(ANNOTATION, "")
    return f"run {holder_of(lease)}" + (f" ({about})" if about else "")


def _spec(lease: JSON | None) -> JSON:
    spec = (lease or {}).get("spec") or {}
    if not isinstance(spec, dict):
        raise FleetError(f"The Lease of the cluster cannot be understood: its spec is {spec!r}.")
    return spec


@dataclass(slots=True)
class _Sighting:
    spec: JSON
    since: float
    looked: float


class Sightings:
    """What this process has seen of a Lease. Handed from look to look, so that nothing is waited for twice."""

    def __init__(self) -> None:
        """Have seen nothing."""
        self._last: _Sighting | None = None

    def note(self, lease: JSON, duration: float, *, asked: float, answered: float) -> tuple[float, bool]:
        """Note what a Lease is like now.

        Args:
            lease: the Lease.
            duration: seconds for which it lasts. Looks that are further apart do not tell when it changed.
            asked: when it was asked for, by a monotonic clock.
            answered: when the answer came.

        Returns:
            For how many seconds, at least, it has not changed; and whether it was seen to change.
        """
        spec, last = _spec(lease), self._last
        if last is not None and last.spec == spec:
            last.looked = answered
            return asked - last.since, False
        self._last = _Sighting(spec, answered, answered)
        return 0.0, last is not None and asked - last.looked <= duration


def living_holder(
    api: Api,
    config: LeaseConfig,
    seen: Sightings,
    clock: Clock,
    *,
    ours: Collection[str] = (),
    is_over: Callable[[], bool] = lambda: False,
    on_wait: Callable[[str], None] = lambda _who: None,
) -> tuple[JSON | None, str]:
    """Find out who holds a cluster's Lease and is alive; a Lease of others is watched until that is known. Only reads.

    Args:
        api: the cluster's API.
        config: the Lease's place.
        seen: what was seen of it before.
        clock: the time.
        ours: runs, by id, and holders, by identity, that are known not to be alive elsewhere.
        is_over: asked between looks; once it says so, whoever holds the Lease is taken for alive.
        on_wait: called with who holds it, when its Lease begins to be watched.

    Returns:
        The Lease as it is now, and who holds it; empty if nobody does, or nobody who is alive.

    Raises:
        ApiError: the API refused.
        ApiUnreachable: there was no answer.
        FleetError: the Lease cannot be understood.
    """
    waits = False
    while True:
        asked = clock.monotonic()
        lease = read(api, config)
        holder = holder_of(lease)
        if lease is None or not holder or holder in ours or holder.rpartition("@")[0] in ours:
            return lease, ""
        duration = _duration(lease, config)
        silent, moved = seen.note(lease, duration, asked=asked, answered=clock.monotonic())
        if moved:
            return lease, f"{describe(lease)}, which was seen to renew its Lease"
        left = duration * _PATIENCE - silent
        if left <= 0:
            return lease, ""
        if is_over():
            return lease, f"{describe(lease)}, of which is not known whether it is alive"
        if not waits:
            waits = True
            on_wait(describe(lease))
            logger.info(
                "The Lease of the cluster is held by %s: watching for up to %.0f s whether it is renewed.",
                describe(lease),
                left,
            )
        clock.sleep(min(left, _PAUSE, duration / 8))


def _duration(lease: JSON, config: LeaseConfig) -> float:
    """Return for how many seconds a Lease lasts: what its holder says, or what is configured here."""
    try:
        return float(_spec(lease).get("leaseDurationSeconds") or config.duration)
    except (TypeError, ValueError) as error:
        raise FleetError(f"The Lease of the cluster cannot be understood: {error}.") from error
