"""Restart the control plane of a Kubernetes cluster, one host after the other, without one failed request."""

import argparse
from typing import Any

from fleet import arguments
from fleet.config.model import COMPONENTS
from fleet.cookbook import MaintenanceCookbook
from fleet.procedures import restart_control_plane as control_plane_runs
from fleet.procedures.procedure import Procedure


class RestartControlPlane(MaintenanceCookbook):
    """Restart the control plane of a Kubernetes cluster: one host at a time, proven before the next.

    Shows the plan and everything that stands in its way, asks once, and then restarts one component after the other.
    A host's turn comes only when every other one is well: its kube-apiserver ready on the host's own address, with
    etcd behind it, its unit active, used by the load balancer. Then its alerts are silenced, Puppet is disabled, and:

      - kube-apiserver: out of the load balancer; its connections end, as far as they do; restarted; ready; back into
        the load balancer, until that itself says so; then nothing may fail for a while;
      - kube-controller-manager, kube-scheduler: the standbys first, the leader last; restarted; a leader has to renew;
      - other units of control_plane.components in the configuration: restarted, until their check succeeds.

    All the time a watchdog lists, writes and watches through the API's address; when more requests fail than the
    configuration allows, nothing new is started. The report says how many it made and how many failed.
    A host that fails is held: out of the load balancer if it was restarted, silenced, Puppet disabled, reported with
    the command to run next; no other one is touched. ^C starts nothing new and waits for what is in flight; a second
    ^C leaves at once.

    Examples:
      cookbook --dry-run sre.k8s.restart-control-plane --cluster lab -r "new certificates"
      cookbook sre.k8s.restart-control-plane --cluster lab -r "new certificates" -t T123
      cookbook sre.k8s.restart-control-plane --cluster lab -r "scheduler profile" --components kube-scheduler
      cookbook sre.k8s.restart-control-plane --resume 20260131-030000-restart-control-plane-lab-4f2a
    """

    def add_arguments(self, parser: "argparse._ArgumentGroup") -> None:
        """Add what a new run is about."""
        parser.add_argument(
            "--components",
            type=arguments.names,
            default=COMPONENTS,
            metavar="NAMES",
            help=f"What is restarted, with commas between them; default: {','.join(COMPONENTS)}.",
        )
        parser.add_argument(
            "--hosts", type=arguments.text, metavar="QUERY", help="Control-plane hosts, a Cumin query; default: all."
        )
        parser.add_argument(
            "--allow-outage",
            action="store_true",
            help="Restart the only control-plane host there is: the API is away meanwhile.",
        )

    def procedure(self, args: argparse.Namespace) -> Procedure[Any]:
        """Return the restarts, of which components and where."""
        return control_plane_runs.RestartControlPlane(
            self.spicerack, args.hosts, args.components, allow_outage=args.allow_outage
        )
