"""Reboot the hosts of a group, a few at a time, each proven before the next."""

import argparse
from typing import Any

from fleet.cookbook import GroupCookbook
from fleet.procedures.procedure import Procedure
from fleet.procedures.roll_hosts import RebootHosts


class RollReboot(GroupCookbook):
    """Reboot the hosts of a group: silence, check, reboot, prove.

    For hosts without Kubernetes: those of a configured cluster, its etcd or load balancers are refused, with the name
    of the cookbook that is for them. Shows the plan and everything that stands in its way, asks once, and then takes
    each host through:

      - wait until the group's command "before" succeeds there;
      - silence its alerts;
      - look once more at all other hosts of the group, reboot it, wait for a new boot id;
      - wait for the first Puppet run since the boot, until the group's command "after" succeeds there, and its alerts
        clear;
      - end the silence.

    One failure domain at a time, and never more hosts unavailable than the limit, those of others included.
    A host that fails is held: kept silenced, and reported with the command to run next.
    ^C starts nothing new and waits for what is in flight; a second ^C leaves at once.

    Examples:
      cookbook --dry-run sre.hosts.roll-reboot --group web -r "kernel 6.1.140"
      cookbook sre.hosts.roll-reboot --group web -r "kernel 6.1.140" -t T123 --query "web[1-4]" --max-unavailable 2
      cookbook sre.hosts.roll-reboot --resume 20260131-030000-hosts-roll-reboot-web-4f2a
    """

    def procedure(self, args: argparse.Namespace) -> Procedure[Any]:
        """Return the reboots, and of which hosts."""
        return RebootHosts(self.selection(args))
