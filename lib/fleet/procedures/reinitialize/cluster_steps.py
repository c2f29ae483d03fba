"""Stages 8, 14, 15 and 17 to 19, and back: an organisation's own commands, nodes that register, the last proofs."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from fleet import commands
from fleet.bgp import verify
from fleet.errors import FleetError
from fleet.etcd import health, keys, members
from fleet.etcd.keys import Fingerprint
from fleet.k8s import workloads
from fleet.k8s.client import ApiError
from fleet.k8s.model import Node
from fleet.maintenance.model import UnitState, Verdict, done, failed, pending, undone
from fleet.procedures import bgp
from fleet.procedures.cluster import Cluster
from fleet.procedures.once import Life
from fleet.procedures.reinitialize.data import EMPTY, Say, WorldStep, is_merged
from fleet.procedures.reinitialize.machines import ABSENT, BASELINE, nodes_by_host
from fleet.procedures.reinitialize.world import CLUSTER, Store, World
from fleet.procedures.steps import NodeStep, Verdicts, each
from fleet.procedures.units import RestartUnit

logger = logging.getLogger(__name__)

FINGERPRINT = "fingerprint"
"""The fact what the old etcd was when nothing used it any more, and which member was asked."""
KUBELET, CALICO = "kubelet", "calico"
"""The facts of the units that are restarted on nodes: which start was found; with ``_at``, when the new one was."""
RAN = "ran"
"""The fact that a command was successful in this run."""


class Fingerprinted(WorldStep):
    """It is remembered what the old etcd holds, now that nothing writes to it."""

    def look(self, state: UnitState) -> Verdict:
        """Look whether it was noted."""
        return done() if FINGERPRINT in state.facts else pending("not yet")

    def act(self, state: UnitState, say: Say) -> Verdict:
        """Ask a member."""
        host = self.world.old.asked(self.cluster)
        found = keys.fingerprint(self.cluster.remote, host, self.world.old.config)
        line = f"revision {found.revision}, hash {found.hash:x}"
        say(f"{host}: {line}")
        fact = {"host": host, "of": [found.cluster, found.revision, found.hash, found.compacted]}
        return done(line, **{FINGERPRINT: fact})


class Untouched(WorldStep):
    """The old etcd is as it was when nothing used it any more."""

    def __init__(self, world: World, stage: str) -> None:
        """Compare with what the named stage has noted."""
        super().__init__(world)
        self._stage = stage

    def look(self, state: UnitState) -> Verdict:
        """Ask the same member again."""
        noted = self.world.facts(self._stage).get(CLUSTER, {}).get(FINGERPRINT)
        if noted is None:
            return done("it is not known what it was")
        found = keys.fingerprint(self.cluster.remote, str(noted["host"]), self.world.old.config)
        before = Fingerprint(*noted["of"])
        changed = keys.touched(before, found)
        if not changed:
            return done(f"as it was: revision {found.revision}, hash {found.hash:x}")
        last = keys.newest(self.cluster.remote, str(noted["host"]), self.world.old.config)
        if found.cluster == before.cluster and last <= before.revision < found.revision:
            return done(f"nothing was written: what has expired by itself has made it revision {found.revision}")
        # It cannot be made undone, and nothing of it serves any more: who goes back has to know.
        logger.warning("The old etcd was written to since stage 8: %s. Find out by what.", changed)
        return done(f"WRITTEN TO since stage 8: {changed}")


class StoreWell(WorldStep):
    """All members of an etcd are well."""

    def __init__(self, world: World, store: Store) -> None:
        """Look at an etcd."""
        super().__init__(world)
        self._store = store

    def look(self, state: UnitState) -> Verdict:
        """Ask all members."""
        problem = health.problem(members.view(self.cluster.remote, self._store.hosts, self._store.config))
        return pending(problem) if problem else done()


class Merged(WorldStep):
    """The change of Puppet's code is merged."""

    def look(self, state: UnitState) -> Verdict:
        """Run the configured command."""
        return done() if is_merged(self.world) else undone(f"{self.world.change} is not merged")

    def act(self, state: UnitState, say: Say) -> Verdict:
        """Merge it, where a command is configured; otherwise the operator was asked for it."""
        return _change(self.world, self.world.config.puppet_change.merge, say, "is not merged")


