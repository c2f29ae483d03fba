"""What the machine must have before a lab is made: everything that is missing is said at once."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from fleet.text import count, verb
from fleet_lab import cgroups
from fleet_lab.errors import LabError

_PROGRAMS = {
    "systemd-nspawn": "apt-get install systemd-container",
    "mmdebstrap": "apt-get install mmdebstrap",
    "git": "apt-get install git",
    "ip": "apt-get install iproute2",
    "ssh": "apt-get install openssh-client",
    "nsenter": "apt-get install util-linux",
    "unshare": "apt-get install util-linux",
}
_DISK = 5
"""GB for the base image, the Kubernetes binaries and what the hosts write."""
_MEMORY = 0.25
"""GB for a host."""
_INOTIFY = 4
"""inotify instances that a host has: those of its systemd, and at times one of a service."""


def missing(state: Path, cache: Path, *, hosts: int, bridge: str) -> list[str]:
    """Return what is missing, each with how to get it.

    Args:
        state: where the lab's state will be.
        cache: where the base image will be.
        hosts: how many hosts are to be started.
        bridge: the name of the lab's bridge.
    """
    found = []
    if os.geteuid() != 0:
        found.append("this is not root: hosts are containers with their own network and init: run it with sudo")
    for program, remedy in _PROGRAMS.items():
        if shutil.which(program) is None:
            found.append(f"there is no {program}: {remedy}")
    for folder in dict.fromkeys(_existing(path) for path in (state, cache)):
        free = shutil.disk_usage(folder).free / 1e9
        if free < _DISK:
            found.append(
                f"{folder} has {free:.1f} GB free, {_DISK} are needed: free some, or set FLEET_LAB_DIR and "
                "FLEET_LAB_CACHE to folders of a larger disk"
            )
    memory = _available_memory()
    if memory < hosts * _MEMORY:
        found.append(
            f"{memory:.1f} GB of memory are free, {hosts * _MEMORY:.1f} are needed: end other programs, or add memory"
        )
    found += lacking_inotify(*inotify_instances(), hosts=hosts)
    if _firewall_drops(bridge):
        found.append(
            "the machine's firewall drops what hosts send to each other (Docker sets it up so): "
            f"iptables -I FORWARD -i {bridge} -o {bridge} -j ACCEPT"
        )
    if cgroups.mountpoint() is None:
        found.append(
            "the unified cgroup hierarchy is not mounted: "
            "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"
        )
    for kind, what in (("time", "a kernel of 5.6 or later"), ("net", "network namespaces"), ("cgroup", "cgroups")):
        if not Path(f"/proc/self/ns/{kind}").exists():
            found.append(f"the kernel has no {kind} namespaces: boot a kernel with them ({what})")
    if "overlay" not in Path("/proc/filesystems").read_text(encoding="ascii") and not _loadable("overlay"):
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
