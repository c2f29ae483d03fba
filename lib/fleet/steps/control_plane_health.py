"""A control plane as a run sees it: which of its hosts are well, and why one of them cannot be spared."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fleet.adapters.hosts import services
from fleet.adapters.hosts.services import ServiceState
from fleet.adapters.k8s.apiserver import Apiservers, Health
from fleet.adapters.k8s.watchdog import Watchdog
from fleet.adapters.load_balancer.model import LoadBalancer
from fleet.config.model import COMPONENTS, ComponentConfig, ControlPlaneConfig
from fleet.execution import TIMEOUT, Unreachable
from fleet.steps.base import NodeStep
from fleet.steps.cluster import Cluster
from fleet.text import count

API, *LED = COMPONENTS
"""kube-apiserver, and the components of which one instance leads."""


@dataclass(frozen=True)
class ControlPlane:
    """A control plane as a run sees it.

    Attributes:
        cluster: the cluster.
        hosts: all control-plane hosts, those that the run leaves alone included.
        apiservers: their kube-apiservers, each by its own address.
        balancer: what is before them; None where its own health checks are all there is.
        watchdog: what watches the API's address meanwhile; None while nothing is touched.
        allow_outage: whether the only host may be restarted.
    """

    cluster: Cluster
    hosts: Sequence[str]
    apiservers: Apiservers
    balancer: LoadBalancer | None
    watchdog: Watchdog | None = None
    allow_outage: bool = False

    def component(self, name: str) -> ComponentConfig:
        """Return the configuration of a component."""
        return self.cluster.config.control_plane.components.get(name, ComponentConfig())

    def unit(self, name: str) -> str:
        """Return the unit of systemd of a component."""
        return unit_of(self.cluster.config.control_plane, name)

    def problem(self, component: str, host: str) -> str:
        """Say why a host cannot be spared: all others have to be well, and to be used by the load balancer.

        Args:
            component: what is to be restarted on it.
            host: the host.

        Raises:
            FleetError: something cannot be asked, which is no better.
        """
        others = [other for other in self.hosts if other != host]
        if others:
            return next(filter(None, self.ailing(component, others).values()), "")
        if self.allow_outage:
            return ""
        return f"{host} is the only control-plane host, and nothing serves without it: see --allow-outage"

    def closed_problem(self, host: str) -> str:
        """Say why a host that was taken out of the load balancer cannot be restarted: as above, or it is back there.

        Raises:
            FleetError: something cannot be asked.
        """
        if self.balancer and not (server := self.balancer.states([host])[host]).out:
            return f"somebody has put {host} back into the load balancer meanwhile, or it was reloaded: {server.detail}"
        return self.problem(API, host)

    def ailing(self, component: str, those: Sequence[str], left_out: Collection[str] = ()) -> dict[str, str]:
        """Return what is wrong with each of some hosts; nothing for those that are well.

        Args:
            component: whose unit is to be active there.
            those: the hosts.
            left_out: those of them that the load balancer need not use.

        Raises:
            FleetError: something cannot be asked.
        """
        found = {host: of_health(host, health) for host, health in self.apiservers.examine(those).items()}
        unit = self.unit(component)
        for host, service in services.state(self.cluster.remote, those, unit).items():
            found[host] = found[host] or _of_service(host, unit, service)
        if self.balancer:
            for host, server in self.balancer.states(those).items():
                if not server.up and host not in left_out:
                    unused = f"{host} gets no connections from the load balancer: {server.detail}"
                    found[host] = found[host] or unused
        if check := self.component(component).check:
            for host, problem in self.run_check(those, check).items():
                found[host] = found[host] or problem
        return found

    def too_many_failed(self) -> str:
        """Say why the run has to stop, by what the API's clients notice; nothing where nothing watches."""
        if self.watchdog is None or (self.allow_outage and len(self.hosts) == 1):
            return ""  # Then requests fail, as was allowed.
        report = self.watchdog.report()
        if report.failed <= self.cluster.config.control_plane.max_failed_requests:
            return ""
        last = report.failures[-1] if report.failures else "no more is known"
        made = count(report.requests, "request")
        return f"{report.failed} of {made} of the watchdog failed, the last one: {last}"

    def run_check(self, those: Sequence[str], check: str) -> dict[str, str]:
        """Run a configured check on hosts, and return what is wrong by host; nothing if all is well."""
        results = self.cluster.remote.run(those, check, timeout=TIMEOUT, safe=True)
        return {
            host: "" if result.ok else f"the check on {host} fails: {result.output.strip() or 'it says nothing'}"
            for host, result in results.items()
        }


def unit_of(config: ControlPlaneConfig, component: str) -> str:
    """Return the unit of systemd of a component."""
    return config.components.get(component, ComponentConfig()).unit or f"{component}.service"


def of_health(host: str, health: Health | Unreachable) -> str:
    """Return what is wrong with a kube-apiserver; nothing if it is ready."""
    if isinstance(health, Unreachable):
        return f"kube-apiserver on {host}: {health.reason}"
    return "" if health.ready else f"kube-apiserver on {host} is not ready: {', '.join(health.failing)}"


def _of_service(host: str, unit: str, service: ServiceState | Unreachable) -> str:
    if isinstance(service, Unreachable):
        return f"{host} does not answer: {service.reason}"
    return f"{unit} on {host} {why}" if (why := service.trouble()) else ""


class PlaneStep(NodeStep):
    """Base of the steps that look at the control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        """Look at a control plane."""
        super().__init__(plane.cluster)
        self._plane = plane
