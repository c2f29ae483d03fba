"""What is known of a host from outside."""

import json
from dataclasses import dataclass

from fleet_lab.paths import HostPaths
from fleet_lab.topology import Host


@dataclass(frozen=True)
class HostStatus:
    """What is known of a host from outside."""

    host: Host
    state: str
    """``running``, ``rebooting``, ``held down``, ``slow to boot``, ``crashed``, ``off``; ``dead`` if unsupervised."""
    boots: int
    """How often it was booted since the lab was made, or since its supervisor was started again."""
    since: float
    """When the state began, in seconds of the epoch."""
    faults: tuple[str, ...]


def read(host: Host, paths: HostPaths, *, supervised: bool) -> HostStatus:
    """Return what a host's supervisor last said of it.

    Args:
        host: the host.
        paths: its folder.
        supervised: whether its supervisor runs.
    """
    try:
        said = json.loads(paths.status.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        said = {}
    state = said.get("state", "new")
    if not supervised and state != "off":
        state = "dead"
    faults = tuple(sorted(path.name for path in paths.faults.glob("[a-z]*")))
    return HostStatus(host, state, said.get("boots", 0), said.get("since", 0.0), faults)
