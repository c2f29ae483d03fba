"""What all steps have in common: what is known of one, and how targets are judged one by one.

Each looks at the world before it acts, so that it can be asked again at any time: after a crash, or because an answer
was lost.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from fleet.adapters.k8s.access import Right
from fleet.adapters.k8s.client import ApiError
from fleet.engine.declaration import Tell, Verdicts
from fleet.engine.findings import Found
from fleet.engine.model import StepSpec, TargetState, Verdict, done, held, unknown
from fleet.errors import FleetError
from fleet.execution import Unreachable
from fleet.steps.cluster import Cluster, NodeGone
from fleet.steps.look import Look
from fleet.steps.scope import Scope

T = TypeVar("T")


def each(targets: Sequence[TargetState], judge: Callable[[TargetState], Verdict]) -> Verdicts:
    """Judge targets one by one; one that cannot be read does not keep the others from an answer."""
    verdicts = {}
    for state in targets:
        try:
            verdicts[state.target.name] = judge(state)
        except NodeGone as error:
            verdicts[state.target.name] = held(str(error))
        except ApiError as error:
            gone = error.status == 404 and f"/api/v1/nodes/{state.target.name} " in str(error)
            verdicts[state.target.name] = held("Kubernetes does not know it any more") if gone else unknown(str(error))
        except FleetError as error:
            verdicts[state.target.name] = unknown(str(error))
    return verdicts


def each_host(
    scope: Scope,
    targets: Sequence[TargetState],
    answers: Mapping[str, T | Unreachable],
    judge: Callable[[TargetState, T], Verdict],
) -> Verdicts:
    """Judge targets by what their hosts answered; of one that did not answer nothing is known."""

    def one(state: TargetState) -> Verdict:
        host = scope.hosts[state.target.name]
        answer = answers[host]
        if isinstance(answer, Unreachable):
            return unknown(f"{host} does not answer: {answer.reason}")
        return judge(state, answer)

    return each(targets, one)


CHANGE_DEADLINE = 120.0
"""Seconds for one change at the API, at Alertmanager, at Puppet or at a load balancer, outages of them included."""
POLL = 0.5
"""Seconds between two questions to hosts."""
FAST = 0.2
"""Seconds between two looks at what a watch keeps current."""


class HostStep:
    """Base of the steps: what decisions need to know of one, its scope, and nothing to do.

    A step is an effect unless it says otherwise; see :class:`fleet.engine.model.StepSpec` for what the attributes mean.
    """

    name: str
    """The name in plans, in the journal and in messages; unique in its stage."""
    deadline = ""
    """Which of the configuration's deadlines it has; :data:`CHANGE_DEADLINE` if none."""
    poll = 1.0
    batch = True
    poll_together = False
    gate = False
    takes_capacity = False
    pivot = False
    releases = False
    gives_back = False
    acceptable = False
    bars = False
    rights: Sequence[Right] = ()
    """What the step asks of the cluster's API, beside following the nodes; nothing where there is no API."""

    def __init__(self, scope: Scope) -> None:
        """Work on the hosts of a scope."""
        self.scope = scope

    @property
    def timeout(self) -> float:
        """Seconds from the step's begin until the target is held."""
        return getattr(self.scope.config.deadlines, self.deadline) if self.deadline else CHANGE_DEADLINE

    @property
    def wanted(self) -> bool:
        """Whether the configuration wants the step."""
        return True

    @property
    def spec(self) -> StepSpec:
        """What decisions need to know of the step."""
        return StepSpec(
            self.name,
            self.timeout,
            poll=self.poll,
            batch=self.batch,
            poll_together=self.poll_together,
            gate=self.gate,
            takes_capacity=self.takes_capacity,
            pivot=self.pivot,
            releases=self.releases,
            gives_back=self.gives_back,
            acceptable=self.acceptable,
            bars=self.bars,
        )

    def preflight(self, look: Look) -> Found:  # noqa: ARG002 (most steps need nothing beforehand)
        """Look, without changing anything, whether something will stand in the step's way."""
        return Found()

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Say, without changing anything, whether the step's promise is true."""
        raise NotImplementedError

    def hosts(self, targets: Sequence[TargetState]) -> list[str]:
        """Return the hosts of targets."""
        return [self.scope.hosts[state.target.name] for state in targets]

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002 (gates have no effect)
        """Do nothing: a gate only waits."""
        return {state.target.name: done() for state in targets}


class NodeStep(HostStep):
    """Base of the steps that need a cluster around the host: its API, its nodes, its routers."""

    def __init__(self, cluster: Cluster) -> None:
        """Work on the nodes of a cluster."""
        super().__init__(cluster)
        self.cluster = cluster
