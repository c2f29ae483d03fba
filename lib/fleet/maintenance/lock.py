"""One maintenance per cluster: a Kubernetes Lease that is renewed as long as the run lives.

The Lease is the lock of the whole run. Spicerack's own lock in etcd, which cannot be renewed, only keeps two starts
apart while they look at the Lease; the cookbook takes it around :meth:`ClusterLock.acquire`.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fleet.config import LeaseConfig
from fleet.errors import FleetError
from fleet.k8s.client import Api, ApiError, KubernetesError

logger = logging.getLogger(__name__)

ANNOTATION = "fleet-cookbooks/maintenance"
CLOCK_SKEW = 5.0
"""Seconds that clocks of two cluster-management hosts may be apart."""


class LockTaken(FleetError):
    """Another run holds the cluster."""


class _Conflict(LockTaken):
    """Another process wrote the Lease between our look and our write."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock.

    Attributes:
        run: the run's id.
        host: the host it runs on.
        operator: who started it.
        reason: why.
    """

    run: str
    host: str
    operator: str
    reason: str

    @property
    def identity(self) -> str:
        """The Lease's holderIdentity."""
        return f"{self.run}@{self.host}"


class ClusterLock:
    """Holds the Lease of a cluster.

    Args:
        api: the cluster's API.
        config: the Lease's place and how long it lasts.
        holder: who wants it.
        on_change: called, from a thread, when the lock is lost or found again.
    """

    def __init__(self, api: Api, config: LeaseConfig, holder: Holder, on_change: Callable[[], None]) -> None:
        self._api = api
        self._config = config
        self._holder = holder
        self._on_change = on_change
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{config.namespace}/leases"
        self._renewed = 0.0
        self._taken_by = ""
        self._suspended = threading.Event()
        self._trying = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def acquire(self, *, patient: bool = False) -> None:
        """Take the Lease and keep renewing it.

        Args:
            patient: hold it without the Lease as long as the API cannot be asked for it, and go on trying.

        Raises:
            LockTaken: another run holds it; the text says which, whose, and until when.
            ApiError: the API refused.
        """
        try:
            self._take_at_once()
            self._suspended.clear()
        except KubernetesError as error:
            # In a cluster that is just being initialised there may be no namespace for it yet.
            if not patient or (isinstance(error, ApiError) and error.status < 500 and error.status != 404):
                raise
            self._trying = True
            self._suspended.set()
        if not self._thread.is_alive():
            self._thread.start()

    def suspend(self) -> None:
        """Hold it without the Lease, while nobody could take that either: there is, or soon will be, no API.

        Until :meth:`acquire` is called (again), in the API that there is then.
        """
        self._trying = False
        self._suspended.set()
        if not self._thread.is_alive():
            self._thread.start()

    @property
    def is_suspended(self) -> bool:
        """Whether it is held without the Lease."""
        return self._suspended.is_set()

    def problem(self) -> str:
        """Return why the lock is not held, or an empty string while it is."""
        if self._suspended.is_set():
            return ""
        if self._taken_by:
            return f"the lock of the cluster was lost: {self._taken_by}"
        age = time.monotonic() - self._renewed
        if age > self._config.duration:
            return f"the lock of the cluster could not be renewed for {age:.0f} s"
        return ""

    @property
    def lost(self) -> bool:
        """Whether someone else has the lock, so that waiting is of no use."""
        return bool(self._taken_by) and not self._suspended.is_set()

    def release(self) -> None:
        """Give the Lease back; one that cannot be given back expires by itself."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._config.duration)
        if self._suspended.is_set():
            return
        try:
            lease = self._api.get(f"{self._leases}/{self._config.name}")
            if lease["spec"].get("holderIdentity") == self._holder.identity:
                lease["spec"]["holderIdentity"] = ""
                self._api.replace(f"{self._leases}/{self._config.name}", lease)
        except FleetError as error:
            logger.warning("The lock of the cluster was not given back, it expires by itself: %s", error)

    def _take_at_once(self) -> None:
        try:
            self._take()
        except _Conflict:
            self._take()  # The next look tells whether it was another run, or an answer to ourselves that was lost.

    def _take(self) -> None:
        """Create, take over or renew the Lease, whichever is right."""
        before = time.monotonic()
        try:
            lease = self._api.get(f"{self._leases}/{self._config.name}")
        except ApiError as error:
            if error.status != 404:
                raise
            lease = None
        if lease is not None and (other := _taken_by(lease, self._holder.identity)):
            raise LockTaken(f"The cluster is being worked on by {other}.")
        try:
            if lease is None:
                self._api.create(self._leases, self._ours({"metadata": {"name": self._config.name}}))
            else:
                self._api.replace(f"{self._leases}/{self._config.name}", self._ours(lease))
        except ApiError as error:
            if error.status == 409:
                raise _Conflict("Another run took the lock of the cluster at the same moment.") from error
            raise
        self._renewed = before

    def _ours(self, lease: dict[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
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

    def _keep(self) -> None:
        was_fine = True
        while not self._stop.wait(self._config.duration / 4):
            if self._suspended.is_set() and not self._trying:
                continue
            try:
                self._take()
                if self._trying:
                    self._trying = False
                    self._suspended.clear()
            except _Conflict:
                continue  # The next look tells who has it.
            except LockTaken as error:
                self._taken_by = str(error)
                self._suspended.clear()
                self._on_change()
                return
            except FleetError as error:
                logger.debug("Lease not renewed: %s", error)
            except Exception as error:  # A Lease that cannot be understood is not ours any more.
                logger.debug("Lease not understood", exc_info=True)
                self._taken_by = f"the Lease cannot be understood ({type(error).__name__}: {error})"
                self._on_change()
                return
            fine = not self.problem()
            if fine is not was_fine:
                was_fine = fine
                self._on_change()


def taken_by(api: Api, config: LeaseConfig) -> str:
    """Return who holds the lock of a cluster, or an empty string if nobody does. Only reads.

    Args:
        api: the cluster's API.
        config: the Lease's place.

    Raises:
        ApiError: the API refused.
    """
    try:
        lease = api.get(f"/apis/coordination.k8s.io/v1/namespaces/{config.namespace}/leases/{config.name}")
    except ApiError as error:
        if error.status == 404:
            return ""
        raise
    return _taken_by(lease, "")


def _taken_by(lease: Mapping[str, Any], ours: str) -> str:
    spec = lease.get("spec") or {}
    identity = spec.get("holderIdentity") or ""
    # Our own Lease after a crash: the lock on the run's journal proves that no other process on this host works on it.
    if not identity or identity == ours:
        return ""
    if not spec.get("renewTime"):
        return f"{identity}, which does not say until when"
    renewed = datetime.fromisoformat(spec["renewTime"].replace("Z", "+00:00"))
    age = (datetime.now(UTC) - renewed).total_seconds()
    if age > float(spec.get("leaseDurationSeconds") or 0) + CLOCK_SKEW:
        return ""
    about = (lease["metadata"].get("annotations") or {}).get(ANNOTATION, "")
    return f"run {identity} ({about}), renewed {age:.0f} s ago"
