"""Out of the load balancer and back: the steps of kube-apiserver's restart that are about its connections."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from fleet.adapters.load_balancer.model import LoadBalancer
from fleet.clock import Moment
from fleet.engine import advance
from fleet.engine.declaration import Seen, Tell, Verdicts
from fleet.engine.journal import Journal
from fleet.engine.model import Stage, Status, TargetState, Verdict, done, failed, pending
from fleet.steps.base import CHANGE_DEADLINE, POLL, each
from fleet.steps.control_plane_health import API, ControlPlane, PlaneStep

logger = logging.getLogger(__name__)

REPOOL = "repool"
"""The stage at the end of a session in which the load balancer is told of hosts that are left."""


class _BalancerStep(PlaneStep):
    """Base of the steps that are about the load balancer."""

    def __init__(self, plane: ControlPlane, balancer: LoadBalancer) -> None:
        super().__init__(plane)
        self._balancer = balancer


class Depool(_BalancerStep):
    """The host gets no new connections from the load balancer."""

    name = "depool"
    poll = POLL
    takes_capacity = True

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask the load balancer; who sends connections here is noted before it is told otherwise."""
        states = self._balancer.states(self.hosts(targets))

        def judge(state: TargetState) -> Verdict:
            server = states[self.cluster.hosts[state.target.name]]
            at = state.facts.get("pooled_at", list(server.pooled_at))
            if server.out:
                return done(server.detail, pooled_at=at)
            # It may have been out before, and be back: then connections get their time again.
            return pending(server.detail, pooled_at=at, draining_since=None)

        return each(targets, judge)

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Tell it, if the others are still well."""

        def depool(state: TargetState) -> Verdict:
            host = self.cluster.hosts[state.target.name]
            if problem := self._plane.problem(API, host):
                return pending(f"not now: {problem}")
            self._balancer.depool(host, state.facts["pooled_at"])
            return done()

        return each(targets, depool)


class Connections(_BalancerStep):
    """No connection is open through the load balancer any more, or those that are have had their time."""

    name = "connections"
    poll = POLL
    gate = True

    @property
    def timeout(self) -> float:
        """The seconds that connections are given, and some more."""
        return self.cluster.config.control_plane.load_balancer.drain + CHANGE_DEADLINE

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Count connections; watches stay until the apiserver ends them itself, as it does when it is stopped.

        Others that are not well meanwhile end it: nobody may serve while this host is out.
        """
        states = self._balancer.states(self.hosts(targets))
        clock = self.cluster.clock

        def judge(state: TargetState) -> Verdict:
            if problem := self._plane.problem(API, self.cluster.hosts[state.target.name]):
                return failed(f"not continued: {problem}")
            open_ones = states[self.cluster.hosts[state.target.name]].connections
            since = Moment.parse(state.facts.get("draining_since"))
            if since is None or not since.is_certain:
                since = Moment.now(clock)
            if open_ones == 0:
                return done("none is left")
            counted = "it is not known how many" if open_ones is None else str(open_ones)
            if clock.monotonic() - since.monotonic >= self.cluster.config.control_plane.load_balancer.drain:
                return done(f"left for the apiserver to end: {counted}")
            return pending(f"still open: {counted}", draining_since=since.stored())

        return each(targets, judge)


class Pool(_BalancerStep):
    """The host gets connections from the load balancer again, unless it got none before the run."""

    name = "pool"
    deadline = "ready"
    poll = POLL

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask the load balancer whether it uses the host."""
        states = self._balancer.states(self.hosts(targets))

        def judge(state: TargetState) -> Verdict:
            server = states[self.cluster.hosts[state.target.name]]
            before = set(state.facts.get("pooled_at", ()))
            if not before:
                return done("left out of the load balancer, as it was found")
            return done(server.detail) if server.up and before <= set(server.pooled_at) else pending(server.detail)

        return each(targets, judge)

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Tell it to those that were told to depool it."""

        def pool(state: TargetState) -> Verdict:
            self._balancer.pool(self.cluster.hosts[state.target.name], state.facts["pooled_at"])
            return done()

        return each(targets, pool)


class Watched(_BalancerStep):
    """The load balancer looks after the host's health by itself, as it did before the run."""

    name = "watched"

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look whether it was told so."""
        return {s.target.name: done() if s.facts.get("watched") else pending("not told yet") for s in targets}

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Tell it."""

        def watch(state: TargetState) -> Verdict:
            if state.facts.get("pooled_at"):  # Otherwise its checks are as others want them.
                self._balancer.watch_again(self.cluster.hosts[state.target.name])
            return done(watched=True)

        return each(targets, watch)


class Repool(_BalancerStep):
    """Of hosts that a session leaves, those not restarted are in the load balancer again; it looks after the others.

    A host that runs what it ran before must not stay out: it may be the last one that serves.
    """

    name = REPOOL

    def __init__(self, plane: ControlPlane, balancer: LoadBalancer, seen: Seen) -> None:
        """Look after the hosts that are held, or were sent back to waiting, in the bracket's stage."""
        super().__init__(plane, balancer)
        self._stage = Stage("", (), seen.steps)
        self._known = seen.here
        self._told: set[str] = set()
        self._back: list[str] = []

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look for hosts of which the load balancer was not told yet."""
        left = ", ".join(sorted(state.target.name for state in self._left()))
        return {state.target.name: pending(f"for {left}") if left else done() for state in targets}

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Tell it; whom it got back is noted for :func:`forget_put_back`."""
        for left in self._left():
            host = self.cluster.hosts[left.target.name]
            if self._is_as_before(left):
                self._balancer.pool(host, left.facts["pooled_at"])
                self._back.append(left.target.name)
                logger.warning("%s was not restarted, and is back in the load balancer.", host)
            else:
                self._balancer.watch_again(host)
            self._told.add(left.target.name)
        return {state.target.name: done(back=self._back) for state in targets}

    def _is_as_before(self, state: TargetState) -> bool:
        """Say whether no restart of a host was ordered."""
        if state.status is Status.PENDING:
            return True
        return advance.before_pivot(self._stage, state) and not state.facts.get("unconfirmed")

    def _left(self) -> list[TargetState]:
        return [
            state
            for name, state in self._known().items()
            if state.status in (Status.HELD, Status.PENDING) and state.facts.get("pooled_at") and name not in self._told
        ]


def forget_put_back(book: Journal, stage: str = API) -> None:
    """Forget that a stage's hosts were in the load balancer if an earlier session has put them back: others decide."""
    told = book.states(REPOOL)
    back = {name for state in told.values() for name in state.facts.get("back", ())}
    taken = ("pooled_at", "draining_since")
    states = {
        REPOOL: [replace(state, facts={}) for state in told.values()],
        stage: [
            replace(state, facts={key: value for key, value in state.facts.items() if key not in taken})
            for name, state in book.states(stage).items()
            if name in back
        ],
    }
    book.rewrite(states, book.info().options)
