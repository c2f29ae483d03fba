"""Configuration that is well-formed and cannot be right: durations out of all proportion, things named twice. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from fleet.config.model import ClusterConfig, Config
from fleet.config.types import parse_duration, parse_pause
from fleet.text import count, listed

_SHORTEST, _LONGEST = 1.0, 30 * 86400.0
_BOUNDS = {
    "lease.duration": (10.0, 3600.0, "it is renewed four times meanwhile, by an API that may be slow"),
    "lock": (10.0, 3600.0, "it is renewed four times meanwhile, in an etcd that may be slow"),
    "alerts.silence": (60.0, 86400.0, "it is extended three times meanwhile, and is what is left after a crash"),
    "alerts.held_silence": (60.0, _LONGEST, "whoever has to mend the host needs longer"),
}
"""Least and most seconds of durations, and why, where these differ from those of all others."""
_NO_DISK = ("/proc", "/sys", "/dev", "/run")
"""Where nothing is kept, or not over a reboot of this host."""

Place = tuple[str, FieldInfo, Any]


def contradictions(config: Config) -> list[str]:
    """Return what cannot be right, each with its key."""
    found = [*_state_dir(config.state_dir)]
    for name, cluster in config.clusters.items():
        lines = [line for place in walk(cluster) for line in (*_duration(*place), *_twice(*place))]
        found += [f"clusters.{name}.{line}" for line in (*lines, *_of_cluster(cluster))]
    for name, group in config.groups.items():
        lines = [line for place in walk(group) for line in (*_duration(*place), *_twice(*place))]
        found += [f"groups.{name}.{line}" for line in lines]
    return [*found, *_between(config.clusters), *_alike(config)]


def overlaps(groups: Mapping[str, Mapping[str, frozenset[str]]]) -> Iterator[str]:
    """Return which hosts stand where they cannot be at the same time.

    Args:
        groups: the hosts of each cluster by the key of the query that has found them.
    """
    for name, found in groups.items():
        for one, other in combinations(found, 2):
            if frozenset((_kind(one), _kind(other))) in _APART and (both := found[one] & found[other]):
                yield (
                    f"clusters.{name}.{other}: {_some(both)} among those of {one} as well:"
                    " what is done to the ones would be done to the others"
                )
    for (name, found), (name2, found2) in combinations(groups.items(), 2):
        for key, hosts in found.items():
            for key2, hosts2 in found2.items():
                if _kind(key) and _kind(key2) and (both := hosts & hosts2):
                    yield (
                        f"clusters.{name2}.{key2}: {_some(both)} in clusters.{name}.{key} as well:"
                        " two maintenances could work on them at the same time"
                    )


def group_overlaps(
    groups: Mapping[str, frozenset[str]], clusters: Mapping[str, Mapping[str, frozenset[str]]]
) -> Iterator[str]:
    """Return which hosts of groups another group, or a cluster, has as well.

    Args:
        groups: the hosts of each group.
        clusters: the hosts of each cluster by the key of the query that has found them.
    """
    for (name, hosts), (name2, hosts2) in combinations(groups.items(), 2):
        if both := hosts & hosts2:
            yield (
                f"groups.{name2}.hosts: {_some(both)} in groups.{name} as well:"
                " two maintenances could work on them at the same time"
            )
    for name, hosts in groups.items():
        for cluster, found in clusters.items():
            for key, those in found.items():
                if both := hosts & those:
                    yield (
                        f"groups.{name}.hosts: {_some(both)} in clusters.{cluster}.{key} as well:"
                        " other cookbooks are for these"
                    )


def walk(model: BaseModel, place: str = "") -> Iterator[Place]:
    """Return all values of a section and of those below it, each with its key."""
    for name, field in type(model).model_fields.items():
        value, below = getattr(model, name), f"{place}.{name}".removeprefix(".")
        yield below, field, value
        if isinstance(value, BaseModel):
            yield from walk(value, below)
        elif isinstance(value, dict):
            for key, one in value.items():
                if isinstance(one, BaseModel):
                    yield from walk(one, f"{below}.{key}")


def _kind(key: str) -> str:
    """Return what the hosts of a query are for, where it matters who else has them; nothing elsewhere."""
    if key in ("hosts.workers", "hosts.control_plane", "etcd.hosts"):
        return key
    return "reinitialize.etcds" if key.startswith("reinitialize.etcds.") else ""


_APART = {
    frozenset(("hosts.workers", "hosts.control_plane")),
    frozenset(("hosts.workers", "etcd.hosts")),
    frozenset(("hosts.workers", "reinitialize.etcds")),
    frozenset(("etcd.hosts", "reinitialize.etcds")),
    frozenset(("reinitialize.etcds",)),
}
"""Queries of a cluster that no host answers together; etcd may well be on the control plane."""


def _some(hosts: frozenset[str]) -> str:
    names = sorted(hosts)
    more = len(names) - 5
    return listed(names, "is", "are") if more <= 0 else f"{', '.join(names[:5])} and {more} more are"


def _state_dir(folder: Path) -> Iterator[str]:
    if folder == Path("/") or any(folder.is_relative_to(place) for place in _NO_DISK):
        yield f"state_dir: {folder} keeps nothing over a reboot of this host: name a folder on a disk, /var/lib/fleet"


def _duration(place: str, field: FieldInfo, value: Any) -> Iterator[str]:
    readers = [entry.func for entry in field.metadata if isinstance(entry, BeforeValidator)]
    if parse_duration not in readers and parse_pause not in readers:
        return
    least, most, why = _BOUNDS.get(place, (_SHORTEST, _LONGEST, ""))
    if parse_pause in readers and value == 0:
        return
    reason = f": {why}" if why else ""
    if value < least:
        yield f"{place}: {value:g}s is too short: at least {least:g}s{reason}"
    elif value > most:
        yield f"{place}: {value:g}s is too long: at most {most:g}s"


def _twice(place: str, _field: FieldInfo, value: Any) -> Iterator[str]:
    if isinstance(value, tuple):
        words = ["{" + ", ".join(one) + "}" if isinstance(one, tuple) else str(one) for one in value]
        for shown, number in Counter(words).items():
            if number > 1:
                yield f"{place}: {shown} is there {count(number, 'time')}: name it once"


def _of_cluster(cluster: ClusterConfig) -> Iterator[str]:
    hosts = {"hosts.workers": cluster.hosts.workers, "hosts.control_plane": cluster.hosts.control_plane}
    if cluster.etcd:
        hosts["etcd.hosts"] = cluster.etcd.hosts
    for one, other in combinations(hosts, 2):
        if frozenset((one, other)) in _APART and hosts[one].split() == hosts[other].split():
            yield f"{other}: asks for the same hosts as {one}: each has its own"
    for key, addresses in (
        ("bgp.addresses", cluster.bgp.addresses if cluster.bgp else {}),
        ("control_plane.addresses", {name: (ip,) for name, ip in cluster.control_plane.addresses.items()}),
    ):
        yield from (f"{key}.{line}" for line in _shared({name: map(str, ips) for name, ips in addresses.items()}))
    control = cluster.control_plane
    units = {name: [component.unit or f"{name}.service"] for name, component in control.components.items()}
    yield from (f"control_plane.components.{line}" for line in _shared(units))
    etcds = cluster.reinitialize.etcds if cluster.reinitialize else {}
    endpoints = {f"reinitialize.etcds.{name}.endpoints": etcd.endpoints for name, etcd in etcds.items()}
    today = {"etcd.endpoints": cluster.etcd.endpoints} if cluster.etcd else {}
    yield from _shared({**today, **endpoints})


def _shared(values: Mapping[str, Any]) -> Iterator[str]:
    """Return which values several keys have in common."""
    seen: dict[str, str] = {}
    for key, some in values.items():
        for value in dict.fromkeys(some):
            if (other := seen.setdefault(value, key)) != key:
                yield f"{key}: {value} is that of {other} as well: each has its own"


def _between(clusters: Mapping[str, ClusterConfig]) -> Iterator[str]:
    """Return what two clusters cannot have in common."""
    yield from _shared({f"clusters.{name}.kubeconfig": [str(one.kubeconfig)] for name, one in clusters.items()})
    moved = {name: one.reinitialize for name, one in clusters.items() if one.reinitialize}
    yield from _shared({f"clusters.{n}.reinitialize.kubeconfig": [str(one.kubeconfig)] for n, one in moved.items()})


def _alike(config: Config) -> Iterator[str]:
    """Return which names of clusters and groups can be mistaken for each other."""
    folded: dict[str, str] = {}
    for kind, names in (("clusters", config.clusters), ("groups", config.groups)):
        for name in names:
            if (other := folded.setdefault(name.casefold(), name)) != name:
                yield f"{kind}.{name}: differs from {other} only in capitals: operators would take one for the other"
