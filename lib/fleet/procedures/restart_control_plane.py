"""Runs over the control plane: what is restarted, what stands in the way, and the watchdog beside the work."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from spicerack import Spicerack

from fleet.adapters.etcd import health
from fleet.adapters.hosts import services
from fleet.adapters.hosts.services import ServiceState
from fleet.adapters.k8s import leader, rights
from fleet.adapters.k8s.apiserver import Apiservers, without_shutdown_delay
from fleet.adapters.k8s.watchdog import Watchdog
from fleet.adapters.load_balancer.connect import connect
from fleet.config.model import COMPONENTS
from fleet.engine import journal
from fleet.engine.declaration import Bracket, Stage, Step
from fleet.engine.executor import Execution
from fleet.engine.findings import Finding, ask, note, stop
from fleet.engine.journal import Journal
from fleet.engine.planner import natural
from fleet.engine.protocols import Lock
from fleet.engine.protocols import Procedure as Executable
from fleet.errors import FleetError
from fleet.procedures import hosts, preflight
from fleet.procedures.hosts import HostProcedure
from fleet.procedures.watching import observe, watchdog_of, watched
from fleet.steps import units
from fleet.steps.balancing import Connections, forget_put_back
from fleet.steps.brackets import depooled
from fleet.steps.cluster import Cluster
from fleet.steps.control_plane import Calm, Checked, Elected, Forget, Serving
from fleet.steps.control_plane_health import API, LED, ControlPlane
from fleet.steps.etcd import Etcd
from fleet.steps.units import Guard, RestartUnit

logger = logging.getLogger(__name__)


class RestartControlPlane(HostProcedure):
    """Rolling restarts of the control plane's components.

    Args:
        spicerack: for conftool.
        query: a Cumin query for the hosts of a new run; None for the whole control plane.
        components: what a new run restarts.
        allow_outage: whether the only control-plane host may be restarted.
    """

    name = "sre.k8s.restart-control-plane"
    promise = "One host at a time, and only while all others are well and used by the load balancer."

    def __init__(
        self,
        spicerack: Spicerack,
        query: str | None = None,
        components: Sequence[str] = COMPONENTS,
        *,
        allow_outage: bool = False,
    ) -> None:
        super().__init__(query)
        self._spicerack = spicerack
        self._components = components
        self._allow_outage = allow_outage

    def all_hosts(self, cluster: Cluster) -> list[str]:
        """Return all control-plane hosts."""
        return cluster.remote.query(cluster.config.hosts.control_plane)

    def options(self, cluster: Cluster) -> dict[str, Any]:
        """Return which components are restarted, in the order in which that is done."""
        if not self._components:
            raise FleetError("--components names nothing to restart.")
        known = list(dict.fromkeys((*COMPONENTS, *cluster.config.control_plane.components)))
        if unknown := [name for name in self._components if name not in known]:
            raise FleetError(
                f"--components: there is no {', '.join(unknown)}. There are {', '.join(known)};"
                " others stand in control_plane.components of the configuration, each with a check."
            )
        chosen = [name for name in known if name in self._components]
        return {**cluster.run.options, "components": chosen, "allow_outage": self._allow_outage}

    def stages(self, cluster: Cluster) -> Sequence[Stage]:
        """Return a stage for each component."""
        return stages_of(self._plane(cluster), cluster.run.options["components"])

    @contextmanager
    def work(self, cluster: Cluster, book: Journal, lock: Lock) -> Iterator[Executable]:
        """Yield the restarts, with the watchdog beside them."""
        forget_put_back(book)
        with watched(watchdog_of(cluster), book) as watchdog:
            plane = self._plane(cluster, watchdog)
            stages = stages_of(plane, cluster.run.options["components"])
            states = partial(journal.read_states, book.folder)
            yield Execution(stages, states, partial(observe, lock, plane.too_many_failed))

    def checks(self, cluster: Cluster) -> Sequence[Callable[[], list[Finding]]]:
        """Look at every control-plane host, at the load balancer and at leader elections."""
        plane = self._plane(cluster)
        components = cluster.run.options["components"]
        return (
            partial(of_spared, plane, components),
            partial(of_targets, plane, components),
            partial(of_balancer, plane, components),
            partial(of_leaders, plane, components),
            partial(of_permissions, plane),
            partial(preflight.of_addresses, cluster, self.all_hosts(cluster)),
            *((partial(of_etcd, cluster),) if cluster.config.etcd else ()),
        )

    def abort(self, cluster: Cluster, book: Journal) -> Executable:
        """Return what gives back the hosts that are in flight or held."""
        forget_put_back(book)
        return super().abort(cluster, book)

    def tidying(self, cluster: Cluster) -> Sequence[Step]:
        """Return what removes the watchdog's ConfigMap, if the run was killed."""
        return (Forget(cluster),)

    def _plane(self, cluster: Cluster, watchdog: Watchdog | None = None) -> ControlPlane:
        config = cluster.config
        everyone = self.all_hosts(cluster)
        return ControlPlane(
            cluster=cluster,
            hosts=everyone,
            apiservers=Apiservers(config.kubeconfig, config.control_plane, everyone, config.lease),
            balancer=connect(config.control_plane.load_balancer, cluster.remote, self._spicerack),
            watchdog=watchdog,
            allow_outage=bool(cluster.run.options["allow_outage"]),
        )


def stages_of(plane: ControlPlane, components: Sequence[str]) -> list[Stage]:
    """Return the stages of a run: one for each component."""
    return [_stage(plane, component) for component in components]


