"""What a session needs of a procedure: a plan, its stages, and what is peculiar to it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from rich.console import Console

from fleet.config.model import ClusterConfig, Config, GroupConfig, ScopeConfig
from fleet.engine import journal
from fleet.engine.declaration import Stage, Step
from fleet.engine.executor import Abort, Execution
from fleet.engine.findings import Finding
from fleet.engine.journal import Journal
from fleet.engine.model import Observation, TargetState
from fleet.engine.protocols import Lock
from fleet.engine.protocols import Procedure as Executable
from fleet.errors import FleetError
from fleet.steps.cluster import Cluster
from fleet.steps.scope import Group, Scope

S = TypeVar("S", bound=Scope)


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
        scope: the scope, with the run's options and the hosts that it may touch.
        plan: what the operator is shown.
        states: the targets of each stage that is the run's substance, in order.
    """

    scope: Scope
    plan: Plan
    states: Mapping[str, Sequence[TargetState]]


@dataclass(frozen=True, slots=True)
class Nothing:
    """There is nothing to do.

    Attributes:
        why: in a few words.
    """

    why: str


class Procedure(ABC, Generic[S]):
    """A kind of maintenance, with what an operator asked for in a new run."""

    name: str
    """The cookbook's full name, such as ``sre.k8s.reboot-nodes``."""
    needs_api = True
    """Whether there is no session without the scope's API, if it has one; if not, nothing is known of nodes."""

    @abstractmethod
    def config(self, settings: Config, name: str) -> ScopeConfig:
        """Return the configuration of a scope, by its name.

        Raises:
            ConfigError: there is none of the kind.
        """

    @abstractmethod
    def propose(self, scope: S, state_dir: Path) -> Proposal | Nothing:
        """Look at everything and change nothing.

        Args:
            scope: the scope, without any host.
            state_dir: where runs are kept.

        Raises:
            FleetError: what was asked for cannot be done.
        """

    @abstractmethod
    def stages(self, scope: S) -> Sequence[Stage]:
        """Return the stages, as the configuration and the run's options want them; nothing is asked for that."""

    @abstractmethod
    def left_on(self, scope: S, state: TargetState) -> Sequence[str]:
        """Note on a target that it is given up, where that can be noted, and return what is left on it, in lines.

        Raises:
            FleetError: it cannot be given up.
        """

    def steps(self, scope: S) -> Steps:
        """Return the steps of each stage."""
        return {stage.key: stage.steps for stage in self.stages(scope)}

    def observe(self, scope: S, lock: Lock) -> Observation:  # noqa: ARG002
        """Return what is out of service beside the run's own targets, and whether the run may start anything new."""
        return Observation({}, lock.problem(), permanent=lock.lost)

    @contextmanager
    def work(self, scope: S, book: Journal, lock: Lock) -> Iterator[Executable]:
        """Yield what a session carries out: a new run, or what is left of one.

        Args:
            scope: the scope.
            book: the run's journal.
            lock: the scope's lock.

        Raises:
            Refused: on entering: the run cannot be resumed.
        """
        states = partial(journal.read_states, book.folder)
        yield Execution(self.stages(scope), states, partial(self.observe, scope, lock))

    def abort(self, scope: S, book: Journal) -> Executable:
        """Return what gives back everything that a run has in flight or held.

        Args:
            scope: the scope.
            book: the run's journal.
        """
        states = partial(journal.read_states, book.folder)
        return Abort(self.stages(scope), states, scope.clock, self.tidying(scope))

    def tidying(self, scope: S) -> Sequence[Step]:  # noqa: ARG002
        """Return what else is to be done when a run is aborted, each step a stage of its own."""
        return ()


class ClusterProcedure(Procedure[Cluster]):
    """Base of the procedures that maintain a Kubernetes cluster."""

    def config(self, settings: Config, name: str) -> ClusterConfig:
        """Return the configuration of a cluster."""
        return settings.cluster(name)

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


class GroupProcedure(Procedure[Group]):
    """Base of the procedures that maintain hosts without Kubernetes."""

    def config(self, settings: Config, name: str) -> GroupConfig:
        """Return the configuration of a group."""
        return settings.group(name)
