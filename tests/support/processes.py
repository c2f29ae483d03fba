"""Processes that tests pause."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path


def pause(process: "subprocess.Popen[bytes]") -> None:
    """Stop a process with SIGSTOP, and return once none of its threads runs any more: the signal alone only asks."""
    process.send_signal(signal.SIGSTOP)
    give_up = time.monotonic() + 30
    while process.poll() is None and not _is_stopped(process.pid):
        assert time.monotonic() < give_up, f"{process.args!r} does not stop"
        time.sleep(0.005)


@contextlib.contextmanager
def paused(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Keep a process stopped: it accepts connections, and answers none."""
    pause(process)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    """Tell whether every thread of a process is stopped, by the state in ``/proc/PID/task/TID/stat``."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            state = (task / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
        except OSError:  # the thread has ended meanwhile
            continue
        if state not in "TtZX":
            return False
    return True