def _stage(plane: ControlPlane, component: str) -> Stage:
    cluster, unit = plane.cluster, plane.unit(component)
    guard: Guard = partial(plane.problem, component)
    closing: list[Bracket | Step] = []
    proof, opening = _proof(plane, component), []
    # The only host serves to the last: out of the load balancer nobody, the run included, could reach the API.
    if component == API and plane.balancer and len(plane.hosts) > 1:
        opening = [depooled(plane, plane.balancer)]
        closing = [*opening, Connections(plane, plane.balancer)]
    last = plane.closed_problem if closing else guard
    return hosts.stage_of(
        cluster,
        component,
        partial(_order, plane, component),
        guard=guard,
        unit=unit,
        act=RestartUnit(cluster, unit, last, patient=not closing),
        closing=closing,
        proofs=[proof, *opening, *([Calm(plane)] if component == API else [])],
        abort_proofs=[proof],
    )


def _proof(plane: ControlPlane, component: str) -> Step:
    """Return what proves that a component is well again."""
    if component in LED:
        return Elected(plane, component)
    check = plane.component(component).check
    return Checked(plane, check) if check else Serving(plane)


def _order(plane: ControlPlane, component: str) -> list[str]:
    """Return the hosts of a run in their order: by name, the one that leads last."""
    ours = sorted(plane.cluster.hosts, key=natural)
    if component not in LED:
        return ours
    try:
        seen = leader.read(plane.cluster.api, component)
    except FleetError as error:
        logger.warning("It is not known who leads %s, so it is restarted in the order of names: %s", component, error)
        return ours
    return sorted(ours, key=lambda host: seen is not None and leader.same_host(seen.host, host))


def of_spared(plane: ControlPlane, components: Sequence[str]) -> list[Finding]:
    """Find out whether each host could be spared: whether all others are well."""
    if len(plane.hosts) == 1:
        host = plane.hosts[0]
        if plane.allow_outage:
            return [note(f"{host} is the only control-plane host: the API will be away meanwhile.")]
        return [stop(f"{plane.problem(API, host)}.", "It is the price of a control plane of one host.")]
    findings: dict[str, Finding] = {}
    for component in components:
        for host, problem in plane.ailing(component, plane.hosts).items():
            if not problem:
                continue
            if set(plane.cluster.hosts) == {host}:
                findings[problem] = ask(
                    f"{problem}.", "If you continue it is restarted; what is out of the load balancer stays out."
                )
            else:
                findings[problem] = stop(f"{problem}.", "Repair it first: no other host is touched before.")
    return list(findings.values())


def of_targets(plane: ControlPlane, components: Sequence[str]) -> list[Finding]:
    """Look at the units that are to be restarted, and at how apiservers end."""
    findings = []
    targets = list(plane.cluster.hosts.values())
    for unit in (plane.unit(component) for component in components):
        for host, answer in services.state(plane.cluster.remote, targets, unit).items():
            if not isinstance(answer, ServiceState):
                continue  # of_ssh names the hosts that do not answer.
            todo = "Correct its unit in control_plane.components, or leave the component out."
            found = units.of_definition(plane.cluster, host, unit, answer, todo)
            if not found and (why := answer.trouble()):
                found = [ask(f"{unit} on {host} {why}.", "If you continue, it is started.")]
            findings += found
    return findings


def of_balancer(plane: ControlPlane, components: Sequence[str]) -> list[Finding]:
    """Look at what the load balancer makes of the hosts; without one, at how long apiservers serve on when stopped."""
    if API not in components or len(plane.hosts) == 1:
        return []
    targets = list(plane.cluster.hosts.values())
    if plane.balancer is None:
        return _of_delays(plane, targets)
    findings = []
    # Those that are left alone as well: what a single one is pooled at says nothing of where it is not.
    states = plane.balancer.states(plane.hosts)
    everywhere = {name for state in states.values() for name in state.pooled_at}
    for host in targets:
        pooled_at = states[host].pooled_at
        if pooled_at and (missing := sorted(everywhere - set(pooled_at))):
            todo = "Pool it everywhere or nowhere first: the run could not tell whether it is back."
            findings.append(stop(f"{host} gets no connections from {', '.join(missing)}, but from others.", todo))
    return findings


def _of_delays(plane: ControlPlane, targets: Sequence[str]) -> list[Finding]:
    return [
        ask(
            f"kube-apiserver on {host} has no --shutdown-delay-duration, and there is no load balancer to tell.",
            "Requests will fail until the health checks notice. Set it to longer than these take: 10s.",
        )
        for host in without_shutdown_delay(plane.cluster.remote, targets, plane.unit(API))
    ]


def of_leaders(plane: ControlPlane, components: Sequence[str]) -> list[Finding]:
    """Tell who leads."""
    findings = []
    for component in components:
        if component not in LED:
            continue
        seen = leader.read(plane.cluster.api, component)
        if seen is None or not seen.holder:
            todo = "Repair it, or leave it out of --components."
            findings.append(stop(f"{component} has no leader.", todo))
        else:
            findings.append(note(f"{component} is led by {seen.host}."))
    return findings


def of_etcd(cluster: Cluster) -> list[Finding]:
    """Ask the members of etcd, where the configuration has them: apiservers are ready as long as there is a quorum."""
    problem = health.problem(Etcd(cluster).view())
    return (
        [ask(f"etcd is not well: {problem}.", "Repair it first: without one member more the API stops.")]
        if problem
        else []
    )


def of_permissions(plane: ControlPlane) -> list[Finding]:
    """Find out whether the watchdog may do its work, and leader elections be read."""
    needed = (*rights.of_watchdog(plane.cluster.config.lease), *rights.of_leaders(LED))
    return preflight.of_rights(plane.cluster, needed)
