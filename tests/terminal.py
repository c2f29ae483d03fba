"""Running a command on a terminal of its own, as an operator does who answers its questions."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """A command on a terminal. Also a context manager, which ends it.

    Args:
        command: the words of it.
        environment: its environment.
        replies: what is typed as soon as a pattern is seen, each time anew.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], replies: Mapping[str, str]) -> None:
        ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            command,
            env={**environment, "TERM": "dumb", "COLUMNS": "200"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._file = ours
        self._replies = replies
        self._output = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._thread.join(timeout=5)

    @property
    def output(self) -> str:
        """All that was printed so far, without what moves the cursor."""
        return _CODES.sub("", self._output)

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill it, as the kernel would that has no memory left."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=30)

    def wait(self, timeout: float) -> int:
        """Wait for its end, and return its exit code."""
        code = self._process.wait(timeout=timeout)
        self._thread.join(timeout=5)
        return code

    def wait_for(self, pattern: str, timeout: float) -> None:
        """Wait until something was printed."""
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.output):
            if not self.is_alive or time.monotonic() > deadline:
                raise AssertionError(f"{pattern!r} was never printed:\n{self.output}")
            time.sleep(0.1)

    def _read(self) -> None:
        unanswered = ""
        with contextlib.suppress(OSError):  # The other side is closed.
            while data := os.read(self._file, 65536):
                text = data.decode(errors="replace")
                self._output += text
                unanswered += _CODES.sub("", text)
                for pattern, reply in self._replies.items():
                    if re.search(pattern, unanswered):
                        os.write(self._file, f"{reply}\n".encode())
                        unanswered = ""
        os.close(self._file)
