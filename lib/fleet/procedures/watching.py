"""The watchdog over the API beside a run: what it saw is written to the run's journal."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from fleet.adapters.k8s.watchdog import Watchdog
from fleet.engine.journal import Journal
from fleet.engine.model import Observation
from fleet.engine.protocols import Lock
from fleet.engine.report import WATCHDOG
from fleet.steps.cluster import Cluster


def watchdog_of(cluster: Cluster) -> Watchdog:
    """Return what watches the API's address of a cluster, which is not started yet."""
    config = cluster.config
    return Watchdog(config.kubeconfig, config.lease.namespace, cluster.run.id)


@contextmanager
def watched(watchdog: Watchdog, book: Journal) -> Iterator[Watchdog]:
    """Watch over the API's address as long as the context lasts."""
    watchdog.start()
    try:
        yield watchdog
    finally:
        watchdog.stop()
        book.note(WATCHDOG, json.dumps(asdict(watchdog.report())))


def observe(lock: Lock, blocked: Callable[[], str]) -> Observation:
    """Return whether a run may start anything new.

    Args:
        lock: the cluster's lock.
        blocked: says why it may not, whatever the lock is: as too many requests have failed.
    """
    given_up = blocked()
    return Observation({}, lock.problem() or given_up, permanent=lock.lost or bool(given_up))