class Reverted(WorldStep):
    """The change of Puppet's code is not merged, or reverted."""

    def look(self, state: UnitState) -> Verdict:
        """Run the configured command."""
        return undone(f"{self.world.change} is merged") if is_merged(self.world) else done()

    def act(self, state: UnitState, say: Say) -> Verdict:
        """Revert it, where a command is configured; otherwise the operator was asked for it."""
        return _change(self.world, self.world.config.puppet_change.revert, say, "is not reverted")


def _change(world: World, command: str | None, say: Say, what: str) -> Verdict:
    if command is None:
        return failed(f"the change {world.change} {what}")
    return _run(world, world.fill(command, change=world.change), "puppet-change.log", say)


def _run(world: World, command: str, log: str, say: Say) -> Verdict:
    """Run a command; whoever has repaired what it stumbled over lets it run again with --resume."""
    code = world.run(command, log, say)
    if code == 0:
        return done("", **{RAN: True})
    return failed(f"`{command}` ended with {code}; its output is in {world.place(log)}")


class Initialized(WorldStep):
    """The cluster is initialised: the command was successful, and the objects exist that it has to make."""

    def look(self, state: UnitState) -> Verdict:
        """Ask the API for the objects."""
        missing = [path for path in self.world.config.initialized if not self._there(path)]
        if not state.facts.get(RAN):
            return undone("not initialised yet")
        return pending(f"not there: {', '.join(missing[:5])}") if missing else done()

    def act(self, state: UnitState, say: Say) -> Verdict:
        """Run the command."""
        return _run(self.world, self.world.fill(self.world.config.initialize), "initialize.log", say)

    def _there(self, path: str) -> bool:
        try:
            self.cluster.api.get(path)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True


class ComponentsDeployed(WorldStep):
    """The command for the cluster's own workloads was successful, and all of them are Ready."""

    def look(self, state: UnitState) -> Verdict:
        """Ask the API for what is not Ready."""
        if not state.facts.get(RAN):
            return undone("not deployed yet")
        left = workloads.unready(self.cluster.api, self.world.config.components.namespaces)
        return pending("; ".join(left[:5])) if left else done()

    def act(self, state: UnitState, say: Say) -> Verdict:
        """Run the command."""
        return _run(self.world, self.world.fill(self.world.config.components.command), "components.log", say)


class Deployed(WorldStep):
    """The service is deployed."""

    def __init__(self, world: World, turn: threading.BoundedSemaphore) -> None:
        """Deploy services, as many at once as have a turn."""
        super().__init__(world)
        self._turn = turn

    def look(self, state: UnitState) -> Verdict:
        """Look whether the command was successful in this run."""
        return done() if state.facts.get(RAN) else undone("not deployed yet")

    def act(self, state: UnitState, say: Say) -> Verdict:
        """Run the command."""
        name = state.unit.name
        while not self._turn.acquire(timeout=1.0):
            if self.cluster.cancel.is_set():
                return pending("interrupted before its turn")
        try:
            command = self.world.fill(self.world.config.services.deploy, service=name)
            return _run(self.world, command, f"deploy-{name}.log", say)
        finally:
            self._turn.release()


class Answers(WorldStep):
    """The service answers."""

    def look(self, state: UnitState) -> Verdict:
        """Run the configured check."""
        check, name = self.world.config.services.check, state.unit.name
        if check is None:
            return done("no check is configured")
        log = f"check-{name}.log"
        code = self.world.run(self.world.fill(check, service=name), log)
        return done() if code == 0 else pending(f"its check fails ({code}), see {self.world.place(log)}")


