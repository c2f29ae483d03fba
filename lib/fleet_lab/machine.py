"""What the lab has on the machine itself: a bridge and a cgroup. Mounts it has none: they are the supervisors' own.

Both carry a mark of the lab's state folder, so that they are found again whatever became of that folder, and no other
bridge and no other lab is ever touched.
"""

import hashlib
import json
import subprocess
from pathlib import Path

from fleet_lab import cgroups
from fleet_lab.command import run
from fleet_lab.errors import LabError
from fleet_lab.topology import Network


class Machine:
    """The machine's side of one lab.

    Args:
        state: the lab's state folder.
    """

    def __init__(self, state: Path) -> None:
        mark = hashlib.sha256(str(state).encode()).hexdigest()
        self.cgroup_name = f"fleet-lab-{mark[:6]}"
        """The lab's cgroup, below which every host has its own."""
        self._mark = mark[:2]
        # A locally administered address that is there from the moment the bridge is.
        self._mac = ":".join(["02", "66", "6c", mark[0:2], mark[2:4], mark[4:6]])

    @property
    def _cgroup(self) -> Path | None:
        mountpoint = cgroups.mountpoint()
        return mountpoint / self.cgroup_name if mountpoint else None

    def name(self, host: str) -> str:
        """Return a host's name among all that run on the machine."""
        return f"{host}-{self._mark}"

    def host_cgroup(self, host: str) -> Path:
        """Return the cgroup of a host and its supervisor.

        Raises:
            LabError: the machine has no unified hierarchy.
        """
        if self._cgroup is None:
            raise LabError("The unified cgroup hierarchy is not mounted: mount -t cgroup2 cgroup2 MOUNTPOINT")
        return self._cgroup / host

    def create_bridge(self, network: Network) -> None:
        """Make the bridge, with the machine's own addresses; nothing is routed from it to anywhere.

        Raises:
            LabError: an interface of that name is not the lab's, or the machine has a route to the lab's network.
        """
        link = next((link for link in _links() if link["ifname"] == network.bridge), None)
        if link is None:
            for version, net in (("-4", network.ipv4), ("-6", network.ipv6)):
                routes = json.loads(run(["ip", "-json", version, "route", "show", "root", str(net)]) or "[]")
                if routes:
                    raise LabError(
                        f"The machine has a route to {net} (device {routes[0].get('dev')}): choose another network in "
                        "the topology file (--topology)."
                    )
            run(["ip", "link", "add", network.bridge, "address", self._mac, "type", "bridge", "forward_delay", "0"])
        elif link.get("address") != self._mac:
            raise LabError(
                f"There is a network interface {network.bridge} that is not this lab's: choose another name for the "
                "bridge in the topology file (--topology)."
            )
        ipv4 = f"{network.machine_ipv4}/{network.ipv4.prefixlen}"
        ipv6 = f"{network.machine_ipv6}/{network.ipv6.prefixlen}"
        run(["ip", "address", "replace", ipv4, "dev", network.bridge])
        run(["ip", "address", "replace", ipv6, "dev", network.bridge, "nodad"])
        run(["ip", "link", "set", network.bridge, "up"])

    def remove(self) -> None:
        """Kill every process of the lab and remove its cgroups and its bridge, whatever state they are in."""
        cgroup = self._cgroup
        if cgroup and cgroup.exists():
            cgroups.kill(cgroup)
            cgroups.remove(cgroup)
        for bridge in _links("type", "bridge"):
            if bridge.get("address") != self._mac:
                continue
            # Those of the hosts go with their network namespaces, but the kernel takes its time for that.
            for port in _links("master", str(bridge["ifname"])):
                subprocess.run(["ip", "link", "delete", str(port["ifname"])], capture_output=True, check=False)
            run(["ip", "link", "delete", str(bridge["ifname"])])


def _links(*selection: str) -> list[dict[str, object]]:
    found = json.loads(run(["ip", "-json", "link", "show", *selection]) or "[]")
    return [link for link in found if link]  # iproute2 leaves empty ones for what was not selected
