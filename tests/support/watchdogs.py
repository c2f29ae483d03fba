"""Watchdogs that ask nobody."""

from fleet.adapters.k8s.tally import Report
from fleet.adapters.k8s.watchdog import Watchdog


class QuietWatchdog(Watchdog):
    """A watchdog that has seen some requests fail, and none since.

    Args:
        failed: how many.
        clean: for how many seconds none has failed; a test may change it.
    """

    def __init__(self, failed: int = 0, *, clean: float = 1e9) -> None:
        self.failed, self.clean = failed, clean

    def start(self) -> None:
        """Ask nobody."""

    def stop(self) -> None:
        """Leave nothing behind."""

    def report(self) -> Report:
        return Report(100, self.failed, ("GET: refused",) * self.failed, 0.5, 0, 0)

    def clean_for(self) -> float:
        return self.clean
