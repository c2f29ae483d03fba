"""Signals that may end a run: the first ^C ends it orderly, everything else at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def handled(interrupt: Callable[[], None], terminate: Callable[[str], None]) -> Iterator[None]:
    """Handle signals as long as the context lasts.

    What was ignored when the process started stays ignored: whoever did that (nohup, a shell for its jobs in the
    background) wants the run to outlive the signal.

    Args:
        interrupt: called for ^C.
        terminate: called with the signal's name for SIGTERM and SIGHUP.
    """

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        interrupt()

    def on_terminate(number: int, _frame: FrameType | None) -> None:
        terminate(signal.Signals(number).name)

    handlers = {signal.SIGINT: on_interrupt, signal.SIGTERM: on_terminate, signal.SIGHUP: on_terminate}
    before = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
