"""What the machine must have before a lab is made: everything that is missing is said at once."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from fleet.text import count, verb
from fleet_lab import cgroups
from fleet_lab.errors import LabError

PROGRAMS = {
    "systemd-nspawn": "apt-get install systemd-container",
    "mmdebstrap": "apt-get install mmdebstrap",
    "git": "apt-get install git",
    "ip": "apt-get install iproute2",
    "ssh": "apt-get install openssh-client",
    "nsenter": "apt-get install util-linux",
    "unshare": "apt-get install util-linux",
}
NAMESPACES = {"time": "a kernel of 5.6 or later", "net": "network namespaces", "cgroup": "cgroups"}
_DISK = 5
"""GB for the base image, the Kubernetes binaries and what the hosts write."""
_MEMORY = 0.25
"""GB for a host."""
_INOTIFY = 4
"""inotify instances that a host has: those of its systemd, and at times one of a service."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a machine has of what a lab needs.

    Attributes:
        is_root: whether this process may do everything.
        programs: those of :data:`PROGRAMS` that are there.
        free: the room in GB of each folder that the lab writes to.
        memory: the free memory in GB.
        inotify: how many inotify instances a user may have, and how many root has.
        drops_packets: whether the firewall drops what hosts send to each other.
        has_cgroups: whether the unified hierarchy is mounted.
        namespaces: those of :data:`NAMESPACES` that the kernel has.
        has_overlay: whether the kernel has an overlay file system.
    """

    is_root: bool
    programs: Collection[str]
    free: Mapping[Path, float]
    memory: float
    inotify: tuple[int, int]
    drops_packets: bool
    has_cgroups: bool
    namespaces: Collection[str]
    has_overlay: bool


def missing(state: Path, cache: Path, *, hosts: int, bridge: str) -> list[str]:
    """Return what is missing, each with how to get it.

    Args:
        state: where the lab's state will be.
        cache: where the base image will be.
        hosts: how many hosts are to be started.
        bridge: the name of the lab's bridge.
    """
    return lacking(look(state, cache, bridge=bridge), hosts=hosts, bridge=bridge)


def look(state: Path, cache: Path, *, bridge: str) -> Machine:
    """Look at this machine; the arguments are those of :func:`missing`."""
    return Machine(
        is_root=os.geteuid() == 0,
        programs={program for program in PROGRAMS if shutil.which(program)},
        free={folder: shutil.disk_usage(folder).free / 1e9 for folder in map(_existing, (state, cache))},
        memory=_available_memory(),
        inotify=inotify_instances(),
        drops_packets=_firewall_drops(bridge),
        has_cgroups=cgroups.mountpoint() is not None,
        namespaces={kind for kind in NAMESPACES if Path(f"/proc/self/ns/{kind}").exists()},
        has_overlay="overlay" in Path("/proc/filesystems").read_text(encoding="ascii") or _loadable("overlay"),
    )


def lacking(machine: Machine, *, hosts: int, bridge: str) -> list[str]:
    """Return what a machine lacks, each with how to get it; the other arguments are those of :func:`missing`."""
    found = []
    if not machine.is_root:
        found.append("this is not root: hosts are containers with their own network and init: run it with sudo")
    for program, remedy in PROGRAMS.items():
        if program not in machine.programs:
            found.append(f"there is no {program}: {remedy}")
    for folder, free in machine.free.items():
        if free < _DISK:
            found.append(
                f"{folder} has {free:.1f} GB free, {_DISK} are needed: free some, or set FLEET_LAB_DIR and "
                "FLEET_LAB_CACHE to folders of a larger disk"
            )
    if machine.memory < hosts * _MEMORY:
        found.append(
            f"{machine.memory:.1f} GB of memory are free, {hosts * _MEMORY:.1f} are needed: end other programs, or add"
            " memory"
        )
    found += lacking_inotify(*machine.inotify, hosts=hosts)
    if machine.drops_packets:
        found.append(
            "the machine's firewall drops what hosts send to each other (Docker sets it up so): "
            f"iptables -I FORWARD -i {bridge} -o {bridge} -j ACCEPT"
        )
    if not machine.has_cgroups:
        found.append(
            "the unified cgroup hierarchy is not mounted: "
            "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"
        )
    for kind, what in NAMESPACES.items():
        if kind not in machine.namespaces:
            found.append(f"the kernel has no {kind} namespaces: boot a kernel with them ({what})")
    if not machine.has_overlay:
        found.append("the kernel has no overlay file system: modprobe overlay")
    return found


def check(state: Path, cache: Path, *, hosts: int, bridge: str) -> None:
    """Raise :class:`LabError` with everything that is missing; the arguments are those of :func:`missing`."""
    found = missing(state, cache, hosts=hosts, bridge=bridge)
    if found:
        raise LabError("The lab cannot be started here:\n" + "\n".join(f"  - {what}" for what in found))


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _available_memory() -> float:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return kilobytes * 1024 / 1e9


def lacking_inotify(allowed: int, used: int, *, hosts: int) -> list[str]:
    """Return that there are too few inotify instances, with how to get more; nothing if there are enough.

    Args:
        allowed: how many a user may have.
        used: how many root has.
        hosts: how many hosts are to be started, or have just not come up.
    """
    needed = hosts * _INOTIFY
    if used + needed <= allowed:
        return []
    return [
        f"{count(max(0, allowed - used), 'inotify instance')} free, {count(hosts, 'host')}"
        f" {verb(hosts, 'needs', 'need')} {needed}: "
        f"sysctl fs.inotify.max_user_instances={max(512, used + 2 * needed)}"
    ]


def inotify_instances() -> tuple[int, int]:
    """Return how many instances a user may have, and how many root has."""
    allowed = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text(encoding="ascii"))
    used = 0
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):  # it has just ended, or is another user's
            if folder.stat().st_uid == 0:
                used += sum(str(file.readlink()) == "anon_inode:inotify" for file in folder.iterdir())
    return allowed, used


def _firewall_drops(bridge: str) -> bool:
    """Whether packets on a bridge are filtered, and dropped as no rule for this bridge lets them pass."""
    setting = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if shutil.which("iptables") is None or not setting.exists() or setting.read_text(encoding="ascii").strip() == "0":
        return False
    rules = subprocess.run(["iptables", "-S", "FORWARD"], capture_output=True, text=True, check=False).stdout
    return "-P FORWARD DROP" in rules and f"-i {bridge} " not in rules


def _loadable(module: str) -> bool:
    modules = Path("/lib/modules") / os.uname().release
    return any(modules.rglob(f"{module}.ko*"))
