"""HAProxy before the apiservers, told over its runtime socket by commands on the load balancers themselves.

What is told is kept until HAProxy is reloaded or restarted: then its configuration counts again.
"""

from collections.abc import Callable, Mapping, Sequence

from fleet import members
from fleet.adapters.load_balancer import runtime_socket
from fleet.adapters.load_balancer.model import LoadBalancerError, ServerState
from fleet.adapters.load_balancer.runtime_socket import Server
from fleet.config.model import HaproxyConfig
from fleet.execution import TIMEOUT, RemoteError, Runner, failures
from fleet.names import known_as
from fleet.text import listed

_Order = Callable[[str, str, str], str]
_WHAT = "load balancers"


class Haproxy:
    """A :class:`fleet.adapters.load_balancer.model.LoadBalancer` of one or several HAProxies that are set up alike.

    Args:
        config: the backend, the socket and the names.
        remote: runs the commands; in a dry-run only those that read.
        load_balancers: the hosts of the HAProxies.
    """

    def __init__(self, config: HaproxyConfig, remote: Runner, load_balancers: Sequence[str]) -> None:
        self._config = config
        self._remote = remote
        self._load_balancers = tuple(load_balancers)

    def states(self, hosts: Sequence[str]) -> Mapping[str, ServerState]:
        """See :meth:`fleet.adapters.load_balancer.model.LoadBalancer.states`."""
        asked = self._ask()
        return {host: combine({name: self._find(name, servers, host) for name, servers in asked}) for host in hosts}

    def depool(self, host: str, at: Sequence[str]) -> None:
        """See :meth:`fleet.adapters.load_balancer.model.LoadBalancer.depool`."""
        self._tell(runtime_socket.drain, host, at)

    def pool(self, host: str, at: Sequence[str]) -> None:
        """See :meth:`fleet.adapters.load_balancer.model.LoadBalancer.pool`."""
        servers = {name: self._find(name, servers, host) for name, servers in self._ask()}
        known = {name for name, server in servers.items() if server.told and server.checked}
        self._tell(runtime_socket.ready, host, [name for name in at if name not in known])

    def watch_again(self, host: str) -> None:
        """See :meth:`fleet.adapters.load_balancer.model.LoadBalancer.watch_again`."""
        self._tell(runtime_socket.watch, host, self._load_balancers)

    def _ask(self) -> list[tuple[str, dict[str, Server]]]:
        command = runtime_socket.question(str(self._config.socket))
        outputs = self._run(self._load_balancers, command, safe=True)
        answers, wrong = [], {}
        for name, output in outputs.items():
            try:
                answers.append((name, runtime_socket.parse(output, self._config.backend)))
            except ValueError as error:
                wrong[name] = f"HAProxy is of no use here: {error}"
        if wrong:
            raise LoadBalancerError(f"{members.problem(_WHAT, wrong, of=len(outputs))}.")
        return answers

    def _find(self, load_balancer: str, servers: Mapping[str, Server], host: str) -> Server:
        name = known_as(host, self._config.server_names)
        place = f"backend {self._config.backend} of HAProxy on {load_balancer}"
        if name not in servers:
            raise LoadBalancerError(
                f"The {place} has no server {name} for {host}, but {', '.join(servers) or 'none'}: "
                "see load_balancer.haproxy.server_names."
            )
        if not servers[name].checkable:
            raise LoadBalancerError(
                f"The {place} has no health checks for {name}, and could not tell whether it is well: "
                "add `check` to its configuration."
            )
        return servers[name]

    def _tell(self, order: _Order, host: str, at: Sequence[str]) -> None:
        if unknown := [name for name in at if name not in self._load_balancers]:
            raise LoadBalancerError(
                f"{listed(unknown, 'is no load balancer', 'are no load balancers')} of load_balancer.haproxy.hosts: "
                f"these are {', '.join(self._load_balancers)}."
            )
        name = known_as(host, self._config.server_names)
        outputs = self._run(at, order(str(self._config.socket), self._config.backend, name), safe=False)
        # HAProxy says nothing when it has done as it was told.
        refused = {
            name: f"HAProxy refused: {' '.join(output.split())}" for name, output in outputs.items() if output.strip()
        }
        if refused:
            raise LoadBalancerError(f"{members.problem(_WHAT, refused, of=len(outputs), verb=f'told about {host}')}.")

    def _run(self, load_balancers: Sequence[str], command: str, *, safe: bool) -> dict[str, str]:
        try:
            results = self._remote.run(load_balancers, command, timeout=TIMEOUT, safe=safe)
        except RemoteError as error:
            raise LoadBalancerError(f"The load balancers cannot be talked to: {error}") from error
        if failed := failures(results):
            problem = members.problem(_WHAT, failed, of=len(results), verb="asked" if safe else "told")
            raise LoadBalancerError(f"{problem}. Look at HAProxy's runtime socket {self._config.socket} there.")
        return {name: result.output for name, result in results.items()}


def combine(servers: Mapping[str, Server]) -> ServerState:
    """Return what all load balancers together make of a server.

    Args:
        servers: what each of them says, by its name.
    """
    pooled_at = tuple(name for name, server in servers.items() if server.told)
    return ServerState(
        pooled_at=pooled_at,
        out=not pooled_at,
        up=all(server.up for server in servers.values()),
        connections=sum(server.sessions for server in servers.values()),
        detail="; ".join(f"{name}: {server}" for name, server in servers.items()),
    )
