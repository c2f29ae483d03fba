"""End the silences of hosts."""

import argparse
import logging

from fleet import arguments
from fleet.adapters.alertmanager import downtime
from fleet.adapters.alertmanager.silence_model import Silence
from fleet.adapters.hosts import known
from fleet.adapters.hosts.remote import Remote
from fleet.cookbook import FleetCookbook, FleetRunner

logger = logging.getLogger(__name__)


class RemoveDowntime(FleetCookbook):
    """End silences before their time: one by its id, or those of hosts.

      - with an id, which sre.hosts.downtime has printed, that silence ends, whoever created it;
      - with a Cumin query, every silence ends that sre.hosts.downtime or a maintenance run created and that covers
        these hosts and no others; one that covers further hosts stays, and is named with its id.

    A silence that has ended already, or hosts without one, are fine; hosts without one that nobody knows are refused
    unless --unknown is given. In a dry-run the silences are read and none ends.
    Exit code 0 if no such silence is left, 1 if a member of Alertmanager could not be asked and may have one still, 2
    if nothing was done.

    Examples:
      cookbook sre.hosts.remove-downtime 'worker[1-2]'
      cookbook sre.hosts.remove-downtime 0c54ca8f-9171-4bb2-b9b5-2d3f3b4f0b8e
    """

    def argument_parser(self) -> argparse.ArgumentParser:
        """Return the cookbook's arguments."""
        parser = super().argument_parser()
        parser.add_argument(
            "--cluster", type=arguments.scope, help="Take the Alertmanager and the matchers of this cluster."
        )
        parser.add_argument("--unknown", action="store_true", help="Accept hosts that nobody knows.")
        parser.add_argument(
            "what", type=arguments.text, metavar="ID|QUERY", help="A silence's id, or the hosts as a Cumin query."
        )
        return parser

    def get_runner(self, args: argparse.Namespace) -> "RemoveDowntimeRunner":
        """Return what carries it out."""
        return RemoveDowntimeRunner(args, self.spicerack)


class RemoveDowntimeRunner(FleetRunner):
    """Ends the silences."""

    skip_start_sal = True

    @property
    def runtime_description(self) -> str:
        """The line of the server admin log."""
        return f"for {self._args.what}"

    @property
    def done_anyway(self) -> str:
        """What the log has."""
        return "What was done is in the log."

    def act(self) -> int:
        """End the silences."""
        alerting = downtime.connect(self._spicerack, self._args.cluster)
        if downtime.is_silence_id(self._args.what):
            silence = alerting.silences.get(self._args.what)
            if silence.state == "expired":
                logger.info("It has ended before: %s", _line(silence))
                return 1 if alerting.silences.unasked else 0
            found = downtime.Found([silence], [])
        else:
            remote = Remote(self._spicerack)
            hosts = remote.query(self._args.what)
            found = downtime.of_hosts(alerting, hosts)
            if not self._args.unknown:
                known.check(hosts, downtime.covered(found, hosts), self._spicerack, remote)
        for silence in found.exactly:
            alerting.silences.expire(silence.id)
            logger.info("%s %s", "Would end" if self._spicerack.dry_run else "Ended", _line(silence))
        for silence in found.more:
            logger.warning("Stays, as it covers other hosts as well; end it by its id: %s", _line(silence))
        if not found.exactly:
            logger.info("There is no silence to end for %s", self._args.what)
        return 1 if alerting.silences.unasked else 0


def _line(silence: Silence) -> str:
    return f"silence {silence.id} by {silence.author}: {silence.comment}"
