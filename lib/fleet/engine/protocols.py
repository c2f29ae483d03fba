"""What the engine needs of the world: what steps do, what a run consists of, and where it is shown."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fleet.engine.model import Observation, Stage, TargetState, Verdict


class Effects(Protocol):
    """What a step does. Both calls may come from any thread, and answer for each target by name.

    Raising a :class:`~fleet.errors.FleetError` means that the question could not be answered, or the act not done: it
    is tried again until the step's deadline.
    """

    def check(self, targets: Sequence[TargetState]) -> Mapping[str, Verdict]:
        """Say, without changing anything, whether the step's promise is true."""

    def apply(self, targets: Sequence[TargetState], tell: Callable[[str, str], None]) -> Mapping[str, Verdict]:
        """Make it true, or set in motion what will; ``tell(target, line)`` reports progress meanwhile."""


class Procedure(Protocol):
    """What a run carries out: stages, the effects of their steps, and the world around them."""

    @property
    def stages(self) -> Iterable[Stage]:
        """The stages, in order; each is asked for when its turn has come, so that it may look at the world first."""

    def effects(self, stage: str, step: str) -> Effects:
        """Return what a step does."""

    def observe(self) -> Observation:
        """Say what the world looks like, at once and without I/O: from what watches have brought."""

    def renew(self, stage: str, targets: Sequence[TargetState]) -> Mapping[str, Verdict]:
        """Extend what expires by itself on targets in flight."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock of a scope.

    Attributes:
        run: the run's id.
        host: the host it runs on.
        operator: who started it.
        reason: why.
    """

    run: str
    host: str
    operator: str
    reason: str

    @property
    def identity(self) -> str:
        """The run and its host, in one word."""
        return f"{self.run}@{self.host}"


class Lock(Protocol):
    """The lock of a scope: one maintenance at a time."""

    def acquire(self, *, patient: bool = False) -> None:
        """Take the lock and keep renewing it.

        Args:
            patient: hold it without its store as long as that cannot be asked, and keep trying.

        Raises:
            FleetError: another run holds it, or its store refused.
        """

    def problem(self) -> str:
        """Return why the lock is not held; empty while it is."""

    @property
    def lost(self) -> bool:
        """Whether another run has the lock, so that waiting is of no use."""

    def release(self) -> None:
        """Give the lock back; one that cannot be given back expires by itself."""


class View(Protocol):
    """Shows a run to the operator."""

    def show(self, stage: Stage, states: Mapping[str, TargetState], blocked: str) -> None:
        """Show where the targets stand, and why nothing can start if so. Called often."""

    def tell(self, message: str, *, level: int = logging.INFO) -> None:
        """Tell the operator one thing that happened."""
