"""Restart units of systemd on the hosts of a group, a few hosts at a time, each proven before the next."""

import argparse
from typing import Any

from fleet import arguments
from fleet.cookbook import GroupCookbook
from fleet.procedures.procedure import Procedure
from fleet.procedures.roll_hosts import RestartHosts


class RollRestart(GroupCookbook):
    """Restart units of systemd on the hosts of a group: silence, check, restart, prove.

    For hosts without Kubernetes: those of a configured cluster, its etcd or load balancers are refused, with the name
    of the cookbook that is for them. Shows the plan and everything that stands in its way, asks once, and then takes
    each host through:

      - wait until the group's command "before" succeeds there;
      - silence its alerts, disable Puppet in the name of the run;
      - look once more at all other hosts of the group, restart the unit, wait until it is active;
      - wait until the group's command "after" succeeds there, and its alerts clear;
      - enable Puppet, end the silence.

    Several units are restarted one after the other, each on all hosts. One failure domain at a time, and never more
    hosts unavailable than the limit, those of others included. A host that fails is held: kept silenced, Puppet
    disabled, and reported with the command to run next.
    ^C starts nothing new and waits for what is in flight; a second ^C leaves at once.

    Examples:
      cookbook --dry-run sre.hosts.roll-restart --group web --units nginx.service -r "openssl 3.0.17"
      cookbook sre.hosts.roll-restart --group web --units nginx.service -r "openssl 3.0.17" -t T123 --max-unavailable 2
      cookbook sre.hosts.roll-restart --resume 20260131-030000-hosts-roll-restart-web-4f2a
    """

    def add_arguments(self, parser: "argparse._ArgumentGroup") -> None:
        """Add the units."""
        parser.add_argument(
            "--units",
            type=arguments.services,
            default=(),
            metavar="UNIT,…",
            help="Units of systemd to restart, in this order: nginx.service,php-fpm.service.",
        )
        super().add_arguments(parser)

    def procedure(self, args: argparse.Namespace) -> Procedure[Any]:
        """Return the restarts, and on which hosts."""
        return RestartHosts(self.selection(args), args.units)
