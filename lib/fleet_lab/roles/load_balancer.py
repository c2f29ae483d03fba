"""The load balancer: HAProxy, whose address is the Kubernetes API's."""

from collections.abc import Iterable
from dataclasses import dataclass

from fleet_lab.files import File
from fleet_lab.roles import pybal
from fleet_lab.roles.context import Context
from fleet_lab.roles.role import Role
from fleet_lab.topology import Host

SOCKET = "/run/haproxy/admin.sock"
"""HAProxy's runtime socket."""
BACKEND = "api"
"""The backend of the apiservers; its servers have the names of their hosts."""

_CONFIG = f"""\
global
    maxconn 4000
    # The runtime socket: show stat, set server {BACKEND}/cp1 state drain …
    stats socket {SOCKET} mode 600 level admin

defaults
    mode tcp
    maxconn 4000
    timeout connect 2s
    # Otherwise a check may take no longer than `inter`: on a busy machine healthy servers would be marked down.
    timeout check 5s
    # Watches are silent for minutes.
    timeout client 1h
    timeout server 1h
    option clitcpka
    option srvtcpka

frontend api
    bind 0.0.0.0:6443
    bind [::]:6443 v6only
    default_backend {BACKEND}

backend {BACKEND}
    balance roundrobin
    option httpchk GET /readyz
    http-check expect status 200
    # A new connection goes to another server if one refuses; those to a dead one are closed: clients go elsewhere.
    option redispatch
    retries 3
    default-server check check-ssl verify required ca-file /etc/haproxy/ca.pem inter 1s fall 2 rise 2 \
on-marked-down shutdown-sessions
"""


@dataclass(frozen=True)
class LoadBalancer(Role):
    """The load balancer before the apiservers."""

    def files(self, context: Context, host: Host) -> Iterable[File]:
        """Return HAProxy's configuration, and what goes with conftool."""
        servers = [
            f"    server {other.name} {other.ipv4}:6443\n" for other in context.topology.with_role("control-plane")
        ]
        yield File("/etc/haproxy/haproxy.cfg", _CONFIG + "".join(servers))
        yield File("/etc/haproxy/ca.pem", context.kubernetes_ca.certificate)
        yield from pybal.files(context, host, SOCKET, BACKEND)


ROLE = LoadBalancer(packages=("haproxy", "socat"), units=("haproxy.service", pybal.UNIT))
