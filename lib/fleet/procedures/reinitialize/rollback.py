"""The stages of a re-initialisation back to the old etcd."""

from collections.abc import Sequence
from dataclasses import replace

from fleet.engine.declaration import Stage, Step
from fleet.engine.executor import ABORT
from fleet.procedures.reinitialize import admission, apiserver, deployment, machines, parts, stores, traffic
from fleet.procedures.reinitialize.parts import Edges
from fleet.procedures.reinitialize.world import CLUSTER, World
from fleet.steps.base import CHANGE_DEADLINE
from fleet.steps.puppet import PuppetOn

REVERT = f"{ABORT}revert"
"""The stage in which the change of Puppet's code is reverted."""


def back(world: World, edges: Edges, *, reached: int, deleted: bool, wipes: bool) -> list[Stage]:
    """Return the stages back to the old etcd.

    Args:
        world: the world.
        edges: what is asked and told beside.
        reached: the number of the last stage that was started.
        deleted: whether a managed namespace was deleted: by the run, or by hand before it (--from-stage).
        wipes: whether what is in the new etcd is of this run alone.
    """
    config, deadlines = world.config, world.cluster.config.deadlines
    timeout = config.command_timeout
    prefixes = ("/calico", *([config.etcd_prefix] if reached >= parts.MAY_SERVE else []))
    found = []
    if reached >= parts.NEW_DATA:
        ended = parts.gate("ended", timeout, deployment.CommandsEnded(world), poll=parts.SLOW)
        found.append(_part("commands", [CLUSTER], ended))
    if reached >= parts.HANDS_BACK and edges.discovery:
        found.append(
            parts.stage(
                f"{ABORT}depool",
                (),
                lambda: [name for name, facts in world.facts(parts.DEPOOL).items() if facts.get(traffic.POOLED)],
                parts.depool(world, edges.discovery),
            )
        )
    if reached >= parts.API_STOPS:
        units = [*world.component_units(), world.calico_unit]
        planes = list(world.control_plane)
        revert = parts.step("revert", timeout, deployment.Reverted(world), poll=parts.SLOW)
        disabled = (replace(step, effects=machines.Tolerant(world, step.effects)) for step in parts.puppet_off(world))
        found += [
            _part("disable Puppet", world.hosts, *disabled),
            _part(
                "stop",
                world.hosts,
                parts.step("stop", deadlines.restart, machines.Tolerant(world, machines.Stopped(world))),
            ),
            parts.stage(REVERT, (), parts.whole, (revert,)),
            _part(
                "Puppet",
                world.hosts,
                parts.gate("one etcd", deadlines.blocked, apiserver.OneEtcd(world, world.old)),
                # The copy of the file of flags names the new etcd: Puppet has the last word.
                parts.step("admission", CHANGE_DEADLINE, admission.AdmissionBack(world, parts.ADMISSION)),
                parts.configured(world, tolerant=True, old=True),
            ),
            _part(
                "control plane",
                planes,
                parts.gate("one etcd", deadlines.blocked, apiserver.OneEtcd(world, world.old)),
                parts.step("start", deadlines.restart, apiserver.Serves(world, world.old, admission=parts.ADMISSION)),
                parts.gate("ready", deadlines.ready, apiserver.Ready(world)),
                parts.step("marker", CHANGE_DEADLINE, apiserver.Marked(world, world.old, world.new)),
                parts.step("units", deadlines.restart, parts.started(world, units)),
            ),
            _part(
                "nodes",
                list(world.workers),
                *(
                    replace(step, effects=machines.Tolerant(world, step.effects))
                    for step in parts.returning(world, old=True)
                ),
            ),
            _part("marker", [CLUSTER], parts.step("marker", CHANGE_DEADLINE, apiserver.Unmarked(world))),
        ]
    elif reached >= parts.PUPPET_GOES:
        on = machines.Tolerant(world, PuppetOn(world.cluster))
        found.append(_part("Puppet", world.hosts, parts.step("Puppet on", CHANGE_DEADLINE, on)))
    if deleted:
        settled = parts.gate("settled", timeout, traffic.Settled(world), poll=parts.SLOW)
        found += [_part("namespaces", [CLUSTER], settled), parts.deploy(world, f"{ABORT}services")]
    if reached >= 4 and edges.discovery:
        found.append(_part("pool", [CLUSTER], *parts.repool(world, edges)))
    if reached >= 2 and wipes:
        found.append(
            _part("new etcd", [CLUSTER], parts.step("wipe", timeout, stores.Wiped(world, parts.CALICO, prefixes)))
        )
    if reached >= parts.PUPPET_GOES:
        names = (f"{ABORT}nodes", f"{ABORT}Puppet", f"{ABORT}disable Puppet")
        steps = (
            parts.returning(world, old=True)
            if reached >= parts.API_STOPS
            else (parts.step("Puppet on", CHANGE_DEADLINE, PuppetOn(world.cluster)),)
        )
        found.append(parts.stage(f"{ABORT}latecomers", (), lambda: _absent(world, names), steps))
    return found


def closed(world: World, latecomers: Sequence[str]) -> list[Stage]:
    """Return what is left of a run that has moved the cluster: these workers are left to Puppet."""
    return [_part("latecomers", latecomers, parts.step("Puppet on", CHANGE_DEADLINE, PuppetOn(world.cluster)))]


def _absent(world: World, stages: Sequence[str]) -> list[str]:
    """Return the workers that some stages have left out."""
    found = {n: None for stage in stages for n, facts in world.facts(stage).items() if facts.get(machines.ABSENT)}
    return list(found)


def _part(name: str, units: Sequence[str], *steps: Step) -> Stage:
    return parts.stage(f"{ABORT}{name}", (), lambda: units, steps)
