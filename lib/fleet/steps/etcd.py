"""Rolling restarts of etcd members: followers first, the leader last and only once it leads no more.

A quorum is never put at risk: a member is touched while all others are well and enough without it, and the next one's
turn comes when it has caught up.
"""

import logging
from collections.abc import Sequence

from fleet.adapters.etcd import health, members
from fleet.adapters.etcd.health import View
from fleet.adapters.etcd.members import EtcdError
from fleet.config.model import EtcdConfig
from fleet.engine.declaration import Tell, Verdicts
from fleet.engine.model import TargetState, Verdict, done, failed, pending, unknown
from fleet.errors import FleetError
from fleet.steps.base import POLL, NodeStep, each
from fleet.steps.cluster import Cluster
from fleet.text import count

MEMBERS, SNAPSHOT = "etcd", "snapshot"
"""The stages: the members, and before them a snapshot of what they hold."""

DATABASE = "database"
"""The one target of the snapshot's stage."""

logger = logging.getLogger(__name__)


def configured(cluster: Cluster) -> EtcdConfig:
    """Return the configuration of a cluster's etcd.

    Raises:
        FleetError: there is none.
    """
    if cluster.config.etcd is None:
        raise FleetError(f"The cluster {cluster.name} has no section etcd in the configuration.")
    return cluster.config.etcd


class Etcd:
    """The etcd of a cluster as a run sees it.

    Args:
        cluster: the cluster.

    Raises:
        FleetError: it has no etcd in the configuration, or its hosts cannot be found.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.config = configured(cluster)
        self.hosts = cluster.remote.query(self.config.hosts)

    def view(self) -> View:
        """Ask all members."""
        return members.view(self.cluster.remote, self.hosts, self.config)

    def problem(self, host: str) -> str:
        """Say why a member must not be taken down now; nothing if it may."""
        return health.restart_problem(self.view(), host)

    def follows(self, host: str) -> str:
        """Say why a member must not be restarted now: it leads, or the others cannot do without it.

        One that has become the leader again is told to hand over once more.
        """
        view = self.view()
        if health.leader(view) != host:
            return health.restart_problem(view, host)
        return self.hand_over(view, host) or f"{host} had become the leader again"

    def hand_over(self, view: View, host: str) -> str:
        """Let a leader hand over to the member that is most up to date; say why not if that cannot be."""
        heir = health.successor(view, host)
        if heir is None:
            return "no other member could lead"
        members.move_leader(self.cluster.remote, host, self.config, heir.member_id)
        return ""

    def order(self) -> list[str]:
        """Return the hosts of the run in their order, the leader last."""
        return [host for host in health.order(self.view()) if host in self.cluster.hosts]


class _Step(NodeStep):
    """Base of the steps that look at etcd."""

    def __init__(self, etcd: Etcd) -> None:
        super().__init__(etcd.cluster)
        self._etcd = etcd


class Snapshot(_Step):
    """What etcd holds is in a verified file on a member's host."""

    name = "save"

    @property
    def timeout(self) -> float:
        """The seconds of two attempts."""
        return 2 * members.SNAPSHOT_TIMEOUT

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look whether it was taken in this run."""
        return {s.target.name: done() if "snapshot" in s.facts else pending("no snapshot yet") for s in targets}

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Take it on a member that is well: a follower if there is one, which has less to do."""
        host = health.spokesman(self._etcd.view())
        if not host:
            return {state.target.name: pending("no member is known to be well") for state in targets}
        try:
            found = members.snapshot(self.cluster.remote, host, self._etcd.config, f"{self.cluster.run.id}.db")
        except EtcdError as error:  # A full disk is no better in a second.
            return {state.target.name: failed(str(error)) for state in targets}
        if found is None:
            return {}
        line = f"{found.path} on {host}: revision {found.revision}, {count(found.keys, 'key')}, hash {found.hash:x}"
        logger.info("Snapshot of etcd: %s.", line)
        return {state.target.name: done(line, snapshot=line) for state in targets}


class HandOver(_Step):
    """The member does not lead."""

    name = "hand over"

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask all members; how far the log has come is noted."""
        view = self._etcd.view()
        leads = health.leader(view)

        def judge(state: TargetState) -> Verdict:
            if not leads:
                return unknown("no leader is known")
            index = max(health.index(view), state.facts.get("index", 0))
            return (
                pending("it leads", index=index) if leads == state.target.name else done(f"{leads} leads", index=index)
            )

        return each(targets, judge)

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Let it hand leadership over to the member that is most up to date."""

        def hand_over(state: TargetState) -> Verdict:
            view = self._etcd.view()
            if health.leader(view) != state.target.name:
                return done()
            problem = self._etcd.hand_over(view, state.target.name)
            return pending(problem) if problem else done()

        return each(targets, hand_over)


class CaughtUp(_Step):
    """All members are well, and this one has applied at least what was written before its restart."""

    name = "caught up"
    deadline = "ready"
    poll = POLL
    gate = True

    def __init__(self, etcd: Etcd, *, alone: bool = False) -> None:
        """Look at all members, or at each alone: whoever gives one back cannot wait for the others."""
        super().__init__(etcd)
        self._alone = alone

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask all members."""
        view = self._etcd.view()

        def judge(state: TargetState) -> Verdict:
            name = state.target.name
            seen = {name: view[name]} if self._alone else view
            problem = health.caught_up(seen, name, state.facts.get("index", 0))
            return pending(problem) if problem else done()

        return each(targets, judge)
