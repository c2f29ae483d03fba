"""The stages of a re-initialisation, in their order, and those of the way back to the old etcd."""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fleet.discovery import Discovery
from fleet.load_balancer.model import LoadBalancer
from fleet.maintenance.model import StepSpec
from fleet.maintenance.runner import Effects
from fleet.procedures import etcd
from fleet.procedures.hosts import API_DEADLINE, POLL
from fleet.procedures.maintenance import ABORT, Step
from fleet.procedures.puppet import PuppetOff, PuppetOn
from fleet.procedures.reinitialize import apiserver, cluster_steps, data, machines, traffic
from fleet.procedures.reinitialize.world import CLUSTER, World

CALICO, SILENCE, DEPOOL, NAMESPACES, PUPPET, STOP, MERGE = (
    "2 Calico",
    "3 silence",
    "4 depool",
    "5 delete namespaces",
    "6 disable Puppet",
    "7 stop",
    "8 merge",
)
FIRST, ADMISSION, START, KUBELETS, SERVICES, LATE = (
    "10 first Puppet",
    "12 admission",
    "13 start",
    "15 kubelets",
    "18 services",
    "20 latecomers",
)
"""The names of stages that others look at: what they begin with is the number that operators know."""

OUTAGE, API_STOPS, API_STARTS = 5, 7, 13
"""The numbers of the first stage that hurts, of that in which the API goes, and of that in which it comes back."""
NEW_DATA = 14
"""The number of the first stage in which others than the run write to the new etcd."""

SNAPSHOT_DEADLINE = 2 * 900.0
_SLOW = 2.0
_RERUN = 10.0


@dataclass(frozen=True, slots=True)
class Part:
    """A stage.

    Attributes:
        name: its number and its name.
        what: what it does, in lines for people: commands, files, hosts.
        units: what goes through its steps; asked for when its turn has come.
        steps: the steps.
        serial: whether one unit at a time goes through them; if one fails, no other one is begun.
        forgets: whether it knows nothing of an earlier attempt at the way back: what started then was stopped again.
    """

    name: str
    what: Sequence[str]
    units: Callable[[], Sequence[str]]
    steps: Sequence[Step]
    serial: bool = False

    @property
    def number(self) -> int:
        """Its number."""
        return int(self.name.split()[0])


@dataclass(frozen=True, slots=True)
class Edges:
    """What is asked and told beside hosts and the API; nothing where there is none."""

    discovery: Discovery | None
    balancer: LoadBalancer | None


