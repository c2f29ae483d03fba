"""The steps that a node goes through: what each checks, and what it does.

Each looks at the world before it acts, so that it can be asked again at any time: after a crash, or because an answer
was lost.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from fleet.adapters.alertmanager.silences import NoSuchSilenceError, Silence
from fleet.adapters.hosts import probe
from fleet.adapters.k8s import nodes
from fleet.adapters.k8s.client import ApiError
from fleet.adapters.k8s.nodes import CordonOutcome, Node
from fleet.adapters.k8s.policy import BudgetPattern, DrainPolicy
from fleet.config.matchers import parse_matcher
from fleet.config.model import DrainConfig
from fleet.engine.declaration import Tell, Verdicts
from fleet.engine.model import StepSpec, UnitState, Verdict, done, failed, held, pending, undone, unknown
from fleet.errors import FleetError
from fleet.execution import Unreachable
from fleet.steps.cluster import Cluster, NodeGone

T = TypeVar("T")


def each(units: Sequence[UnitState], judge: Callable[[UnitState], Verdict]) -> Verdicts:
    """Judge units one by one; one that cannot be read does not keep the others from an answer."""
    verdicts = {}
    for state in units:
        try:
            verdicts[state.unit.name] = judge(state)
        except NodeGone as error:
            verdicts[state.unit.name] = held(str(error))
        except ApiError as error:
            gone = error.status == 404 and f"/api/v1/nodes/{state.unit.name} " in str(error)
            verdicts[state.unit.name] = held("Kubernetes does not know it any more") if gone else unknown(str(error))
        except FleetError as error:
            verdicts[state.unit.name] = unknown(str(error))
    return verdicts


def each_host(
    cluster: Cluster,
    units: Sequence[UnitState],
    answers: Mapping[str, T | Unreachable],
    judge: Callable[[UnitState, T], Verdict],
) -> Verdicts:
    """Judge units by what their hosts answered; of one that did not answer nothing is known."""

    def one(state: UnitState) -> Verdict:
        host = cluster.hosts[state.unit.name]
        answer = answers[host]
        if isinstance(answer, Unreachable):
            return unknown(f"{host} does not answer: {answer.reason}")
        return judge(state, answer)

    return each(units, one)


CHANGE_DEADLINE = 120.0
"""Seconds for one change at the API, at Alertmanager, at Puppet or at a load balancer, outages of them included."""
POLL = 0.5
"""Seconds between two questions to hosts."""
FAST = 0.2
"""Seconds between two looks at what a watch keeps current."""


class NodeStep:
    """Base of the steps: what decisions need to know of one, its cluster, and nothing to do.

    A step is an effect unless it says otherwise; see :class:`fleet.engine.model.StepSpec` for what the attributes mean.
    """

    name: str
    """The name in plans, in the journal and in messages; unique in its stage."""
    deadline = ""
    """Which of the configuration's deadlines it has; :data:`CHANGE_DEADLINE` if none."""
    poll = 1.0
    batch = True
    poll_together = False
    gate = False
    takes_capacity = False
    pivot = False
    releases = False
    gives_back = False
    acceptable = False
    bars = False

    def __init__(self, cluster: Cluster) -> None:
        """Work on the nodes of a cluster."""
        self.cluster = cluster

    @property
    def timeout(self) -> float:
        """Seconds from the step's begin until the target is held."""
        return getattr(self.cluster.config.deadlines, self.deadline) if self.deadline else CHANGE_DEADLINE

    @property
    def wanted(self) -> bool:
        """Whether the configuration wants the step."""
        return True

    @property
    def spec(self) -> StepSpec:
        """What decisions need to know of the step."""
        return StepSpec(
            self.name,
            self.timeout,
            poll=self.poll,
            batch=self.batch,
            poll_together=self.poll_together,
            gate=self.gate,
            takes_capacity=self.takes_capacity,
            pivot=self.pivot,
            releases=self.releases,
            gives_back=self.gives_back,
            acceptable=self.acceptable,
            bars=self.bars,
        )

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Say, without changing anything, whether the step's promise is true."""
        raise NotImplementedError

    def hosts(self, units: Sequence[UnitState]) -> list[str]:
        """Return the hosts of nodes."""
        return [self.cluster.hosts[state.unit.name] for state in units]

    def apply(self, units: Sequence[UnitState], tell: Tell) -> Verdicts:  # noqa: ARG002 (gates have no effect)
        """Do nothing: a gate only waits."""
        return {state.unit.name: done() for state in units}


