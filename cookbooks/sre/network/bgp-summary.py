"""Show what the core routers know of the BGP sessions of a cluster's nodes."""

import argparse
import json

from spicerack import Spicerack
from spicerack.cookbook import LockArgs

from fleet import arguments
from fleet.adapters.bgp import table
from fleet.adapters.k8s.nodes import list_nodes
from fleet.config.loading import load
from fleet.cookbook import FleetCookbook, FleetRunner
from fleet.edges import Edges, SystemEdges
from fleet.engine import report
from fleet.errors import FleetError
from fleet.paths import default_path


class BgpSummary(FleetCookbook):
    """Show what the core routers know of the BGP sessions of a cluster's nodes.

      - asks Kubernetes for the nodes and their addresses, or takes those that the configuration names;
      - asks all routers of the cluster at once for their BGP summary;
      - prints for every node, router and address: the session's state and since when, how many prefixes are active,
        received and accepted, and how often it went down.

    It only reads, in a dry-run and otherwise, and may be run at any time, beside a maintenance too.
    Exit code 0 if all sessions that there should be are up; 1 if one is not, or a router cannot be asked; 2 if nothing
    could be asked for.

    Examples:
      cookbook sre.network.bgp-summary --cluster lab
      cookbook sre.network.bgp-summary --cluster lab --node 'worker[1-2]' --json
    """

    def argument_parser(self) -> argparse.ArgumentParser:
        """Return the cookbook's arguments."""
        parser = super().argument_parser()
        parser.add_argument(
            "--cluster", type=arguments.scope, required=True, help="The cluster, as the configuration names it."
        )
        parser.add_argument(
            "--node", type=arguments.text, metavar="NODES", help="Only these nodes: worker1,worker[3-5]."
        )
        parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
        return parser

    def get_runner(self, args: argparse.Namespace) -> "BgpSummaryRunner":
        """Return what carries it out."""
        return BgpSummaryRunner(args, self.spicerack)


class BgpSummaryRunner(FleetRunner):
    """Asks, and prints."""

    skip_start_sal = True

    def __init__(self, args: argparse.Namespace, spicerack: Spicerack, edges: Edges | None = None) -> None:
        """Keep what is needed; tests hand in other edges."""
        super().__init__(args, spicerack)
        self._edges = edges or SystemEdges(spicerack)

    @property
    def runtime_description(self) -> str:
        """The line of the server admin log."""
        return f"of {self._args.cluster}{f': {self._args.node}' if self._args.node else ''}"

    @property
    def counted(self) -> LockArgs:
        """Runs are counted only: who reads is in nobody's way."""
        return LockArgs(suffix=self._args.cluster, concurrency=0, ttl=600)

    def act(self) -> int:
        """Ask Kubernetes and the routers; print what they say."""
        args = self._args
        cluster = load(default_path(self._spicerack.config_dir)).cluster(args.cluster)
        if cluster.bgp is None:
            raise FleetError(
                f"The cluster {args.cluster} has no section bgp in the configuration; it names the routers."
            )
        chosen = table.choose(list_nodes(self._edges.api(cluster.kubeconfig)), args.node or "")
        with self._edges.routers(cluster.bgp) as routers:
            rows = table.rows_of(chosen, cluster.bgp, routers.summaries())
        if args.json:
            print(json.dumps(table.as_json(rows), indent=2), flush=True)  # before the last line of the log
        else:
            table.render(rows, report.console())
        return 0 if all(row.up for row in rows) else 1
