"""Rolling maintenance of hosts, one at a time: the steps that all of it has, its stages, and the way back.

A stage restarts one unit of systemd on some hosts, each only while all others can do without it. What a run takes away
from a host (alerts, Puppet, connections) stands in the journal before it is taken, and only that is given back.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from fleet.adapters.k8s.lock import ClusterLock
from fleet.engine.model import (
    Limits,
    Observation,
    Stage,
    Status,
    StepSpec,
    Unit,
    UnitState,
    Verdict,
    When,
    done,
    pending,
)
from fleet.engine.protocols import Effects
from fleet.procedures import steps, units
from fleet.procedures.cluster import Cluster
from fleet.procedures.maintenance import ABORT, Step, effects_of, proof_of, specs
from fleet.procedures.once import Once, Settled
from fleet.procedures.puppet import EnablePuppet, PuppetOff, PuppetOn
from fleet.procedures.steps import NodeStep, Verdicts, each
from fleet.procedures.traces import EndSilences, Known
from fleet.procedures.units import Guard, RestartUnit

API_DEADLINE = 120.0
"""Seconds for one change at Alertmanager, at Puppet or at a load balancer, outages of them included."""
ABORT_PATIENCE = 120.0
"""Seconds for each proof that a host is well, in an abort."""
POLL = 0.5
"""Seconds between two questions to hosts."""

States = Callable[[str], Mapping[str, UnitState]]
"""Reads the states of a stage's units in the journal, from any thread."""
Blocked = Callable[[], str]
"""Says why the run must start nothing new; nothing if it may."""


class Spared(NodeStep):
    """All other hosts are well, so that they can do without this one."""

    def __init__(self, cluster: Cluster, guard: Guard) -> None:
        """Ask a guard."""
        super().__init__(cluster)
        self._guard = guard

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Ask the guard now."""

        def judge(state: UnitState) -> Verdict:
            problem = self._guard(self.cluster.hosts[state.unit.name])
            return pending(problem) if problem else done()

        return each(units, judge)


@dataclass(frozen=True, slots=True)
class Work:
    """A stage of a run over hosts.

    Attributes:
        name: the stage's name.
        order: returns the units in their order; it is asked when the stage's turn has come.
        steps: what each unit goes through.
        act: what happens at most once to each; None if nothing of that kind does.
        back: the steps by which a unit in flight is given back, proofs that it is well first.
    """

    name: str
    order: Callable[[], Sequence[str]]
    steps: Sequence[Step]
    act: Once | None = None
    back: Sequence[Step] = ()


def before_steps(cluster: Cluster, guard: Guard) -> tuple[Step, ...]:
    """Return the steps with which the work on a host begins."""
    off = Step(StepSpec("puppet off", API_DEADLINE), PuppetOff(cluster))
    return (
        Step(StepSpec("others", cluster.config.deadlines.blocked, gate=True), Spared(cluster, guard)),
        Step(StepSpec("silence", API_DEADLINE), steps.SilenceNode(cluster)),
        *((off,) if cluster.config.puppet.enabled else ()),
    )


def after_steps(cluster: Cluster) -> tuple[Step, ...]:
    """Return the steps with which the work on a host ends."""
    on = Step(StepSpec("puppet on", API_DEADLINE), PuppetOn(cluster))
    return (
        *((on,) if cluster.config.puppet.enabled else ()),
        Step(StepSpec("unsilence", API_DEADLINE, gives_back=True), steps.Unsilence(cluster)),
    )


def restart_steps(cluster: Cluster, act: RestartUnit, unit: str) -> tuple[Step, ...]:
    """Return the steps of a restart.

    Args:
        cluster: the cluster.
        act: the restart.
        unit: the unit of systemd.
    """
    deadline = cluster.config.deadlines.restart
    return (
        Step(StepSpec("restart", deadline, poll=POLL, pivot=True), act),
        Step(StepSpec("active", deadline, poll=POLL, gate=True, acceptable=True), units.Active(cluster, unit)),
    )


def alerts_step(cluster: Cluster) -> Step:
    """Return the gate that waits for a host's alerts to clear."""
    return Step(StepSpec("alerts", cluster.config.deadlines.alerts, gate=True, acceptable=True), steps.Alerts(cluster))


class HostMaintenance:
    """Takes hosts through the stages of a run.

    Args:
        cluster: the cluster.
        works: the stages.
        lock: the cluster's lock.
        states: reads the states of a stage's units in the journal, from any thread.
        blocked: says why nothing new is to start, whatever the lock is.
        ending: further steps at the end of every session, each a stage of its own.
    """

    def __init__(
        self,
        cluster: Cluster,
        works: Sequence[Work],
        lock: ClusterLock,
        states: States,
        blocked: Blocked = lambda: "",
        ending: Sequence[Step] = (),
    ) -> None:
        self._cluster = cluster
        self._works = works
        self._lock = lock
        self._states = states
        self._blocked = blocked
        self._ending = (*ending, *ending_steps(cluster, known_of(works, states)))
        self._steps = {work.name: work.steps for work in works} | {step.spec.name: [step] for step in self._ending}

    @property
    def stages(self) -> Iterator[Stage]:
        """The stages; the order of hosts is asked for when a stage's turn has come. What is not complete ends it."""
        config = self._cluster.config
        for work in self._works:
            names = work.order()
            # What the run began with and is not found any more is held, and not passed over as if it were done.
            order = tuple(Unit(name) for name in dict.fromkeys((*names, *self._states(work.name))))
            limits = Limits(blocked=config.deadlines.blocked)
            yield Stage(work.name, order, specs(work.steps), limits, renew=config.alerts.silence / 3)
            over = (Status.DONE, Status.GIVEN_UP)
            if any(state.status not in over for state in self._states(work.name).values()):
                break
        yield from _ending_stages(self._ending)

    def effects(self, stage: str, step: str) -> Effects:
        """Return what a step does."""
        return effects_of(self._steps[stage], step)

    def observe(self) -> Observation:
        """Say whether the run may start anything new."""
        given_up = self._blocked()
        blocked = self._lock.problem() or given_up
        return Observation({}, blocked, hopeless=self._lock.lost or bool(given_up))

    def renew(self, stage: str, units: Sequence[UnitState]) -> Mapping[str, Verdict]:  # noqa: ARG002
        """Extend the silences of hosts in flight."""
        return steps.extend(self._cluster, units, self._cluster.config.alerts.silence)


