"""Puts the parts of a lab together."""

from fleet_lab.installation import examples
from fleet_lab.paths import Paths
from fleet_lab.pki import Authority
from fleet_lab.roles import Context
from fleet_lab.ssh import Ssh
from fleet_lab.topology import Topology


def make(paths: Paths, topology: Topology) -> Context:
    """Return the parts of a lab; keys and certificates that are not there are made.

    Args:
        paths: the lab's folders.
        topology: its topology.
    """
    return Context(
        topology=topology,
        paths=paths,
        ssh=Ssh(paths.ssh),
        kubernetes_ca=Authority(paths.pki / "kubernetes", "fleet-lab Kubernetes"),
        etcd_ca=Authority(paths.pki / "etcd", "fleet-lab etcd"),
        host_files=examples() / "hosts",
    )
