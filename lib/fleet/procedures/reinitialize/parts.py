"""What the stages of a re-initialisation are made of, and the steps that both directions have."""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fleet.adapters.discovery import Discovery
from fleet.adapters.load_balancer.model import LoadBalancer
from fleet.engine.declaration import Specified, Stage, Step
from fleet.engine.executor import ABORT
from fleet.engine.model import Limits, StepSpec, Target
from fleet.engine.protocols import Effects
from fleet.procedures.reinitialize import deployment, machines, nodes, traffic
from fleet.procedures.reinitialize.world import CLUSTER, World
from fleet.steps.base import CHANGE_DEADLINE, POLL
from fleet.steps.puppet import PuppetOff

CALICO, SILENCE, DEPOOL, NAMESPACES, PUPPET, STOP, MERGE = (
    "2 Calico",
    "3 silence",
    "4 depool",
    "5 delete namespaces",
    "6 disable Puppet",
    "7 stop",
    "8 merge",
)
FIRST, ADMISSION, START, INITIALISE, KUBELETS, SERVICES, LATE = (
    "10 first Puppet",
    "12 admission",
    "13 start",
    "14 initialise",
    "15 kubelets",
    "18 services",
    "20 latecomers",
)
"""The names of stages that others look at: what they begin with is the number that operators know."""

OUTAGE, PUPPET_GOES, API_STOPS, API_STARTS = 5, 6, 7, 13
"""The numbers of the first stage that hurts, and of those in which Puppet is disabled, the API goes and comes back."""
MAY_SERVE = 10
"""The number of the first stage in which an apiserver may serve from the new etcd: Puppet may start it."""
HANDS_BACK = 19
"""The number of the stage in which services are pooled again."""
NEW_DATA = 14
"""The number of the first stage in which others than the run write to the new etcd; at its end the Lease is taken."""

SLOW, RERUN = 2.0, 10.0
"""Seconds between two questions, and between two runs of Puppet."""


_ALL = 1_000_000
"""More targets than there are."""


def stage(
    key: str, about: Sequence[str], units: Callable[[], Sequence[str]], steps: Sequence[Step], *, serial: bool = False
) -> Stage:
    """Return a stage.

    Args:
        key: its number and its name.
        about: what it does, in lines for people: commands, files, hosts.
        units: what goes through its steps; asked for when its turn has come.
        steps: the steps.
        serial: whether one unit at a time goes through them; if one fails, no other one is started.
    """
    limits = Limits() if serial else Limits(max_unavailable=_ALL, max_failed=_ALL)
    return Stage(key, lambda: [Target(name) for name in units()], proofs=steps, limits=limits, about=about)


def names(stage: Stage) -> list[str]:
    """Return the names of a stage's targets."""
    return [unit.name for unit in stage.targets()]


def number(stage: Stage) -> int:
    """Return the number that operators know a stage by."""
    return int(stage.key.split()[0])


@dataclass(frozen=True, slots=True)
class Edges:
    """What is asked and told beside hosts and the API; nothing where there is none."""

    discovery: Discovery | None
    balancer: LoadBalancer | None


def step(name: str, timeout: float, effects: Effects, *, poll: float = POLL) -> Specified:
    """Return a step."""
    return Specified(StepSpec(name, timeout, poll=poll), effects)


def gate(name: str, timeout: float, effects: Effects, *, poll: float = POLL) -> Specified:
    """Return a gate."""
    return Specified(StepSpec(name, timeout, poll=poll, gate=True), effects)


def whole() -> Sequence[str]:
    """Return the one target of what is about the cluster as a whole."""
    return [CLUSTER]


def configured(world: World, *, tolerant: bool = False, old: bool = False) -> Specified:
    """Return the step in which Puppet has hosts use an etcd: the new one, or the old one."""
    own: Effects = machines.Configured(world, world.old if old else world.new)
    effects = machines.Tolerant(world, own) if tolerant else own
    return step("Puppet", world.cluster.config.deadlines.puppet, effects, poll=RERUN)


def started(world: World, units: Sequence[str]) -> Effects:
    """Return the start of units that the run has stopped."""
    return machines.Started(world, (STOP, f"{ABORT}stop"), units)


def returning(world: World, *, old: bool = False) -> tuple[Specified, ...]:
    """Return the steps with which a node comes back on an etcd."""
    cluster, deadlines = world.cluster, world.cluster.config.deadlines
    calico = nodes.RestartedAnew(cluster, world.calico_unit, nodes.CALICO)
    kubelet = nodes.RestartedAnew(cluster, world.config.kubelet, nodes.KUBELET)
    sessions = nodes.SessionsBack(world, PUPPET, prefixes=old)
    watchers = [
        step(unit.removesuffix(".service"), deadlines.restart, nodes.RestartedAnew(cluster, unit, unit))
        for unit in world.config.node_watchers
    ]
    has_routers = cluster.config.bgp is not None
    return (
        configured(world, old=old),
        step("calico-node", deadlines.restart, calico),
        *watchers,
        Specified(StepSpec("kubelet", deadlines.restart, poll=POLL, pivot=True), kubelet),
        gate("registered", deadlines.ready, nodes.Registered(cluster), poll=SLOW),
        *((gate("bgp", deadlines.bgp, sessions),) if has_routers else ()),
    )


def puppet_off(world: World) -> tuple[Specified, ...]:
    """Return the steps after which Puppet does nothing on a host."""
    return (
        step("Puppet off", CHANGE_DEADLINE, PuppetOff(world.cluster)),
        gate("Puppet idle", world.cluster.config.deadlines.puppet, machines.PuppetIdle(world.cluster)),
    )


def repool(world: World, edges: Edges) -> Sequence[Step]:
    """Return the step in which services are pooled again, where there are records."""
    if edges.discovery is None:
        return ()
    return (step("pool", CHANGE_DEADLINE, traffic.Repooled(world, edges.discovery, DEPOOL)),)


def depool(world: World, discovery: Discovery) -> tuple[Specified, ...]:
    """Return the steps after which a service has no traffic here."""
    timeout = world.config.command_timeout
    return (
        step("depool", CHANGE_DEADLINE, traffic.Depooled(world, discovery)),
        Specified(StepSpec("traffic gone", timeout, poll=SLOW, gate=True, batch=False), traffic.TrafficGone(world)),
    )


def deploy(world: World, name: str) -> Stage:
    """Return the stage in which all services are deployed."""
    config, timeout = world.config.services, world.config.command_timeout
    # They wait for each other in turn: the last one may have waited for all others.
    turns = math.ceil(len(config.names) / config.parallel)
    turn = threading.BoundedSemaphore(config.parallel)
    command = StepSpec("deploy", timeout * turns, poll=SLOW, batch=False)
    check = StepSpec("check", world.cluster.config.deadlines.ready, poll=SLOW, gate=True, batch=False)
    return stage(
        name,
        [config.deploy, *([config.check] if config.check else []), f"{config.parallel} at once"],
        lambda: config.names,
        (Specified(command, deployment.Deployed(world, turn)), Specified(check, deployment.Answers(world, turn))),
    )
