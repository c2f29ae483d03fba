"""BGP as a gate: a node takes pods only when its sessions are back at every router, as they were before."""

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from fleet.bgp import verify
from fleet.bgp.junos import Routers
from fleet.bgp.summary import Address
from fleet.bgp.verify import Readings, Session
from fleet.config import BgpConfig
from fleet.errors import FleetError
from fleet.k8s.model import Node
from fleet.maintenance.model import Kind, UnitState, Verdict, done, pending
from fleet.procedures.cluster import Cluster
from fleet.procedures.findings import Finding, ask, note, stop
from fleet.procedures.steps import NodeStep, Verdicts, each

FACT = "bgp"
"""The name under which a node's baseline is remembered."""
DOWN = "bgp_down"
"""The name under which the sessions are remembered that were down when the operator agreed to the plan."""


class _RouterStep(NodeStep):
    """Base of the gates at the routers, which are all asked at once, and once for all nodes."""

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Ask the routers, and judge what they say of each node."""
        config, readings = _ask(self.cluster)
        return each(units, lambda state: self.judge(state, config, readings))

    def judge(self, state: UnitState, config: BgpConfig, readings: Readings) -> Verdict:
        """Judge what the routers say of a node."""
        raise NotImplementedError


class Baseline(_RouterStep):
    """All sessions of the node are up before it is touched, and what the routers have of them is remembered."""

    def judge(self, state: UnitState, config: BgpConfig, readings: Readings) -> Verdict:
        """Remember it, once no session is down but those that were when the run began.

        With a router that cannot be asked the gate could never open. And a session that went down since the plan was
        agreed to is a reason not to take even more out of service.
        """
        if unread := _unread(readings):
            return pending("; ".join(unread))
        sessions = sessions_of(self.cluster.node(state.unit.name), config)
        missing = verify.missing(sessions, readings, config.asn)
        if lost := [(session, why) for session, why in missing if str(session) not in state.facts.get(DOWN, ())]:
            return pending(f"down since the run began: {_join(lost)}")
        return Verdict(Kind.DONE, facts={FACT: verify.baseline(sessions, readings, config.asn)})


class Proven(_RouterStep):
    """Every session that the node had is up again at every router, with all its prefixes."""

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Ask the routers, and those that say all is well once more: whether they count prefixes that they kept."""
        verdicts = dict(super().check(units))
        proven = [state for state in units if verdicts[state.unit.name].kind is Kind.DONE]
        addresses = {state.unit.name: self._addresses(state) for state in proven}
        if not addresses:
            return verdicts
        _, routers = _configured(self.cluster)
        incomplete = routers.incomplete(sorted(set().union(*addresses.values()), key=str))
        unread = _unread(incomplete)
        for name, own in addresses.items():
            waits = [
                f"{router} {address}: has not sent all its routes (End-of-RIB)"
                for router, waiting in incomplete.items()
                if not isinstance(waiting, FleetError)
                for address in sorted(own & waiting, key=str)
            ]
            if unread or waits:
                verdicts[name] = pending("; ".join([*unread, *waits]))
        return verdicts

    def _addresses(self, state: UnitState) -> set[Address]:
        """Return the addresses of the sessions that a node had, or is expected to have."""
        config, _ = _configured(self.cluster)
        baseline = state.facts.get(FACT)
        if baseline is None:
            return {session.address for session in sessions_of(self.cluster.node(state.unit.name), config)}
        return {ip_address(text) for sessions in baseline.values() for text, seen in sessions.items() if seen["up"]}

    def judge(self, state: UnitState, config: BgpConfig, readings: Readings) -> Verdict:
        """Compare with the baseline; a node without one must have all sessions that it is expected to have."""
        baseline = state.facts.get(FACT)
        if baseline is None:
            sessions = sessions_of(self.cluster.node(state.unit.name), config)
            left = "; ".join(_unread(readings)) or _join(verify.missing(sessions, readings, config.asn))
            return pending(left) if left else done()
        # A router that the operator has taken out of the configuration is not asked for any more.
        baseline = {router: sessions for router, sessions in baseline.items() if router in config.routers}
        since = state.facts.get("replaced_at")
        unproven = verify.unproven(baseline, readings, config.asn, since=since, stable=config.stable)
        return pending("; ".join(unproven)) if unproven else done()


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
            todo = "Repair it first; if you go on, it is not waited for."
            findings.append(ask(f"{name} has BGP sessions that are down: {_join(missing)}.", todo))
            facts[name] = {DOWN: [str(session) for session, _ in missing]}
    if graceful:
        findings += _of_graceful_restart(cluster, sessions)
    if not findings:
        total = sum(len(expected) for expected in sessions.values())
        findings.append(note(f"All {total} BGP sessions of the nodes are up at {', '.join(config.routers)}."))
    return findings, facts


def _of_graceful_restart(cluster: Cluster, sessions: Mapping[str, Sequence[Session]]) -> list[Finding]:
    """Refuse to keep pods on nodes whose routes the routers would drop."""
    findings = []
    _, routers = _configured(cluster)
    negotiated = routers.restarting()
    for router, addresses in negotiated.items():
        if isinstance(addresses, FleetError):
            findings.append(
                stop(f"{addresses}.", "Without it nobody knows about graceful restart; leave out --no-drain.")
            )
            continue
        lacking = [
            name
            for name, expected in sessions.items()
            if any(session.router == router and session.address not in addresses for session in expected)
        ]
        if lacking:
            what = f"Graceful restart was not negotiated at {router} in all sessions of {', '.join(lacking)}."
            findings.append(stop(what, "Their pods would lose their routes: leave out --no-drain."))
    what = "Pods stay on the nodes while their routes depend on the routers' graceful restart (--no-drain)."
    findings.append(ask(what, "Make sure that the restart takes less than the routers' restart time."))
    return findings


def _configured(cluster: Cluster) -> tuple[BgpConfig, Routers]:
    if cluster.config.bgp is None or cluster.routers is None:
        raise FleetError(f"The cluster {cluster.name} has no section bgp in the configuration.")
    return cluster.config.bgp, cluster.routers


def _ask(cluster: Cluster) -> tuple[BgpConfig, Readings]:
    config, routers = _configured(cluster)
    return config, routers.summaries()


def _unread(readings: Mapping[str, object]) -> list[str]:
    """Return why routers could not be asked."""
    return [str(error).rstrip(".") for error in readings.values() if isinstance(error, FleetError)]


def _join(missing: Sequence[tuple[Session, str]]) -> str:
    return ", ".join(f"{session} {why}" for session, why in missing)
