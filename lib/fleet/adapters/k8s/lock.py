"""One maintenance per cluster: a Kubernetes Lease that is renewed as long as the run lives.

The Lease is the lock of the whole run. Spicerack's own lock in etcd, which cannot be renewed, only keeps two starts
apart while they look at the Lease; the cookbook takes it around :meth:`ClusterLock.acquire`.
"""

import logging
from collections.abc import Callable, Collection
from datetime import UTC, datetime

from fleet.adapters.k8s import lease as leases
from fleet.adapters.k8s.client import JSON, Api
from fleet.adapters.k8s.errors import ApiError, KubernetesError
from fleet.adapters.k8s.lease import ANNOTATION, Sightings
from fleet.clock import CLOCK, THREADS, Clock, Repeating, Threads
from fleet.config.model import LeaseConfig
from fleet.engine.protocols import Holder
from fleet.errors import FleetError

logger = logging.getLogger(__name__)

_RENEWALS = 4
"""How often the Lease is renewed within its duration."""
_DEADLINE = 2 / 3
"""The part of the Lease's duration after which a holder that could not renew it starts nothing new: well before others
may take it, as with client-go's RenewDeadline of 10 s and LeaseDuration of 15 s."""


class LockTaken(FleetError):
    """Another run holds the cluster."""


class _Conflict(LockTaken):
    """Another process wrote the Lease between our look and our write."""


