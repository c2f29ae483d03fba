"""Checks all files that a run reads, and what they point to; changes nothing.

Every mistake is a line: the file, the key and what is wrong with it. Nothing is asked of clusters and Alertmanagers:
that is the business of a run's preflight. Cumin's queries are carried out, as that is the only way to know that they
are right; backends such as PuppetDB are asked.
"""

import inspect
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cumin
import etcd
from cumin.query import Query
from spicerack import Spicerack

from fleet.adapters.alertmanager.alertmanager import find_instance
from fleet.adapters.bgp import known_hosts
from fleet.config import consistency
from fleet.config.domains import read_domains
from fleet.config.file import ConfigError, read_yaml
from fleet.config.loading import load
from fleet.config.model import BgpConfig, Config, ConftoolConfig, GroupConfig, ScopeConfig
from fleet.config.queries import queries
from fleet.config.reinitialize import DiscoveryConfig
from fleet.errors import FleetError
from fleet.text import count, line, short, verb

_CUMIN_CONFIG = "/etc/cumin/config.yaml"
"""What spicerack uses when ``instance_params`` does not name another one."""


def check(path: Path, spicerack_config: Path | None = None) -> list[str]:
    """Check this project's configuration and the files beside it.

    Args:
        path: this project's configuration.
        spicerack_config: spicerack's ``config.yaml``; by default the one two folders up, if there is one.

    Returns:
        A line for each mistake; none if all is well.
    """
    spicerack_config = spicerack_beside(path, spicerack_config)
    mistakes = []
    config = None
    try:
        config = load(path)
    except ConfigError as error:
        mistakes += str(error).splitlines()
    if config:
        mistakes += [f"{path}: {line}" for line in _state_dir(config.state_dir)]
        for name, cluster in config.clusters.items():
            lines = _routers(cluster.bgp) if cluster.bgp else ()
            mistakes += [f"{path}: clusters.{name}.bgp.{line}" for line in lines]
            conftool = cluster.control_plane.load_balancer.conftool
            lines = _conftool(conftool) if conftool else ()
            mistakes += [f"{path}: clusters.{name}.control_plane.load_balancer.conftool.{line}" for line in lines]
            discovery = cluster.reinitialize.discovery if cluster.reinitialize else None
            lines = _conftool(discovery) if discovery else ()
            mistakes += [f"{path}: clusters.{name}.reinitialize.discovery.{line}" for line in lines]
        for name, group in config.groups.items():
            mistakes += [f"{path}: groups.{name}.domains: {line}" for line in _domains(group)]
    mistakes += [f"{path}: {line}" for line in _kubeconfigs(_named_kubeconfigs(path))]
    if spicerack_config:
        try:
            mistakes += _Spicerack(spicerack_config).check(path, config)
        except ConfigError as error:
            mistakes.append(str(error))
    return mistakes


def spicerack_beside(path: Path, given: Path | None = None) -> Path | None:
    """Return spicerack's configuration: the one that is given, or the one two folders up, if there is one."""
    beside = path.absolute().parent.parent / "config.yaml"
    return given or (beside if beside.exists() else None)


