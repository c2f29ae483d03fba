"""Puts the parts of a lab together."""

from fleet_lab import binaries, operator
from fleet_lab.paths import Paths
from fleet_lab.pki import Authority
from fleet_lab.roles import Context
from fleet_lab.ssh import Ssh
from fleet_lab.topology import Topology


def make(paths: Paths, topology: Topology, *, fetch: bool = False) -> Context:
    """Return the parts of a lab; keys and certificates that are not there are made.

    Args:
        paths: the lab's folders.
        topology: its topology.
        fetch: whether to find the Kubernetes binaries, which may mean to download or to build them.
    """
    return Context(
        topology=topology,
        paths=paths,
        ssh=Ssh(paths.ssh),
        kubernetes_ca=Authority(paths.pki / "kubernetes", "fleet-lab Kubernetes"),
        etcd_ca=Authority(paths.pki / "etcd", "fleet-lab etcd"),
        kubernetes=binaries.find(binaries.CONTROL_PLANE, cache=paths.cache) if fetch else {},
        host_files=operator.examples() / "hosts",
    )
