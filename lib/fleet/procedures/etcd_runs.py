"""Runs over the members of etcd: what is restarted in which order, what stands in the way, and who uses them."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from fleet.adapters.etcd import health, members
from fleet.adapters.etcd.health import Answer
from fleet.adapters.hosts import services
from fleet.adapters.hosts.services import ServiceState
from fleet.adapters.k8s import rights
from fleet.adapters.k8s.apiserver import Apiservers
from fleet.adapters.k8s.lock import ClusterLock
from fleet.adapters.k8s.watchdog import Watchdog
from fleet.adapters.load_balancer.model import LoadBalancer
from fleet.engine import journal
from fleet.engine.journal import Journal
from fleet.engine.model import StepSpec
from fleet.engine.protocols import Procedure
from fleet.engine.report import WATCHDOG
from fleet.errors import FleetError
from fleet.procedures import hosts, preflight, stacked, units
from fleet.procedures.balancing import REPOOL, Repool, forget_put_back
from fleet.procedures.cluster import Cluster
from fleet.procedures.control_plane import Forget
from fleet.procedures.etcd import DATABASE, MEMBERS, SNAPSHOT, CaughtUp, Etcd, HandOver, Snapshot
from fleet.procedures.findings import Finding, note, stop
from fleet.procedures.host_runs import HostRuns
from fleet.procedures.hosts import API_DEADLINE, POLL, HostMaintenance, States, Work
from fleet.procedures.maintenance import Step
from fleet.procedures.plane import ControlPlane
from fleet.procedures.stacked import APISERVERS, Stacked
from fleet.procedures.units import RestartUnit


class EtcdRuns(HostRuns):
    """Rolling restarts of etcd's members."""

    name = "sre.etcd.restart"
    promise = "One member at a time, and only while all others are well and a quorum without it."

    def __init__(
        self, query: str | None = None, *, connect: Callable[[Cluster], LoadBalancer | None] = lambda _cluster: None
    ) -> None:
        """Restart members.

        Args:
            query: a Cumin query for the hosts of a new run; None for all that there are.
            connect: returns what is before the apiservers of a cluster; None where nothing can be told.
        """
        super().__init__(query)
        self._connect = connect

    def all_hosts(self, cluster: Cluster) -> list[str]:
        """Return the hosts of all members."""
        return Etcd(cluster).hosts

    def options(self, cluster: Cluster) -> dict[str, Any]:
        """Return which apiservers are out of the load balancer while the one member that they have is restarted."""
        planes = control_plane_of(cluster)
        found = stacked.uses(cluster, Etcd(cluster).view(), planes)
        out = stacked.spared(found, planes, has_balancer=self._connect(cluster) is not None)
        return {**super().options(cluster), APISERVERS: out}

    def plane(self, cluster: Cluster, watchdog: Watchdog | None = None) -> ControlPlane:
        """Return the control plane that uses this etcd."""
        config, planes = cluster.config, control_plane_of(cluster)
        apiservers = Apiservers(config.kubeconfig, config.control_plane, planes, config.lease)
        return ControlPlane(cluster, planes, apiservers, self._connect(cluster), watchdog)

    def watchdog(self, cluster: Cluster) -> Watchdog:
        """Return what watches the API's address meanwhile."""
        return Watchdog(cluster.config.kubeconfig, cluster.config.lease.namespace, cluster.run.id)

    def works(self, cluster: Cluster) -> Sequence[Work]:
        """Return the stages: a snapshot, then the members."""
        return self._works(cluster, self._stacked(cluster))

    def _stacked(self, cluster: Cluster, watchdog: Watchdog | None = None) -> Stacked | None:
        """Return the apiservers that have one member alone, and can be taken out of use; None if there are none."""
        out = cluster.run.options.get(APISERVERS) or {}
        if not out:
            return None
        balancer = self._connect(cluster)
        if balancer is None:
            raise FleetError(
                "The configuration has no load balancer any more with which kube-apiservers were taken out of use:"
                " restore control_plane.load_balancer."
            )
        return Stacked(self.plane(cluster, watchdog), balancer, out)

    def _works(self, cluster: Cluster, apiservers: Stacked | None) -> Sequence[Work]:
        etcd = Etcd(cluster)
        unit = etcd.config.unit

        def spared(host: str) -> str:
            return etcd.problem(host) or (apiservers.problem(host) if apiservers else "")

        def follows(host: str) -> str:
            return (apiservers.closed_problem(host) if apiservers else "") or etcd.follows(host)

        act = RestartUnit(cluster, unit, follows, patient=True)
        restart = hosts.restart_steps(cluster, act, unit)
        leads = Step(StepSpec("hand over", API_DEADLINE), HandOver(etcd))
        caught_up = StepSpec("caught up", cluster.config.deadlines.ready, poll=POLL, gate=True)
        before, after = hosts.before_steps(cluster, spared), hosts.after_steps(cluster)
        closing, opening, settling, watched = (
            (apiservers.closing(), apiservers.opening(), apiservers.settling(), apiservers.watched())
            if apiservers
            else ((), (), (), ())
        )
        back_up = (*opening, *settling)
        save = Step(StepSpec("save", 2 * members.SNAPSHOT_TIMEOUT), Snapshot(etcd))
        return (
            Work(SNAPSHOT, lambda: [DATABASE], (save,)),
            Work(
                name=MEMBERS,
                order=etcd.order,
                steps=(
                    *(*before, *closing, leads, *restart, Step(caught_up, CaughtUp(etcd)), *back_up),
                    *(hosts.alerts_step(cluster), *after),
                ),
                act=act,
                back=(*watched, *restart[1:], Step(caught_up, CaughtUp(etcd, alone=True)), *opening, *after),
            ),
        )

    @contextmanager
    def work(self, cluster: Cluster, book: Journal, lock: ClusterLock) -> Iterator[Procedure]:
        """Yield the restarts; where apiservers have one member alone, with the watchdog over the API beside them."""
        states = partial(journal.read_states, book.folder)
        if not cluster.run.options.get(APISERVERS):
            yield HostMaintenance(cluster, self.works(cluster), lock, states)
            return
        forget_put_back(book, MEMBERS)
        watchdog = self.watchdog(cluster)
        watchdog.start()
        try:
            apiservers = self._stacked(cluster, watchdog)
            works = self._works(cluster, apiservers)
            blocked = apiservers.plane.too_many_failed if apiservers else str
            yield HostMaintenance(cluster, works, lock, states, blocked, _ending(apiservers, works, states))
        finally:
            watchdog.stop()
            book.note(WATCHDOG, json.dumps(asdict(watchdog.report())))

    def give_back(self, cluster: Cluster, book: Journal) -> Procedure:
        """Return what gives back the hosts that are in flight or held."""
        if cluster.run.options.get(APISERVERS):
            forget_put_back(book, MEMBERS)
        return super().give_back(cluster, book)

    def tidying(self, cluster: Cluster) -> Sequence[Step]:
        """Return what removes the watchdog's ConfigMap, if the run was killed."""
        if not cluster.run.options.get(APISERVERS):
            return ()
        return (Step(StepSpec("forget watchdog", API_DEADLINE), Forget(cluster)),)

    def checks(self, cluster: Cluster) -> Sequence[Callable[[], list[Finding]]]:
        """Look at all members, and at what is to be restarted."""
        etcd, out = Etcd(cluster), cluster.run.options.get(APISERVERS) or {}

        def of_apiservers() -> list[Finding]:
            found = stacked.uses(cluster, etcd.view(), control_plane_of(cluster))
            return stacked.of_uses(found, out, list(cluster.hosts.values()))

        watching = (partial(preflight.of_rights, cluster, rights.of_watchdog(cluster.config.lease)),) if out else ()
        return partial(of_members, etcd), partial(of_units, etcd), of_apiservers, *watching


