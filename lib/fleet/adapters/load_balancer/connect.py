"""From the configuration to the load balancer."""

from spicerack import Spicerack

from fleet.adapters.load_balancer.conftool import Conftool
from fleet.adapters.load_balancer.haproxy import Haproxy
from fleet.adapters.load_balancer.model import LoadBalancer
from fleet.config.model import LoadBalancerConfig
from fleet.execution import Hosts


def connect(config: LoadBalancerConfig, remote: Hosts, spicerack: Spicerack) -> LoadBalancer | None:
    """Return what is before the apiservers; nothing is asked of it yet.

    Args:
        config: what it is.
        remote: runs commands on the load balancers.
        spicerack: whether this is a dry-run.

    Returns:
        The load balancer; None where its own health checks are all there is.

    Raises:
        RemoteError: the query for its hosts is wrong, or finds none.
        LoadBalancerError: conftool's files are of no use.
    """
    if config.haproxy:
        return Haproxy(config.haproxy, remote, remote.query(config.haproxy.hosts))
    if config.conftool:
        return Conftool(config.conftool, dry_run=spicerack.dry_run)
    return None