def forth(world: World, edges: Edges) -> list[Part]:
    """Return the stages from the old etcd to the new one."""
    config, deadlines = world.config, world.cluster.config.deadlines
    timeout = config.command_timeout
    calico, plugins = config.calico.file, config.admission_plugins
    change, first = world.change, world.first
    snapshot = Step(StepSpec("snapshot", SNAPSHOT_DEADLINE), etcd.Snapshot(etcd.Etcd(world.cluster)))
    workers, planes = list(world.workers), [*world.control_plane[1:], first]
    puppet_off = _puppet_off(world)
    parts = [
        Part(
            "0 keep",
            [
                f"a verified snapshot of the old etcd, in {world.old.config.snapshots} on a member's host",
                f"in the run's folder: Calico's data ({data.CALICO}), all objects outside managed namespaces"
                f" ({data.OBJECTS})",
            ],
            _whole,
            (snapshot, _step("export", timeout, data.Exported(world))),
        ),
        Part(
            "1 change",
            [f"{world.fill(config.puppet_change.merged, change=change)}: has to say that it is not merged"],
            _whole,
            (_step("not merged", API_DEADLINE, data.NotMerged(world)),),
        ),
        Part(
            CALICO,
            [
                f"calicoctl on {first}, with {calico} and the endpoints {', '.join(world.new.config.endpoints)}:"
                f" AS number, mesh, BGP peers, IP pools as before; profiles for {', '.join(config.calico.profiles)}"
            ],
            _whole,
            (_step("copy", deadlines.ready, data.CalicoMoved(world)),),
        ),
        Part(
            SILENCE,
            [f"alerts of all hosts{''.join(f'; {{{chr(44).join(each)}}}' for each in config.silences)}"],
            lambda: data.silence_units(world),
            (_step("silence", API_DEADLINE, data.Silenced(world)),),
        ),
    ]
    if edges.discovery and config.discovery:
        steps = (
            _step("depool", API_DEADLINE, traffic.Depooled(world, edges.discovery)),
            Step(StepSpec("traffic gone", timeout, poll=_SLOW, gate=True, batch=False), traffic.TrafficGone(world)),
        )
        where = config.discovery.datacenter
        parts.append(Part(DEPOOL, [f"discovery records out of {where}"], lambda: _services(world), steps))
    parts += [
        Part(
            NAMESPACES,
            ["their deletion cannot be undone: what was in them is deployed anew, in stage 18 or on the way back"],
            lambda: world.managed,
            (
                _gate("as proven", deadlines.blocked, traffic.AsProven(world, edges.discovery, DEPOOL), poll=_SLOW),
                _step("delete", timeout, traffic.NamespaceGone(world), poll=_SLOW),
            ),
        ),
        Part(
            PUPPET,
            [],
            lambda: world.hosts,
            (*_baseline(world), *(replace(s, effects=machines.Tolerant(world, s.effects)) for s in puppet_off)),
        ),
        Part(
            STOP,
            [
                f"{', '.join(world.component_units())} on the control plane, {world.calico_unit} everywhere:"
                " from here on there is no API"
            ],
            lambda: world.hosts,
            (_step("stop", deadlines.restart, machines.Tolerant(world, machines.Stopped(world))),),
        ),
        Part(
            MERGE,
            [
                world.fill(config.puppet_change.merge, change=change)
                if config.puppet_change.merge
                else f"an operator merges {change}"
            ],
            _whole,
            (
                _gate("API silent", deadlines.restart, apiserver.Silent(world)),
                *(() if world.is_old_gone else (_step("old etcd", API_DEADLINE, cluster_steps.Fingerprinted(world)),)),
                _step("merge", timeout, cluster_steps.Merged(world)),
            ),
        ),
        Part(
            "9 Puppet on nodes",
            [f"{calico} has to name {world.new.name} then"],
            lambda: workers,
            (_puppet(world, tolerant=True),),
        ),
        Part(
            FIRST,
            [f"{config.apiserver_defaults} and {calico} have to name {world.new.name} then"],
            lambda: [first],
            (_puppet(world),),
        ),
        Part("11 Puppet off", [], lambda: [first], puppet_off),
        Part(
            ADMISSION,
            [
                f"{', '.join(plugins)} out of {config.apiserver_defaults}, a copy of it beside"
                if plugins
                else "no plugin is configured: nothing is done"
            ],
            lambda: [first],
            (_step("admission", API_DEADLINE, apiserver.AdmissionOpen(world)),),
        ),
        Part(
            START,
            ["a marker that is written through the API has to be found in the new etcd"],
            lambda: [first],
            (
                _gate("new etcd", deadlines.blocked, cluster_steps.StoreWell(world, world.new)),
                _gate("others", deadlines.blocked, apiserver.OthersStopped(world)),
                _step("start", deadlines.restart, apiserver.Serves(world, world.new, without=plugins)),
                _gate("ready", deadlines.ready, apiserver.Ready(world)),
                _step("lease", API_DEADLINE, apiserver.Leased(world)),
                _step("marker", API_DEADLINE, apiserver.Marked(world, world.new, world.old)),
                _step("controllers", deadlines.restart, _started(world, world.component_units()[1:])),
            ),
        ),
        Part(
            "14 initialise",
            [world.fill(config.initialize), f"has to make {', '.join(config.initialized)}"],
            _whole,
            (
                _gate("others", deadlines.blocked, apiserver.OthersStopped(world)),
                _step("initialise", timeout + deadlines.ready, cluster_steps.Initialized(world)),
                _step("lease", API_DEADLINE, apiserver.Leased(world)),
            ),
        ),
        Part(
            KUBELETS,
            [
                f"{', '.join([world.calico_unit, *config.node_watchers, config.kubelet])} anew;"
                " each node registers and is Ready"
            ],
            lambda: workers,
            (
                _gate("others", deadlines.blocked, apiserver.OthersStopped(world)),
                *(replace(step, effects=machines.Tolerant(world, step.effects)) for step in _nodes(world)),
            ),
        ),
        Part(
            "16 control plane",
            [f"Puppet; {', '.join(plugins) or 'no plugin'} back; one host at a time, {first} last"],
            lambda: planes,
            (
                _puppet(world),
                _step("admission", API_DEADLINE, apiserver.AdmissionBack(world, ADMISSION)),
                _step("start", deadlines.restart, apiserver.Serves(world, world.new, admission=ADMISSION)),
                _gate("ready", deadlines.ready, apiserver.Ready(world)),
                _step("marker", API_DEADLINE, apiserver.Marked(world, world.new, world.old)),
                *_balanced(world, edges),
                _step("controllers", deadlines.restart, _started(world, world.component_units()[1:])),
                _step("calico-node", deadlines.restart, _calico(world, world.control_plane)),
            ),
            serial=True,
        ),
        Part(
            "17 components",
            [world.fill(config.components.command), f"Ready in {', '.join(config.components.namespaces)}"],
            _whole,
            (_step("deploy", timeout + deadlines.ready, cluster_steps.ComponentsDeployed(world), poll=_SLOW),),
        ),
        _deploy(world, SERVICES),
        Part(
            "19 verify",
            ["nodes, sessions, services; these are pooled again; the old etcd is compared with what it was"],
            _whole,
            (
                _gate("nodes", deadlines.ready, cluster_steps.NodesWell(world, KUBELETS), poll=_SLOW),
                *_sessions(world),
                _gate("services", deadlines.ready, cluster_steps.AllAnswer(world), poll=_SLOW),
                *_repool(world, edges),
                _gate("old etcd", API_DEADLINE, cluster_steps.Untouched(world, MERGE)),
                _step("marker", API_DEADLINE, apiserver.Unmarked(world)),
            ),
        ),
        Part(
            LATE,
            ["workers that were away meanwhile, if there were any"],
            lambda: [name for name, facts in world.facts(KUBELETS).items() if facts.get(machines.ABSENT)],
            _nodes(world),
        ),
    ]
    # What is read from an etcd that is gone cannot be kept, and nothing can be deleted in it.
    return [part for part in parts if not world.is_old_gone or part.number not in (0, 5)]


