"""What is printed, and what becomes of it once nobody can take it any more: a reader that has gone, a full disk.

That is no reason to stop a maintenance half way: what the streams cannot take is dropped, without an exception in
whoever prints, and the process tells at its end that something was lost, in a line and with an exit code of its own.
"""

import contextlib
import os
import select
import sys
from typing import Any, TextIO, cast

from fleet.errors import FleetError


class OutputLost(FleetError):
    """What was printed could not be written; raised where nothing may be started that nobody has read about."""


class Guarded:
    """A stream that drops what it cannot write.

    Args:
        stream: the stream itself.
        problem: why it cannot be written to from the beginning, if so.
    """

    def __init__(self, stream: TextIO, problem: str = "") -> None:
        self._stream = stream
        self.problem = problem
        """Why something was dropped; empty if nothing was."""
        with contextlib.suppress(AttributeError, ValueError):  # It is none of Python's own.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, as far as that is possible; return its length."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, as far as that is possible."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def look(self) -> str:
        """Return why something was dropped; nothing if all was written, and somebody is there to read it."""
        self.flush()
        with contextlib.suppress(OSError, ValueError, AttributeError):
            poll = select.poll()
            poll.register(self._stream.fileno(), 0)
            if not self.problem and any(event & select.POLLERR for _, event in poll.poll(0)):
                self.problem = os.strerror(32)
        return self.problem

    def _lose(self, error: OSError) -> None:
        """Note that something is lost, and drop what comes, with what is buffered: at the process's end, too."""
        self.problem = self.problem or error.strerror or str(error)
        with contextlib.suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)


def guard() -> None:
    """Guard the process's output; what is guarded already stays as it is."""
    # The interpreter has None for a descriptor that was closed when it started.
    if cast(TextIO | None, sys.stdout) is None:
        nothing = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - open as long as the process lives
        sys.stdout = cast(TextIO, Guarded(nothing, "it is closed"))
    elif not isinstance(sys.stdout, Guarded):
        sys.stdout = cast(TextIO, Guarded(sys.stdout))
    if cast(TextIO | None, sys.stderr) is not None and not isinstance(sys.stderr, Guarded):
        sys.stderr = cast(TextIO, Guarded(sys.stderr))


def lost() -> str:
    """Return why something that was printed could not be written; nothing if all was, or is not guarded."""
    problems = [stream.look() for stream in (sys.stdout, sys.stderr) if isinstance(stream, Guarded)]
    return next((problem for problem in problems if problem), "")


def require() -> None:
    """Make sure that all that was printed so far could be written.

    Raises:
        OutputLost: it could not.
    """
    if why := lost():
        raise OutputLost(f"What was printed could not be written: {why}.")
