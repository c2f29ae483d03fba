"""Asks what is around a cluster whether it answers: its hosts, routers, Alertmanager, load balancer, spicerack's lock.

Nothing is changed: commands on hosts only look, and spicerack is made for a dry-run. Every question has the deadline
that it has in a run.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from spicerack import Spicerack

from fleet import execution
from fleet.adapters import locks
from fleet.adapters.alertmanager.silence_model import Silence
from fleet.adapters.alertmanager.silences import Silences
from fleet.adapters.bgp.errors import RouterError
from fleet.adapters.bgp.junos import Routers
from fleet.adapters.bgp.summary import Summary
from fleet.adapters.hosts.remote import Remote
from fleet.adapters.load_balancer.connect import connect
from fleet.adapters.load_balancer.model import LoadBalancer
from fleet.clock import CLOCK, THREADS
from fleet.config.file import ConfigError, read_yaml
from fleet.config.model import ClusterConfig, GroupConfig, ScopeConfig
from fleet.errors import FleetError
from fleet.execution import Runner
from fleet.text import line

Check = Callable[[], Iterator[str]]
"""Yields a line for each mistake, which begins with the key that it is about."""
_NEEDS = {
    "hosts.workers": ("reboot-host", "run-puppet-agent"),
    "hosts.control_plane": ("systemctl", "disable-puppet", "enable-puppet"),
    "etcd.hosts": ("systemctl", "etcdctl", "disable-puppet", "enable-puppet"),
    "control_plane.load_balancer.haproxy.hosts": ("socat",),
    "hosts": ("systemctl", "reboot-host", "run-puppet-agent", "disable-puppet", "enable-puppet"),
}
"""The programs that runs need on the hosts of each query; the last is that of a group."""
_MOST_NAMED = 5
_ROOM = 64 << 20
"""Bytes that the journals, logs and exports of a run may take."""


class Hosts(Runner, Protocol):
    """Hosts over SSH."""

    def query(self, query: str) -> list[str]:
        """Return the hosts that a Cumin query finds."""


class Asked(Protocol):
    """What is asked of Alertmanager."""

    @property
    def unasked(self) -> str:
        """Which members could not be asked, where the others suffice."""

    def find(self, *, comment_contains: str) -> list[Silence]:
        """Return silences."""


class Sessions(Protocol):
    """What is asked of the routers."""

    def summaries(self) -> Mapping[str, Summary | RouterError]:
        """Return what each says of its sessions."""


def spicerack(path: Path) -> Spicerack:
    """Return spicerack as its configuration wants it, for a dry-run.

    Raises:
        ConfigError: its configuration cannot be used.
    """
    params = read_yaml(path).get("instance_params") or {}
    try:
        if not isinstance(params, dict):
            raise TypeError("instance_params must be a mapping of keys to values")
        return Spicerack(verbose=False, dry_run=True, **{k: v for k, v in params.items() if k != "extender_class"})
    except Exception as error:  # It raises what the libraries below it raise.
        raise ConfigError(f"{path}: spicerack does not take it: {line(error)}") from error


def checks(cluster: ClusterConfig, runner: Spicerack) -> Sequence[Check]:
    """Return what is asked around a cluster.

    Args:
        cluster: its configuration.
        runner: spicerack, for a dry-run.
    """
    found = [
        partial(keyed, "alerts", lambda: of_alertmanager(_silences(cluster, runner))),
        *(partial(keyed, key, partial(_on_hosts, cluster, runner, key, query)) for key, query in queries(cluster)),
    ]
    if cluster.bgp:
        found.append(partial(keyed, "bgp.routers", partial(_of_routers, cluster, runner)))
    if cluster.control_plane.load_balancer != type(cluster.control_plane.load_balancer)():
        found.append(partial(keyed, "control_plane.load_balancer", partial(_of_balancer, cluster, runner)))
    return found


def group_checks(group: GroupConfig, runner: Spicerack) -> Sequence[Check]:
    """Return what is asked around a group of hosts.

    Args:
        group: its configuration.
        runner: spicerack, for a dry-run.
    """
    return (
        partial(keyed, "alerts", lambda: of_alertmanager(_silences(group, runner))),
        partial(keyed, "hosts", partial(_on_hosts, group, runner, "hosts", group.hosts)),
    )


def of_lock(runner: Spicerack) -> Iterator[str]:
    """Ask the etcd of spicerack's lock."""
    try:
        locks.check(runner)
    except FleetError as error:
        yield str(error)