def back(world: World, edges: Edges, *, begun: int) -> list[Part]:
    """Return the stages back to the old etcd.

    Args:
        world: the world.
        edges: what is asked and told beside.
        begun: the number of the last stage that was begun.
    """
    config, deadlines = world.config, world.cluster.config.deadlines
    timeout = config.command_timeout
    prefixes = ("/calico", config.etcd_prefix)
    parts = []
    if begun >= NEW_DATA:
        ended = _gate("ended", timeout, cluster_steps.CommandsEnded(world), poll=_SLOW)
        parts.append(_part("commands", [CLUSTER], ended))
    if begun >= 7:
        units = [*world.component_units(), world.calico_unit]
        planes = list(world.control_plane)
        puppet_off = (replace(step, effects=machines.Tolerant(world, step.effects)) for step in _puppet_off(world))
        parts += [
            _part("disable Puppet", world.hosts, *puppet_off),
            _part(
                "stop", world.hosts, _step("stop", deadlines.restart, machines.Tolerant(world, machines.Stopped(world)))
            ),
            _part("revert", [CLUSTER], _step("revert", timeout, cluster_steps.Reverted(world))),
            _part("Puppet", world.hosts, _puppet(world, tolerant=True, old=True)),
            _part(
                "control plane",
                planes,
                _step("admission", API_DEADLINE, apiserver.AdmissionBack(world, ADMISSION)),
                _step("start", deadlines.restart, apiserver.Serves(world, world.old, admission=ADMISSION)),
                _gate("ready", deadlines.ready, apiserver.Ready(world)),
                _step("marker", API_DEADLINE, apiserver.Marked(world, world.old, world.new)),
                _step("units", deadlines.restart, _started(world, units)),
            ),
            _part(
                "nodes",
                list(world.workers),
                *(replace(step, effects=machines.Tolerant(world, step.effects)) for step in _nodes(world, old=True)),
            ),
            _part("marker", [CLUSTER], _step("marker", API_DEADLINE, apiserver.Unmarked(world))),
        ]
    elif begun >= 6:
        on = machines.Tolerant(world, PuppetOn(world.cluster))
        parts.append(_part("Puppet", world.hosts, _step("Puppet on", API_DEADLINE, on)))
    if begun >= 5:
        settled = _gate("settled", timeout, traffic.Settled(world), poll=_SLOW)
        parts += [_part("namespaces", [CLUSTER], settled), _deploy(world, f"{ABORT}services")]
    if begun >= 4 and edges.discovery:
        parts.append(_part("pool", [CLUSTER], *_repool(world, edges)))
    if 2 <= begun < NEW_DATA:
        parts.append(_part("new etcd", [CLUSTER], _step("wipe", timeout, cluster_steps.Wiped(world, CALICO, prefixes))))
    if begun >= 6:
        names = (f"{ABORT}nodes", f"{ABORT}Puppet", f"{ABORT}disable Puppet")
        steps = _nodes(world, old=True) if begun >= 7 else (_step("Puppet on", API_DEADLINE, PuppetOn(world.cluster)),)
        parts.append(Part(f"{ABORT}latecomers", (), lambda: _absent(world, names), steps))
    return parts


def _absent(world: World, stages: Sequence[str]) -> list[str]:
    """Return the workers that some stages have left out."""
    found = {n: None for stage in stages for n, facts in world.facts(stage).items() if facts.get(machines.ABSENT)}
    return list(found)


