"""Boots one host: a systemd-nspawn container over an overlay, in namespaces and a cgroup of its own.

The calls here change the process that makes them (a host's supervisor), which is why that is a process of its own.
Mounts are made in its private mount namespace: they are gone as soon as supervisor and host are, however they ended.
"""

import ctypes
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fleet_lab.errors import LabError
from fleet_lab.paths import HostPaths

REBOOT = 133
"""What systemd-nspawn exits with when the host has rebooted; 0 is a power-off."""

FAULTS = "/run/fleet-lab/faults"
"""Where a host sees its faults."""

_CLONE_NEWNS = 0x00020000
_CLONE_NEWTIME = 0x00000080
_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Spec:
    """What is needed to boot a host."""

    name: str
    machine: str
    """Its name for systemd-nspawn, which no host of another lab has; ``vb-MACHINE`` is its end of the network."""
    image: str
    """The folder of the base image."""
    bridge: str
    cgroup: str
    """The host's cgroup, below the mount of the unified hierarchy."""
    firmware_delay: float
    """Seconds that a reboot takes before the host starts again, as real hardware's firmware does."""
    binds: Mapping[str, str] = field(default_factory=dict)
    """Read-only bind mounts: the machine's path to the host's path."""

    def write(self, path: Path) -> None:
        """Write the specification to a file."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Spec":
        """Read the specification from a file."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise LabError(f"{what}: {os.strerror(number)}")


def _mount(source: str, target: Path | str, kind: str, flags: int = 0, options: str = "") -> None:
    result = _libc.mount(source.encode(), str(target).encode(), kind.encode(), flags, options.encode())
    _check(result, f"mounting {kind or 'the root'} at {target}")


def enter_private_mounts() -> None:
    """Leave the machine's mount namespace, and see only the unified cgroup hierarchy.

    On machines with cgroup v1 the hosts therefore find the same layout as everywhere else. What systemd-nspawn keeps
    below ``/run``, and leaves there when it is killed, is private as well.
    """
    _check(_libc.unshare(_CLONE_NEWNS), "a mount namespace of the host's own")
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    _mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
    nspawn = Path("/run/systemd/nspawn")
    nspawn.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", nspawn, "tmpfs", options="mode=0755")


def mount_disk(spec: Spec, paths: HostPaths) -> None:
    """Mount the host's disk: its own layer over the base image.

    It is ``volatile`` (nothing is synced): a lab needs not survive a crash of the machine, and etcd syncs all the time.
    The mark that such a mount leaves behind, so that it is not used again after a crash, is removed for that reason.
    """
    for directory in (paths.upper, paths.work, paths.mountpoint):
        directory.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(paths.work / "work" / "incompat", ignore_errors=True)
    options = f"lowerdir={spec.image},upperdir={paths.upper},workdir={paths.work},volatile"
    _mount("overlay", paths.mountpoint, "overlay", options=options)


def join_cgroup(cgroup: str) -> None:
    """Move this process into a cgroup, made if need be.

    Args:
        cgroup: path below the unified hierarchy, which must be mounted at ``/sys/fs/cgroup``.
    """
    directory = Path("/sys/fs/cgroup") / cgroup
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cgroup.procs").write_text("0", encoding="ascii")


def _new_clock() -> None:
    """Let the processes started from now on see an uptime that starts at a second, as if a kernel had just booted.

    To FRR, what happened in the second zero has never happened.
    """
    _check(_libc.unshare(_CLONE_NEWTIME), "a time namespace of the host's own")
    offsets = []
    for name, clock in (("monotonic", time.CLOCK_MONOTONIC), ("boottime", time.CLOCK_BOOTTIME)):
        seconds, nanoseconds = divmod(1_000_000_000 - time.clock_gettime_ns(clock), 1_000_000_000)
        offsets.append(f"{name} {seconds} {nanoseconds}\n")
    Path("/proc/self/timens_offsets").write_text("".join(offsets), encoding="ascii")


def nspawn_command(spec: Spec, paths: HostPaths) -> list[str]:
    """Return the command that boots the host."""
    binds = [f"--bind-ro={source}:{target}" for source, target in spec.binds.items()]
    return [
        "systemd-nspawn",
        "--quiet",
        "--boot",
        f"--directory={paths.mountpoint}",
        f"--machine={spec.machine}",
        f"--hostname={spec.name}",
        f"--network-bridge={spec.bridge}",
        "--register=no",
        "--keep-unit",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        "--console=pipe",
        f"--bind-ro={paths.faults}:{FAULTS}",
        *binds,
    ]


def boot(spec: Spec, paths: HostPaths) -> int:
    """Boot the host.

    Returns:
        The process id of systemd-nspawn, a child; its exit code is :data:`REBOOT` after a reboot.
    """
    command = nspawn_command(spec, paths)
    if paths.console.exists():
        paths.console.replace(paths.console.with_suffix(".log.1"))
    _new_clock()
    pid = os.fork()
    if pid:
        return pid
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        join_cgroup(f"{spec.cgroup}/host")
        console = os.open(paths.console, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(console, 1)
        os.dup2(console, 2)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the supervisor's blocked signals are not the host's
        os.execvp(command[0], command)  # noqa: S606
    finally:
        os._exit(1)