class ClusterLock:
    """Holds the Lease of a cluster.

    Args:
        api: the cluster's API.
        config: the Lease's place and how long it lasts.
        holder: who wants it.
        on_change: called, from a thread, when the lock is lost or found again.
        clock: the time.
        threads: how it is renewed in the background.
        seen: what this process has seen of the Lease before.
    """

    def __init__(
        self,
        api: Api,
        config: LeaseConfig,
        holder: Holder,
        on_change: Callable[[], None],
        *,
        clock: Clock = CLOCK,
        threads: Threads = THREADS,
        seen: Sightings | None = None,
    ) -> None:
        self._api = api
        self._config = config
        self._holder = holder
        self._on_change = on_change
        self._clock = clock
        self._threads = threads
        self._seen = seen or Sightings()
        self._renewed = clock.monotonic()
        self._taken_by = ""
        self._doubt = ""
        self._suspended = False
        self._trying = False
        self._was_fine = True
        self._released = False
        self._keeper: Repeating | None = None

    def acquire(self, *, patient: bool = False) -> None:
        """Take the Lease and keep renewing it. One that another run holds is watched until it is known to be alive.

        Args:
            patient: hold it without the Lease as long as the API cannot be asked for it, and keep trying.

        Raises:
            LockTaken: another run holds it, and is alive; the text says which and whose.
            ApiError: the API refused.
        """
        try:
            self._seize()
            self._suspended = False
        except KubernetesError as error:
            # In a cluster that is just being initialised there may be no namespace for it yet.
            if not patient or (isinstance(error, ApiError) and error.status < 500 and error.status != 404):
                raise
            self._trying = True
            self._suspended = True
        self._start()

    def suspend(self) -> None:
        """Hold it without the Lease, while nobody could take that either: there is, or soon will be, no API.

        Until :meth:`acquire` is called (again), in the API that there is then.
        """
        self._trying = False
        self._suspended = True
        self._start()

    @property
    def is_suspended(self) -> bool:
        """Whether it is held without the Lease."""
        return self._suspended

    def problem(self) -> str:
        """Return why the lock is not held, or an empty string while it is.

        The Lease counts as lost for want of renewals a good while before others may take it.
        """
        if self._suspended:
            return f"the lock of the cluster may be held by {self._doubt}" if self._doubt else ""
        if self._taken_by:
            return f"the lock of the cluster was lost: {self._taken_by}"
        age = self._clock.monotonic() - self._renewed
        if age > self._config.duration * _DEADLINE:
            return f"the lock of the cluster could not be renewed for {age:.0f} s"
        return ""

    @property
    def lost(self) -> bool:
        """Whether someone else has the lock, so that waiting is of no use."""
        return bool(self._taken_by) and not self._suspended

    def release(self) -> None:
        """Give the Lease back; one that cannot be given back expires by itself."""
        self._released = True
        if self._keeper is not None:
            self._keeper.stop(wait=self._config.duration)
        if self._suspended:
            return
        try:
            lease = leases.read(self._api, self._config)
            if lease is not None and leases.holder_of(lease) == self._holder.identity:
                lease["spec"]["holderIdentity"] = ""
                self._api.replace(self._path, lease)
        except FleetError as error:
            logger.warning("The lock of the cluster was not given back, it expires by itself: %s", error)

    @property
    def _path(self) -> str:
        return f"{leases.collection(self._config)}/{self._config.name}"

    def _start(self) -> None:
        if self._keeper is None:
            self._keeper = self._threads.repeat(self._keep, self._config.duration / _RENEWALS, "lease")

    def _seize(self) -> None:
        """Take the Lease as soon as it is known that no other run that is alive holds it."""
        try:
            lease, other = leases.living_holder(
                self._api,
                self._config,
                self._seen,
                self._clock,
                # Our own Lease after a crash: the lock on the run's journal proves that no other process works on it.
                ours=[self._holder.identity],
                is_over=lambda: self._released,
                on_wait=self._wonder,
            )
        finally:
            self._wonder("")
        if other:
            raise LockTaken(f"The cluster is being worked on by {other}.")
        try:
            self._write(lease)
        except _Conflict:
            self._renew()  # The next look tells whether it was another run, or an answer to ourselves that was lost.

    def _renew(self) -> None:
        """Write the Lease once more; another holder has taken it from us."""
        lease = leases.read(self._api, self._config)
        if leases.holder_of(lease) not in ("", self._holder.identity):
            raise LockTaken(f"The cluster is being worked on by {leases.describe(lease)}.")
        self._write(lease)

    def _write(self, lease: JSON | None) -> None:
        before = self._clock.monotonic()
        try:
            if lease is None:
                ours = self._ours({"metadata": {"name": self._config.name}})
                self._api.create(leases.collection(self._config), ours)
            else:
                self._api.replace(self._path, self._ours(lease))
        except ApiError as error:
            if error.status == 409:
                raise _Conflict("Another run took the lock of the cluster at the same moment.") from error
            raise
        self._renewed = before

    def _wonder(self, who: str) -> None:
        self._doubt = who

    def _ours(self, lease: JSON) -> JSON:
        now = datetime.fromtimestamp(self._clock.time(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = lease.get("spec") or {}
        same = old.get("holderIdentity") == self._holder.identity
        lease["spec"] = {
            "holderIdentity": self._holder.identity,
            "leaseDurationSeconds": max(1, round(self._config.duration)),
            "acquireTime": old.get("acquireTime") if same else now,
            "renewTime": now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (not same),
        }
        annotations = lease["metadata"].setdefault("annotations", {})
        annotations[ANNOTATION] = f"{self._holder.operator}: {self._holder.reason}"
        return lease

    def _keep(self) -> bool:
        """Renew the Lease, or try to take it; return whether there is any use in continuing."""
        if self._released:
            return False
        if self._suspended and not self._trying:
            return True
        try:
            if self._trying:
                self._seize()
                self._trying = self._suspended = False
            else:
                self._renew()
        except _Conflict:
            return True  # The next look tells who has it.
        except LockTaken as error:
            return self._lose(str(error))
        except FleetError as error:
            logger.debug("Lease not renewed: %s", error)
        except Exception as error:  # A Lease that cannot be understood is not ours any more.
            logger.debug("Lease not understood", exc_info=True)
            return self._lose(f"the Lease cannot be understood ({type(error).__name__}: {error})")
        fine = not self.problem()
        if fine is not self._was_fine:
            self._was_fine = fine
            self._on_change()
        return True

    def _lose(self, why: str) -> bool:
        self._taken_by = why
        self._suspended = False
        self._on_change()
        return False


def taken_by(
    api: Api,
    config: LeaseConfig,
    *,
    seen: Sightings | None = None,
    clock: Clock = CLOCK,
    dead: Collection[str] = (),
    is_over: Callable[[], bool] = lambda: False,
) -> str:
    """Return who holds the lock of a cluster and is alive, or an empty string if nobody does. Only reads.

    A Lease that somebody holds is watched: until it is renewed, or for as long as it lasts.

    Args:
        api: the cluster's API.
        config: the Lease's place.
        seen: keeps what was seen, for the one who takes the Lease afterwards.
        clock: the time.
        dead: runs, by id, that are known to be dead.
        is_over: asked meanwhile; whether to wait no longer.

    Raises:
        ApiError: the API refused.
    """
    return leases.living_holder(api, config, seen or Sightings(), clock, ours=dead, is_over=is_over)[1]
