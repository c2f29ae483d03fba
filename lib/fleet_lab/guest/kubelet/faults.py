"""The faults that are injected into this host: a file each, in a folder that the machine writes."""

from pathlib import Path

NOT_READY = "kubelet-not-ready"
"""The node reports that it is not ready, and starts and ends no pods."""

SLOW_TERMINATION = "pod-slow-to-terminate"
"""Pods take the number of seconds that stands in the file to terminate."""

NEVER_TERMINATES = "pod-never-terminates"
"""Pods do not terminate at all."""


class Faults:
    """The faults as they were last read.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._active: dict[str, str] = {}

    def refresh(self) -> bool:
        """Read the faults; return whether they have changed. Trouble with one that just goes shows as an OSError."""
        active = {path.name: path.read_text(encoding="utf-8") for path in self._folder.iterdir()}
        changed = active != self._active
        self._active = active
        return changed

    def __contains__(self, name: str) -> bool:
        return name in self._active

    def seconds(self, name: str) -> float:
        """Return the number that stands in a fault's file; 0 without the fault."""
        return float(self._active.get(name) or 0)