def _state_dir(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        mode = stat.S_IMODE(folder.stat().st_mode)
        if mode & 0o077:
            yield f"state_dir: {folder} can be read by others (mode {mode:04o}): chmod 0700 {folder}"
        if not os.access(folder, os.W_OK | os.X_OK):
            yield f"state_dir: {folder} cannot be written to by this user"
        return
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        yield f"state_dir: {existing} is no folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield f"state_dir: {folder} does not exist, and this user cannot create it in {existing}"


def _named_kubeconfigs(path: Path) -> dict[str, Path]:
    """Return the kubeconfigs of clusters by their keys, whatever else is wrong with the file."""
    try:
        clusters = read_yaml(path).get("clusters")
    except ConfigError:
        return {}
    named = clusters.items() if isinstance(clusters, dict) else ()
    found = {}
    for name, cluster in named:
        if isinstance(cluster, dict):
            found[f"clusters.{name}.kubeconfig"] = cluster.get("kubeconfig")
            section = cluster.get("reinitialize")
            found[f"clusters.{name}.reinitialize.kubeconfig"] = (
                section.get("kubeconfig") if isinstance(section, dict) else None
            )
    return {key: Path(value) for key, value in found.items() if isinstance(value, str) and value.startswith("/")}


def _kubeconfigs(kubeconfigs: dict[str, Path]) -> Iterator[str]:
    servers: dict[str, str] = {}
    for key, path in kubeconfigs.items():
        try:
            data = read_yaml(path)
            mode = stat.S_IMODE(path.stat().st_mode)
        except ConfigError as error:
            yield f"{key}: {error}"
            continue
        if mode & 0o007:
            yield f"{key}: {path} can be read by everybody (mode {mode:04o}): chmod o-rwx {path}"
        if data.get("kind", "Config") != "Config" or not data.get("clusters"):
            yield f"{key}: {path} is no kubeconfig: it has no clusters"
        elif not data.get("current-context"):
            yield f"{key}: {path} has no current-context: kubectl config use-context --kubeconfig {path} CONTEXT"
        elif server := _server(data):
            other = servers.setdefault(server, key)
            if _cluster_of(other) != _cluster_of(key):
                yield f"{key}: leads to {server}, as {other} does: each cluster has its own API"


def _cluster_of(key: str) -> str:
    return key.removesuffix(".kubeconfig").removesuffix(".reinitialize")


def _server(kubeconfig: dict[str, object]) -> str:
    """Return the API that a kubeconfig's current context leads to; nothing if it cannot be told."""

    def named(kind: str, name: object) -> dict[str, object]:
        entries = kubeconfig.get(f"{kind}s")
        found = [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
        value = next((one.get(kind) for one in found if one.get("name") == name), None)
        return value if isinstance(value, dict) else {}

    context = named("context", kubeconfig.get("current-context"))
    return str(named("cluster", context.get("cluster")).get("server") or "")


def _routers(bgp: BgpConfig) -> Iterator[str]:
    """Look at what the routers are to be asked with, and at whether they would be recognised."""
    for key, path in (("ssh_key", bgp.ssh_key), ("password_file", bgp.password_file)):
        if path is None:
            continue
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            if not path.read_bytes().partition(b"\n")[0].strip():
                yield f"{key}: the first line of {path} is empty"
        except OSError as error:
            yield f"{key}: {path} cannot be read: {error.strerror}"
            continue
        if mode & 0o077:
            yield f"{key}: {path} can be read by others (mode {mode:04o}): chmod 0600 {path}"
    for name, router in bgp.routers.items():
        host = router.address or name
        try:
            keys = known_hosts.keys_of(bgp.known_hosts, host, router.port)
        except FleetError as error:
            yield f"known_hosts: {error}"
            return
        if not known_hosts.usable(keys):
            lacks = "only ssh-rsa of" if keys else "no key of"
            yield f"known_hosts: {bgp.known_hosts} has {lacks} {name}: ssh-keyscan -p {router.port} {host}"


def _conftool(config: ConftoolConfig | DiscoveryConfig) -> Iterator[str]:
    """Look at the files of conftool, and at the one with the parameters of its etcd client."""
    for key, path in (("config_file", config.config_file), ("schema_file", config.schema_file)):
        try:
            data = read_yaml(path)
        except ConfigError as error:
            yield f"{key}: {error}"
            continue
        options = data.get("driver_options") if key == "config_file" else None
        if isinstance(options, dict) and (etcdrc := options.get("etcd_config_file")):
            try:
                yield from (f"{key}: {line}" for line in _etcd_client(Path(str(etcdrc))))
            except ConfigError as error:
                yield f"{key}: driver_options.etcd_config_file: {error}"


def _etcd_client(path: Path) -> Iterator[str]:
    known = inspect.signature(etcd.Client).parameters
    return (f"{path}: {key}: there is no such key" for key in read_yaml(path) if key not in known)


class _Spicerack:
    """Spicerack's configuration, and the files that it names."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = read_yaml(path)
        params = self._data.get("instance_params") or {}
        if not isinstance(params, dict):
            raise ConfigError(f"{path}: instance_params: must be a mapping of keys to values")
        self._params = params

    def check(self, fleet_path: Path, config: Config | None) -> Iterator[str]:
        """Return the mistakes in spicerack's files and in what ``config`` wants of them."""
        yield from (f"{self._path}: {line}" for line in self._check_own())
        yield from self._check_locks()
        yield from self._check_alertmanager(fleet_path, config)
        yield from self._check_cumin(fleet_path, config)

    def _check_own(self) -> Iterator[str]:
        folders = self._data.get("cookbooks_base_dirs")
        if not isinstance(folders, list) or not folders:
            yield "cookbooks_base_dirs: must be a list of folders"
            folders = []
        for folder in folders:
            if not (Path(str(folder)).expanduser() / "cookbooks").is_dir():
                yield f"cookbooks_base_dirs: {folder} has no folder cookbooks"
        if not isinstance(self._data.get("logs_base_dir"), str):
            yield "logs_base_dir: is missing"
        for key in self._params:
            if key not in inspect.signature(Spicerack).parameters:
                yield f"instance_params.{key}: there is no such key"

    def _check_locks(self) -> Iterator[str]:
        path = self._params.get("etcd_config")
        if not path:
            return
        try:
            yield from _etcd_client(Path(str(path)))
        except ConfigError as error:
            yield str(error)

    def _check_alertmanager(self, fleet_path: Path, config: Config | None) -> Iterator[str]:
        path = Path(str(self._params.get("spicerack_config_dir") or "/etc/spicerack")) / "alertmanager" / "config.yaml"
        try:
            data = read_yaml(path)
        except ConfigError as error:
            yield str(error)
            return
        wanted = {"": ""} if config is None else {scope.alerts.instance: key for key, scope in _scopes(config).items()}
        for instance, key in wanted.items():
            try:
                find_instance(data, instance)
            except ValueError as error:
                asked = f" (asked for in {fleet_path}: {key}.alerts.instance)" if instance else ""
                yield f"{path}: {error}{asked}"

    def _check_cumin(self, fleet_path: Path, config: Config | None) -> Iterator[str]:
        path = str(self._params.get("cumin_config") or _CUMIN_CONFIG)
        aliases_path = Path(path).parent / "aliases.yaml"
        try:
            read_yaml(Path(path))
            aliases = read_yaml(aliases_path) if aliases_path.exists() else {}
        except ConfigError as error:
            yield str(error)
            return
        try:
            cumin_config = cumin.Config(path)
        except cumin.CuminError as error:
            yield f"{path}: Cumin does not take it: {line(error)}"
            return
        for alias in aliases:
            try:
                Query(cumin_config).execute(f"A:{alias}")
            except Exception as error:  # backends raise what their libraries raise
                yield f"{aliases_path}: {alias}: Cumin does not take it: {line(error)}"
        clusters: dict[str, dict[str, frozenset[str]]] = {}
        for name, cluster in config.clusters.items() if config else ():
            clusters[name] = {}
            for key, query in queries(cluster):
                place = f"{fleet_path}: clusters.{name}.{key}"
                try:
                    found = frozenset(map(str, Query(cumin_config).execute(query)))
                except Exception as error:
                    yield f"{place}: Cumin does not find hosts with {short(query)}: {line(error)}"
                    continue
                clusters[name][key] = found
                if not found:
                    yield f"{place}: {query!r} finds no host"
            workers, limit = clusters[name].get("hosts.workers"), cluster.limits.max_unavailable
            if workers and isinstance(limit, int) and limit > len(workers):
                yield (
                    f"{fleet_path}: clusters.{name}.limits.max_unavailable: {limit} is more than the"
                    f" {count(workers, 'worker')} that there {verb(workers, 'is', 'are')}"
                )
        yield from (f"{fleet_path}: {mistake}" for mistake in consistency.overlaps(clusters))
        hosts: dict[str, frozenset[str]] = {}
        for name, group in config.groups.items() if config else ():
            place = f"{fleet_path}: groups.{name}"
            try:
                hosts[name] = frozenset(map(str, Query(cumin_config).execute(group.hosts)))
            except Exception as error:
                yield f"{place}.hosts: Cumin does not find hosts with {short(group.hosts)}: {line(error)}"
                continue
            yield from (f"{place}.{mistake}" for mistake in _of_group(group, hosts[name]))
        yield from (f"{fleet_path}: {mistake}" for mistake in consistency.group_overlaps(hosts, clusters))


def _scopes(config: Config) -> dict[str, ScopeConfig]:
    """Return all scopes by their keys."""
    clusters = {f"clusters.{name}": cluster for name, cluster in config.clusters.items()}
    return {**clusters, **{f"groups.{name}": group for name, group in config.groups.items()}}


def _domains(group: GroupConfig) -> Iterator[str]:
    try:
        read_domains(group.domains) if group.domains else {}
    except ConfigError as error:
        yield str(error)


def _of_group(group: GroupConfig, hosts: frozenset[str]) -> Iterator[str]:
    """Return what does not fit the hosts that a group has."""
    if not hosts:
        yield f"hosts: {group.hosts!r} finds no host"
    limit = group.limits.max_unavailable
    if hosts and isinstance(limit, int) and limit > len(hosts):
        there = f"{count(hosts, 'host')} that there {verb(hosts, 'is', 'are')}"
        yield f"limits.max_unavailable: {limit} is more than the {there}"
    with suppress(ConfigError):  # which is among the mistakes
        domains = read_domains(group.domains) if group.domains else {}
        if domains and (missing := sorted(hosts - set(domains))):
            names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            yield f"domains: {group.domains} does not have {names}"
