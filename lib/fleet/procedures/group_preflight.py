"""What the preflight of a group of hosts looks at, beside what it looks at for all."""

from collections.abc import Collection, Iterator

from fleet.config.queries import queries
from fleet.engine.findings import Finding, ask, note, stop
from fleet.steps.scope import Group
from fleet.steps.serving import Away


def of_lock(group: Group) -> list[Finding]:
    """Return whether there is a place for the group's lock."""
    if group.lock_store is not None:
        return []
    what = "Nothing keeps another run away from these hosts: spicerack has no etcd for locks, or --no-locks was given."
    return [
        ask(what, "See etcd_config in spicerack's config.yaml. If you continue, make sure that nobody else starts one.")
    ]


def of_away(group: Group, gone: Away, answering: Collection[str]) -> list[Finding]:
    """Return which hosts do not serve.

    Args:
        group: the group.
        gone: why each that does not serve does not.
        answering: the targets that answer over SSH; another look names the others.
    """
    findings = []
    for host, why in sorted(gone.items()):
        if host in group.hosts and host not in answering:
            continue
        if host in group.hosts:
            todo = "If you continue, it is taken all the same, and has to serve afterwards."
            findings.append(ask(f"{host} does not serve: {why}.", todo))
        else:
            findings.append(note(f"{host} does not serve: {why}. It counts as unavailable, its domain as degraded."))
    return findings


def of_domains(group: Group) -> list[Finding]:
    """Return which targets have no failure domain."""
    if not group.config.domains:
        return [note("The group has no file with failure domains: its hosts count as one domain.")]
    missing = sorted(host for host in group.hosts if not group.run.options["domains"].get(host))
    if not missing:
        return []
    what = f"No failure domain is known of {', '.join(missing)}: they count as one domain of their own."
    return [ask(what, f"Add them to {group.config.domains}.")]


_OWNERS = {
    "hosts.workers": ("workers", "cookbook sre.k8s.reboot-nodes, or sre.k8s.restart-calico"),
    "hosts.control_plane": ("control-plane hosts", "cookbook sre.k8s.restart-control-plane"),
    "control_plane.load_balancer.haproxy.hosts": ("load balancers", "by hand, one at a time"),
    "etcd.hosts": ("members of etcd", "cookbook sre.etcd.restart"),
}
"""What the hosts of a cluster's queries are, and what is for them."""
_OTHER_ETCD = ("members of etcd", "cookbook sre.etcd.restart, once it is the cluster's etcd")


def of_owners(group: Group) -> list[Finding]:
    """Return which hosts belong to a configured cluster: what is done here knows nothing of pods and quorums."""
    return [stop(f"{what}.", f"Use what is for them: {instead}.") for what, instead in owners(group, group.hosts)]


def owners(group: Group, hosts: Collection[str]) -> Iterator[tuple[str, str]]:
    """Return what hosts are to a configured cluster, and what is for them instead."""
    for name, config in group.clusters.items():
        for key, query in queries(config):
            if both := sorted(set(group.remote.query(query)) & set(hosts)):
                what, instead = _OWNERS.get(key, _OTHER_ETCD)
                yield f"{name} has {', '.join(both)} among its {what}", instead
