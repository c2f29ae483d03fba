"""Asks what the configuration names whether it is there and can be used; changes nothing.

Each check is a plain function that takes a part of the configuration and yields its mistakes: a key and what is wrong.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from fleet.adapters.k8s import access, rights
from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.model import parse_release
from fleet.cli import config_edges
from fleet.clock import THREADS, Threads
from fleet.config.model import ClusterConfig, Config
from fleet.errors import FleetError

Check = Callable[[], Iterator[str]]
"""Yields a line for each mistake, which begins with the key of its cluster that it is about."""

OLDEST = (1, 20)
"""The oldest release of Kubernetes whose answers are known."""


def check(config: Config, path: Path, threads: Threads = THREADS, *, spicerack: Path | None = None) -> list[str]:
    """Ask all that the configuration names, at the same time.

    Args:
        config: this project's configuration.
        path: its file.
        threads: how to ask several at the same time.
        spicerack: spicerack's configuration; without it only the clusters' APIs are asked.

    Returns:
        A line for each mistake; none if all is well.
    """
    runner = config_edges.spicerack(spicerack) if spicerack else None
    asked: list[tuple[str, Check]] = [(f"{path}: ", partial(config_edges.of_state_dir, config.state_dir))]
    for name, cluster in config.clusters.items():
        around = config_edges.checks(cluster, runner) if runner else ()
        asked += [(f"{path}: clusters.{name}.", one) for one in (*checks(cluster), *around)]
    if runner:
        for name, group in config.groups.items():
            asked += [(f"{path}: groups.{name}.", one) for one in config_edges.group_checks(group, runner)]
        asked.append((f"{spicerack}: etcd_config: ", partial(config_edges.of_lock, runner)))
    found = threads.map(lambda item: [f"{item[0]}{line}" for line in _run(item[1])], asked, "live")
    return [line for lines in found for line in lines]


def checks(cluster: ClusterConfig) -> Sequence[Check]:
    """Return the checks of one cluster."""
    return (partial(of_api, cluster),)


def of_api(cluster: ClusterConfig) -> Iterator[str]:
    """Ask the cluster's API for its version, whether it is ready, and what it allows."""
    api = Api.from_kubeconfig(cluster.kubeconfig, patience=0.0)
    version = api.version()
    if too_old(version):
        yield f"kubeconfig: {api.server} is Kubernetes {version}; from {'.'.join(map(str, OLDEST))} on it is known"
    if failing := api.not_ready():
        yield f"kubeconfig: {api.server} is not ready: {failing}"
    yield from (f"kubeconfig: {line}" for line in lacks(api, cluster))


def lacks(api: access.Reviewer, cluster: ClusterConfig) -> Iterator[str]:
    """Ask which rights are missing in the role of the kubeconfig's user."""
    for purpose, those in access.by_purpose(access.missing(api, rights.of_everything(cluster.lease))).items():
        yield f"its user may not {purpose}: add to its {'; '.join(access.rules(those))}"


def too_old(version: str) -> bool:
    """Return whether a version such as ``v1.19.3`` is older than what is known; one that cannot be read is not."""
    release = parse_release(version)
    return release is not None and release < OLDEST


def _run(check: Check) -> list[str]:
    lines: list[str] = []
    try:
        lines.extend(check())
    except FleetError as error:
        lines.append(f"kubeconfig: {' '.join(str(error).split())}")
    return lines
