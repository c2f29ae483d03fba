"""Conftool before the apiservers: ``pooled=yes`` and ``pooled=no`` of their objects, which PyBal follows.

PyBal goes on to check a server that is not pooled and does not say when it did so last: ``up`` may be as old as the
interval of its monitors. Connections are LVS' own, and cannot be counted here.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from conftool.configuration import ConfigurationError
from conftool.drivers import BackendError
from spicerack.confctl import Confctl, ConfctlError, ConftoolEntity

from fleet.adapters.load_balancer import pybal
from fleet.adapters.load_balancer.model import LoadBalancerError, ServerState
from fleet.config.model import ConftoolConfig
from fleet.names import known_as

NAME = "conftool"
"""Stands for it in :attr:`fleet.adapters.load_balancer.model.ServerState.pooled_at`."""

_TROUBLE = (BackendError, ConfctlError, ValueError, re.error)
"""What conftool raises: of etcd, of no match, and of a selector with a tag that there is not or with no pattern."""


class Node(Protocol):
    """An object of conftool of the type ``node``."""

    name: str
    pooled: str
    """``yes``, ``no``, or ``inactive`` for one that PyBal is not to know."""

    def pprint(self) -> str:
        """Return its tags and its name."""


class Conftool:
    """A :class:`fleet.adapters.load_balancer.model.LoadBalancer`.

    Conftool keeps its connection in a class: one configuration at a time can be used in a process.

    Args:
        config: the files, the objects' tags and the PyBals.
        dry_run: whether nothing is to be written.

    Raises:
        LoadBalancerError: conftool's files are of no use.
    """

    def __init__(self, config: ConftoolConfig, *, dry_run: bool) -> None:
        self._config = config
        try:
            confctl = Confctl(str(config.config_file), str(config.schema_file), dry_run=dry_run)
            self._nodes: ConftoolEntity = confctl.entity("node")
        except ConfigurationError as error:
            raise LoadBalancerError(f"Conftool cannot be used with {config.config_file}: {error}") from error
        except SystemExit as error:  # that is what it does when it has logged why
            raise LoadBalancerError(
                f"Conftool cannot be used with {config.config_file}: its driver or its etcd_config_file is wrong, "
                "see the log above."
            ) from error

    def states(self, hosts: Sequence[str]) -> Mapping[str, ServerState]:
        """See :meth:`fleet.adapters.load_balancer.model.LoadBalancer.states`."""
        nodes = self._read()
        names = pybal.names(self._config.pybal)
        said = {names[url]: pool for url, pool in pybal.ask_all(self._config.pybal).items()}
        states = {}
        for host in hosts:
            node = self._find(nodes, host)
            states[host] = judge(node.pooled, {name: pool.get(node.name, pybal.ABSENT) for name, pool in said.items()})
        return states

    def depool(self, host: str, at: Sequence[str]) -> None:
        """See :meth:`fleet.adapters.load_balancer.model.LoadBalancer.depool`."""
        self._write(host, at, "no")

    def pool(self, host: str, at: Sequence[str]) -> None:
        """See :meth:`fleet.adapters.load_balancer.model.LoadBalancer.pool`."""
        self._write(host, at, "yes")

    def watch_again(self, host: str) -> None:
        """See :meth:`fleet.adapters.load_balancer.model.LoadBalancer.watch_again`; PyBal never ceases to."""

    def _read(self) -> list[Node]:
        try:
            return list(self._nodes.get(**self._config.selector))
        except _TROUBLE as error:
            raise LoadBalancerError(f"Conftool has no objects for {self._selector()}: {error}") from error

    def _write(self, host: str, at: Sequence[str], pooled: str) -> None:
        if NAME not in at:
            return
        node = self._find(self._read(), host)
        try:
            self._nodes.set_and_verify("pooled", pooled, name=re.escape(node.name), **self._config.selector)
        except _TROUBLE as error:
            raise LoadBalancerError(f"Conftool did not set {node.pprint()} to pooled={pooled}: {error}") from error

    def _find(self, nodes: Sequence[Node], host: str) -> Node:
        name = known_as(host, self._config.names)
        found = [node for node in nodes if node.name == name]
        if len(found) == 1:
            return found[0]
        what = f"several objects {name} for {host}" if found else f"no object {name} for {host}"
        known = ", ".join(sorted(node.pprint() for node in found or nodes))
        raise LoadBalancerError(
            f"Conftool has {what} with {self._selector()}, but {known}: "
            "see load_balancer.conftool.selector and load_balancer.conftool.names."
        )

    def _selector(self) -> str:
        return ",".join(f"{tag}={expression}" for tag, expression in self._config.selector.items())


def judge(pooled: str, said: Mapping[str, str]) -> ServerState:
    """Return what conftool and PyBal make of a server.

    Args:
        pooled: what its object says.
        said: what each PyBal says of it, by the PyBal's name; nothing where none is asked.
    """
    is_pooled = pooled == "yes"
    parts = [f"conftool: pooled={pooled}", *(f"{name}: {text}" for name, text in said.items())]
    return ServerState(
        pooled_at=(NAME,) if is_pooled else (),
        out=not is_pooled and pybal.is_out(said),
        up=is_pooled and pybal.is_up(said),
        connections=None,
        detail="; ".join(parts if said else [*parts, "no PyBal was asked"]),
    )
