"""The Cumin queries of a configuration."""

from collections.abc import Iterator

from fleet.config.model import ClusterConfig, Config


def queries(cluster: ClusterConfig) -> Iterator[tuple[str, str]]:
    """Return all Cumin queries of a cluster, each with its key."""
    for key, query in cluster.hosts.model_dump().items():
        yield f"hosts.{key}", query
    if haproxy := cluster.control_plane.load_balancer.haproxy:
        yield "control_plane.load_balancer.haproxy.hosts", haproxy.hosts
    if cluster.etcd:
        yield "etcd.hosts", cluster.etcd.hosts
    for name, etcds in (cluster.reinitialize.etcds if cluster.reinitialize else {}).items():
        yield f"reinitialize.etcds.{name}.hosts", etcds.hosts


def all_queries(config: Config) -> Iterator[str]:
    """Return all Cumin queries of a configuration."""
    for cluster in config.clusters.values():
        yield from (query for _, query in queries(cluster))
    yield from (group.hosts for group in config.groups.values())
