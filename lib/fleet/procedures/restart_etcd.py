"""Runs over the members of etcd: what is restarted in which order, what stands in the way, and who uses them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from fleet.adapters.etcd import health
from fleet.adapters.etcd.health import Answer
from fleet.adapters.hosts import services
from fleet.adapters.hosts.services import ServiceState
from fleet.adapters.k8s import rights
from fleet.adapters.k8s.apiserver import Apiservers
from fleet.adapters.k8s.watchdog import Watchdog
from fleet.adapters.load_balancer.model import LoadBalancer
from fleet.engine import journal
from fleet.engine.declaration import Bracket, Stage, Step
from fleet.engine.executor import Execution
from fleet.engine.findings import Finding, note, stop
from fleet.engine.journal import Journal
from fleet.engine.model import Target
from fleet.engine.protocols import Lock
from fleet.engine.protocols import Procedure as Executable
from fleet.errors import FleetError
from fleet.procedures import hosts, preflight
from fleet.procedures.hosts import HostProcedure
from fleet.procedures.watching import observe, watchdog_of, watched
from fleet.steps import stacked, units
from fleet.steps.balancing import forget_put_back
from fleet.steps.cluster import Cluster
from fleet.steps.control_plane import Forget
from fleet.steps.control_plane_health import ControlPlane
from fleet.steps.etcd import DATABASE, MEMBERS, SNAPSHOT, CaughtUp, Etcd, HandOver, Snapshot
from fleet.steps.stacked import APISERVERS, Stacked
from fleet.steps.units import RestartUnit


class RestartEtcd(HostProcedure):
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
        return watchdog_of(cluster)

    def stages(self, cluster: Cluster) -> Sequence[Stage]:
        """Return the stages: a snapshot, then the members."""
        return self._stages(cluster, self._stacked(cluster))

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

    def _stages(self, cluster: Cluster, apiservers: Stacked | None) -> Sequence[Stage]:
        etcd = Etcd(cluster)
        unit = etcd.config.unit

        def spared(host: str) -> str:
            return etcd.problem(host) or (apiservers.problem(host) if apiservers else "")

        def follows(host: str) -> str:
            return (apiservers.closed_problem(host) if apiservers else "") or etcd.follows(host)

        closing, opening, calm = (
            (apiservers.closing(), apiservers.opening(), apiservers.settling()) if apiservers else ((), (), ())
        )
        serving = [step for step in opening if not isinstance(step, Bracket)]
        return (
            Stage(SNAPSHOT, lambda: [Target(DATABASE)], proofs=[Snapshot(etcd)]),
            hosts.stage_of(
                cluster,
                MEMBERS,
                etcd.order,
                guard=spared,
                unit=unit,
                act=RestartUnit(cluster, unit, follows, patient=True),
                closing=[*closing, HandOver(etcd)],
                proofs=[CaughtUp(etcd), *opening, *calm],
                abort_proofs=[CaughtUp(etcd, alone=True), *serving],
            ),
        )

    @contextmanager
    def work(self, cluster: Cluster, book: Journal, lock: Lock) -> Iterator[Executable]:
        """Yield the restarts; where apiservers have one member alone, with the watchdog over the API beside them."""
        if not cluster.run.options.get(APISERVERS):
            with super().work(cluster, book, lock) as execution:
                yield execution
            return
        forget_put_back(book, MEMBERS)
        with watched(self.watchdog(cluster), book) as watchdog:
            apiservers = self._stacked(cluster, watchdog)
            states = partial(journal.read_states, book.folder)
            blocked = apiservers.plane.too_many_failed if apiservers else str
            yield Execution(self._stages(cluster, apiservers), states, partial(observe, lock, blocked))

    def abort(self, cluster: Cluster, book: Journal) -> Executable:
        """Return what gives back the hosts that are in flight or held."""
        if cluster.run.options.get(APISERVERS):
            forget_put_back(book, MEMBERS)
        return super().abort(cluster, book)

    def tidying(self, cluster: Cluster) -> Sequence[Step]:
        """Return what removes the watchdog's ConfigMap, if the run was killed."""
        return (Forget(cluster),) if cluster.run.options.get(APISERVERS) else ()

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
