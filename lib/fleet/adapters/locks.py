"""Locks in the etcd of spicerack's locks: spicerack's own, and those of groups of hosts.

Spicerack takes its own before a cookbook does anything, and ends with a traceback where it cannot. So that is looked
at right before, when spicerack asks how it is to be taken. It cannot be renewed: a group of hosts is locked with a key
of this project in the same etcd, which expires unless the run renews it.
"""

import json
import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol

import etcd
from spicerack import Spicerack
from spicerack.exceptions import SpicerackError
from spicerack.locking import KEYS_BASE_PATH
from wmflib.exceptions import WmflibError

from fleet.clock import CLOCK, THREADS, Clock, Repeating, Threads
from fleet.engine.protocols import Holder
from fleet.errors import FleetError
from fleet.text import line

logger = logging.getLogger(__name__)

GROUPS = f"{KEYS_BASE_PATH}/fleet"
"""The folder of the groups' keys: below spicerack's own, for which its login has the rights."""
_RENEWALS = 4
"""How often a key is renewed before it would expire."""
_PATIENCE = 4.0
"""Seconds for an answer: python-etcd asks a member four times before the next one, and each has a minute by default."""
_QUIETING = threading.RLock()
"""Held by whoever has changed what libraries log: of two at a time one would put back what the other has set."""
_DEADLINE = 2 / 3
"""The part of its life after which a holder that could not renew it starts nothing new, as with clusters."""

_TODO = (
    "See etcd_config in spicerack's config.yaml. If it cannot be mended now, and nobody else starts a maintenance:"
    " cookbook --no-locks"
)


ERRORS = (SpicerackError, etcd.EtcdException)
"""What taking the lock raises."""


_BROKEN = (WmflibError, TypeError, ValueError, OSError, RuntimeError)
"""What comes of configuration that cannot be used, the last where $USER has no home, and of python-etcd itself."""


class LockStoreError(FleetError):
    """Spicerack's lock cannot be had; nothing was touched."""


def check(spicerack: Spicerack) -> None:
    """Ask the store of spicerack's locks for something that needs not be there.

    Raises:
        LockStoreError: it cannot be asked.
    """
    try:
        with _quiet("etcd", "urllib3"):
            spicerack.lock().get("fleet:check")
    except (*ERRORS, *_BROKEN) as error:
        raise LockStoreError(problem(error)) from error


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keep libraries from telling, in words of their own, what is told here; one thread at a time does so."""
    with _QUIETING:
        levels = {name: logging.getLogger(name).level for name in names}
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def problem(error: Exception) -> str:
    """Return what is wrong with spicerack's lock, and what to do next."""
    cause = error.__cause__ or error
    match cause:
        case etcd.EtcdConnectionFailed():
            why = "its etcd does not answer"
        case etcd.EtcdInsufficientPermissions():
            why = "its etcd refuses the login (of that file, or of ~/.etcdrc)"
        case etcd.EtcdException():
            why = "its etcd does not answer as etcd's API v2 does, which 3.4 and 3.5 have with --enable-v2=true"
        case WmflibError() | TypeError() | ValueError() | OSError() | RuntimeError():
            why = f"its configuration cannot be used: {line(cause)}"
        case _:
            why = f"another cookbook has it, or did not give it back: {line(cause)}"
    return f"Spicerack's lock cannot be had: {why}. {_TODO}"


class GroupTaken(FleetError):
    """Another run holds the group."""


class Store(Protocol):
    """What is needed of a client of etcd's API v2, as :class:`etcd.Client` has it."""

    def read(self, key: str) -> Any:
        """Return a key, with its ``value``."""

    def write(self, key: str, value: str, *, ttl: int, prevExist: bool = ..., prevValue: str = ...) -> Any:  # noqa: N803
        """Write a key, if it is, or is not, as expected."""

    def delete(self, key: str, *, prevValue: str) -> Any:  # noqa: N803
        """Remove a key, if it is as expected."""


def store(spicerack: Spicerack) -> Store | None:
    """Return the etcd of spicerack's locks; None where there is none, or where the operator wants none.

    Raises:
        LockStoreError: its configuration cannot be used.
    """
    try:
        # A client of its own, from the same files: spicerack offers no other way to its configuration.
        found: Store | None = getattr(spicerack.lock(), "_etcd", None)
    except (*ERRORS, *_BROKEN) as error:
        raise LockStoreError(problem(error)) from error
    if isinstance(found, etcd.Client):
        found._read_timeout = min(found.read_timeout, _PATIENCE)
    return found


def group_holder(there: Store, group: str, *, dead: Collection[str] = ()) -> str:
    """Return the run that holds a group of hosts, and whose it is; empty if none does.

    Args:
        there: the etcd.
        group: the group's name.
        dead: runs, by id, that are known to be dead: theirs expires by itself.

    Raises:
        LockStoreError: it cannot be asked.
    """
    value = _read(there, group)
    return "" if value is None or _run_of(value) in dead else _describe(value)


