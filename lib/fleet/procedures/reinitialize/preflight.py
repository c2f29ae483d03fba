"""The preflight of a re-initialisation: everything that its stages will need, looked at before anything is touched."""

import re
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fleet import commands
from fleet.calico import config as calicoctl
from fleet.discovery import Discovery, last_one
from fleet.errors import FleetError
from fleet.etcd import health, keys, members, reach
from fleet.etcd.certificates import Certificates
from fleet.hosts import defaults, probe, services, textfile
from fleet.hosts.probe import HostState, Unreachable
from fleet.hosts.services import ServiceState
from fleet.hosts.textfile import TextFile
from fleet.k8s import namespaces
from fleet.k8s.apiserver import Strange
from fleet.k8s.nodes import list_nodes
from fleet.procedures import preflight
from fleet.procedures.cluster import Cluster
from fleet.procedures.findings import Finding, Level, ask, note, stop
from fleet.procedures.plane import of_health
from fleet.procedures.reinitialize.data import is_empty
from fleet.procedures.reinitialize.machines import absent, endpoint_problems, nodes_by_host, states_of
from fleet.procedures.reinitialize.parts import API_STARTS, API_STOPS, PUPPET_GOES, Edges, Part
from fleet.procedures.reinitialize.world import Store, World
from fleet.runs import open_runs

_REPAIR = "Repair that first."
_ASSIGNMENT, _WORD = re.compile(r"[A-Za-z_]\w*="), re.compile(r"[A-Za-z0-9_./-]+")


def checks(world: World, edges: Edges, parts: Sequence[Part], state_dir: Path) -> list[Callable[[], list[Finding]]]:
    """Return all looks; all of them only read.

    Args:
        world: the world.
        edges: what is asked beside hosts and the API.
        parts: the stages that are to be carried out.
        state_dir: where runs are kept.
    """
    cluster = world.cluster
    numbers = {part.number for part in parts}
    found: list[Callable[[], list[Finding]]] = [
        partial(of_earlier_runs, cluster, state_dir),
        partial(preflight.of_alerts, cluster),
        partial(of_hosts, world, min(numbers)),
        partial(of_store, world, world.new),
        partial(of_two, world),
        partial(of_reach, world),
        partial(of_commands, world),
        partial(of_calicoctl, world),
    ]
    first = min(numbers)
    has_api = not world.is_old_gone and not API_STOPS < first <= API_STARTS
    found.append(partial(preflight.of_runs, cluster, state_dir, has_api=has_api))
    if world.is_old_gone:
        found.append(partial(of_loss, world))
    if first <= API_STOPS:
        found += [partial(of_units, world), partial(of_apiservers, world)]
    if 0 in numbers:
        found += [partial(of_store, world, world.old), partial(of_nodes, world), partial(of_use, world)]
    if 1 in numbers:
        found.append(partial(of_change, world))
    else:
        found.append(partial(of_what_was_left_out, world, edges.discovery, first))
    if 12 in numbers:
        found.append(partial(of_plugins, world))
    if 2 in numbers:
        found.append(partial(of_emptiness, world))
    if 4 in numbers and edges.discovery:
        found.append(partial(of_discovery, world, edges.discovery))
    if 5 in numbers:
        found.append(partial(of_namespaces, world))
    return found


def of_earlier_runs(cluster: Cluster, state_dir: Path) -> list[Finding]:
    """Look for runs that have ended and left something, and for re-initialisations that are not over, held or not."""
    findings = preflight.of_held(cluster, state_dir)
    for record, held in open_runs(state_dir):
        info = record.info
        same = (info.procedure, info.cluster) == (cluster.run.procedure, cluster.name) and record.status == "stopped"
        if same and not any(state.unit.name in cluster.hosts for state in held):
            again = f"cookbook {info.procedure}"
            todo = f"{again} --resume {info.id}, or {again} --abort {info.id}"
            findings.append(stop(f"Run {info.id} is not over.", todo))
    return findings


def of_apiservers(world: World) -> list[Finding]:
    """Ask each kube-apiserver on its own address: the run proves by these who serves, and who does not."""
    findings = []
    for host, answer in world.apiservers().examine(world.control_plane).items():
        if isinstance(answer, Strange):
            findings.append(stop(f"kube-apiserver on {host}: {answer.reason}.", "Correct that: the run has to ask it."))
        elif (problem := of_health(host, answer)) and not world.is_old_gone:
            findings.append(stop(f"{problem}.", _REPAIR))
    return findings