class RestartedAnew(RestartUnit):
    """A unit of systemd was started after the run first looked at it; nothing is in service that could suffer."""

    def __init__(
        self, cluster: Cluster, unit: str, fact: str, only: Callable[[str], bool] = lambda _host: True
    ) -> None:
        """Restart a unit, on some hosts only; its invocation is remembered under a name of its own."""
        super().__init__(cluster, unit, lambda _host: "", patient=True)
        self.fact = fact
        self._only = only

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Compare invocations on the hosts that it is about."""
        mine = [state for state in units if self._only(state.unit.name)]
        return {**{state.unit.name: done() for state in units}, **(super().check(mine) if mine else {})}

    def _proven(self, life: Life) -> Verdict:
        # Two units of a host are restarted in one stage: each has its own time.
        return done(**{f"new_{self.fact}": life.id, f"{self.fact}_at": life.facts["replaced_at"]})

    def silence_again(self, units: Sequence[UnitState]) -> None:
        """Do nothing: all hosts are silenced together."""


class Registered(NodeStep):
    """The node is registered in the API, Ready, with a heartbeat that is newer than its kubelet's start."""

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """List the nodes."""
        known = nodes_by_host(self.cluster)

        def judge(state: UnitState) -> Verdict:
            node = known.get(state.unit.name)
            if node is None:
                return pending("the API does not know it")
            since = datetime.fromtimestamp(float(state.facts.get(f"{KUBELET}_at", 0)) - 1, UTC)
            if problem := unready(node, self.cluster.config.domain_label):
                return pending(problem)
            if node.ready_heartbeat is None or node.ready_heartbeat < since:
                return pending("no heartbeat since its kubelet's start")
            return done()

        return each(units, judge)


def unready(node: Node, label: str) -> str:
    """Return why a node is not as it should be; nothing if it is Ready and labelled."""
    if not node.ready:
        return "NotReady"
    return "" if node.labels.get(label) else f"it has no label {label}"


