"""Restart calico-node on the nodes of a Kubernetes cluster, one after the other, each proven at the core routers."""

import argparse
from typing import Any

from fleet.cookbook import NodeCookbook
from fleet.procedures import restart_calico as calico


class RestartCalico(NodeCookbook):
    """Restart calico-node on the nodes of a Kubernetes cluster: drain, restart, prove at the routers, uncordon.

    A restart drops the node's routes, and only the core routers know when they are back. Shows the plan and everything
    that stands in its way, asks once, and then takes each node through:

      - note its BGP sessions at every router, silence its alerts, cordon it in the name of the run, evict its pods;
      - verify that it is drained, restart calico-node, wait until it is active;
      - wait until every session is up again at every router: younger than the restart, with no prefix less than
        before, stable for a while;
      - wait for the node to be Ready and for its alerts to clear, uncordon it unless it was cordoned before, and end
        the silence.

    One failure domain at a time, and never more nodes unavailable than the limit, those of others included.
    A node that fails is held: kept cordoned and silenced, and reported with the command to run next.
    ^C starts nothing new and waits for what is in flight; a second ^C leaves at once.

    Examples:
      cookbook --dry-run sre.k8s.restart-calico --cluster lab -r "calico 3.17"
      cookbook sre.k8s.restart-calico --cluster lab -r "calico 3.17" -t T123 --max-unavailable 2
      cookbook sre.k8s.restart-calico --resume 20260131-030000-restart-calico-lab-4f2a
    """

    procedure_type = calico.RestartCalico

    def add_arguments(self, parser: "argparse._ArgumentGroup") -> None:
        """Add what is about the restart of calico-node."""
        super().add_arguments(parser)
        parser.add_argument(
            "--no-drain",
            action="store_true",
            help="Leave the pods where they are: for routers that keep the routes meanwhile (graceful restart). Asks "
            "first; refused where a session did not negotiate it.",
        )

    def options(self, args: argparse.Namespace) -> dict[str, Any]:
        """Return whether pods are moved away."""
        return {"drain": not args.no_drain}