def of_hosts(world: World, first: int) -> list[Finding]:
    """Ask all hosts whether they can be reached, and what their Puppet does; some workers may be away.

    Args:
        world: the world.
        first: the number of the first stage that is carried out.
    """
    away = absent(world, world.workers)
    tolerated = len(away) <= world.max_failed
    found = preflight.of_ssh(world.cluster, needs_puppet=True, without=away if tolerated else ())
    # What others may be about elsewhere is in the way here: every host has to run Puppet.
    kept = [
        stop(it.what, "Every host has to run Puppet in this run: enable it there.")
        # From stage 7 on it was disabled by hand, and is enabled by hand where a later stage is held for it.
        if it.level is Level.ASK and first <= PUPPET_GOES
        else it
        for it in found
    ]
    if not away or not tolerated:
        return kept
    names = ", ".join(sorted(away))
    todo = "It is taken up in stage 15, or at the end, if it answers by then; otherwise the run ends without it."
    return [*kept, ask(f"No answer over SSH from {names}.", todo)]


def of_store(world: World, store: Store) -> list[Finding]:
    """Ask the members of an etcd."""
    view = members.view(world.cluster.remote, store.hosts, store.config)
    name = "The old etcd" if store is world.old else store.name
    if problem := health.problem(view):
        return [stop(f"{name} is not well: {problem}.", _REPAIR)]
    return [note(f"{name}: {len(store.hosts)} members are well, {health.leader(view)} leads.")]


def of_emptiness(world: World) -> list[Finding]:
    """Count the keys of the new etcd."""
    if is_empty(world):
        return [note(f"{world.new.name} is empty.")]
    host = world.new.asked(world.cluster)
    there = keys.count(world.cluster.remote, host, world.new.config)
    some = keys.some(world.cluster.remote, host, world.new.config, 3)
    what = f"{world.new.name} is not empty: {there} keys, such as {', '.join(some)}."
    if world.cluster.run.options.get("reuse"):
        return [ask(what, "As --reuse asks: what is there stays, and may be what the cluster begins with.")]
    return [stop(what, f"Name an empty one, or say --reuse {world.new.name} if that is what you mean.")]


def of_two(world: World) -> list[Finding]:
    """Find out whether the old and the new etcd are two indeed."""
    both = set(world.old.config.endpoints) & set(world.new.config.endpoints)
    if both or set(world.old.hosts) & set(world.new.hosts):
        return [stop(f"{world.new.name} is the etcd of today, or has members of it.", "Name another one.")]
    return []


def of_use(world: World) -> list[Finding]:
    """Find out whether the hosts use the old etcd today: otherwise there would be nothing to go back to."""
    away = absent(world, world.workers)
    problems = endpoint_problems(world, [host for host in world.hosts if host not in away], world.old)
    todo = "Correct etcd.endpoints, or run Puppet there: the way back leads to what stands in the configuration."
    return [stop(f"{host}: {problem}.", todo) for host, problem in problems.items() if problem]


def of_reach(world: World) -> list[Finding]:
    """Let every host ask every member of the new etcd, with the certificates that it uses."""
    findings = []
    endpoints = world.new.config.endpoints
    for what, hosts, certificates in (
        ("kube-apiserver", list(world.control_plane), _of_apiserver(world)),
        ("Calico", [host for host in world.hosts if host not in absent(world, world.workers)], _of_calico(world)),
    ):
        problems = reach.reachable(world.cluster.remote, hosts, endpoints, certificates)
        for host, problem in problems.items():
            if problem:
                findings.append(stop(f"{host}, with {what}'s certificates: {problem}.", _REPAIR))
    return findings or [note(f"All hosts reach {world.new.name} with their own certificates.")]


def _of_apiserver(world: World) -> Certificates | None:
    text = _text(world, world.config.apiserver_defaults)
    files = {name: defaults.flag(text, flag) for name, flag in _FLAGS.items()}
    if not any(files.values()):
        return None
    return Certificates(**{name: Path(file or "") for name, file in files.items()})


_FLAGS = {"ca": "etcd-cafile", "cert": "etcd-certfile", "key": "etcd-keyfile"}


def _of_calico(world: World) -> Certificates | None:
    return calicoctl.parse(_text(world, world.config.calico.file)).certificates


def _text(world: World, path: Path) -> str:
    found = textfile.read(world.cluster.remote, [world.first], path)[world.first]
    if isinstance(found, TextFile):
        return found.text
    raise FleetError(f"{path} on {world.first} cannot be read: {found.reason}")


