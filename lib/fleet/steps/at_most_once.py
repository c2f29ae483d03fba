"""Acts that happen at most once a run: the reboot of a host, the restart of a unit.

What runs on a host (a boot, a start of a unit) has an id. The order names the one that is to end and does nothing where
another one runs already; another id is the proof that it has happened.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fleet.adapters.k8s import drain, nodes
from fleet.adapters.k8s.nodes import Node
from fleet.clock import Clock, Moment
from fleet.engine.declaration import Tell, Verdicts
from fleet.engine.model import Facts, Kind, Phase, TargetState, Verdict, done, failed, pending, unknown
from fleet.execution import Result, Unreachable
from fleet.steps.base import HostStep, each, each_host
from fleet.steps.cluster import Cluster
from fleet.steps.cordon import UNCORDONED
from fleet.steps.drain_risks import drain_policy
from fleet.steps.silences import silence_node, silences_of

REPLACED = "replaced_at"
"""The name under which is remembered when the new one began, at the earliest: a :class:`fleet.clock.Moment`."""


@dataclass(frozen=True)
class Incarnation:
    """What runs on a host: one boot of it, or one start of a unit.

    Attributes:
        id: it has another one after the act.
        boot_id: of the host's kernel.
        age: seconds since it began.
        transitioning: whether it is about to be another one, so that it is not known yet what came of an order.
        facts: what to remember of it once it is the new one, beside its id and :data:`REPLACED`.
        trouble: what is wrong with it, such as that it has ended and no other one has started; empty if none is known.
        outdated: in what it does not run what is on disk; empty if it does.
    """

    id: str
    boot_id: str
    age: float
    transitioning: bool = False
    facts: Facts = field(default_factory=dict)
    trouble: str = ""
    outdated: str = ""


_Judge = Callable[[TargetState, Incarnation], Verdict]


class AtMostOnce(HostStep):
    """Something on the host was ended, and has started anew."""

    pivot = True

    fact: str
    """The name under which the id of what is to end is remembered."""
    messages: tuple[str, str]
    """For messages: the act as it was done, and what is said while the old one still runs."""

    @property
    def settles_within(self) -> float:
        """The seconds that an order which is on its way may take to be carried out."""
        return 5.0

    def touched(self, state: TargetState) -> bool:
        """Return whether the act has, or may have, happened, or the target was taken out of use for it."""
        return any(state.facts.get(fact) for fact in ("pooled_at", "ordered", f"new_{self.fact}"))

    @abstractmethod
    def current(self, hosts: Sequence[str]) -> Mapping[str, Incarnation | Unreachable]:
        """Ask hosts what runs there."""

    @abstractmethod
    def order(self, ids: Mapping[str, str]) -> Mapping[str, Result]:
        """Order the end of what has these ids, by host; nothing happens where something else runs."""

    @abstractmethod
    def safe(self, state: TargetState) -> Verdict:
        """Say whether a target may be acted on at this very moment: ``done`` if so. Otherwise nothing is ordered."""

    def problem(self, state: TargetState, found: Incarnation) -> str:  # noqa: ARG002
        """Return why a target cannot be acted on at all, judged when the run first looks at it; empty if it can."""
        return ""

    def noted(self, state: TargetState) -> Facts:  # noqa: ARG002
        """Return what to remember of a target before the act, beside the id of what is to end."""
        return {}

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Compare ids; the first look notes the old one."""
        return self._judge(targets, self._compare)

    def settle(self, targets: Sequence[TargetState], *, over: bool) -> Verdicts:
        """Say whether an order that may be on its way has come true, or can no longer do so.

        Args:
            targets: targets to which an order was given, or may have been.
            over: whether an order that has not come true by now never will.
        """
        act, _ = self.messages

        def judge(state: TargetState, found: Incarnation) -> Verdict:
            if found.id != state.facts[self.fact]:
                return replace(self._proven(found), detail=f"it was {act}")
            if over and not found.transitioning:
                return done(f"it was not {act}")
            return pending("the order may still be on its way")

        return self._judge(targets, judge)

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Give the order, for targets for which it is safe at this moment.

        The order carries the old id, and nothing happens where another one runs: it is carried out at most once,
        however often it is given.
        """
        self.silence_again(targets)
        verdicts = {**self.guarded(targets)}
        safe = [state for state in targets if verdicts[state.target.name].kind is Kind.DONE]
        if not safe:
            return verdicts
        results = self.order({self.scope.hosts[state.target.name]: str(state.facts[self.fact]) for state in safe})
        for state in safe:
            result = results[self.scope.hosts[state.target.name]]
            if result.exit_code is None:
                verdicts[state.target.name] = pending(f"the order was not confirmed: {result.output}", unconfirmed=True)
            elif result.exit_code != 0:
                verdicts[state.target.name] = failed(f"the host refused: {result.output} (exit {result.exit_code})")
        return verdicts

    def guarded(self, targets: Sequence[TargetState]) -> Verdicts:
        """Return which may be acted on, all asked at once: the first answer is not old when the last one comes."""
        checks = self.scope.threads.map(lambda state: each([state], self._safely), targets, "guards", most=len(targets))
        return {name: verdict for found in checks for name, verdict in found.items()}

    def _judge(self, targets: Sequence[TargetState], judge: _Judge) -> Verdicts:
        # Before they are asked: one that is slow to answer must not make the others' lives look younger than they are,
        # or what came after them would seem to have been there before.
        asked = Moment.now(self.scope.clock)

        def one(state: TargetState, found: Incarnation) -> Verdict:
            return judge(state, replace(found, facts={REPLACED: asked.minus(found.age).stored(), **found.facts}))

        return each_host(self.scope, targets, self.current(self.hosts(targets)), one)

    def _compare(self, state: TargetState, found: Incarnation) -> Verdict:
        before = state.facts.get(self.fact)
        act, still = self.messages
        if before is None:
            if problem := self.problem(state, found):
                return failed(problem)
            return pending(f"not {act}", **{self.fact: found.id}, **self.noted(state), ordered=True)
        if found.id == before and found.transitioning:
            # Nothing is to start over while it is not known what comes of an order.
            verdict = unknown if state.phase is Phase.PROBE else pending
            return replace(verdict("the old one is about to end"), facts={"ordered": True})
        if found.id == before and state.phase is Phase.PROBE:
            return pending(f"not {act}", ordered=False, unconfirmed=False)
        if found.id == before:
            # From here on the order may be on its way at any time, whatever came of an earlier one.
            return pending(f"{still}: {found.trouble}" if found.trouble else still, ordered=True)
        return self._proven(found)

    def _proven(self, found: Incarnation) -> Verdict:
        return done(**{f"new_{self.fact}": found.id}, **found.facts)

    def silence_again(self, targets: Sequence[TargetState]) -> None:
        """Make sure that no alert pages for what is ordered now: somebody may have removed the silence."""
        active = silences_of(self.scope)
        for state in targets:
            if state.target.name not in active or active[state.target.name][0].lacking:
                silence_node(self.scope, state.target.name, self.scope.config.alerts.silence)

    def _safely(self, state: TargetState) -> Verdict:
        verdict = self.safe(state)
        # An earlier order that was not confirmed may still be on its way.
        ordered = verdict.kind is Kind.DONE or bool(state.facts.get("unconfirmed"))
        return replace(verdict, facts={**verdict.facts, "ordered": ordered})


def began(facts: Facts, clock: Clock, name: str = REPLACED) -> tuple[float | None, bool]:
    """Return when what was replaced began anew, and whether that is certain.

    Args:
        facts: what is remembered of a target.
        clock: the time.
        name: the name under which the moment is remembered.

    Returns:
        By the monotonic clock of today; None if nothing was replaced.
    """
    moment = Moment.parse(facts.get(name))
    return (moment.on_monotonic(clock), moment.is_certain) if moment else (None, True)


class NodeAtMostOnce(AtMostOnce):
    """Such an act on nodes: a node must be cordoned by this run, and verified drained, at the moment of the order."""

    def __init__(self, cluster: Cluster, *, drained: bool = True) -> None:
        """Act on nodes of a cluster.

        Args:
            cluster: the cluster.
            drained: whether a node must have no pod left that a drain would move.
        """
        super().__init__(cluster)
        self.cluster = cluster
        self._drained = drained

    def problem(self, state: TargetState, found: Incarnation) -> str:
        """Say whether the host is another machine than the node."""
        return other_machine(self.cluster.node(state.target.name), found.boot_id)

    def safe(self, state: TargetState) -> Verdict:
        """Look whether the node is closed and empty."""
        name = state.target.name
        node = nodes.read_node(self.cluster.api, name)
        owner = nodes.ownership(node)
        if not node.unschedulable or owner is None or owner.run != self.cluster.run.id:
            return failed(f"{UNCORDONED}; it was not {self.messages[0]}")
        if not self._drained:
            return done()
        if left := drain.pods_left(self.cluster.api, name, drain_policy(self.cluster.config.drain)):
            names = ", ".join(str(pod) for pod in left[:5])
            return failed(f"pods are on it again, it was not {self.messages[0]}: {names}")
        return done()


def other_machine(node: Node, boot_id: str) -> str:
    """Return why a host cannot be the machine that a node runs on; empty if it can. Both tell the kernel's boot id."""
    if not node.boot_id or node.boot_id == boot_id:
        return ""
    return (
        f"Kubernetes has the boot id {node.boot_id} for {node.name}, and the host has {boot_id}: it is another"
        " machine, or its kubelet has not reported since the boot"
    )
