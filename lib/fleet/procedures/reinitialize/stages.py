"""The stages of a re-initialisation from the old etcd to the new one, in their order."""

from collections.abc import Sequence
from dataclasses import replace

from fleet.engine.declaration import Specified, Stage, Step
from fleet.engine.model import StepSpec
from fleet.engine.protocols import Effects
from fleet.procedures.reinitialize import (
    admission,
    apiserver,
    data,
    deployment,
    machines,
    nodes,
    parts,
    stores,
    traffic,
)
from fleet.procedures.reinitialize.parts import Edges
from fleet.procedures.reinitialize.world import World
from fleet.steps import etcd
from fleet.steps.base import CHANGE_DEADLINE

SNAPSHOT_DEADLINE = 2 * 900.0
"""Seconds for the snapshot of the old etcd."""


def forth(world: World, edges: Edges) -> list[Stage]:
    """Return the stages from the old etcd to the new one."""
    config, deadlines = world.config, world.cluster.config.deadlines
    timeout = config.command_timeout
    calico, plugins = config.calico.file, config.admission_plugins
    change, first = world.change, world.first
    snapshot = Specified(StepSpec("snapshot", SNAPSHOT_DEADLINE), etcd.Snapshot(etcd.Etcd(world.cluster)))
    workers, planes = list(world.workers), [*world.control_plane[1:], first]
    disabled = parts.puppet_off(world)
    found = [
        parts.stage(
            "0 keep",
            [
                f"a verified snapshot of the old etcd, in {world.old.config.snapshots} on a member's host",
                f"in the run's folder: Calico's data ({data.CALICO}), all objects outside managed namespaces"
                f" ({data.OBJECTS})",
            ],
            parts.whole,
            (snapshot, parts.step("export", timeout, data.Exported(world))),
        ),
        parts.stage(
            "1 change",
            [f"{world.fill(config.puppet_change.merged, change=change)}: has to say that it is not merged"],
            parts.whole,
            (parts.step("not merged", CHANGE_DEADLINE, data.NotMerged(world)),),
        ),
        parts.stage(
            parts.CALICO,
            [
                f"calicoctl on {first}, with {calico} and the endpoints {', '.join(world.new.config.endpoints)}:"
                f" AS number, mesh, BGP peers, IP pools as before; profiles for {', '.join(config.calico.profiles)}"
            ],
            parts.whole,
            (parts.step("copy", deadlines.ready, data.CalicoMoved(world)),),
        ),
        parts.stage(
            parts.SILENCE,
            [f"alerts of all hosts{''.join(f'; {{{chr(44).join(each)}}}' for each in config.silences)}"],
            lambda: data.silence_units(world),
            (parts.step("silence", CHANGE_DEADLINE, data.Silenced(world)),),
        ),
    ]
    if edges.discovery and config.discovery:
        steps = parts.depool(world, edges.discovery)
        where = config.discovery.datacenter
        found.append(parts.stage(parts.DEPOOL, [f"discovery records out of {where}"], lambda: _services(world), steps))
    found += [
        parts.stage(
            parts.NAMESPACES,
            ["their deletion cannot be undone: what was in them is deployed anew, in stage 18 or on the rollback"],
            lambda: world.managed,
            (
                parts.gate(
                    "as proven",
                    deadlines.blocked,
                    traffic.AsProven(world, edges.discovery, parts.DEPOOL),
                    poll=parts.SLOW,
                ),
                parts.step("delete", timeout, traffic.NamespaceGone(world), poll=parts.SLOW),
            ),
        ),
        parts.stage(
            parts.PUPPET,
            [],
            lambda: world.hosts,
            (*_baseline(world), *(replace(s, effects=machines.Tolerant(world, s.effects)) for s in disabled)),
        ),
        parts.stage(
            parts.STOP,
            [
                f"{', '.join(world.component_units())} on the control plane, {world.calico_unit} everywhere:"
                " from here on there is no API"
            ],
            lambda: world.hosts,
            (parts.step("stop", deadlines.restart, machines.Tolerant(world, machines.Stopped(world))),),
        ),
        parts.stage(
            parts.MERGE,
            [
                world.fill(config.puppet_change.merge, change=change)
                if config.puppet_change.merge
                else f"an operator merges {change}"
            ],
            parts.whole,
            (
                parts.gate("API silent", deadlines.restart, apiserver.Silent(world)),
                *(() if world.is_old_gone else (parts.step("old etcd", CHANGE_DEADLINE, stores.Fingerprinted(world)),)),
                parts.step("merge", timeout, deployment.Merged(world), poll=parts.SLOW),
            ),
        ),
        parts.stage(
            "9 Puppet on nodes",
            [f"{calico} has to name {world.new.name} then"],
            lambda: workers,
            (parts.configured(world, tolerant=True),),
        ),
        parts.stage(
            parts.FIRST,
            [f"{config.apiserver_defaults} and {calico} have to name {world.new.name} then"],
            lambda: [first],
            (
                # Puppet may start kube-apiserver.
                parts.gate("new etcd", deadlines.blocked, stores.StoreWell(world, world.new)),
                parts.gate("one etcd", deadlines.blocked, apiserver.OneEtcd(world, world.new)),
                parts.configured(world),
            ),
        ),
        parts.stage("11 Puppet off", [], lambda: [first], disabled),
        parts.stage(
            parts.ADMISSION,
            [
                f"{', '.join(plugins)} out of {config.apiserver_defaults}, a copy of it beside"
                if plugins
                else "no plugin is configured: nothing is done"
            ],
            lambda: [first],
            (parts.step("admission", CHANGE_DEADLINE, admission.AdmissionOpen(world)),),
        ),
        parts.stage(
            parts.START,
            ["a marker that is written through the API has to be found in the new etcd"],
            lambda: [first],
            (
                parts.gate("new etcd", deadlines.blocked, stores.StoreWell(world, world.new)),
                parts.gate("one etcd", deadlines.blocked, apiserver.OneEtcd(world, world.new)),
                parts.step("start", deadlines.restart, apiserver.Serves(world, world.new, without=plugins)),
                parts.gate("ready", deadlines.ready, apiserver.Ready(world)),
                parts.step("marker", CHANGE_DEADLINE, apiserver.Marked(world, world.new, world.old)),
                parts.step("controllers", deadlines.restart, parts.started(world, world.component_units()[1:])),
            ),
        ),
        parts.stage(
            parts.INITIALISE,
            [world.fill(config.initialize), f"has to make {', '.join(config.initialized)}"],
            parts.whole,
            (
                parts.gate("one etcd", deadlines.blocked, apiserver.OneEtcd(world, world.new)),
                parts.step("initialise", timeout + deadlines.ready, deployment.Initialized(world)),
                parts.step("lease", CHANGE_DEADLINE, apiserver.Leased(world)),
            ),
        ),
        parts.stage(
            parts.KUBELETS,
            [
                f"{', '.join([world.calico_unit, *config.node_watchers, config.kubelet])} anew;"
                " each node registers and is Ready"
            ],
            lambda: workers,
            (
                parts.gate("one etcd", deadlines.blocked, apiserver.OneEtcd(world, world.new)),
                *(replace(step, effects=machines.Tolerant(world, step.effects)) for step in parts.returning(world)),
                parts.gate("one etcd still", deadlines.blocked, apiserver.OneEtcd(world, world.new)),
            ),
        ),
        parts.stage(
            "16 control plane",
            [f"Puppet; {', '.join(plugins) or 'no plugin'} back; one host at a time, {first} last"],
            lambda: planes,
            (
                parts.gate("one etcd", deadlines.blocked, apiserver.OneEtcd(world, world.new)),
                parts.configured(world),
                parts.step("admission", CHANGE_DEADLINE, admission.AdmissionBack(world, parts.ADMISSION)),
                parts.step("start", deadlines.restart, apiserver.Serves(world, world.new, admission=parts.ADMISSION)),
                parts.gate("ready", deadlines.ready, apiserver.Ready(world)),
                parts.step("marker", CHANGE_DEADLINE, apiserver.Marked(world, world.new, world.old)),
                *_balanced(world, edges),
                parts.step("controllers", deadlines.restart, parts.started(world, world.component_units()[1:])),
                parts.step("calico-node", deadlines.restart, _calico(world, world.control_plane)),
            ),
            serial=True,
        ),
        parts.stage(
            "17 components",
            [world.fill(config.components.command), f"Ready in {', '.join(config.components.namespaces)}"],
            parts.whole,
            (parts.step("deploy", timeout + deadlines.ready, deployment.ComponentsDeployed(world), poll=parts.SLOW),),
        ),
        parts.deploy(world, parts.SERVICES),
        parts.stage(
            "19 verify",
            ["nodes, sessions, services; these are pooled again; the old etcd is compared with what it was"],
            parts.whole,
            (
                parts.gate("nodes", deadlines.ready, nodes.NodesWell(world, parts.KUBELETS), poll=parts.SLOW),
                *_sessions(world),
                parts.gate("services", deadlines.ready, deployment.AllAnswer(world), poll=parts.SLOW),
                *parts.repool(world, edges),
                parts.gate("old etcd", CHANGE_DEADLINE, stores.Untouched(world, parts.MERGE)),
                parts.step("marker", CHANGE_DEADLINE, apiserver.Unmarked(world)),
            ),
        ),
        parts.stage(
            parts.LATE,
            ["workers that were away meanwhile, if there were any"],
            lambda: [name for name, facts in world.facts(parts.KUBELETS).items() if facts.get(machines.ABSENT)],
            parts.returning(world),
        ),
    ]
    # What is read from an etcd that is gone cannot be kept, and nothing can be deleted in it.
    return [part for part in found if not world.is_old_gone or parts.number(part) not in (0, 5)]


