"""What a session needs of a kind of maintenance: a plan, the work itself, and the way back."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from rich.console import Console

from fleet.adapters.k8s.lock import ClusterLock
from fleet.config.model import ClusterConfig
from fleet.engine.journal import Journal
from fleet.engine.model import StepSpec, UnitState, Verdict, done
from fleet.engine.protocols import Effects, Procedure
from fleet.errors import FleetError
from fleet.procedures.cluster import Cluster
from fleet.procedures.findings import Finding

ABORT = "abort "
"""What the names of the stages begin with in which units in flight are given back."""


class Refused(FleetError):
    """A session does not begin; nothing was touched."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a unit: what decisions know of it, and what it does."""

    spec: StepSpec
    effects: Effects


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
        states: the units of each stage that is the run's substance, in order.
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


class Maintenance(Protocol):
    """A kind of maintenance, with what an operator asked for in a new run."""

    @property
    def name(self) -> str:
        """The cookbook's full name, such as ``sre.k8s.reboot-nodes``."""

    @property
    def needs_api(self) -> bool:
        """Whether there is no session without the API; if not, nothing is known of nodes (``NoNodes``)."""

    def is_offline(self, cluster: Cluster, folder: Path | None) -> bool:
        """Say whether there is no API, or soon will be none, so that no Lease can be held in it.

        Args:
            cluster: the cluster.
            folder: the run's folder; None for a new one.
        """

    @property
    def keeps(self) -> Collection[str]:
        """The names of steps that a run needs to its end: they give back what it may have taken."""

    def kubeconfig(self, config: ClusterConfig) -> Path:
        """Return the kubeconfig that the run uses.

        Raises:
            FleetError: the configuration has none.
        """

    def propose(self, cluster: Cluster, state_dir: Path) -> Proposal | Nothing:
        """Look at everything and change nothing.

        Args:
            cluster: the cluster, without any host.
            state_dir: where runs are kept.

        Raises:
            FleetError: what was asked for cannot be done.
        """

    def steps(self, cluster: Cluster) -> Steps:
        """Return the steps that units go through, as the configuration and the run's options want them."""

    def work(self, cluster: Cluster, book: Journal, lock: ClusterLock) -> AbstractContextManager[Procedure]:
        """Yield what a session carries out: a new run, or what is left of one.

        Args:
            cluster: the cluster.
            book: the run's journal.
            lock: the cluster's lock.

        Raises:
            Refused: on entering: the run cannot be gone on with.
        """

    def left_on(self, cluster: Cluster, state: UnitState) -> Sequence[str]:
        """Note on a unit that it is given up, where that can be noted, and return what is left on it, in lines.

        Raises:
            FleetError: it cannot be given up.
        """

    def give_back(self, cluster: Cluster, book: Journal) -> Procedure:
        """Return what gives back everything that a run has in flight or held, in stages named :data:`ABORT` and more.

        Args:
            cluster: the cluster.
            book: the run's journal.
        """


@dataclass(frozen=True, slots=True)
class Question:
    """Something that only an operator may decide, in the middle of a run.

    Attributes:
        text: what they have to know, in lines.
        answer: the word that has to be typed to go on.
    """

    text: str
    answer: str


@runtime_checkable
class Asking(Protocol):
    """A procedure whose stages end where an operator has to decide, and go on once that is answered."""

    def question(self) -> Question | None:
        """Return what is to be decided before the next stage; None if nothing is, or no stage is left."""

    def answered(self) -> None:
        """Take note that the answer was given."""

    def declined(self) -> None:
        """Take note that it was not: what is left is to end the session."""

    def outline(self) -> Sequence[str]:
        """Return what is left to do, in lines for people."""


class OverApi:
    """What the kinds of maintenance have in common that need the API all the time."""

    needs_api = True

    def kubeconfig(self, config: ClusterConfig) -> Path:
        """Return the kubeconfig of all maintenance."""
        return config.kubeconfig

    def is_offline(self, cluster: Cluster, folder: Path | None) -> bool:  # noqa: ARG002
        """It never is."""
        return False


class Proof:
    """A proof that is asked only of units that a run has taken out of service: others are taken as they are."""

    def __init__(self, proof: Effects, concerns: Callable[[UnitState], bool]) -> None:
        """Ask for a proof.

        Args:
            proof: a step without an effect.
            concerns: says whether a unit has to be proven.
        """
        self._proof = proof
        self._concerns = concerns

    def check(self, units: Sequence[UnitState]) -> Mapping[str, Verdict]:
        """Ask for the proof of those that it concerns."""
        asked = [state for state in units if self._concerns(state)]
        verdicts = {state.unit.name: done("not asked: it is in service, and taken as it is") for state in units}
        return {**verdicts, **(self._proof.check(asked) if asked else {})}

    def apply(self, units: Sequence[UnitState], tell: Callable[[str, str], None]) -> Mapping[str, Verdict]:
        """Do what the proof does: nothing."""
        return self._proof.apply(units, tell)


def proof_of(step: Step, concerns: Callable[[UnitState], bool], patience: float) -> Step:
    """Return a gate as an abort has it: asked of some units only, and not for long: who aborts wants to know soon.

    Args:
        step: the gate.
        concerns: says whether a unit has to be proven.
        patience: seconds, where the gate itself waits for longer.
    """
    return Step(replace(step.spec, timeout=min(step.spec.timeout, patience)), Proof(step.effects, concerns))


def specs(steps: Sequence[Step]) -> tuple[StepSpec, ...]:
    """Return what decisions know of steps."""
    return tuple(step.spec for step in steps)


def effects_of(steps: Sequence[Step], name: str) -> Effects:
    """Return what a step does, by its name."""
    return next(step.effects for step in steps if step.spec.name == name)
