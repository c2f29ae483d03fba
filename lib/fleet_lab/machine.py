"""What the lab has on the machine itself: a bridge and a cgroup. Mounts it has none: they are the supervisors' own."""

import json
import subprocess
from pathlib import Path

from fleet_lab import cgroups
from fleet_lab.command import run
from fleet_lab.errors import LabError
from fleet_lab.topology import Network

CGROUP = "fleet-lab"
"""The lab's cgroup, below which every host and its supervisor has its own."""

_MAC = "02:66:6c:65:65:74"
"""The bridge's hardware address ("fleet"): it is the lab's from the start, and no other bridge is ever touched."""


def cgroup() -> Path:
    """Return the lab's cgroup.

    Raises:
        LabError: the machine has no unified hierarchy.
    """
    mountpoint = cgroups.mountpoint()
    if mountpoint is None:
        raise LabError("The unified cgroup hierarchy is not mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")
    return mountpoint / CGROUP


def create_bridge(network: Network) -> None:
    """Make the bridge, with the machine's own addresses; nothing is routed from it to anywhere.

    Raises:
        LabError: an interface of that name is not the lab's, or the machine is connected to that network already.
    """
    link = _link(network.bridge)
    if link is None:
        for version, net in (("-4", network.ipv4), ("-6", network.ipv6)):
            routes = json.loads(run(["ip", "-json", version, "route", "show", "root", str(net)]) or "[]")
            if routes:
                raise LabError(
                    f"The machine has a route to {net} (device {routes[0].get('dev')}): choose another network in the "
                    "topology file (--topology)."
                )
        run(["ip", "link", "add", network.bridge, "address", _MAC, "type", "bridge", "forward_delay", "0"])
    elif link.get("address") != _MAC:
        raise LabError(
            f"There is a network interface {network.bridge} that is not the lab's: choose another name for the bridge "
            "in the topology file (--topology)."
        )
    run(["ip", "address", "replace", f"{network.machine_ipv4}/{network.ipv4.prefixlen}", "dev", network.bridge])
    run(
        ["ip", "address", "replace", f"{network.machine_ipv6}/{network.ipv6.prefixlen}", "dev", network.bridge, "nodad"]
    )
    run(["ip", "link", "set", network.bridge, "up"])


def _link(name: str) -> dict[str, object] | None:
    done = subprocess.run(["ip", "-json", "link", "show", name], capture_output=True, text=True, check=False)
    return dict(json.loads(done.stdout)[0]) if done.returncode == 0 else None


def remove() -> None:
    """Kill every process of the lab and remove its cgroups and its bridge, whatever state they are in."""
    mountpoint = cgroups.mountpoint()
    if mountpoint and (mountpoint / CGROUP).exists():
        cgroups.kill(mountpoint / CGROUP)
        cgroups.remove(mountpoint / CGROUP)
    links = json.loads(run(["ip", "-json", "link", "show", "type", "bridge"]) or "[]")
    for link in links:
        if link.get("address") == _MAC:
            run(["ip", "link", "delete", link["ifname"]])


def running() -> bool:
    """Whether processes of the lab are running."""
    mountpoint = cgroups.mountpoint()
    events = mountpoint and mountpoint / CGROUP / "cgroup.events"
    return bool(events and events.exists() and "populated 1" in events.read_text(encoding="ascii"))
