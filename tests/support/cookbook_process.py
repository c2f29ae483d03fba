"""Cookbooks in processes that are forked from one which has imported already what all of them need.

That takes a second of a core each time, and the tests in the lab run more than a hundred cookbooks. What runs is the
function behind the command ``cookbook``.
"""

import multiprocessing
import os
import pkgutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import TimeoutExpired

from spicerack._cookbook import main

import fleet

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["spicerack._cookbook", *(module.name for module in pkgutil.walk_packages(fleet.__path__, "fleet."))]
)


class CookbookProcess:
    """A cookbook that works beside the test.

    Args:
        arguments: of the command ``cookbook``.
        environment: all of its variables.
        output: a file that does not exist yet, for what it says; or the terminal that it works on.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], output: Path) -> None:
        self._output = output
        self._process = _FORKS.Process(target=_run, args=(list(arguments), dict(environment), output), daemon=True)
        self._process.start()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    @property
    def said(self) -> str:
        """What its file has of it so far."""
        return self._output.read_text(errors="replace") if self._output.is_file() else ""

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process.pid, "it was never started"
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        self._process.kill()
        self._process.join()

    def wait(self, *, timeout: float) -> tuple[int, str]:
        """Wait for its end; return its exit code, negative for a signal's number, and what its file has of it.

        Raises:
            TimeoutExpired: it has not ended in time; it is killed then.
        """
        self._process.join(timeout)
        code = self._process.exitcode
        said = self._output.read_text(encoding="utf-8") if self._output.is_file() else ""
        if code is None:
            self.kill()
            raise TimeoutExpired("cookbook", timeout, said)
        return code, said


def _run(arguments: list[str], environment: Mapping[str, str], output: Path) -> None:
    """Be the command: with its output, its variables and its exit code."""
    is_terminal = output.is_char_device()
    if is_terminal:
        os.setsid()  # The first terminal that a session opens is its own: ^C comes from there.
    descriptor = os.open(output, os.O_RDWR if is_terminal else os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    for standard in (0, 1, 2) if is_terminal else (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    # As a shell starts it, whatever the tests were started by: ignored signals, and streams of another kind of file.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    if is_terminal:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - multiprocessing has given it /dev/null.
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["cookbook", *arguments]
    sys.exit(main(arguments))
