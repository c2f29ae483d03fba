"""Stages 8, 13 and 19, and back: what the old etcd holds, and whether the new one is well, or empty again."""

import logging
from collections.abc import Sequence

from fleet.adapters.etcd import health, keys, members
from fleet.adapters.etcd.keys import Fingerprint
from fleet.engine.model import TargetState, Verdict, done, pending, undone
from fleet.errors import FleetError
from fleet.procedures.reinitialize.apiserver import serving
from fleet.procedures.reinitialize.data import EMPTY, Say, WorldStep
from fleet.procedures.reinitialize.world import CLUSTER, Store, World
from fleet.text import count, verb

logger = logging.getLogger(__name__)

FINGERPRINT = "fingerprint"
"""The fact what the old etcd was when nothing used it any more, and which member was asked."""


class Fingerprinted(WorldStep):
    """It is remembered what the old etcd holds, now that nothing writes to it."""

    def look(self, state: TargetState) -> Verdict:
        """Look whether it was noted."""
        return done() if FINGERPRINT in state.facts else pending("not yet")

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Ask a member."""
        host = self.world.old.asked(self.cluster)
        found = keys.fingerprint(self.cluster.remote, host, self.world.old.config)
        line = f"revision {found.revision}, hash {found.hash:x}"
        say(f"{host}: {line}")
        lasting = keys.lasting(self.cluster.remote, host, self.world.old.config)
        of = [found.cluster, found.revision, found.hash, found.compacted]
        fact = {"host": host, "of": of, "lasting": lasting}
        return done(line, **{FINGERPRINT: fact})


class Untouched(WorldStep):
    """The old etcd is as it was when nothing used it any more."""

    def __init__(self, world: World, stage: str) -> None:
        """Compare with what the named stage has noted."""
        super().__init__(world)
        self._stage = stage

    def look(self, state: TargetState) -> Verdict:
        """Ask the same member again."""
        noted = self.world.facts(self._stage).get(CLUSTER, {}).get(FINGERPRINT)
        if noted is None:
            return done("it is not known what it was")
        asked = (self.cluster.remote, str(noted["host"]), self.world.old.config)
        try:
            found = keys.fingerprint(*asked)
            last, lasting = keys.newest(*asked), keys.lasting(*asked)
        except FleetError as error:  # Each member has a copy of its own, and nothing depends on this one any more.
            logger.warning("The old etcd was not compared with what it was in stage 8: %s", error)
            return done(f"not compared: {error}")
        before = Fingerprint(*noted["of"])
        changed = keys.touched(before, found)
        if not changed:
            return done(f"as it was: revision {found.revision}, hash {found.hash:x}")
        gone = int(noted["lasting"]) - lasting
        if found.cluster == before.cluster and last <= before.revision < found.revision:
            # Kubernetes' events do, and the entries of apiservers that were running.
            if not gone:
                return done(f"no key that lasts: what expires by itself has made it revision {found.revision}")
            changed = f"{count(gone, 'key')} {verb(gone, 'was', 'were')} deleted; {changed}"
        # It cannot be made undone, and nothing of it serves any more: who goes back has to know.
        logger.warning("The old etcd was written to since stage 8: %s. Find out by what.", changed)
        return done(f"WRITTEN TO since stage 8: {changed}")


class StoreWell(WorldStep):
    """All members of an etcd are well."""

    def __init__(self, world: World, store: Store) -> None:
        """Look at an etcd."""
        super().__init__(world)
        self._store = store

    def look(self, state: TargetState) -> Verdict:
        """Ask all members."""
        problem = health.problem(members.view(self.cluster.remote, self._store.hosts, self._store.config))
        return pending(problem) if problem else done()


def check_old(world: World) -> None:
    """Make sure that there is an old etcd to go back to, before anything is stopped.

    Raises:
        FleetError: it is not there.
    """
    try:
        world.old.asked(world.cluster)
    except FleetError as error:
        raise FleetError(
            f"{str(error).rstrip('.')}. Nothing was touched: repair it before the rollback, or continue with --resume."
        ) from error


def is_used_by_others(world: World, *, ours: Sequence[str]) -> bool:
    """Say whether the cluster serves from the new etcd by others' doing: apiservers or nodes use it.

    Args:
        world: the world.
        ours: the hosts whose kube-apiserver the run itself has started on it.
    """
    wanted = set(world.new.config.endpoints)
    found = [servers for host, servers in serving(world).items() if host not in ours and isinstance(servers, tuple)]
    if any(set(servers) == wanted for servers in found):
        return True
    try:
        return has_nodes(world)
    except FleetError:
        return False  # An etcd that does not answer is not wiped either.


def has_nodes(world: World) -> bool:
    """Say whether nodes have registered in the new etcd: then it is in use, whoever has seen to that.

    Raises:
        FleetError: it cannot be asked.
    """
    host = world.new.asked(world.cluster)
    return keys.exists(world.cluster.remote, host, world.new.config, f"{world.config.etcd_prefix}/minions")


class Wiped(WorldStep):
    """What the run has written to the new etcd is gone; one that is in use, or was before, is left as it is."""

    def __init__(self, world: World, stage: str, prefixes: Sequence[str]) -> None:
        """Delete what is below prefixes, if the named stage has noted that nothing was there."""
        super().__init__(world)
        self._stage = stage
        self._prefixes = prefixes

    def look(self, state: TargetState) -> Verdict:
        """Look for the first key."""
        if not self.world.facts(self._stage).get(CLUSTER, {}).get(EMPTY):
            return done("it is not known to have been empty, and is left as it is")
        try:
            if has_nodes(self.world):
                return done("nodes have registered in it: it is left as it is")
        except FleetError as error:
            return done(f"left as it is: {error}")
        # Keys come in their order: what an apiserver keeps beside its prefix comes after what is below a folder.
        left = keys.some(self.cluster.remote, self._host(), self.world.new.config, 1)
        return undone(f"{left[0]} is there") if left and left[0].startswith(tuple(self._prefixes)) else done()

    def act(self, state: TargetState, say: Say) -> Verdict:
        """Delete them."""
        for prefix in self._prefixes:
            deleted = keys.delete_prefix(self.cluster.remote, self._host(), self.world.new.config, prefix)
            if deleted:
                say(f"{count(deleted, 'key')} below {prefix} deleted from {self.world.new.name}")
        return done()

    def _host(self) -> str:
        return self.world.new.asked(self.cluster)
