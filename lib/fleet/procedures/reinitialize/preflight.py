"""The preflight of a re-initialisation: everything that its stages will need, looked at before anything is touched."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fleet import execution
from fleet.adapters.calico import config as calicoctl
from fleet.adapters.etcd import health, keys, members, reach
from fleet.adapters.hosts import defaults, probe, services
from fleet.adapters.hosts.services import ServiceState
from fleet.adapters.k8s.apiserver import Strange
from fleet.adapters.k8s.nodes import list_nodes
from fleet.config.certificates import Certificates
from fleet.engine.declaration import Stage
from fleet.engine.findings import Finding, Level, ask, note, stop
from fleet.engine.survey import open_runs
from fleet.execution import Unreachable
from fleet.procedures import preflight
from fleet.procedures.reinitialize import site
from fleet.procedures.reinitialize.admission import read_defaults, read_text
from fleet.procedures.reinitialize.data import is_empty
from fleet.procedures.reinitialize.machines import absent, endpoint_problems, states_of
from fleet.procedures.reinitialize.nodes import nodes_by_host
from fleet.procedures.reinitialize.parts import API_STARTS, API_STOPS, PUPPET_GOES, Edges, number
from fleet.procedures.reinitialize.world import Store, World
from fleet.steps import units
from fleet.steps.cluster import Cluster
from fleet.steps.control_plane_health import of_health
from fleet.steps.puppet import of_puppet
from fleet.text import count, verb

_REPAIR = "Repair that first."


def checks(
    world: World, edges: Edges, stages: Sequence[Stage], from_stage: int, state_dir: Path
) -> list[Callable[[], list[Finding]]]:
    """Return all looks; all of them only read.

    Args:
        world: the world.
        edges: what is asked beside hosts and the API.
        stages: all stages.
        from_stage: the number of the first one that is carried out.
        state_dir: where runs are kept.
    """
    cluster = world.cluster
    numbers = {number(stage) for stage in stages if number(stage) >= from_stage}
    first = min(numbers)
    found: list[Callable[[], list[Finding]]] = [
        partial(of_earlier_runs, cluster, state_dir),
        partial(preflight.of_alerts, cluster),
        partial(of_hosts, world, first),
        partial(of_store, world, world.new),
        partial(of_two, world),
        partial(of_reach, world),
        partial(site.of_commands, world),
        partial(of_calicoctl, world),
    ]
    has_api = not world.is_old_gone and not API_STOPS < first <= API_STARTS
    found.append(partial(preflight.of_runs, cluster, state_dir, has_api=has_api))
    if world.is_old_gone:
        found.append(partial(of_loss, world))
    if first <= API_STOPS:
        found += [partial(of_units, world), partial(of_apiservers, world)]
        found.append(partial(preflight.of_addresses, cluster, world.control_plane))
    if first <= API_STOPS and not world.is_old_gone:
        found += [partial(of_store, world, world.old), partial(of_nodes, world), partial(of_use, world)]
        found.append(partial(of_endpoints, world))
    if first > number(stages[0]):
        found.append(partial(site.of_what_was_left_out, world, edges.discovery, first))
    if 1 in numbers:
        found.append(partial(site.of_change, world))
    if first <= API_STARTS:
        found.append(partial(site.of_flags, world, first))
    if 2 in numbers:
        found.append(partial(of_emptiness, world))
    if 4 in numbers and edges.discovery:
        found.append(partial(site.of_discovery, world, edges.discovery))
    if 5 in numbers:
        found.append(partial(site.of_namespaces, world))
    return found


def of_earlier_runs(cluster: Cluster, state_dir: Path) -> list[Finding]:
    """Look for runs that have ended and left something, and for re-initialisations that are not over, held or not."""
    findings = preflight.of_held(cluster, state_dir)
    for record, held in open_runs(state_dir):
        info = record.info
        same = (info.procedure, info.cluster) == (cluster.run.procedure, cluster.name) and record.status == "stopped"
        if same and not any(state.target.name in cluster.hosts for state in held):
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


def of_endpoints(world: World) -> list[Finding]:
    """Count those that serve the API: one on a host that the configuration does not have would go on doing so."""
    found = world.cluster.api.get("/api/v1/namespaces/default/endpoints/kubernetes").get("subsets") or []
    addresses = sorted({str(it["ip"]) for subset in found for it in subset.get("addresses") or ()})
    if len(addresses) <= len(world.control_plane):
        return []
    what = f"The API is served by {', '.join(addresses)}, and hosts.control_plane has {', '.join(world.control_plane)}."
    return [stop(what, "Correct hosts.control_plane: every apiserver has to leave the old etcd.")]


def of_hosts(world: World, first: int) -> list[Finding]:
    """Ask all hosts whether they can be reached, and what their Puppet does; some workers may be away.

    Args:
        world: the world.
        first: the number of the first stage that is carried out.
    """
    away = absent(world, world.workers)
    tolerated = len(away) <= world.max_failed
    asked = [host for host in world.cluster.hosts.values() if not tolerated or host not in away]
    answers = probe.probe(world.cluster.remote, asked)
    found = [*preflight.of_ssh(answers), *of_puppet(answers)]
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
    well = f"{count(store.hosts, 'member')} {verb(store.hosts, 'is', 'are')} well"
    return [note(f"{name}: {well}, {health.leader(view)} leads.")]


def of_emptiness(world: World) -> list[Finding]:
    """Count the keys of the new etcd."""
    if is_empty(world):
        return [note(f"{world.new.name} is empty.")]
    host = world.new.asked(world.cluster)
    there = keys.count(world.cluster.remote, host, world.new.config)
    some = keys.some(world.cluster.remote, host, world.new.config, 3)
    what = f"{world.new.name} is not empty: {count(there, 'key')}, such as {', '.join(some)}."
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
    todo = "Correct etcd.endpoints (apiserver_defaults, calico.file), or run Puppet there: the rollback leads there."
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
    text = read_defaults(world, world.first).text
    files = {name: defaults.flag(text, flag) for name, flag in _FLAGS.items()}
    if not any(files.values()):
        return None
    return Certificates(**{name: Path(file or "") for name, file in files.items()})


_FLAGS = {"ca": "etcd-cafile", "cert": "etcd-certfile", "key": "etcd-keyfile"}


def _of_calico(world: World) -> Certificates | None:
    return calicoctl.parse(read_text(world, world.first, world.config.calico.file).text).certificates


def of_loss(world: World) -> list[Finding]:
    """Find out whether the old etcd is gone indeed: what answers still is what there is to go back to."""
    view = members.view(world.cluster.remote, world.old.hosts, world.old.config)
    if health.problem(view) == "":
        return [stop("The old etcd is well.", "Leave out --calico-export: there is no rollback with it.")]
    return [ask("There will be no rollback: the old etcd is taken for lost (--calico-export).", "Be sure of that.")]


def of_units(world: World) -> list[Finding]:
    """Look whether the units are there that have to be stopped: one of another name would go on."""
    away = absent(world, world.workers)
    found = states_of(world, [host for host in world.hosts if host not in away])
    findings: list[Finding] = []
    for host, its in found.items():
        needed = world.needed_units(host)
        for name, state in its.items():
            if name in needed or not _lacks(state):
                findings += _definition(world, host, name, state, "control_plane.components or bgp.unit")
    workers = [host for host in world.workers if host not in away]
    for name in (world.config.kubelet, *world.config.node_watchers):
        for host, state in services.state(world.cluster.remote, workers, name).items():
            findings += _definition(world, host, name, state, "reinitialize.kubelet or node_watchers")
    return findings


def _lacks(state: ServiceState | Unreachable) -> bool:
    return isinstance(state, ServiceState) and state.load == "not-found"


def _definition(world: World, host: str, unit: str, state: ServiceState | Unreachable, key: str) -> list[Finding]:
    if not isinstance(state, ServiceState):
        return []  # Hosts that do not answer are named elsewhere.
    return units.of_definition(world.cluster, host, unit, state, f"Correct {key}.")


def of_calicoctl(world: World) -> list[Finding]:
    """Look whether the host has calicoctl."""
    results = world.cluster.remote.run([world.first], "command -v calicoctl", timeout=execution.TIMEOUT, safe=True)
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
        todo = "Repair or delete them first: a pod there keeps its namespace from going in stage 5."
        findings.append(ask(f"NotReady: {', '.join(away)}.", todo))
    return findings
