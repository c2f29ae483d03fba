"""An organisation's own commands, which run on the cluster-management host: initialising, deploying, checking.

They may take long and print a lot: what they print goes to a file of their own, and the last line of it is told now and
then. A command is never run beside an earlier start of itself with the same file, as it may outlive a run that was
killed.
"""

import contextlib
import fcntl
import os
import re
import shlex
import signal
import string
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from fleet.errors import FleetError

Tell = Callable[[str], None]
"""Takes a line that an operator is to see."""

TELL_EVERY = 2.0
"""Seconds between two lines that are told."""

_POLL = 0.1
_KILL_AFTER = 5.0  # seconds that a command has to end in order
_HEADER = "fleet runs:"  # begins the line with which each start begins in the file
_SHOWN = 200  # characters of a line
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_TAIL = 8192  # bytes at the end of the file, among which the last line is looked for


class CommandError(FleetError):
    """A command could not be started, or was ended before it was done."""


def fill(command: str, **values: str) -> str:
    """Put values into a command of the configuration, each quoted for the shell.

    Args:
        command: with placeholders such as ``{cluster}``; ``{{`` and ``}}`` are braces.
        values: what they stand for.

    Raises:
        CommandError: it has another placeholder, or a brace that is none.
    """
    filled = []
    try:
        for literal, name, specification, conversion in string.Formatter().parse(command):
            filled.append(literal)
            if name is None:
                continue
            if specification or conversion:
                raise ValueError(f"{{{name}}} is to stand there without more")
            filled.append(shlex.quote(values[name]))
    except KeyError as error:
        raise CommandError(f"{{{error.args[0]}}} is not known in the command {command!r}.") from error
    except ValueError as error:
        raise CommandError(f"The command {command!r} cannot be used: {error}; a brace is written twice.") from error
    return "".join(filled)


def run(command: str, *, timeout: float, log: Path, cancel: threading.Event | None, tell: Tell) -> int:
    """Run a command with bash, and wait for it; a failure within a pipe is one of the pipe.

    It has no input, and is in a session of its own: ^C on the terminal does not reach it.

    Args:
        command: for bash; words of others' making are quoted (:func:`fill`).
        timeout: how long it may take, in seconds, including that an earlier start of it is waited for, with what that
            has left in the background.
        log: the file that all its output is appended to, which only its owner can read.
        cancel: ends it when it is set.
        tell: is given the last line of its output now and then, and at the end.

    Returns:
        Its exit code; 128 and the signal's number if it was ended by one.

    Raises:
        CommandError: it could not be started, took too long or was cancelled. Then all its processes are ended, those
            excepted that have left for a session of their own.
    """
    watch = _Watch(log, timeout, cancel, tell)
    # The lock is a file of its own, as daemons that a command leaves behind often keep its output open, and only that.
    with _open(log) as output, _open(log) as lock:
        while not _locked(lock):
            watch.look("an earlier start of the command is waited for")
            time.sleep(_POLL)
        # It stands in a line of its own, also after an output that ends within a line.
        start = "\n" if os.fstat(output.fileno()).st_size else ""
        when = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        output.write(f"{start}{_HEADER} {' '.join(command.splitlines())} ({when})\n".encode())
        try:
            process = subprocess.Popen(
                ["bash", "-o", "pipefail", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock.fileno()],
            )
        except OSError as error:
            raise CommandError(f"bash cannot be started: {error.strerror}") from error
        try:
            while process.poll() is None:
                watch.look(last_line(log))
                time.sleep(_POLL)
        except BaseException:
            _end(process)
            raise
    watch.say(last_line(log))
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def ask(command: str, *, timeout: float) -> tuple[int, str]:
    """Run a short command that only tells something, and return its exit code and what it printed.

    Args:
        command: for bash; words of others' making are quoted (:func:`fill`).
        timeout: how long it may take, in seconds.

    Raises:
        CommandError: it took too long.
    """
    try:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"`{command}` is not done within {timeout:g} s.") from error
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr or done.stdout


def is_running(log: Path) -> bool:
    """Say whether a command with this file for its output runs: it may have outlived the run that has started it."""
    if not log.exists():
        return False
    with _open(log) as lock:
        return not _locked(lock)


def last_line(log: Path) -> str:
    """Return the last line that the last start of a command has printed, as far as it can be shown.

    Returns:
        At most 200 characters; an empty string if there is none.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    for line in reversed(text.splitlines()):
        if line.startswith(_HEADER):
            return ""
        # Colours and the like would act on the operator's terminal.
        if shown := "".join(filter(str.isprintable, _COLOURS.sub("", line))).strip():
            return shown[:_SHOWN]
    return ""


class _Watch:
    """What is looked at while a command runs: the clock, the cancellation, and when something was last told."""

    def __init__(self, log: Path, timeout: float, cancel: threading.Event | None, tell: Tell) -> None:
        self._log = log
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._cancel = cancel
        self._tell = tell
        self._told, self._next = "", 0.0

    def look(self, line: str) -> None:
        """Tell a line if it is time to, and raise :class:`CommandError` if the command is to end."""
        if self._cancel and self._cancel.is_set():
            raise CommandError(f"The command was cancelled; its output is in {self._log}.")
        now = time.monotonic()
        if now > self._deadline:
            raise CommandError(
                f"The command was not done within {self._timeout:g} s and was ended; its output is in {self._log}."
            )
        if now >= self._next:
            self._next = now + TELL_EVERY
            self.say(line)

    def say(self, line: str) -> None:
        """Tell a line, unless it was told last."""
        if line and line != self._told:
            self._told = line
            self._tell(line)


def _open(log: Path) -> FileIO:
    try:
        return FileIO(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), "a")
    except OSError as error:
        raise CommandError(f"The output of a command cannot be written to {log}: {error.strerror}") from error


def _locked(lock: FileIO) -> bool:
    """Tell whether the lock was free and is ours now: the command inherits it, and has it for as long as it lives."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a command and its children: in order, and those that are left after a while at once."""
    with contextlib.suppress(ProcessLookupError):  # none of them is left
        os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _KILL_AFTER
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(_POLL)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