class SessionsBack(NodeStep):
    """The node's BGP sessions are back at every router, as they were, or as they must be where nothing is known."""

    def __init__(self, world: World, stage: str, *, prefixes: bool) -> None:
        """Compare with what the named stage has noted.

        Args:
            world: the world.
            stage: the stage.
            prefixes: whether as many prefixes have to be there: in a new datastore a node has none before it has pods.
        """
        super().__init__(world.cluster)
        self._world = world
        self._stage = stage
        self._prefixes = prefixes

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Ask the routers."""
        config, routers = bgp.configured(self.cluster)
        known = nodes_by_host(self.cluster)
        readings = routers.summaries()
        noted = self._world.facts(self._stage)

        def judge(state: UnitState) -> Verdict:
            name = state.unit.name
            if baseline := noted.get(name, {}).get(BASELINE):
                if not self._prefixes:
                    baseline = _without_prefixes(baseline)
                since = state.facts.get(f"{CALICO}_at")
                left = verify.unproven(baseline, readings, config.asn, since=since, stable=config.stable)
            elif name in known:
                sessions = bgp.sessions_of(known[name], config)
                left = [f"{session} {why}" for session, why in verify.missing(sessions, readings, config.asn)]
            else:
                left = []
            return pending("; ".join(left)) if left else done()

        return each(units, judge)


def _without_prefixes(baseline: Mapping[str, Any]) -> dict[str, Any]:
    return {
        router: {address: {**seen, "accepted": {}} for address, seen in sessions.items()}
        for router, sessions in baseline.items()
    }


class AllSessions(WorldStep):
    """All BGP sessions of all nodes are up at every router, but for nodes that were left out."""

    def __init__(self, world: World, left_out: str) -> None:
        """Look at all nodes but those that the named stage has left out."""
        super().__init__(world)
        self._left_out = left_out

    def look(self, state: UnitState) -> Verdict:
        """Ask the routers."""
        config, routers = bgp.configured(self.cluster)
        facts = self.world.facts(self._left_out)
        known = nodes_by_host(self.cluster)
        readings = routers.summaries()
        sessions = [
            session
            for host, node in known.items()
            if not facts.get(host, {}).get(ABSENT)
            for session in bgp.sessions_of(node, config)
        ]
        left = [f"{session} {why}" for session, why in verify.missing(sessions, readings, config.asn)]
        return pending("; ".join(left[:5])) if left else done(f"{len(sessions)} sessions")


class AllAnswer(WorldStep):
    """All services answer, asked once more."""

    def look(self, state: UnitState) -> Verdict:
        """Run the configured check for each."""
        config = self.world.config.services
        check = config.check
        if check is None:
            return done("no check is configured")

        def ask(name: str) -> int:
            return self.world.run(self.world.fill(check, service=name), f"check-{name}.log")

        with ThreadPoolExecutor(config.parallel) as pool:
            codes = dict(zip(config.names, pool.map(ask, config.names), strict=True))
        left = [name for name, code in codes.items() if code]
        return pending(f"do not answer: {', '.join(left)}") if left else done(f"{len(codes)} services")


class CommandsEnded(WorldStep):
    """No command of the run is left that has outlived it: it would go on with the API that it finds."""

    def look(self, state: UnitState) -> Verdict:
        """Look who writes to their files."""
        logs = [self.world.place(name) for name in ("initialize.log", "components.log")]
        logs += [self.world.place(f"deploy-{name}.log") for name in self.world.config.services.names]
        running = [log.stem for log in logs if commands.is_running(log)]
        return pending(f"still running: {', '.join(running)}") if running else done()


class NodesWell(WorldStep):
    """All nodes are Ready and labelled, but for those that were left out."""

    def __init__(self, world: World, left_out: str) -> None:
        """Look at all nodes but those that the named stage has left out."""
        super().__init__(world)
        self._left_out = left_out

    def look(self, state: UnitState) -> Verdict:
        """List them."""
        known = nodes_by_host(self.cluster)
        facts = self.world.facts(self._left_out)
        problems = []
        for host in self.world.workers:
            if facts.get(host, {}).get(ABSENT):
                continue
            problem = unready(known[host], self.cluster.config.domain_label) if host in known else "is not registered"
            problems += [f"{host}: {problem}"] if problem else []
        return pending("; ".join(problems[:5])) if problems else done(f"{len(known)} nodes")


class Wiped(WorldStep):
    """What the run has written to the new etcd is gone; one that was in use before is left as it is."""

    def __init__(self, world: World, stage: str, prefixes: Sequence[str]) -> None:
        """Delete what is below prefixes, if the named stage has noted that nothing was there."""
        super().__init__(world)
        self._stage = stage
        self._prefixes = prefixes

    def look(self, state: UnitState) -> Verdict:
        """Look for the first key."""
        if not self.world.facts(self._stage).get(CLUSTER, {}).get(EMPTY):
            return done("it is not known to have been empty, and is left as it is")
        try:
            self._host()
        except FleetError as error:
            return done(f"left as it is: {error}")
        # Keys come in their order: what an apiserver keeps beside its prefix comes after what is below a folder.
        left = keys.some(self.cluster.remote, self._host(), self.world.new.config, 1)
        return undone(f"{left[0]} is there") if left and left[0].startswith(tuple(self._prefixes)) else done()

    def act(self, state: UnitState, say: Say) -> Verdict:
        """Delete them."""
        for prefix in self._prefixes:
            deleted = keys.delete_prefix(self.cluster.remote, self._host(), self.world.new.config, prefix)
            if deleted:
                say(f"{deleted} keys below {prefix} deleted from {self.world.new.name}")
        return done()

    def _host(self) -> str:
        return self.world.new.asked(self.cluster)
