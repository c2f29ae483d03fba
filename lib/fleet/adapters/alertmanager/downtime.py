"""Downtimes: silences that operators create and end by hand."""

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cumin import nodeset_fromlist
from spicerack import Spicerack

from fleet.adapters.alertmanager.silence_model import Silence
from fleet.adapters.alertmanager.silences import Silences
from fleet.clock import CLOCK, THREADS
from fleet.config.loading import load
from fleet.config.matchers import Matcher, host_patterns, hosts_matched, parse_matcher
from fleet.config.model import AlertsConfig
from fleet.paths import default_path
from fleet.text import count

LONGEST = 31 * 24
"""Hours; a silence that is longer is forgotten, and belongs into the alert's rule."""

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Alerting:
    """An Alertmanager, and what is common to all silences there."""

    silences: Silences
    label: str
    """The label that names the host."""
    matchers: tuple[Matcher, ...]
    """What every silence has beside its hosts."""


@dataclass(frozen=True)
class Found:
    """Silences in force of hosts."""

    exactly: Sequence[Silence]
    """Those that cover no others."""
    more: Sequence[Silence]
    """Those that cover other hosts, or other alerts, as well."""


def hours(text: str) -> float:
    """Parse a number of hours, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= LONGEST:  # false for NaN as well
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours: write one above 0 and up to {LONGEST}")
    return number


def is_silence_id(text: str) -> bool:
    """Tell a silence's id from a query."""
    return _ID.fullmatch(text) is not None


def connect(spicerack: Spicerack, cluster: str | None) -> Alerting:
    """Return the Alertmanager of a cluster.

    Args:
        spicerack: for the configuration, and whether this is a dry-run.
        cluster: the cluster's name in this project's configuration; without it, spicerack's default Alertmanager.

    Raises:
        FleetError: the configuration cannot be read, or has no such cluster or Alertmanager.
    """
    settings = AlertsConfig()
    if cluster is not None:
        settings = load(default_path(spicerack.config_dir)).cluster(cluster).alerts
    return Alerting(
        # One will do, as somebody reads what the others did not answer, and the mesh brings it to them.
        Silences.from_spicerack(
            spicerack, instance=settings.instance, label=settings.label, needed=1, clock=CLOCK, threads=THREADS
        ),
        settings.label,
        tuple(parse_matcher(matcher) for matcher in settings.matchers),
    )


def many(hosts: Sequence[str]) -> str:
    """Return how many hosts these are, and which: ``1 host (worker1)``, ``2 hosts (worker[1-2])``."""
    return f"{count(hosts, 'host')} ({nodeset_fromlist(hosts)})"


def of_hosts(alerting: Alerting, hosts: Sequence[str]) -> Found:
    """Find the silences in force that this project's tools created for hosts.

    A silence belongs to them if it has the form that :func:`fleet.config.matchers.host_matcher` gives it: what others
    wrote by hand, for one alert of a host perhaps, is not theirs.

    Args:
        alerting: where to look.
        hosts: their names, as Cumin knows them.

    Raises:
        fleet.adapters.alertmanager.silences.SilenceError: no Alertmanager could be asked.
    """
    asked = host_patterns(hosts)
    exactly: list[Silence] = []
    more: list[Silence] = []
    for silence in alerting.silences.find(comment_contains=""):
        hosts_matchers = [matcher for matcher in silence.matchers if matcher.name == alerting.label]
        covered = hosts_matched(hosts_matchers[0]) if len(hosts_matchers) == 1 else frozenset()
        others = {matcher for matcher in silence.matchers if matcher.name != alerting.label}
        if not covered & asked or others != set(alerting.matchers):
            continue
        (exactly if covered <= asked else more).append(silence)
    return Found(exactly, more)


def covered(found: Found, hosts: Sequence[str]) -> frozenset[str]:
    """Return those of hosts that silences cover."""
    patterns = {
        pattern
        for silence in (*found.exactly, *found.more)
        for matcher in silence.matchers
        for pattern in hosts_matched(matcher)
    }
    return frozenset(host for host in hosts if host_patterns([host]) <= patterns)
