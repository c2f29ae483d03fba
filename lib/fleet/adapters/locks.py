"""Spicerack's own lock, in an etcd of its own: whether it can be had, and what to do if not.

Spicerack takes it before a cookbook does anything, and ends with a traceback where it cannot. So it is looked at
right before, when spicerack asks how it is to be taken.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import etcd
from spicerack import Spicerack
from spicerack.exceptions import SpicerackError
from wmflib.exceptions import WmflibError

from fleet.errors import FleetError
from fleet.text import line

_TODO = (
    "See etcd_config in spicerack's config.yaml. If it cannot be mended now, and nobody else starts a maintenance:"
    " cookbook --no-locks"
)


ERRORS = (SpicerackError, etcd.EtcdException)
"""What taking the lock raises."""


_BROKEN = (WmflibError, TypeError, ValueError, OSError, RuntimeError)
"""What comes of configuration that cannot be used; the last where $USER has no home."""


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
    """Keep libraries from telling, in words of their own, what is told here."""
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
