"""Which nodes a run is about: what Cumin and Kubernetes say, brought together. Pure functions over names."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from fleet.engine.findings import Finding, note, stop
from fleet.names import Naming, known_as
from fleet.text import listed


@dataclass(frozen=True, slots=True)
class Targets:
    """The nodes that were asked for.

    Attributes:
        hosts: the host of each node.
        findings: where Cumin, Kubernetes and the operator do not agree.
    """

    hosts: Mapping[str, str]
    findings: tuple[Finding, ...] = field(default=())


def match(hosts: Collection[str], known: Collection[str], excluded: Collection[str], naming: Naming) -> Targets:
    """Match hosts with nodes.

    Args:
        hosts: what the Cumin query gave.
        known: the nodes that Kubernetes knows.
        excluded: names of hosts or nodes to leave out.
        naming: how Kubernetes names hosts.
    """
    by_node = {known_as(host, naming): host for host in sorted(hosts)}
    findings = []
    if twins := sorted(host for host in hosts if by_node[known_as(host, naming)] != host):
        findings.append(
            stop(
                f"Several hosts would be the same node: {', '.join(twins)} and others of that name.",
                "Correct the query, or the configuration's node_names.",
            )
        )
    if stray := sorted(name for name in excluded if name not in by_node and name not in hosts):
        findings.append(stop(f"--exclude names what the query does not give: {', '.join(stray)}", "Correct --exclude."))
    chosen = {node: host for node, host in by_node.items() if node not in excluded and host not in excluded}
    if missing := sorted(node for node in chosen if node not in known):
        findings.append(
            stop(
                f"Cumin gives hosts that are no nodes of the cluster: {', '.join(missing)}",
                "Correct the query or the configuration's node_names, or --exclude them.",
            )
        )
    return Targets({node: host for node, host in chosen.items() if node in known}, tuple(findings))


def compare(
    chosen: Collection[str],
    known: Collection[str],
    workers: Collection[str],
    control_plane: Collection[str],
    naming: Naming,
) -> list[Finding]:
    """Compare the chosen nodes, and all that Kubernetes knows, with the configuration's queries.

    Args:
        chosen: the nodes to be maintained.
        known: the nodes that Kubernetes knows.
        workers: the hosts of the workers' query.
        control_plane: the hosts of the control plane's query.
        naming: how Kubernetes names hosts.
    """
    masters = {known_as(host, naming) for host in control_plane}
    findings = []
    if asked := sorted(set(chosen) & masters):
        findings.append(
            stop(
                f"{listed(asked, 'belongs', 'belong')} to the control plane: this cookbook does not know whether the"
                " others could serve without it.",
                f"--exclude {','.join(asked)}.",
            )
        )
    if unknown := sorted(set(known) - masters - {known_as(host, naming) for host in workers}):
        findings.append(
            note(
                f"Kubernetes has nodes that the configuration's queries do not give: {', '.join(unknown)}.",
                "They are not maintained: correct hosts.workers if they should be.",
            )
        )
    return findings
