"""The supervisor of one host: its power supply and firmware.

``python -m fleet_lab.supervisor FOLDER`` boots the host of that folder, boots it again after a reboot, and obeys the
faults that are injected into the firmware. SIGHUP tells it to look at the faults again.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fleet_lab import cgroups, container
from fleet_lab.paths import HostPaths

STAYS_DOWN = "host-stays-down"
"""Fault: the host does not come back from its next reboot."""

SLOW_BOOT = "host-slow-boot"
"""Fault: the host's reboots take longer, by the number of seconds that stands in the file."""

_RETRY = 5.0
"""Seconds until a host is booted again whose container could not be started or was killed."""

_SIGNALS = {signal.SIGCHLD, signal.SIGHUP}


class Supervisor:
    """Keeps one host running.

    Args:
        paths: the host's folder.
    """

    def __init__(self, paths: HostPaths) -> None:
        self._paths = paths
        self._spec = container.Spec.read(paths.spec)
        self._boots = 0

    def run(self) -> None:
        """Boot the host again and again, until it is powered off."""
        container.enter_private_mounts()
        container.join_cgroup(f"{self._spec.cgroup}/supervisor")
        container.mount_disk(self._spec, self._paths)
        while True:
            self._kill_leftovers()
            started = time.monotonic()
            pid = container.boot(self._spec, self._paths)
            self._boots += 1
            self._say("running")
            code = self._wait(pid)
            print(f"{time.strftime('%FT%TZ', time.gmtime())} the host ended with {code}", flush=True)
            if code == 0:
                self._say("off")
                return
            if code == container.REBOOT:
                self._firmware()
            elif time.monotonic() - started < _RETRY:
                self._say("crashed")
                self._pause(_RETRY)

    def _firmware(self) -> None:
        """What happens between a reboot and the next boot."""
        self._say("rebooting")
        self._pause(self._spec.firmware_delay)
        started = time.monotonic()
        while True:
            if (self._paths.faults / STAYS_DOWN).exists():
                self._say("held down")
                self._pause(None)
                continue
            rest = self._slow_boot() - (time.monotonic() - started)
            if rest <= 0:
                return
            self._say("slow to boot")
            self._pause(rest, once=True)

    def _slow_boot(self) -> float:
        try:
            return float((self._paths.faults / SLOW_BOOT).read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return 0.0

    def _pause(self, seconds: float | None, *, once: bool = False) -> None:
        """Wait; with ``once`` or without a time, a SIGHUP (faults have changed) ends the wait."""
        end = None if seconds is None else time.monotonic() + seconds
        while end is None or time.monotonic() < end:
            if end is None:
                received: int | None = signal.sigwait({signal.SIGHUP})
            else:
                info = signal.sigtimedwait({signal.SIGHUP}, max(0.0, end - time.monotonic()))
                received = info.si_signo if info else None
            if received is not None and (once or end is None):
                return

    def _wait(self, pid: int) -> int:
        while True:
            signal.sigwait(_SIGNALS)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)

    def _kill_leftovers(self) -> None:
        """Kill what a host whose container or supervisor was killed has left, and remove its network interface."""
        cgroup = Path("/sys/fs/cgroup") / self._spec.cgroup / "host"
        if cgroup.exists():
            cgroups.kill(cgroup)
        subprocess.run(["ip", "link", "delete", f"vb-{self._spec.machine}"], capture_output=True, check=False)

    def _say(self, state: str) -> None:
        status = {"state": state, "boots": self._boots, "since": time.time()}
        temporary = self._paths.status.with_suffix(".new")
        temporary.write_text(json.dumps(status), encoding="utf-8")
        temporary.replace(self._paths.status)


def main() -> None:
    """Supervise the host of the folder that is given; do nothing if that is done already."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    paths = HostPaths(Path(sys.argv[1]))
    lock = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    Supervisor(paths).run()


if __name__ == "__main__":
    main()