def control_plane_of(cluster: Cluster) -> list[str]:
    """Return all control-plane hosts of a cluster."""
    return cluster.remote.query(cluster.config.hosts.control_plane)


def _ending(apiservers: Stacked | None, works: Sequence[Work], states: States) -> Sequence[Step]:
    """Return what puts apiservers back whose members the session leaves unrestarted."""
    if apiservers is None:
        return ()
    repool = Repool(apiservers.plane, apiservers.balancer, works[-1], partial(states, MEMBERS))
    return (Step(StepSpec(REPOOL, API_DEADLINE), repool),)


def of_members(etcd: Etcd) -> list[Finding]:
    """Find out whether each member could be spared, and tell who leads."""
    view = etcd.view()
    problems = dict.fromkeys(filter(None, (health.restart_problem(view, host) for host in etcd.cluster.hosts)))
    findings = [stop(f"{problem}.", "Repair that first: no other member is touched before.") for problem in problems]
    if leads := health.leader(view):
        last = "goes last" if leads in etcd.cluster.hosts else "is left alone"
        findings.append(note(f"{leads} leads, and {last}."))
    for host, answer in view.items():
        if isinstance(answer, Answer) and answer.status.is_learner:
            todo = f"If it is to stay: etcdctl member promote {answer.status.member_id:x}"
            findings.append(note(f"{host} is a learner: it has no vote, and does not count for the quorum.", todo))
    return findings


def of_units(etcd: Etcd) -> list[Finding]:
    """Find out whether the members run as the unit that is restarted: one of another name would start beside them."""
    unit = etcd.config.unit
    view = etcd.view()
    findings: list[Finding] = []
    for host, answer in services.state(etcd.cluster.remote, list(etcd.cluster.hosts.values()), unit).items():
        if not isinstance(answer, ServiceState):
            continue  # The look at SSH names the hosts that do not answer.
        findings += units.of_definition(etcd.cluster, host, unit, answer, "Correct etcd.unit.")
        if answer.loaded and (why := answer.trouble()) and isinstance(view[host], Answer):
            what = f"etcd answers on {host}, where {unit} {why}: it runs as something else."
            findings.append(stop(what, "Correct etcd.unit."))
    return findings
