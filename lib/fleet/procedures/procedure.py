"""What a session needs of a procedure: a plan, its stages, and what is peculiar to it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from rich.console import Console

from fleet.adapters.k8s.lock import ClusterLock
from fleet.config.model import ClusterConfig
from fleet.engine import journal
from fleet.engine.declaration import Stage, Step
from fleet.engine.executor import Abort, Execution
from fleet.engine.findings import Finding
from fleet.engine.journal import Journal
from fleet.engine.model import Observation, UnitState
from fleet.engine.protocols import Procedure as Executable
from fleet.errors import FleetError
from fleet.steps.cluster import Cluster


class Refused(FleetError):
    """A session does not begin; nothing was touched."""


Steps = Mapping[str, Sequence[Step]]
"""The steps of each stage that is a run's substance, in order."""


class Plan(Protocol):
    """What an operator sees and agrees to before anything is touched."""

    @property
    def findings(self) -> Sequence[Finding]:
        """What the preflight found, worst first."""

    def render(self, console: Console) -> None:
        """Print the plan and its findings."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A run that could be started.

    Attributes:
        cluster: the cluster, with the run's options and the hosts that it may touch.
        plan: what the operator is shown.
        states: the targets of each stage that is the run's substance, in order.
    """

    cluster: Cluster
    plan: Plan
    states: Mapping[str, Sequence[UnitState]]


@dataclass(frozen=True, slots=True)
class Nothing:
    """There is nothing to do.

    Attributes:
        why: in a few words.
    """

    why: str


class Procedure(ABC):
    """A kind of maintenance, with what an operator asked for in a new run."""

    name: str
    """The cookbook's full name, such as ``sre.k8s.reboot-nodes``."""
    needs_api = True
    """Whether there is no session without the API; if not, nothing is known of nodes (``NoNodes``)."""

    @abstractmethod
    def propose(self, cluster: Cluster, state_dir: Path) -> Proposal | Nothing:
        """Look at everything and change nothing.

        Args:
            cluster: the cluster, without any host.
            state_dir: where runs are kept.

        Raises:
            FleetError: what was asked for cannot be done.
        """

    @abstractmethod
    def stages(self, cluster: Cluster) -> Sequence[Stage]:
        """Return the stages, as the configuration and the run's options want them; nothing is asked for that."""

    @abstractmethod
    def left_on(self, cluster: Cluster, state: UnitState) -> Sequence[str]:
        """Note on a target that it is given up, where that can be noted, and return what is left on it, in lines.

        Raises:
            FleetError: it cannot be given up.
        """

    def kubeconfig(self, config: ClusterConfig) -> Path:
        """Return the kubeconfig that the run uses.

        Raises:
            FleetError: the configuration has none.
        """
        return config.kubeconfig

    def is_offline(self, cluster: Cluster, folder: Path | None) -> bool:  # noqa: ARG002
        """Return whether there is no API, or soon will be none, so that no Lease can be held in it.

        Args:
            cluster: the cluster.
            folder: the run's folder; None for a new one.
        """
        return False

    def steps(self, cluster: Cluster) -> Steps:
        """Return the steps of each stage."""
        return {stage.key: stage.steps for stage in self.stages(cluster)}

    def observe(self, cluster: Cluster, lock: ClusterLock) -> Observation:  # noqa: ARG002
        """Return what is out of service beside the run's own targets, and whether the run may start anything new."""
        return Observation({}, lock.problem(), permanent=lock.lost)

    @contextmanager
    def work(self, cluster: Cluster, book: Journal, lock: ClusterLock) -> Iterator[Executable]:
        """Yield what a session carries out: a new run, or what is left of one.

        Args:
            cluster: the cluster.
            book: the run's journal.
            lock: the cluster's lock.

        Raises:
            Refused: on entering: the run cannot be resumed.
        """
        states = partial(journal.read_states, book.folder)
        yield Execution(self.stages(cluster), states, partial(self.observe, cluster, lock))

    def abort(self, cluster: Cluster, book: Journal) -> Executable:
        """Return what gives back everything that a run has in flight or held.

        Args:
            cluster: the cluster.
            book: the run's journal.
        """
        states = partial(journal.read_states, book.folder)
        return Abort(self.stages(cluster), states, cluster.clock, self.tidying(cluster))

    def tidying(self, cluster: Cluster) -> Sequence[Step]:  # noqa: ARG002
        """Return what else is to be done when a run is aborted, each step a stage of its own."""
        return ()
