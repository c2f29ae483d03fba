"""The preflight: everything that can be known to go wrong, looked for before anything is touched.

All of it is read-only, and all findings are told at once.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import cast

from fleet import execution
from fleet.adapters import locks
from fleet.adapters.hosts.probe import HostState
from fleet.adapters.k8s import access, lock, nodes, rights
from fleet.adapters.k8s.access import Right
from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.model import Node
from fleet.clock import Threads
from fleet.engine import decide, folders
from fleet.engine.findings import Finding, Found, Level, ask, merged, note, stop, unread
from fleet.engine.model import Absent, Limits, Observation, Stage, Target, TargetState
from fleet.engine.survey import in_doubt, open_runs
from fleet.errors import FleetError
from fleet.execution import Unreachable
from fleet.procedures.availability import NODES, absent
from fleet.steps.at_most_once import other_machine
from fleet.steps.base import HostStep
from fleet.steps.cluster import Cluster
from fleet.steps.look import Look
from fleet.steps.scope import Group, Scope
from fleet.text import count

_CLOCKS_DIFFER, _CLOCKS_ARE_WRONG = 5.0, 60.0
"""Seconds between two clocks: what is worth a note, and what has to be agreed to."""

Check = Callable[[], list[Finding]]
"""A look at one thing."""


def examine(
    cluster: Cluster, units: Sequence[Target], limits: Limits, state_dir: Path, steps: Sequence[object]
) -> Found:
    """Look at everything that a maintenance of nodes will need, at the same time.

    Args:
        cluster: the cluster, with the hosts that are to be maintained.
        units: the nodes in their order.
        limits: how many at once.
        state_dir: where runs are kept.
        steps: the steps that each node goes through.
    """
    look, known = Look(cluster), cluster.nodes.snapshot()
    label = cluster.config.domain_label
    checks: list[Check] = [
        lambda: of_api(cluster.api, len(known)),
        lambda: of_clock(cluster.api),
        lambda: of_nodes(known, units, label, cluster.run.id),
        lambda: of_limits(units, limits, absent(known, label)),
        lambda: of_runs(cluster, state_dir),
        lambda: of_hosts(cluster, look),
        lambda: of_alerts(cluster),
    ]
    return with_steps(checks, steps, look)


def with_steps(checks: Sequence[Check], steps: Iterable[object], look: Look) -> Found:
    """Look at everything at the same time: also whether the API grants what the steps need, and what each looks at.

    Args:
        checks: what else to look at.
        steps: the steps; one that wraps another brings what that brings.
        look: what their preflights share.
    """
    scope = look.scope
    those = [own for own in map(unwrapped, steps) if own]
    found: dict[int, Found] = {}

    def ask_step(number: int) -> list[Finding]:
        found[number] = those[number].preflight(look)
        return list(found[number].findings)

    everything: list[Check] = [
        *checks,
        *((partial(of_needed, scope, those),) if isinstance(scope, Cluster) else ()),
        *(partial(ask_step, number) for number in range(len(those))),
    ]
    findings = carry_out(everything, scope.cancel, scope.threads)
    return merged([Found(tuple(findings)), *(found[number] for number in sorted(found))])


def unwrapped(step: object) -> HostStep | None:
    """Return the step that brings a preflight: what is wrapped, or itself; None if there is none."""
    while step is not None and not isinstance(step, HostStep):
        step = getattr(step, "wraps", None)
    return step


def carry_out(checks: Sequence[Check], cancel: threading.Event, threads: Threads) -> list[Finding]:
    """Look at everything at the same time; what could not be looked at is a finding as well.

    Args:
        checks: what to look at.
        cancel: set if the operator does not wait for the end: looks that take long heed it.
        threads: where to look.
    """
    answers: queue.SimpleQueue[tuple[int, list[Finding] | BaseException]] = queue.SimpleQueue()

    def look(number: int) -> None:
        try:
            answers.put((number, checks[number]()))
        except FleetError as error:
            answers.put((number, [unread(error)]))
        except BaseException as error:
            answers.put((number, error))

    found: dict[int, list[Finding]] = {}
    try:
        for number in range(len(checks)):
            threads.start(partial(look, number), "preflight")
        while len(found) < len(checks):
            number, answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            found[number] = answer
    except BaseException:
        cancel.set()
        raise
    return [finding for number in sorted(found) for finding in found[number]]


def of_api(api: Api, nodes_known: int) -> list[Finding]:
    """Ask the API server for its version, and whether it is healthy."""
    findings = [note(f"Kubernetes {api.version()}, {count(nodes_known, 'node')}.")]
    if failing := api.not_ready():
        findings.append(stop(f"The API server is not ready: {failing}.", "Repair the control plane first."))
    return findings


def of_clock(api: Api) -> list[Finding]:
    """Compare this host's clock with the API server's: silences and reports have times by ours."""
    ahead = api.clock_difference()
    if ahead is None or abs(ahead) < _CLOCKS_DIFFER:
        return []
    what = f"The clock of this host is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the API server's."
    todo = "Correct whichever is wrong (NTP): silences would end, and reports be dated, by this one."
    return [ask(what, todo) if abs(ahead) >= _CLOCKS_ARE_WRONG else note(what, todo)]


def of_needed(cluster: Cluster, steps: Iterable[HostStep]) -> list[Finding]:
    """Ask the API for the rights of a run with these steps."""
    needed = (*rights.of_lease(cluster.config.lease), *rights.FOLLOW_NODES, *(r for own in steps for r in own.rights))
    return of_rights(cluster, dict.fromkeys(needed))


def of_rights(cluster: Cluster, needed: Iterable[Right]) -> list[Finding]:
    """Ask the API which of the rights that the run needs it would not grant."""
    findings = []
    for purpose, those in access.by_purpose(access.missing(cluster.api, needed, cluster.threads)).items():
        what = f"The user of {cluster.config.kubeconfig} may not {purpose}."
        todo = f"Add to its {'; '.join(access.rules(those))} (config/kubernetes-rbac.yaml has it)."
        is_vital = any(right.vital for right in those)
        findings.append(stop(what, todo) if is_vital else ask(what, f"{todo} If you continue, that is not looked at."))
    return findings


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Sort findings by how bad they are."""
    return sorted(findings, key=lambda finding: list(Level).index(finding.level))