def of_state_dir(folder: Path) -> Iterator[str]:
    """Look whether there is room for journals where runs are kept."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < _ROOM:
        yield f"state_dir: {existing} has {free >> 20} MiB free, and a run may need {_ROOM >> 20}: make room"


def keyed(key: str, check: Check) -> Iterator[str]:
    """Return the mistakes that a check finds, each with its key; that it cannot be carried out is one as well."""
    try:
        yield from (f"{key}{found}" if found.startswith(".") else f"{key}: {found}" for found in check())
    except FleetError as error:
        yield f"{key}: {line(error)}"


def queries(cluster: ClusterConfig) -> Iterator[tuple[str, str]]:
    """Return the queries whose hosts are asked, by their keys."""
    yield "hosts.workers", cluster.hosts.workers
    yield "hosts.control_plane", cluster.hosts.control_plane
    if cluster.etcd:
        yield "etcd.hosts", cluster.etcd.hosts
    if haproxy := cluster.control_plane.load_balancer.haproxy:
        yield "control_plane.load_balancer.haproxy.hosts", haproxy.hosts


def of_alertmanager(silences: Asked) -> Iterator[str]:
    """Ask every member for silences."""
    silences.find(comment_contains="fleet config check")
    if silences.unasked:
        yield silences.unasked


def of_routers(routers: Sessions) -> Iterator[str]:
    """Log in to every router, and ask for its sessions."""
    for name, said in routers.summaries().items():
        if isinstance(said, RouterError):
            yield f".{name}: {line(said)}"


def of_hosts(remote: Runner, hosts: Sequence[str], programs: Sequence[str]) -> Iterator[str]:
    """Ask hosts over SSH whether they have the programs that runs need there."""
    command = "for program in {}; do command -v $program >/dev/null || echo lacks:$program; done; echo asked".format(
        " ".join(programs)
    )
    alike: dict[str, list[str]] = {}
    for host, said in remote.run(hosts, command, timeout=execution.TIMEOUT, safe=True).items():
        words = said.output.split()
        missing = [word.removeprefix("lacks:") for word in words if word.startswith("lacks:")]
        if said.exit_code is None or "asked" not in words:
            why = line(said.output or "nothing was said").replace(host, "…")
            alike.setdefault(f"no answer over SSH: {why}", []).append(host)
        elif missing:
            alike.setdefault(f"no {', '.join(missing)} in PATH: config/hosts has what is this project's", []).append(
                host
            )
    for why, names in alike.items():
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        yield f"{', '.join(names[:_MOST_NAMED])}{more}: {why}"


def of_balancer(balancer: LoadBalancer | None, hosts: Sequence[str]) -> Iterator[str]:
    """Ask the load balancer for the servers of the control plane."""
    if balancer:
        balancer.states(hosts)  # What one of them does not know, or does not answer, is raised.
    yield from ()


def _silences(cluster: ScopeConfig, runner: Spicerack) -> Silences:
    alerts = cluster.alerts
    return Silences.from_spicerack(runner, instance=alerts.instance, label=alerts.label, clock=CLOCK, threads=THREADS)


def _on_hosts(cluster: ScopeConfig, runner: Spicerack, key: str, query: str) -> Iterator[str]:
    remote = Remote(runner)
    needs = [name for name in _NEEDS[key] if cluster.puppet.enabled or "puppet" not in name]
    return of_hosts(remote, remote.query(query), needs)


def _of_routers(cluster: ClusterConfig, _runner: Spicerack) -> Iterator[str]:
    if cluster.bgp is None:
        return
    routers = Routers(cluster.bgp)
    try:
        yield from of_routers(routers)
    finally:
        routers.close()


def _of_balancer(cluster: ClusterConfig, runner: Spicerack) -> Iterator[str]:
    remote = Remote(runner)
    balancer = connect(cluster.control_plane.load_balancer, remote, runner)
    return of_balancer(balancer, remote.query(cluster.hosts.control_plane))
