"""A cluster for tests of single steps: only what a test hands in is there, all else must not be asked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import urllib3

from fleet.adapters.alertmanager.alertmanager import Reply
from fleet.adapters.alertmanager.silences import Silences
from fleet.adapters.bgp.junos import Routers, RoutersView
from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.model import Node
from fleet.clock import CLOCK, THREADS
from fleet.config.model import ClusterConfig
from fleet.engine.journal import RunInfo
from fleet.execution import Hosts, Result
from fleet.steps.cluster import Cluster
from support import official

RUN = RunInfo("r1", "sre.k8s.reboot-nodes", "lab", "ann@here", "why", "", 0.0, {})


@dataclass
class Nodes:
    """What is known of nodes; a :class:`fleet.adapters.k8s.nodes.NodeView`.

    Attributes:
        known: by name; a test may change it.
        seconds: for how long nothing was heard of them.
    """

    known: dict[str, Node]
    seconds: float = 0.0

    def snapshot(self) -> Mapping[str, Node]:
        return dict(self.known)

    def age(self) -> float:
        return self.seconds


class NoHosts:
    """Stands where no host must be asked; a :class:`fleet.execution.Hosts`."""

    def query(self, query: str) -> list[str]:
        raise AssertionError(query)

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        raise AssertionError(command)


def unexpected(method: str, url: str, _body: bytes | None = None) -> urllib3.HTTPResponse:
    """Stand where the API must not be asked."""
    raise AssertionError(f"{method} {url}")


def no_alertmanager(method: str, url: str, *, params: Mapping[str, str] | None = None, json: Any = None) -> Reply:
    """Stand where Alertmanager must not be asked."""
    raise AssertionError(f"{method} {url}")


def config(**sections: Any) -> ClusterConfig:
    """Return a cluster's configuration, with sections of it as they are written in YAML."""
    hosts = {"workers": "w[1-3]", "control_plane": "cp1"}
    return ClusterConfig.model_validate({"kubeconfig": "/k", "hosts": hosts, **sections})


def cluster(
    hosts: Mapping[str, str],
    *,
    nodes: Iterable[Node] = (),
    view: Nodes | None = None,
    remote: Hosts | None = None,
    routers: RoutersView | None = None,
    api: Api | None = None,
    run: RunInfo = RUN,
    **sections: Any,
) -> Cluster:
    """Return a cluster.

    Args:
        hosts: the host of each node that the run may touch.
        nodes: what is known of nodes; ``view`` where that changes.
        remote: what runs commands on hosts.
        routers: the core routers; those of the configuration, which cannot be reached, if None.
        api: the API.
        run: the run.
        sections: of the configuration.
    """
    known = config(**sections)
    return Cluster(
        name="lab",
        config=known,
        api=api or Api(official.client(unexpected)),
        nodes=view or Nodes({node.name: node for node in nodes}),
        remote=remote or NoHosts(),
        silences=Silences(["http://alerts"], transport=no_alertmanager, clock=CLOCK, threads=THREADS),
        hosts=hosts,
        run=run,
        routers=routers or (Routers(known.bgp) if known.bgp else None),
    )
