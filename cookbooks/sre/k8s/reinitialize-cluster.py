"""Re-initialise a whole Kubernetes cluster onto a new etcd, in stages that can be resumed and rolled back."""

import argparse
from typing import Any

from fleet import arguments
from fleet.cookbook import MaintenanceCookbook
from fleet.procedures.procedure import Procedure
from fleet.procedures.reinitialize import runs


class ReinitializeCluster(MaintenanceCookbook):
    """Re-initialise a whole Kubernetes cluster onto a new etcd. The cluster is away meanwhile.

    Shows the plan and everything that stands in its way, asks once, and then goes from stage to stage, each proven
    before the next:

      - 0 to 4: a verified snapshot of the old etcd, an export of Calico's data and of all objects; the Puppet change is
        looked for; Calico's data is copied into the new etcd and compared; silences; services are depooled.
      - The cluster's name has to be typed. 5 to 8: the managed namespaces are deleted; Puppet is disabled everywhere;
        the control plane and calico-node are stopped; the Puppet change is merged.
      - 9 to 13: Puppet on the nodes, and on one control-plane host; admission plugins out; its kube-apiserver starts,
        and is proven to write to the new etcd.
      - 14 to 16: the cluster is initialised; all nodes register anew, with their BGP sessions; the control plane is
        completed, admission plugins are back.
      - 17 to 20: components and services are deployed; all is verified, the services are pooled, silences end.

    A run that is stopped, interrupted or killed goes on with --resume. --abort goes back: before stage 5 everything is
    as it was; after that the cluster serves from the old etcd again, which stays as it was when the API stopped.
    ^C starts nothing new and waits for what is in flight; a second ^C leaves at once.

    Examples:
      cookbook --dry-run sre.k8s.reinitialize-cluster --cluster lab --new-etcd lab-b --puppet-change etcd-b -r new-etcd
      cookbook sre.k8s.reinitialize-cluster --cluster lab --new-etcd lab-b --puppet-change etcd-b -r new-etcd -t T123
      cookbook sre.k8s.reinitialize-cluster --resume 20260131-030000-reinitialize-cluster-lab-4f2a
    """

    changeable = frozenset({"max_failed"})

    def add_arguments(self, parser: "argparse._ArgumentGroup") -> None:
        """Add what a new run is about."""
        parser.add_argument(
            "--new-etcd", type=arguments.text, metavar="NAME", help="The new etcd, of reinitialize.etcds."
        )
        parser.add_argument(
            "--puppet-change", type=arguments.text, metavar="ID", help="The Puppet change that points the hosts at it."
        )
        parser.add_argument(
            "--reuse",
            type=arguments.text,
            metavar="NAME",
            help="The new etcd once more, if it is not empty on purpose.",
        )
        parser.add_argument(
            "--from-stage",
            type=arguments.whole_number,
            default=0,
            metavar="S",
            help="Begin with this stage: those before it were done by hand.",
        )
        parser.add_argument(
            "--calico-export",
            type=arguments.text,
            metavar="FILE",
            help="The old etcd is gone: take Calico's data from the calico.json of an earlier run's folder.",
        )
        parser.add_argument(
            "--max-failed",
            type=arguments.whole_number,
            metavar="N",
            help="Workers that may be away, also with --resume and --abort.",
        )

    def procedure(self, args: argparse.Namespace) -> Procedure[Any]:
        """Return the re-initialisation."""
        options = runs.Options(
            args.new_etcd, args.puppet_change, args.reuse, args.from_stage, args.max_failed, args.calico_export
        )
        return runs.ReinitializeCluster(self.spicerack, options)
