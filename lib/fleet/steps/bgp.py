"""BGP as a gate: a node takes pods only when its sessions are back at every router, as they were before."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from fleet.adapters.bgp import verify
from fleet.adapters.bgp.errors import RouterError
from fleet.adapters.bgp.junos import Restarts, RoutersView
from fleet.adapters.bgp.summary import Address
from fleet.adapters.bgp.verify import Readings, Session
from fleet.adapters.k8s.model import Node
from fleet.config.model import BgpConfig
from fleet.engine.declaration import Verdicts
from fleet.engine.findings import Finding, Found, Level, ask, note, stop
from fleet.engine.model import Kind, TargetState, Verdict, done, failed, pending
from fleet.errors import FleetError
from fleet.steps.at_most_once import began
from fleet.steps.base import NodeStep, each
from fleet.steps.cluster import Cluster
from fleet.steps.cordon import is_closed
from fleet.steps.look import Look

FACT = "bgp"
"""The name under which a node's baseline is remembered."""
_NO_SESSION = "no address is known from which it could have BGP sessions; bgp.addresses may name one"
_OPENED = "somebody has uncordoned it: it takes pods without proven sessions; kubectl cordon it, then --resume"
DOWN = "bgp_down"
"""The name under which the sessions are remembered that were down when the operator agreed to the plan."""


class _RouterStep(NodeStep):
    """Base of the gates at the routers, which are all asked at once, and once for all nodes."""

    deadline = "bgp"
    poll_together = True
    gate = True
    acceptable = True

    @property
    def wanted(self) -> bool:
        """Whether the configuration has routers."""
        return self.cluster.config.bgp is not None

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask the routers, and judge what they say of each node."""
        config, readings = _ask(self.cluster)
        return each(targets, lambda state: self.judge(state, config, readings))

    @abstractmethod
    def judge(self, state: TargetState, config: BgpConfig, readings: Readings) -> Verdict:
        """Judge what the routers say of a node."""


class Baseline(_RouterStep):
    """All sessions of the node are up before it is touched, and what the routers have of them is remembered."""

    name = "bgp baseline"

    def __init__(self, cluster: Cluster, *, graceful: bool) -> None:
        """Look at nodes of a cluster.

        Args:
            cluster: the cluster.
            graceful: whether routers have to keep the routes of a session that goes down (graceful restart).
        """
        super().__init__(cluster)
        self._graceful = graceful

    def preflight(self, look: Look) -> Found:  # noqa: ARG002
        """Ask the routers for what the run will want to see again, and remember what is down already."""
        findings, facts = examine(self.cluster, self.cluster.nodes.snapshot(), graceful=self._graceful)
        return Found(tuple(findings), facts)

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask the routers, also for graceful restart where it is relied on."""
        verdicts = dict(super().check(targets))
        good = {
            state.target.name: self._sessions(state)
            for state in targets
            if verdicts[state.target.name].kind is Kind.DONE
        }
        if self._graceful and good:
            _, routers = configured(self.cluster)
            restarts = routers.restarts(_addresses(good.values()))
            for name, sessions in good.items():
                lacking = [str(session) for session in sessions if not _is_negotiated(session, restarts)]
                if why := _unread(restarts) or (lacking and [f"no graceful restart: {', '.join(lacking)}"]):
                    verdicts[name] = pending("; ".join(why))
        return verdicts

    def judge(self, state: TargetState, config: BgpConfig, readings: Readings) -> Verdict:
        """Remember it, once no session is down but those that were when the run began.

        With a router that cannot be asked the gate could never open. And a session that went down since the plan was
        agreed to is a reason not to take even more out of service.
        """
        if unread := _unread(readings):
            return pending("; ".join(unread))
        sessions = self._sessions(state)
        if not sessions:
            return pending(_NO_SESSION)
        missing = verify.missing(sessions, readings, config.asn)
        if lost := [(session, why) for session, why in missing if str(session) not in state.facts.get(DOWN, ())]:
            return pending(f"down since the run began: {_join(lost)}")
        if FACT in state.facts and "ordered" in state.facts:
            # What is to end was noted, and the sessions with it. If it has ended by now, these are other sessions.
            return done()
        if fresh := verify.young(sessions, readings, config.asn):
            return pending(_join(fresh))
        return Verdict(Kind.DONE, facts={FACT: verify.baseline(sessions, readings, config.asn)})

    def _sessions(self, state: TargetState) -> tuple[Session, ...]:
        config, _ = configured(self.cluster)
        return sessions_of(self.cluster.node(state.target.name), config)


