"""The unified cgroup hierarchy: what belongs to the lab is found and ended there, whatever became of its parents."""

import contextlib
import time
from pathlib import Path

from fleet_lab.errors import LabError

_PATIENCE = 10.0
"""Seconds for killed processes to be gone."""


def mountpoint() -> Path | None:
    """Return where the machine has the unified hierarchy: not everywhere in the same place; None if it has none."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            return Path(fields.split()[4])
    return None


def kill(cgroup: Path) -> None:
    """Kill every process of a cgroup and of those below it, and wait until they are gone.

    Raises:
        LabError: they are not gone in time.
    """
    (cgroup / "cgroup.kill").write_text("1", encoding="ascii")
    deadline = time.monotonic() + _PATIENCE
    while "populated 1" in (cgroup / "cgroup.events").read_text(encoding="ascii"):
        if time.monotonic() > deadline:
            raise LabError(f"The processes of {cgroup} were killed, but are still there after {_PATIENCE:.0f} s.")
        time.sleep(0.01)


def remove(cgroup: Path) -> None:
    """Remove a cgroup that has no processes, with those below it."""
    for directory in sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(FileNotFoundError):
            directory.rmdir()
    cgroup.rmdir()


def leader(cgroup: Path) -> int | None:
    """Return the process id of the systemd of the host in a cgroup; None while the host is down."""
    try:
        processes = (cgroup / "host" / "payload" / "init.scope" / "cgroup.procs").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(processes[0]) if processes else None
