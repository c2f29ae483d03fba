"""Silence the alerts of hosts for some hours."""

import argparse
import logging

from fleet import arguments
from fleet.adapters.alertmanager import downtime
from fleet.adapters.hosts import known
from fleet.adapters.hosts.remote import Remote
from fleet.cookbook import FleetCookbook, FleetRunner

logger = logging.getLogger(__name__)


class Downtime(FleetCookbook):
    """Silence the alerts of hosts for some hours.

      - finds the hosts with a Cumin query;
      - creates one silence in Alertmanager for all their alerts, those that are firing and those to come;
      - prints the silence's id, with which sre.hosts.remove-downtime ends it.

    With --cluster the Alertmanager, the label and the matchers are those of that cluster's configuration; without,
    spicerack's default Alertmanager and the label "instance".
    A host that nobody knows is refused unless --unknown is given: its name does not resolve, no alias of Cumin and no
    query of fleet/config.yaml finds it, and no alert of it is firing.
    In a dry-run the hosts and their firing alerts are read, and nothing is silenced.
    Exit code 0 if the alerts are silenced, 1 if a member of Alertmanager could not be asked and may not have the
    silence, 2 if nothing was done.

    Example:
      cookbook sre.hosts.downtime -r "disk swap" -t T123 -H 2 'worker[1-2]'
    """

    reason = True

    def argument_parser(self) -> argparse.ArgumentParser:
        """Return the cookbook's arguments."""
        parser = super().argument_parser()
        parser.add_argument("-H", "--hours", type=downtime.hours, required=True, help="How long: 4, or 0.5.")
        parser.add_argument(
            "--cluster", type=arguments.scope, help="Take the Alertmanager and the matchers of this cluster."
        )
        parser.add_argument("--unknown", action="store_true", help="Silence hosts that nobody knows as well.")
        parser.add_argument(
            "query", type=arguments.text, metavar="QUERY", help="The hosts: a Cumin query, such as 'A:lab-workers'."
        )
        return parser

    def get_runner(self, args: argparse.Namespace) -> "DowntimeRunner":
        """Return what carries it out."""
        return DowntimeRunner(args, self.spicerack)


class DowntimeRunner(FleetRunner):
    """Creates the silence."""

    skip_start_sal = True

    @property
    def runtime_description(self) -> str:
        """The line of the server admin log."""
        task = f" - {self._args.task_id}" if self._args.task_id else ""
        return f"for {self._args.hours:g} h on {self._args.query}: {self._args.reason}{task}"

    @property
    def done_anyway(self) -> str:
        """What the log has."""
        return "What was done is in the log."

    def act(self) -> int:
        """Create the silence; print its id."""
        args = self._args
        remote = Remote(self._spicerack)
        hosts = remote.query(args.query)
        alerting = downtime.connect(self._spicerack, args.cluster)
        alerts = alerting.silences.alerts(hosts)
        if not args.unknown:
            known.check(hosts, {alert.host for alert in alerts}, self._spicerack, remote)
        reason = self._spicerack.admin_reason(args.reason, task_id=args.task_id)
        what = f"{downtime.many(hosts)} for {args.hours:g} h: {reason}"
        silence_id = alerting.silences.create(
            hosts, comment=str(reason), author=reason.owner, duration=args.hours * 3600, matchers=alerting.matchers
        )
        if self._spicerack.dry_run:
            logger.info("Would silence %s", what)
        else:
            logger.info("Silenced %s", what)
            print(silence_id)
        for alert in alerts:
            if not alert.silenced:
                logger.info("Firing until now: %s on %s", alert.name, alert.instance)
        return 1 if alerting.silences.unasked else 0