def of_commands(world: World) -> list[Finding]:
    """Look whether bash could run the configured commands, and has their programs."""
    config = world.config
    commands_ = {
        "puppet_change.merged": config.puppet_change.merged,
        "puppet_change.merge": config.puppet_change.merge,
        "puppet_change.revert": config.puppet_change.revert,
        "discovery.traffic": config.discovery.traffic if config.discovery else None,
        "managed": config.managed if isinstance(config.managed, str) else None,
        "initialize": config.initialize,
        "components.command": config.components.command,
        "services.deploy": config.services.deploy,
        "services.check": config.services.check,
    }
    findings = []
    for key, command in commands_.items():
        if command and (problem := _command_problem(command)):
            findings.append(stop(f"reinitialize.{key}: {problem}.", "Correct it, or install what is missing."))
    return findings


def _command_problem(command: str) -> str:
    """Return why bash could not run a command; of one with several words only the first program is looked for."""
    plain = command.replace("{{", "{").replace("}}", "}")
    code, said = commands.ask(f"bash -n -c {shlex.quote(plain)}", timeout=probe.TIMEOUT)
    if code:
        return f"it is no command for bash: {' '.join(said.split())[-200:]}"
    word = next((word for word in plain.split() if not _ASSIGNMENT.match(word)), "")
    if not word or not _WORD.fullmatch(word):
        return ""
    code, _ = commands.ask(f"type -t -- {shlex.quote(word)} >/dev/null", timeout=probe.TIMEOUT)
    return f"there is no {word} on this host" if code else ""


def of_change(world: World) -> list[Finding]:
    """Ask whether the change of Puppet's code is there, and not merged."""
    command = world.fill(world.config.puppet_change.merged, change=world.change)
    code, said = commands.ask(command, timeout=probe.TIMEOUT)
    if code == 1:
        return [note(f"The Puppet change {world.change} is not merged yet.")]
    if code == 0:
        what = f"The Puppet change {world.change} is merged already."
        return [stop(what, "Hosts take it with their next run of Puppet. Revert it, or name the right one.")]
    why = " ".join(said.split())[-200:] or f"exit code {code}"
    return [stop(f"Is {world.change} merged? `{command}`: {why.rstrip('.')}.", "Correct --puppet-change.")]


def of_what_was_left_out(world: World, discovery: Discovery | None, first: int) -> list[Finding]:
    """Look at what must have been done by hand, as far as it can be seen.

    Args:
        world: the world.
        discovery: the discovery records; None for none.
        first: the number of the first stage that is carried out.
    """
    findings = [ask(f"Stages 0 to {first - 1} are taken as done by hand.", "Be sure of each: the runbook has them.")]
    config = world.config.discovery
    if first > 4 and discovery and config:
        at = discovery.pooled(config.services)
        if left := sorted(name for name, pooled in at.items() if pooled.get(config.datacenter, True)):
            findings.append(
                stop(f"Still pooled in {config.datacenter}: {', '.join(left)}.", "Depool them, or begin with 4.")
            )
    command = world.fill(world.config.puppet_change.merged, change=world.change)
    code, _ = commands.ask(command, timeout=probe.TIMEOUT)
    if (code == 0) is not (first > 8):
        what = f"The Puppet change {world.change} is {'merged' if code == 0 else 'not merged'} before stage {first}."
        findings.append(stop(what, "Begin with the stage that the cluster is in."))
    if PUPPET_GOES < first <= 9:
        answers = probe.probe(world.cluster.remote, world.hosts)
        on = [host for host, it in answers.items() if isinstance(it, HostState) and it.puppet_disabled is None]
        findings += [stop(f"Puppet is enabled on {', '.join(on)}.", "Disable it, or begin with 6.")] if on else []
    if first > API_STARTS:
        problems = endpoint_problems(world, [world.first], world.new)
        findings += [
            stop(f"{world.first}: {p}.", "Begin with the stage that the cluster is in.") for p in problems.values() if p
        ]
    return findings


def of_plugins(world: World) -> list[Finding]:
    """Look whether the admission plugins are among the flags, and all members of the new etcd among its endpoints."""
    text = _text(world, world.config.apiserver_defaults)
    enabled = (defaults.flag(text, "enable-admission-plugins") or "").split(",")
    findings = []
    if missing := [name for name in world.config.admission_plugins if name not in enabled]:
        todo = "Correct reinitialize.admission_plugins, if one keeps an empty cluster from being initialised."
        findings.append(
            ask(f"Not among the flags of kube-apiserver, and so not taken out: {', '.join(missing)}.", todo)
        )
    if len(world.new.config.endpoints) != len(world.new.hosts):
        what = f"{world.new.name} has {len(world.new.hosts)} hosts and {len(world.new.config.endpoints)} endpoints."
        findings.append(ask(what, "Correct reinitialize.etcds."))
    return findings