class GiveBack:
    """Gives back the hosts that a run has in flight or held, each only when it is proven to be well.

    Args:
        cluster: the cluster.
        works: the stages of the run.
        states: reads the states of a stage's units in the journal, from any thread.
        ordered: the units of a stage for which the act was ordered and is not proven.
        ending: further steps at the end, each a stage of its own.
    """

    def __init__(
        self,
        cluster: Cluster,
        works: Sequence[Work],
        states: States,
        ordered: Callable[[Work], frozenset[str]],
        ending: Sequence[Step] = (),
    ) -> None:
        self._cluster = cluster
        self.stages: list[Stage] = []
        self._steps: dict[str, Sequence[Step]] = {}
        for work in works:
            found = [state for state in states(work.name).values() if _is_begun(state)]
            if not found or work.act is None:
                continue
            stop = cluster.config.deadlines.restart + Settled.GRACE
            settle = Step(StepSpec("settle", stop, gate=True), Settled(work.act, ordered(work)))
            touched = partial(_is_touched, work.act)
            back = [proof_of(step, touched, ABORT_PATIENCE) if step.spec.gate else step for step in work.back]
            own = self._steps[f"{ABORT}{work.name}"] = [settle, *back]
            units = tuple(state.unit for state in found)
            facts = {state.unit.name: state.facts for state in found}
            renew = cluster.config.alerts.silence / 3
            accepted = {state.unit.name: state.accepted for state in found}
            stage = Stage(
                f"{ABORT}{work.name}",
                units,
                specs(own),
                when=When.START,
                renew=renew,
                facts=facts,
                accepted=accepted,
            )
            self.stages.append(stage)
        # Not those of an earlier abort: what it could not give back may have been done since.
        ours = [(stage.name, unit.name) for stage in self.stages for unit in stage.units]
        # Puppet may be disabled on hosts that went back to waiting as well.
        begun = known_of(works, states)

        def known() -> dict[str, UnitState]:
            found = {name: states(name) for name, _ in ours}
            return {**begun(), **{host: found[name][host] for name, host in ours if host in found[name]}}

        ending = (*ending, *ending_steps(cluster, known))
        self._steps |= {step.spec.name: [step] for step in ending}
        self.stages += _ending_stages(ending)

    def effects(self, stage: str, step: str) -> Effects:
        """Return what a step does."""
        return effects_of(self._steps[stage], step)

    def observe(self) -> Observation:
        """Say that nothing is in the way."""
        return Observation()

    def renew(self, stage: str, units: Sequence[UnitState]) -> Mapping[str, Verdict]:  # noqa: ARG002
        """Extend the silences of hosts that are being given back."""
        return steps.extend(self._cluster, units, self._cluster.config.alerts.silence)


def _is_touched(act: Once, state: UnitState) -> bool:
    """Say whether a host was restarted, perhaps restarted, or taken out of the load balancer."""
    return any(state.facts.get(fact) for fact in ("pooled_at", "ordered", f"new_{act.fact}"))


def _is_begun(state: UnitState) -> bool:
    """Say whether a run has something to give back on a unit; one that was sent back to waiting may have."""
    return state.status in (Status.RUNNING, Status.HELD) or (state.status is Status.PENDING and bool(state.facts))


def known_of(works: Sequence[Work], states: States) -> Known:
    """Return what reads the states of all hosts of a run; of a host in several stages, that of the last it came to."""

    def known() -> dict[str, UnitState]:
        found: dict[str, UnitState] = {}
        for work in works:
            for name, state in states(work.name).items():
                if state.status is not Status.PENDING or state.facts or name not in found:
                    found[name] = state
        return found

    return known


def ending_steps(cluster: Cluster, known: Known) -> tuple[Step, ...]:
    """Return the steps that end a session, each on its own: one that fails does not keep the other from its work."""

    def is_held(state: UnitState) -> bool:
        return state.status is Status.HELD and "silence" in state.facts

    enable = Step(StepSpec("enable puppet", API_DEADLINE), EnablePuppet(cluster, known))
    return (
        *((enable,) if cluster.config.puppet.enabled else ()),
        Step(StepSpec("end silences", API_DEADLINE), EndSilences(cluster, known, is_held)),
    )


def _ending_stages(ending: Sequence[Step]) -> list[Stage]:
    return [Stage(step.spec.name, (Unit(step.spec.name),), (step.spec,), when=When.END) for step in ending]