def _part(name: str, units: Sequence[str], *steps: Step) -> Part:
    return Part(f"{ABORT}{name}", (), lambda: units, steps)


def _step(name: str, timeout: float, effects: Effects, *, poll: float = POLL) -> Step:
    return Step(StepSpec(name, timeout, poll=poll), effects)


def _gate(name: str, timeout: float, effects: Effects, *, poll: float = POLL) -> Step:
    return Step(StepSpec(name, timeout, poll=poll, gate=True), effects)


def _whole() -> Sequence[str]:
    return [CLUSTER]


def _services(world: World) -> Sequence[str]:
    return world.config.discovery.services if world.config.discovery else ()


def _baseline(world: World) -> Sequence[Step]:
    if world.cluster.config.bgp is None or world.is_old_gone:
        return ()
    return (_gate("bgp baseline", world.cluster.config.deadlines.bgp, machines.BgpBaseline(world)),)


def _puppet(world: World, *, tolerant: bool = False, old: bool = False) -> Step:
    step: Effects = machines.Configured(world, world.old if old else world.new)
    effects = machines.Tolerant(world, step) if tolerant else step
    return _step("Puppet", world.cluster.config.deadlines.puppet, effects, poll=_RERUN)


def _started(world: World, units: Sequence[str]) -> Effects:
    return machines.Started(world, (STOP, f"{ABORT}stop"), units)


def _nodes(world: World, *, old: bool = False) -> tuple[Step, ...]:
    """Return the steps with which a node comes back on an etcd."""
    cluster, deadlines = world.cluster, world.cluster.config.deadlines
    calico = cluster_steps.RestartedAnew(cluster, world.calico_unit, cluster_steps.CALICO)
    kubelet = cluster_steps.RestartedAnew(cluster, world.config.kubelet, cluster_steps.KUBELET)
    sessions = cluster_steps.SessionsBack(world, PUPPET, prefixes=old)
    watchers = [
        _step(unit.removesuffix(".service"), deadlines.restart, cluster_steps.RestartedAnew(cluster, unit, unit))
        for unit in world.config.node_watchers
    ]
    has_routers = cluster.config.bgp is not None
    return (
        _puppet(world, old=old),
        _step("calico-node", deadlines.restart, calico),
        *watchers,
        Step(StepSpec("kubelet", deadlines.restart, poll=POLL, pivot=True), kubelet),
        _gate("registered", deadlines.ready, cluster_steps.Registered(cluster), poll=_SLOW),
        *((_gate("bgp", deadlines.bgp, sessions),) if has_routers else ()),
    )


def _calico(world: World, hosts: Sequence[str]) -> Effects:
    """Return the restart of calico-node where the run has found it: not every control-plane host has it."""

    def had(host: str) -> bool:
        noted = world.facts(STOP).get(host, {}).get(machines.STOPPED)
        return host in hosts and (noted is None or world.calico_unit in noted)

    return cluster_steps.RestartedAnew(world.cluster, world.calico_unit, cluster_steps.CALICO, had)


def _puppet_off(world: World) -> tuple[Step, ...]:
    return (
        _step("Puppet off", API_DEADLINE, PuppetOff(world.cluster)),
        _gate("Puppet idle", world.cluster.config.deadlines.puppet, machines.PuppetIdle(world.cluster)),
    )


def _sessions(world: World) -> Sequence[Step]:
    if world.cluster.config.bgp is None:
        return ()
    return (_gate("bgp", world.cluster.config.deadlines.bgp, cluster_steps.AllSessions(world, KUBELETS)),)


def _balanced(world: World, edges: Edges) -> Sequence[Step]:
    if edges.balancer is None:
        return ()
    return (_gate("balancer", world.cluster.config.deadlines.ready, apiserver.Balanced(world, edges.balancer)),)


def _repool(world: World, edges: Edges) -> Sequence[Step]:
    if edges.discovery is None:
        return ()
    return (_step("pool", API_DEADLINE, traffic.Repooled(world, edges.discovery, DEPOOL)),)


def _deploy(world: World, name: str) -> Part:
    config, timeout = world.config.services, world.config.command_timeout
    # They wait for each other in turn: the last one may have waited for all others.
    turns = math.ceil(len(config.names) / config.parallel)
    turn = threading.BoundedSemaphore(config.parallel)
    deploy = StepSpec("deploy", timeout * turns, poll=_SLOW, batch=False)
    check = StepSpec("check", world.cluster.config.deadlines.ready, poll=_SLOW, gate=True, batch=False)
    return Part(
        name,
        [config.deploy, *([config.check] if config.check else []), f"{config.parallel} at once"],
        lambda: config.names,
        (Step(deploy, cluster_steps.Deployed(world, turn)), Step(check, cluster_steps.Answers(world))),
    )
