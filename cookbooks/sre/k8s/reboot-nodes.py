"""Reboot the nodes of a Kubernetes cluster, one after the other, without losing a pod more than its budget allows."""

import argparse

from fleet.cookbook import NodeCookbook
from fleet.procedures import reboot_nodes as reboot


class RebootNodes(NodeCookbook):
    """Reboot the nodes of a Kubernetes cluster: drain, reboot, prove, uncordon.

    Shows the plan and everything that stands in its way, asks once, and then takes each node through:

      - silence its alerts, cordon it in the name of the run, evict its pods as their budgets allow;
      - verify that it is drained, reboot it, wait for a new boot id;
      - wait for the first Puppet run since the boot, for the node to be Ready, for its BGP sessions to be back at every
        router, for its alerts to clear;
      - uncordon it, unless it was cordoned before, and end the silence.

    One failure domain at a time, and never more nodes unavailable than the limit, those of others included.
    A node that fails is held: kept cordoned and silenced, and reported with the command to run next.
    ^C starts nothing new and waits for what is in flight; a second ^C leaves at once.

    Examples:
      cookbook --dry-run sre.k8s.reboot-nodes --cluster lab -r "kernel 6.1.140"
      cookbook sre.k8s.reboot-nodes --cluster lab -r "kernel 6.1.140" -t T123 --max-unavailable 2
      cookbook sre.k8s.reboot-nodes --resume 20260131-030000-reboot-nodes-lab-4f2a
    """

    procedure_type = reboot.RebootNodes

    def add_arguments(self, parser: "argparse._ArgumentGroup") -> None:
        """Add what is about reboots."""
        super().add_arguments(parser)
        parser.add_argument(
            "--only-if-required", action="store_true", help="Only hosts that ask for it: /run/reboot-required exists."
        )
