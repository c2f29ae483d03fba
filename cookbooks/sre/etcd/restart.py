"""Restart the members of the etcd cluster behind Kubernetes, one after the other, without losing a quorum."""

import argparse
from typing import Any

from fleet import arguments
from fleet.adapters.load_balancer.connect import connect
from fleet.adapters.load_balancer.model import LoadBalancer
from fleet.cookbook import MaintenanceCookbook
from fleet.procedures import restart_etcd as etcd_runs
from fleet.procedures.procedure import Procedure
from fleet.steps.cluster import Cluster


class RestartEtcd(MaintenanceCookbook):
    """Restart the members of the etcd cluster behind Kubernetes: followers first, the leader last.

    Shows the plan and everything that stands in its way, asks once, takes a snapshot and verifies it, and then takes
    each member through:

      - wait until all others are well, and a quorum without it; silence its host's alerts, disable Puppet there;
      - a kube-apiserver that has this member alone leaves the load balancer meanwhile, and a watchdog looks at the API;
      - if it leads, hand leadership over to the member that is most up to date;
      - look once more at the others, restart it, wait until it is active;
      - wait until all members are well, agree on a leader, and it has applied all that was written before;
      - wait for its alerts to clear, enable Puppet, end the silence.

    Refuses when the loss of a member would cost the quorum: clusters of one or two, members that are not well.
    A member that fails is held: kept silenced, Puppet disabled, and reported with the command to run next; no other one
    is touched. ^C starts nothing new and waits for what is in flight; a second ^C leaves at once.

    Examples:
      cookbook --dry-run sre.etcd.restart --cluster lab -r "etcd 3.4.30"
      cookbook sre.etcd.restart --cluster lab -r "etcd 3.4.30" -t T123
      cookbook sre.etcd.restart --resume 20260131-030000-restart-lab-4f2a
    """

    def add_arguments(self, parser: "argparse._ArgumentGroup") -> None:
        """Add what a new run is about."""
        parser.add_argument(
            "--hosts", type=arguments.text, metavar="QUERY", help="Members, a Cumin query; default: all."
        )

    def procedure(self, args: argparse.Namespace) -> Procedure[Any]:
        """Return the restarts, and of which members."""

        def balancer(cluster: Cluster) -> LoadBalancer | None:
            return connect(cluster.config.control_plane.load_balancer, cluster.remote, self.spicerack)

        return etcd_runs.RestartEtcd(args.hosts, connect=balancer)