def of_nodes(known: Mapping[str, Node], units: Sequence[Target], domain_label: str, run: str) -> list[Finding]:
    """Look at the state of all nodes of the cluster."""
    findings = []
    targets = {unit.name for unit in units}
    for node in known.values():
        owner = nodes.ownership(node)
        kept = owner is not None and not owner.given_up and owner.run != run
        if owner and kept and node.unschedulable:
            findings.append(
                stop(
                    f"{node.name} is under the maintenance of run {owner.run} ({owner.operator}: {owner.reason}).",
                    f"Finish that first (fleet runs show {owner.run}), or --exclude {node.name}.",
                )
                if node.name in targets
                else note(
                    f"{node.name} is kept cordoned by run {owner.run}: it counts as unavailable, and its domain as"
                    " worked on."
                )
            )
        elif node.unschedulable:
            who = f"given up by run {owner.run}" if owner and owner.given_up else "cordoned by someone else"
            if node.name in targets:
                findings.append(note(f"{node.name} was {who}: it will be done, and stay cordoned."))
            elif node.ready:
                domain = node.labels.get(domain_label) or "of its own"
                findings.append(
                    ask(
                        f"{node.name} (domain {domain}) was {who}, and is Ready: it counts as unavailable, its domain"
                        " does not count as worked on.",
                        f"Find out whether somebody works there: kubectl describe node {node.name}.",
                    )
                )
            else:
                findings.append(note(f"{node.name} was {who}: it counts as unavailable."))
        if not node.ready and node.name in targets:
            findings.append(stop(f"{node.name} is NotReady.", f"Repair it, or --exclude {node.name}."))
        elif not node.ready:
            findings.append(note(f"{node.name} is NotReady; it counts as unavailable and its domain as degraded."))
    if unlabelled := sorted(name for name in targets if not known[name].labels.get(domain_label)):
        findings.append(
            ask(
                f"No failure domain is known of {', '.join(unlabelled)}: they count as one domain of their own.",
                f"Label them with {domain_label}, or correct domain_label in the configuration.",
            )
        )
    return findings


def of_limits(units: Sequence[Target], limits: Limits, gone: Mapping[str, Absent]) -> list[Finding]:
    """Find out whether anything could start at all, by asking the engine itself."""
    stage = Stage(NODES, tuple(units), (), limits)
    progress = decide.Progress({unit.name: TargetState(unit) for unit in units})
    decision = decide.decide(stage, progress, Observation(gone), 0.0)
    if not units or any(isinstance(action, decide.Start) for action in decision.actions):
        return []
    return [
        stop(
            f"Nothing can start: {decision.blocked}.",
            "Give back or repair what others left, or raise --max-unavailable.",
        )
    ]