def of_loss(world: World) -> list[Finding]:
    """Find out whether the old etcd is gone indeed: what answers still is what there is to go back to."""
    view = members.view(world.cluster.remote, world.old.hosts, world.old.config)
    if health.problem(view) == "":
        return [stop("The old etcd is well.", "Leave out --calico-export: there is no way back with it.")]
    return [ask("There will be no way back: the old etcd is taken for lost (--calico-export).", "Be sure of that.")]


def of_units(world: World) -> list[Finding]:
    """Look whether the units are there that have to be stopped: one of another name would go on."""
    away = absent(world, world.workers)
    found = states_of(world, [host for host in world.hosts if host not in away])
    findings = []
    for host, units in found.items():
        needed = world.component_units() if host in world.control_plane else [world.calico_unit]
        findings += [
            _missing(host, name, "control_plane.components or bgp.unit") for name in needed if _lacks(units[name])
        ]
    workers = [host for host in world.workers if host not in away]
    for name in (world.config.kubelet, *world.config.node_watchers):
        for host, state in services.state(world.cluster.remote, workers, name).items():
            findings += [_missing(host, name, "reinitialize.kubelet or node_watchers")] if _lacks(state) else []
    return findings


def _lacks(state: ServiceState | Unreachable) -> bool:
    return isinstance(state, ServiceState) and not state.loaded


def _missing(host: str, unit: str, key: str) -> Finding:
    return stop(f"{host} has no {unit}.", f"Correct {key}.")


def of_calicoctl(world: World) -> list[Finding]:
    """Look whether the host has calicoctl."""
    results = world.cluster.remote.run([world.first], "command -v calicoctl", timeout=probe.TIMEOUT, safe=True)
    if all(result.ok for result in results.values()):
        return []
    return [stop(f"{world.first} has no calicoctl in its PATH.", "Install it there.")]


def of_nodes(world: World) -> list[Finding]:
    """Look at the nodes of today."""
    known = nodes_by_host(world.cluster)
    findings = preflight.of_api(world.cluster.api, len(known))
    names = {node.name for node in known.values()}
    if left := sorted(node.name for node in list_nodes(world.cluster.api) if node.name not in names):
        what = f"Nodes of no host in the configuration, which would stay on the old etcd: {', '.join(left)}."
        findings.append(stop(what, "Correct hosts.workers or node_names, or delete them."))
    if planes := sorted(set(known) & set(world.control_plane)):
        what = f"Control-plane hosts that are nodes as well: {', '.join(planes)}."
        todo = f"Restart {world.config.kubelet} there by hand after stage 16, and see that they register."
        findings.append(ask(what, todo))
    if strange := sorted(set(world.workers) - set(known)):
        what = f"Kubernetes has no node for {', '.join(strange)}."
        findings.append(ask(what, "Correct node_names or hosts.workers, unless they are new."))
    if away := sorted(host for host, node in known.items() if not node.ready):
        findings.append(ask(f"NotReady: {', '.join(away)}.", "Repair them first; the run waits for each in stage 15."))
    return findings


def of_discovery(world: World, discovery: Discovery) -> list[Finding]:
    """Find out whether each service is pooled in another datacenter as well."""
    config = world.config.discovery
    if config is None:
        return []
    states = discovery.pooled(config.services)
    here = config.datacenter
    findings = []
    if unknown := sorted(name for name, at in states.items() if here not in at):
        what = f"There is no record of the datacenter {here} of {', '.join(unknown)}."
        findings.append(stop(what, "Correct reinitialize.discovery.datacenter, or take them out of its services."))
    pooled = {name: at for name, at in states.items() if at.get(here)}
    if not pooled:
        findings.append(ask(f"No service is pooled in {here}.", "Be sure that it is this cluster's own datacenter."))
    if alone := last_one(pooled, config.datacenter):
        todo = "Pool them elsewhere first, or take them out of discovery.services if they may be away."
        findings.append(stop(f"Pooled nowhere but in {config.datacenter}: {', '.join(alone)}.", todo))
    if out := sorted(set(states) - set(pooled)):
        findings.append(note(f"Not pooled in {config.datacenter}, which stays so: {', '.join(out)}."))
    return findings


def of_namespaces(world: World) -> list[Finding]:
    """Look at the managed namespaces."""
    namespaces.refuse(world.managed)
    there = set(namespaces.existing(world.cluster.api))
    findings = [note(f"Namespaces that are deleted: {', '.join(sorted(set(world.managed) & there)) or 'none'}.")]
    if missing := sorted(set(world.managed) - there):
        findings.append(
            ask(f"Managed namespaces that are not there: {', '.join(missing)}.", "See reinitialize.managed.")
        )
    findings.append(note(f"Not managed, so only in the export: {', '.join(sorted(there - set(world.managed)))}."))
    return findings