class Routes(_RouterStep):
    """Of the node's prefixes, only those are asked for again that it still has without its pods.

    Addresses of services are announced where their pods are, and empty blocks of addresses may be given back.
    """

    name = "bgp routes"

    def judge(self, state: TargetState, config: BgpConfig, readings: Readings) -> Verdict:
        """Lower the baseline to what is there now."""
        if unread := _unread(readings):
            return pending("; ".join(unread))
        if FACT not in state.facts:
            return done()
        return Verdict(Kind.DONE, facts={FACT: verify.lowered(state.facts[FACT], readings, config.asn)})


class Proven(_RouterStep):
    """Every session that the node had is up again at every router, with all its prefixes.

    At a router that is new in the configuration all sessions must be up; one that was taken out is not asked for.
    """

    name = "bgp"

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask the routers, and look whether the nodes that are not proven are still closed."""
        self.cluster.check_current()
        return self._if_closed(self._ask(targets))

    def _ask(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask the routers; where all is well, ask whether they count prefixes that they merely kept, and once more.

        Once more, as what was kept may have been counted right before it was dropped.
        """
        verdicts = dict(super().check(targets))
        well = [state for state in targets if verdicts[state.target.name].kind is Kind.DONE]
        if not well:
            return verdicts
        _, routers = configured(self.cluster)
        sessions = {state.target.name: self._sessions(state) for state in well}
        restarts = routers.restarts(_addresses(sessions.values()))
        for name, own in sessions.items():
            waits = [f"{s}: has not sent all its routes (End-of-RIB)" for s in own if _is_incomplete(s, restarts)]
            if why := [*_unread(restarts), *waits]:
                verdicts[name] = pending("; ".join(why))
        complete = [state for state in well if verdicts[state.target.name].kind is Kind.DONE]
        return {**verdicts, **(super().check(complete) if complete else {})}

    def _if_closed(self, verdicts: Mapping[str, Verdict]) -> Verdicts:
        """Give up nodes that somebody has opened: they take pods, and waiting would only hide that."""
        known = self.cluster.nodes.snapshot()
        return {
            name: verdict
            if verdict.kind in (Kind.DONE, Kind.FAILED) or name not in known or is_closed(self.cluster, name)
            else failed(f"{_OPENED} ({verdict.detail})")
            for name, verdict in verdicts.items()
        }

    def judge(self, state: TargetState, config: BgpConfig, readings: Readings) -> Verdict:
        """Compare with the baseline."""
        if not self._sessions(state):
            return pending(_NO_SESSION)
        known, new = self._split(state)
        since, certain = began(state.facts, self.cluster.clock)
        left = verify.unproven(known, readings, config.asn, since=since, stable=config.stable, is_certain=certain)
        left += [f"{session} {why}" for session, why in verify.missing(new, readings, config.asn)]
        return pending("; ".join(left)) if left else done()

    def _split(self, state: TargetState) -> tuple[dict[str, Any], list[Session]]:
        """Return the baseline at the routers of today, and the sessions at those that it does not know."""
        config, _ = configured(self.cluster)
        baseline = state.facts.get(FACT, {})
        known = {router: sessions for router, sessions in baseline.items() if router in config.routers}
        if set(known) == set(config.routers):
            return known, []
        expected = sessions_of(self.cluster.node(state.target.name), config)
        return known, [session for session in expected if session.router not in known]

    def _sessions(self, state: TargetState) -> list[Session]:
        """Return the sessions that must be up."""
        known, new = self._split(state)
        had = [
            Session(router, ip_address(text))
            for router, sessions in known.items()
            for text, seen in sessions.items()
            if seen["up"]
        ]
        return [*had, *new]


def _addresses(sessions: Iterable[Iterable[Session]]) -> list[Address]:
    return sorted({session.address for own in sessions for session in own}, key=str)


def _is_negotiated(session: Session, restarts: Mapping[str, Restarts | RouterError]) -> bool:
    answer = restarts[session.router]
    return isinstance(answer, Restarts) and session.address in answer.negotiated


def _is_incomplete(session: Session, restarts: Mapping[str, Restarts | RouterError]) -> bool:
    answer = restarts[session.router]
    return isinstance(answer, Restarts) and session.address in answer.incomplete