def _services(world: World) -> Sequence[str]:
    return world.config.discovery.services if world.config.discovery else ()


def _baseline(world: World) -> Sequence[Step]:
    if world.cluster.config.bgp is None or world.is_old_gone:
        return ()
    return (parts.gate("bgp baseline", world.cluster.config.deadlines.bgp, nodes.BgpBaseline(world)),)


def _calico(world: World, hosts: Sequence[str]) -> Effects:
    """Return the restart of calico-node where the run has found it: not every control-plane host has it."""

    def had(host: str) -> bool:
        noted = world.facts(parts.STOP).get(host, {}).get(machines.STOPPED)
        return host in hosts and (noted is None or world.calico_unit in noted)

    return nodes.RestartedAnew(world.cluster, world.calico_unit, nodes.CALICO, had)


def _sessions(world: World) -> Sequence[Step]:
    if world.cluster.config.bgp is None:
        return ()
    return (parts.gate("bgp", world.cluster.config.deadlines.bgp, nodes.AllSessions(world, parts.KUBELETS)),)


def _balanced(world: World, edges: Edges) -> Sequence[Step]:
    if edges.balancer is None:
        return ()
    return (parts.gate("balancer", world.cluster.config.deadlines.ready, apiserver.Balanced(world, edges.balancer)),)