class SilenceNode(NodeStep):
    """The node's alerts are silenced, by a silence of this run."""

    name = "silence"

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Look for this run's silences; one whose id was lost in a crash is found by its comment."""
        active = silences_of(self.cluster)

        def judge(state: UnitState) -> Verdict:
            found = active.get(state.unit.name)
            if not found:
                return pending("not silenced")
            if lacking := found[0].lacking:
                return undone(f"not silenced at {', '.join(lacking)}")
            return done(silence=found[0].id, alerts_before=self._alerts_before(state))

        return each(units, judge)

    def apply(self, units: Sequence[UnitState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Create a silence for each node, and note which alerts were firing before."""
        config = self.cluster.config.alerts

        def create(state: UnitState) -> Verdict:
            before = self._alerts_before(state)
            return done(silence=silence_node(self.cluster, state.unit.name, config.silence), alerts_before=before)

        return each(units, create)

    def _alerts_before(self, state: UnitState) -> list[str]:
        """Return the names of the alerts that fired before; of a resumed run's own work there may be more by now."""
        if "alerts_before" in state.facts:
            return list(state.facts["alerts_before"])
        return [alert.name for alert in self.cluster.silences.alerts([self.cluster.hosts[state.unit.name]])]


def silence_node(cluster: Cluster, node: str, duration: float) -> str:
    """Silence a node's alerts for some seconds; the comment tells the run and the node."""
    return cluster.silences.create(
        [cluster.hosts[node]],
        comment=silence_comment(cluster, node),
        author=cluster.run.operator,
        duration=duration,
        matchers=[parse_matcher(matcher) for matcher in cluster.config.alerts.matchers],
    )


def silence_comment(cluster: Cluster, about: str) -> str:
    """Return the comment of a silence: it tells the run, and what the silence is for."""
    run = cluster.run
    task = f" - {run.task}" if run.task else ""
    return f"{run.reason}{task} - run {run.id} - {about}"


def silences_about(cluster: Cluster) -> dict[str, list[Silence]]:
    """Return this run's active silences by what they are for; one that merely mentions the run is someone else's."""
    found: dict[str, list[Silence]] = {}
    for silence in cluster.silences.find(comment_contains=cluster.run.id):
        before, _, about = silence.comment.rpartition(" - ")
        if before.endswith(f" - run {cluster.run.id}"):
            found.setdefault(about, []).append(silence)
    return found


def silences_of(cluster: Cluster) -> dict[str, list[Silence]]:
    """Return this run's active silences by node."""
    return {node: found for node, found in silences_about(cluster).items() if node in cluster.hosts}


class Cordon(NodeStep):
    """The node takes no new pods; the node itself says which run closed it and why."""

    name = "cordon"
    poll = FAST
    takes_capacity = True

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Look whether the node is cordoned and annotated by this run."""

        def judge(state: UnitState) -> Verdict:
            node = self.cluster.node(state.unit.name)
            owner = nodes.ownership(node)
            if node.unschedulable and owner and owner.run == self.cluster.run.id:
                return done("was cordoned before" if owner.was_cordoned else "", was_cordoned=owner.was_cordoned)
            return pending("not cordoned by this run")

        return each(units, judge)

    def apply(self, units: Sequence[UnitState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Cordon; a node that another run holds is left alone and held."""

        def cordon(state: UnitState) -> Verdict:
            outcome = nodes.cordon(self.cluster.api, state.unit.name, self.cluster.owner)
            if outcome is CordonOutcome.OTHER_RUN:
                return failed(_other_run(self.cluster, state.unit.name))
            return done()

        return each(units, cordon)


def _other_run(cluster: Cluster, node: str) -> str:
    owner = nodes.ownership(cluster.node(node))
    run = owner.run if owner else "another run"
    return f"it is under the maintenance of run {run}; resume or abort that first"


UNCORDONED = "somebody has uncordoned it meanwhile; --resume cordons and drains it again"
"""Why a node that this run had closed is held."""


def is_closed(cluster: Cluster, name: str) -> bool:
    """Say whether a node is cordoned in the name of this run."""
    node = cluster.nodes.snapshot().get(name)
    owner = nodes.ownership(node) if node else None
    return node is not None and node.unschedulable and owner is not None and owner.run == cluster.run.id


def drain_policy(config: DrainConfig) -> DrainPolicy:
    """Return what may be done with pods that nothing protects."""
    return DrainPolicy(
        bare_pods=config.bare_pods,
        empty_dir=config.empty_dir,
        finalizers=config.finalizers,
        daemon_kinds=config.daemon_kinds,
        opens_on_cordon=tuple(
            BudgetPattern(each.namespace, each.name, tuple(sorted(each.labels.items())))
            for each in config.opens_on_cordon
        ),
    )


def has_taint(node: Node, run: str) -> bool:
    """Say whether a node carries the soft taint of a run."""
    return any(taint.key == nodes.PENDING_TAINT and taint.value == run for taint in node.taints)


NEW_BOOT = "new_boot_id"
"""The name under which the boot is remembered in which a host runs since this run rebooted it."""
HEARTBEAT = "heartbeat"
"""The name under which a node's last heartbeat before its reboot is remembered."""


def heartbeat(node: Node) -> str:
    """Return a node's last heartbeat as the API has it: by the host's clock, to be compared for being the same only."""
    return node.ready_heartbeat.isoformat() if node.ready_heartbeat else ""


class Ready(NodeStep):
    """Kubernetes sees the node Ready; a rebooted one in the boot that the host runs, with a heartbeat of that boot.

    A kubelet writes the boot id and the condition ``Ready`` with its heartbeat in one change of the status
    (``tryUpdateNodeStatus`` in pkg/kubelet/kubelet_node_status.go), at once when it starts. From then on it writes a
    heartbeat only every five minutes, or when something changes (``nodeStatusReportFrequency``): so what counts is a
    heartbeat that is another one than before the reboot, in a status of another boot. By which clock, does not matter.
    """

    name = "ready"
    deadline = "ready"
    poll = FAST
    gate = True
    acceptable = True

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Look at the node as the watch brought it."""

        def judge(state: UnitState) -> Verdict:
            node = self.cluster.node(state.unit.name)
            if not node.ready:
                return pending("NotReady")
            if NEW_BOOT not in state.facts:
                return done()
            if node.boot_id and node.boot_id == state.facts.get("boot_id"):
                return pending("the kubelet still reports the old boot id")
            if heartbeat(node) in ("", state.facts.get(HEARTBEAT)):
                return pending("no heartbeat since the boot")
            if node.boot_id in ("", state.facts[NEW_BOOT]):
                return done()
            return self._booted_again(node)

        return each(units, judge)

    def _booted_again(self, node: Node) -> Verdict:
        """Judge a node in a boot that was not seen yet: whoever repaired its host may have booted it once more."""
        host = self.cluster.hosts[node.name]
        answer = probe.probe(self.cluster.remote, [host])[host]
        if isinstance(answer, Unreachable):
            return unknown(f"{host} does not answer: {answer.reason}")
        if answer.boot_id != node.boot_id:
            return pending(f"the kubelet reports the boot {node.boot_id}, and {host} runs {answer.boot_id}")
        return done(new_boot_id=answer.boot_id)


class Alerts(NodeStep):
    """No alert of the host fires that did not fire before."""

    name = "alerts"
    deadline = "alerts"
    gate = True
    acceptable = True

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Ask Alertmanager for the alerts of all hosts at once, silenced ones too."""
        hosts = self.cluster.by_host(state.unit.name for state in units)
        alerts = self.cluster.silences.alerts(list(hosts))

        def judge(state: UnitState) -> Verdict:
            expected = {*self.cluster.config.alerts.ignore, *state.facts.get("alerts_before", [])}
            host = self.cluster.hosts[state.unit.name]
            firing = sorted({alert.name for alert in alerts if alert.host == host} - expected)
            return pending(f"firing: {', '.join(firing)}") if firing else done()

        return each(units, judge)


class Uncordon(NodeStep):
    """Nothing of this run is left on the node: it takes pods again, unless it was cordoned before."""

    name = "uncordon"
    poll = FAST
    gives_back = True

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Look for this run's annotation and taint."""
        self.cluster.check_current()
        known = self.cluster.nodes.snapshot()

        def judge(state: UnitState) -> Verdict:
            node = known.get(state.unit.name)
            if node is None:
                return done("Kubernetes does not know it any more")
            owner = nodes.ownership(node)
            if owner and owner.run == self.cluster.run.id:
                return pending("still marked by this run")
            if has_taint(node, self.cluster.run.id) and not state.released:
                # The cluster's own controllers write the whole list of taints, at times from what they read before.
                return undone("still has this run's taint")
            return done("left cordoned, as it was found" if node.unschedulable else "")

        return each(units, judge)

    def apply(self, units: Sequence[UnitState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Remove the taint, then the cordon, each only if it is this run's."""
        # One that is tried again is still to be done: evicted pods rather go elsewhere.
        names = [state.unit.name for state in units if not state.released]
        nodes.clear_pending_taint(self.cluster.api, names, self.cluster.run.id, threads=self.cluster.threads)

        def uncordon(state: UnitState) -> Verdict:
            nodes.uncordon(self.cluster.api, state.unit.name, self.cluster.run.id)
            return done()

        return each(units, uncordon)


class Unsilence(NodeStep):
    """The node's silence has ended."""

    name = "unsilence"
    poll = FAST
    gives_back = True

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Look for silences of this run that are still active."""
        active = silences_of(self.cluster)
        return each(units, lambda state: undone("still silenced") if state.unit.name in active else done())

    def apply(self, units: Sequence[UnitState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Expire them."""
        active = silences_of(self.cluster)

        def expire(state: UnitState) -> Verdict:
            for silence in active.get(state.unit.name, []):
                self.cluster.silences.expire(silence.id)
            return done()

        return each(units, expire)


def extend(cluster: Cluster, units: Sequence[UnitState], duration: float) -> Verdicts:
    """Extend the silences of units in flight. One that has expired meanwhile is replaced, under another id.

    Args:
        cluster: the cluster.
        units: the units.
        duration: seconds from now.
    """

    def one(state: UnitState) -> Verdict:
        silence = state.facts.get("silence")
        if silence is None:
            return done()
        try:
            return done(silence=cluster.silences.extend(str(silence), duration))
        except NoSuchSilenceError:
            return done(silence=silence_node(cluster, state.unit.name, duration))

    return each(units, one)
