"""Running a cookbook on a terminal of its own, as an operator does who answers its questions."""

import contextlib
import os
import pty
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.cookbook_process import CookbookProcess

_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """A cookbook on a terminal. Also a context manager, which ends it.

    Args:
        arguments: of the command ``cookbook``.
        environment: its environment.
        replies: what is typed as soon as a pattern is seen, each time anew.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], replies: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self._theirs: int | None = theirs
        environment = {**environment, "TERM": "dumb", "COLUMNS": "200"}
        self._process = CookbookProcess(arguments, environment, Path(os.ttyname(theirs)))
        self._replies = replies
        self._output = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def output(self) -> str:
        """All that was printed so far, without what moves the cursor."""
        return _CODES.sub("", self._output)

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive

    def kill(self) -> None:
        """Kill it, as the kernel would that has no memory left."""
        self._process.kill()
        self._ended()

    def wait(self, timeout: float) -> int:
        """Wait for its end, and return its exit code."""
        code, _ = self._process.wait(timeout=timeout)
        self._ended()
        return code

    def _ended(self) -> None:
        """Read the rest: with its last process the terminal ends."""
        if self._theirs is not None:
            os.close(self._theirs)
            self._theirs = None
        self._thread.join(timeout=5)

    def _read(self) -> None:
        unanswered = ""
        with contextlib.suppress(OSError):  # The other side is closed.
            while data := os.read(self._ours, 65536):
                text = data.decode(errors="replace")
                self._output += text
                unanswered += _CODES.sub("", text)
                for pattern, reply in self._replies.items():
                    if re.search(pattern, unanswered):
                        os.write(self._ours, f"{reply}\n".encode())
                        unanswered = ""
        os.close(self._ours)