class GroupLock:
    """Holds a group of hosts with a key that etcd itself lets expire: no clock but its own decides.

    ``/spicerack/locks/fleet/web`` is, for as long as its time to live::

        {"run": "20260131-030000-hosts-roll-restart-web-4f2a", "host": "cumin1", "operator": "jane@cumin1", …}

    Args:
        there: the etcd; None where there is none: nothing keeps others away then.
        group: the group's name.
        duration: seconds until the key expires.
        holder: who wants it.
        on_change: called, from a thread, when the lock is lost or found again.
        clock: the time.
        threads: how it is renewed in the background.
    """

    def __init__(
        self,
        there: Store | None,
        group: str,
        duration: float,
        holder: Holder,
        on_change: Callable[[], None],
        *,
        clock: Clock = CLOCK,
        threads: Threads = THREADS,
    ) -> None:
        self._store = there
        self._group = group
        self._duration = duration
        self._value = json.dumps(asdict(holder), sort_keys=True)
        self._run = holder.run
        self._on_change = on_change
        self._clock = clock
        self._threads = threads
        self._renewed = clock.monotonic()
        self._taken_by = ""
        self._was_fine = True
        self._keeper: Repeating | None = None

    def acquire(self, *, patient: bool = False) -> None:  # noqa: ARG002 (its etcd never goes away with the hosts)
        """Take the group, and keep renewing its key.

        Raises:
            GroupTaken: another run holds it.
            LockStoreError: etcd could not be asked.
        """
        if self._store is None:
            logger.warning(
                "No lock of %s is held: spicerack has no etcd for locks, or --no-locks was given.", self._group
            )
            return
        self._seize(self._store)
        self._keeper = self._threads.repeat(self._keep, self._duration / _RENEWALS, "group lock")

    def problem(self) -> str:
        """Return why the group is not held; empty while it is."""
        if self._store is None:
            return ""
        if self._taken_by:
            return f"the lock of {self._group} was lost: {self._taken_by}"
        age = self._clock.monotonic() - self._renewed
        if age > self._duration * _DEADLINE:
            return f"the lock of {self._group} could not be renewed for {age:.0f} s"
        return ""

    @property
    def lost(self) -> bool:
        """Whether another run has the group."""
        return bool(self._taken_by)

    def release(self) -> None:
        """Remove the key; one that cannot be removed expires by itself."""
        if self._keeper is None or self._store is None:
            return
        self._keeper.stop(wait=self._duration)
        if self.lost:
            return
        try:
            with _quiet("etcd", "urllib3"):
                self._store.delete(_key(self._group), prevValue=self._value)
        except (*ERRORS, *_BROKEN) as error:
            logger.warning("The lock of %s was not given back, it expires by itself: %s", self._group, line(error))

    def _seize(self, there: Store) -> None:
        """Write the key; one of this run's own that a crash has left is written anew."""
        value = _read(there, self._group)
        if value is not None and _run_of(value) != self._run:
            raise GroupTaken(f"{self._group} is being worked on by {_describe(value)}.")
        before = self._clock.monotonic()
        expected: dict[str, Any] = {"prevExist": False} if value is None else {"prevValue": value}
        try:
            with _quiet("etcd", "urllib3"):
                there.write(_key(self._group), self._value, ttl=self._ttl, **expected)
        except (etcd.EtcdAlreadyExist, etcd.EtcdCompareFailed) as error:
            # The client asks again where an answer is lost: then it may be this run's own.
            if _read(there, self._group) != self._value:
                raise GroupTaken(f"Another run took {self._group} at the same moment.") from error
        except etcd.EtcdKeyNotFound as error:
            raise LockStoreError(f"The lock of {self._group} expired at this moment: try again.") from error
        except (*ERRORS, *_BROKEN) as error:
            raise LockStoreError(problem(error)) from error
        self._renewed = before

    @property
    def _ttl(self) -> int:
        return max(1, round(self._duration))

    def _keep(self) -> bool:
        """Renew the key; return whether there is any use in continuing."""
        try:
            self._seize(self._store) if self._store else None
        except GroupTaken as error:
            self._taken_by = str(error)
            self._on_change()
            return False
        except FleetError as error:
            logger.debug("The lock of %s was not renewed: %s", self._group, error)
        fine = not self.problem()
        if fine is not self._was_fine:
            self._was_fine = fine
            self._on_change()
        return True


def _key(group: str) -> str:
    return f"{GROUPS}/{group}"


def _read(there: Store, group: str) -> str | None:
    try:
        with _quiet("etcd", "urllib3"):
            return str(there.read(_key(group)).value)
    except etcd.EtcdKeyNotFound:
        return None
    except (*ERRORS, *_BROKEN) as error:
        raise LockStoreError(problem(error)) from error


def _run_of(value: str) -> str:
    try:
        return str(json.loads(value)["run"])
    except (ValueError, TypeError, KeyError):
        return ""  # Somebody's, but not a run's.


def _describe(value: str) -> str:
    try:
        holder = Holder(**json.loads(value))
    except (ValueError, TypeError):
        return f"somebody who is not known: {line(value)}"
    return f"run {holder.run} on {holder.host} ({holder.operator}: {holder.reason})"