def sessions_of(node: Node, config: BgpConfig) -> tuple[Session, ...]:
    """Return the sessions that a node must have."""
    return verify.expected(verify.addresses_of(node, config), tuple(config.routers))


def examine(
    cluster: Cluster, known: Mapping[str, Node], *, graceful: bool
) -> tuple[list[Finding], dict[str, dict[str, Any]]]:
    """Ask the routers whether all sessions are there that a run will want to see again.

    Args:
        cluster: the cluster, with the hosts that are to be maintained.
        known: all nodes.
        graceful: whether routers have to keep the routes of a session that goes down (graceful restart).

    Returns:
        The findings, and what is to be remembered of nodes from the beginning.
    """
    config, readings = _ask(cluster)
    if unread := _unread(readings):
        return [
            stop(f"{why}.", "Without it no node could be proven to be back; repair that first.") for why in unread
        ], {}
    sessions = {name: sessions_of(known[name], config) for name in cluster.hosts}
    findings = []
    facts: dict[str, dict[str, Any]] = {}
    for name, expected in sessions.items():
        missing = verify.missing(expected, readings, config.asn)
        if not expected or len(missing) == len(expected):
            what = f"{name} has no BGP session with any router" + (f": {_join(missing)}." if missing else ".")
            findings.append(stop(what, f"Repair it, correct bgp.addresses in the configuration, or --exclude {name}."))
        elif missing:
            todo = "Repair it first; if you continue, it is not waited for."
            findings.append(ask(f"{name} has BGP sessions that are down: {_join(missing)}.", todo))
            facts[name] = {DOWN: [str(session) for session, _ in missing]}
    if strangers := sorted(set(config.addresses) - set(known)):
        what = f"bgp.addresses names nodes that Kubernetes does not know: {', '.join(strangers)}."
        findings.append(note(what, "Correct the configuration."))
    if graceful:
        findings += _of_graceful_restart(cluster, sessions)
    if not facts and not any(finding.level is Level.STOP for finding in findings):
        total = sum(len(expected) for expected in sessions.values())
        findings.append(note(f"All {total} BGP sessions of the nodes are up at {', '.join(config.routers)}."))
    return findings, facts


def _of_graceful_restart(cluster: Cluster, sessions: Mapping[str, Sequence[Session]]) -> list[Finding]:
    """Refuse to keep pods on nodes whose routes the routers would drop."""
    findings = []
    _, routers = configured(cluster)
    restarts = routers.restarts()
    for router, answer in restarts.items():
        if isinstance(answer, FleetError):
            findings.append(stop(str(answer), "Without it nobody knows of graceful restart: leave out --no-drain."))
            continue
        lacking = [
            name
            for name, expected in sessions.items()
            if any(session.router == router and not _is_negotiated(session, restarts) for session in expected)
        ]
        if lacking:
            what = f"Graceful restart was not negotiated at {router} in all sessions of {', '.join(lacking)}."
            findings.append(stop(what, "Their pods would lose their routes: leave out --no-drain."))
    what = "Pods stay on the nodes while their routes depend on the routers' graceful restart (--no-drain)."
    findings.append(ask(what, "Make sure that the restart takes less than the routers' restart time."))
    return findings


def configured(cluster: Cluster) -> tuple[BgpConfig, RoutersView]:
    """Return the configuration of a cluster's routers, and the routers.

    Raises:
        FleetError: there are none.
    """
    if cluster.config.bgp is None or cluster.routers is None:
        raise FleetError(
            f"The cluster {cluster.name} has no section bgp in the configuration: without routers there is no proof"
            " that a node's routes are back."
        )
    return cluster.config.bgp, cluster.routers


def _ask(cluster: Cluster) -> tuple[BgpConfig, Readings]:
    config, routers = configured(cluster)
    return config, routers.summaries()


def _unread(readings: Mapping[str, object]) -> list[str]:
    """Return in one message which routers could not be asked, and why; nothing if all answered."""
    problem = verify.unread(readings)
    return [problem] if problem else []


def _join(missing: Sequence[tuple[Session, str]]) -> str:
    return ", ".join(f"{session} {why}" for session, why in missing)


def unit(cluster: Cluster) -> str:
    """Return the unit that is restarted.

    Raises:
        FleetError: the cluster has no routers in the configuration.
    """
    config, _ = configured(cluster)
    return config.unit