def of_runs(scope: Scope, state_dir: Path, *, has_api: bool = True) -> list[Finding]:
    """Look for other runs on the scope: alive ones, by its lock, and ones that left something behind.

    The place where this one is going to be kept is looked at as well.

    Args:
        scope: the scope.
        state_dir: where runs are kept.
        has_api: whether a cluster's API can be asked who holds its Lease.
    """
    findings = []
    if problem := folders.problem(state_dir):
        findings.append(stop(f"{problem}.", "Make room there, or correct state_dir in the configuration."))
    runs = open_runs(state_dir)
    dead = [record.info.id for record, _ in runs if record.status == "interrupted"]
    if isinstance(scope, Group):
        holder = locks.group_holder(scope.lock_store, scope.name, dead=dead) if scope.lock_store else ""
    else:
        holder = _lease_holder(cast(Cluster, scope), dead) if has_api else ""
    if holder:
        findings.append(stop(f"{scope.name} is being worked on by {holder}.", "Wait until it is done."))
    for run in in_doubt(state_dir, scope.name):
        findings.append(
            stop(
                f"Run {run.folder.name} may have something in flight: {run.why}.",
                "Make it readable, then resume or abort it; or look at the hosts, then:"
                f" fleet runs discard {run.folder.name} -r REASON",
            )
        )
    for record, left in runs:
        if record.info.cluster == scope.name and record.status == "interrupted" and record.info.id != scope.run.id:
            names = ", ".join(state.target.name for state in left) or "nothing"
            again = f"cookbook {record.info.procedure}"
            findings.append(
                stop(
                    f"Run {record.info.id} was interrupted; in flight: {names}.",
                    f"{again} --resume {record.info.id}, or {again} --abort {record.info.id}",
                )
            )
    return findings


def _lease_holder(cluster: Cluster, dead: Sequence[str]) -> str:
    """Return who holds the Lease; that of a dead run ends by itself, or the run that is resumed has it at once."""
    return lock.taken_by(
        cluster.api,
        cluster.config.lease,
        seen=cluster.lease_seen,
        clock=cluster.clock,
        dead=dead,
        is_over=cluster.cancel.is_set,
    )


def of_held(scope: Scope, state_dir: Path) -> list[Finding]:
    """Look for runs that have ended, and have left hosts of this one held; nodes say so themselves."""
    findings = []
    for record, left in open_runs(state_dir):
        names = ", ".join(state.target.name for state in left if state.target.name in scope.hosts)
        if names and record.info.cluster == scope.name and record.status == "stopped":
            again = f"cookbook {record.info.procedure}"
            findings.append(
                stop(
                    f"Run {record.info.id} holds {names}.",
                    f"{again} --resume {record.info.id}, or {again} --abort {record.info.id}",
                )
            )
    return findings


def of_hosts(cluster: Cluster, look: Look) -> list[Finding]:
    """Look whether all hosts can be reached, and are the machines that Kubernetes knows."""
    findings = []
    silent: dict[str, list[str]] = {}
    for node, host in cluster.hosts.items():
        answer = look.hosts()[host]
        if not isinstance(answer, HostState):
            silent.setdefault(answer.reason, []).append(host)
        elif problem := other_machine(cluster.node(node), answer.boot_id):
            findings.append(stop(f"{problem}.", f"Find out which, or --exclude {node}."))
    for reason, hosts in silent.items():
        names = ",".join(sorted(hosts))
        findings.append(stop(f"No answer over SSH from {names}: {reason}", f"Repair them, or --exclude {names}."))
    return findings


def of_ssh(answers: Mapping[str, HostState | Unreachable]) -> list[Finding]:
    """Return which hosts that are not looked at as nodes cannot be reached."""
    return [
        stop(f"No answer over SSH from {host}: {answer.reason}", "Repair it first.")
        for host, answer in answers.items()
        if not isinstance(answer, HostState)
    ]


def of_addresses(cluster: Cluster, hosts: Sequence[str]) -> list[Finding]:
    """Look whether configured addresses of apiservers are those of their hosts: others would answer for them."""
    named = {host: address for host, address in cluster.config.control_plane.addresses.items() if host in hosts}
    if not named:
        return []
    results = cluster.remote.run(list(named), "hostname --all-ip-addresses", timeout=execution.TIMEOUT, safe=True)
    findings = []
    for host, result in results.items():
        own = {ip_address(word) for word in result.output.split()} if result.ok else {named[host]}
        if named[host] not in own:
            what = f"{named[host]} is no address of {host}, which has {', '.join(sorted(map(str, own)))}."
            findings.append(stop(what, "Correct control_plane.addresses."))
    return findings


def of_alerts(scope: Scope) -> list[Finding]:
    """Ask Alertmanager for alerts of the hosts."""
    ignored = set(scope.config.alerts.ignore)
    firing: dict[str, list[str]] = {}
    for alert in scope.silences.alerts(list(scope.hosts.values())):
        if alert.name not in ignored:
            firing.setdefault(alert.name, []).append(alert.host)
    return [
        ask(
            f"The alert {name} is firing for {', '.join(sorted(set(hosts)))}.",
            "Look into it first; if you continue, it is not waited for.",
        )
        for name, hosts in sorted(firing.items())
    ]
