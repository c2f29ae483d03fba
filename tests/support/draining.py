"""A whole drain, pass by pass, as the engine makes one: for tests against a real API."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.drain import DrainStatus, NodeDrain
from fleet.adapters.k8s.errors import ApiError, KubernetesError
from fleet.adapters.k8s.leftover import Remaining
from fleet.adapters.k8s.pods import PodRef
from fleet.adapters.k8s.policy import DrainPolicy

PAUSE = 0.1
"""Seconds between two looks."""


@dataclass(frozen=True)
class Drained:
    """How a drain ended."""

    done: bool
    evicted: tuple[PodRef, ...]
    remaining: tuple[Remaining, ...]
    refused: tuple[Remaining, ...]
    seconds: float
    reason: str


def drain(
    api: Api,
    node: str,
    policy: DrainPolicy,
    *,
    deadline: float,
    cancel: threading.Event,
    progress: Callable[[str], None],
) -> Drained:
    """Repeat passes until the drain is over, the deadline is, or it is cancelled; tell what is waited for."""
    started = time.monotonic()
    passes: NodeDrain | None = None
    remaining: tuple[Remaining, ...] = ()
    evicted: tuple[PodRef, ...] = ()

    def end(reason: str, *, done: bool = False, refused: tuple[Remaining, ...] = ()) -> Drained:
        if passes:
            passes.close()
        return Drained(done, evicted, remaining, refused, time.monotonic() - started, reason)

    while True:
        try:
            passes = passes or NodeDrain(api, node, policy)
            result = passes.once(cancel)
        except KubernetesError as error:
            if isinstance(error, ApiError) and error.status < 500 and error.status != 429:
                return end(str(error))
            progress(str(error))
        else:
            remaining, evicted = result.remaining, result.evicted
            if result.status is DrainStatus.DRAINED:
                return end("drained", done=True)
            if result.status is DrainStatus.FAILED:
                return end(result.reason, refused=result.refused)
            progress(result.explain())
        if cancel.wait(PAUSE):
            return end("cancelled")
        if time.monotonic() - started > deadline:
            return end(f"not drained within {deadline:.0f} s")
