"""A control-plane host: kube-apiserver, kube-controller-manager and kube-scheduler as systemd units.

The flags stand in ``/etc/default/COMPONENT`` as ``DAEMON_ARGS``, as Debian's packages had it.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from fleet_lab import kubeconfig, pki
from fleet_lab.binaries import CONTROL_PLANE
from fleet_lab.command import run
from fleet_lab.container import FAULTS
from fleet_lab.files import File, Link
from fleet_lab.roles import calico, control_plane_faults, puppet, puppet_code
from fleet_lab.roles.context import LOCALHOST, Context
from fleet_lab.roles.role import Role
from fleet_lab.topology import Host

APISERVER_STOPPED = "apiserver-stopped"
"""Fault: this host's kube-apiserver does not run."""

_PKI = "/etc/kubernetes/pki"

_POLICIES = "PodSecurityPolicy"

_UNIT = """\
[Unit]
Description=Kubernetes {what}
After=network.target
StartLimitIntervalSec=0
{unit}
[Service]
EnvironmentFile=-/etc/default/{name}
ExecStart=/usr/local/bin/{name} $DAEMON_ARGS
{service}Restart=always
RestartSec=1
LimitNOFILE=65536
"""


def _defaults(component: str, flags: Mapping[str, str]) -> File:
    text = " \\\n".join(f"--{flag}={value}" for flag, value in flags.items())
    return File(f"/etc/default/{component}", f'# Flags of {component}.\nDAEMON_ARGS="{text}"\n')


def apiserver_flags(context: Context, host: Host) -> dict[str, str]:
    """Return the flags of a host's kube-apiserver, but for ``etcd-servers``: that is Puppet's to say."""
    return {
        "advertise-address": str(host.ipv4),
        "bind-address": "0.0.0.0",
        "secure-port": "6443",
        "tls-cert-file": f"{_PKI}/apiserver.pem",
        "tls-private-key-file": f"{_PKI}/apiserver.key",
        "client-ca-file": f"{_PKI}/ca.pem",
        "etcd-cafile": f"{_PKI}/etcd-ca.pem",
        "etcd-certfile": f"{_PKI}/etcd-client.pem",
        "etcd-keyfile": f"{_PKI}/etcd-client.key",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": ",".join(["NodeRestriction", *admission_plugins(context)]),
        "service-cluster-ip-range": str(context.topology.network.services),
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": f"{_PKI}/service-account.key",
        "service-account-signing-key-file": f"{_PKI}/service-account.key",
        # The load balancer sees /readyz fail for this long before connections are refused.
        "shutdown-delay-duration": "5s",
        # That is also how long a stop waits for watches: 60 s unless it is said otherwise.
        "request-timeout": "7s",
    }


def admission_plugins(context: Context) -> list[str]:
    """Return the plugins that let no pod be created in an empty cluster; Kubernetes has had none since 1.25."""
    return [_POLICIES] if _POLICIES in _help(context.paths.kubernetes / "kube-apiserver") else []


@functools.cache
def _help(program: Path) -> str:
    """Return what a program says of its flags: builds from source need not know their version."""
    return run([str(program), "--help"])


def _leader_flags(component: str) -> dict[str, str]:
    path = f"/etc/kubernetes/{component}.kubeconfig"
    return {
        "kubeconfig": path,
        "authentication-kubeconfig": path,
        "authorization-kubeconfig": path,
        "leader-elect": "true",
    }


_CONTROLLER_MANAGER = _leader_flags("kube-controller-manager") | {
    "root-ca-file": f"{_PKI}/ca.pem",
    "service-account-private-key-file": f"{_PKI}/service-account.key",
    "use-service-account-credentials": "true",
    # A node is NotReady after 12 s without a heartbeat instead of 40 s; the lab's kubelet reports every 3 s.
    "node-monitor-period": "2s",
    "node-monitor-grace-period": "12s",
}


@dataclass(frozen=True)
class ControlPlane(Role):
    """A control-plane host."""

    def files(self, context: Context, host: Host) -> Iterable[File | Link]:
        """Return units, flags, certificates and kubeconfigs."""
        yield from puppet.files(context)
        yield from calico.files(context, host)
        yield from control_plane_faults.files(context)
        yield from self._certificates(context, host)
        yield File(
            "/etc/systemd/system/kube-apiserver.service",
            _UNIT.format(
                name="kube-apiserver",
                what="API server",
                unit=f"ConditionPathExists=!{FAULTS}/{APISERVER_STOPPED}\n",
                # Ready is what it says itself; it may wait for etcd as long as that takes.
                service=f"Type=notify\nTimeoutStartSec=infinity\n{control_plane_faults.APISERVER}",
            ),
        )
        defaults = puppet_code.apiserver_defaults(context.paths, apiserver_flags(context, host))
        yield File("/etc/default/kube-apiserver", defaults)
        flags = {"kube-controller-manager": _CONTROLLER_MANAGER, "kube-scheduler": _leader_flags("kube-scheduler")}
        for name, what in (("kube-controller-manager", "controller manager"), ("kube-scheduler", "scheduler")):
            yield File(
                f"/etc/systemd/system/{name}.service",
                _UNIT.format(
                    name=name,
                    what=what,
                    unit="After=kube-apiserver.service\n",
                    service=control_plane_faults.component(name),
                ),
            )
            yield _defaults(name, flags[name])
            yield File(
                f"/etc/kubernetes/{name}.kubeconfig",
                kubeconfig.render(
                    f"https://{host.ipv4}:6443",
                    context.kubernetes_ca,
                    context.kubernetes_ca.issue(f"system:{name}"),
                    f"system:{name}",
                ),
                mode=0o600,
            )

    def _certificates(self, context: Context, host: Host) -> Iterable[File]:
        api = context.topology.api_host
        serving = context.kubernetes_ca.issue(
            f"apiserver-{host.name}",
            names=[
                host.name,
                api.name,
                "localhost",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
            ],
            addresses=[
                host.ipv4,
                host.ipv6,
                api.ipv4,
                api.ipv6,
                LOCALHOST,
                IPv4Address(context.topology.network.services[1]),
            ],
        )
        client = context.etcd_ca.issue("kube-apiserver")
        yield File(f"{_PKI}/ca.pem", context.kubernetes_ca.certificate)
        yield File(f"{_PKI}/apiserver.pem", serving.certificate)
        yield File(f"{_PKI}/apiserver.key", serving.key, mode=0o600)
        yield File(f"{_PKI}/etcd-ca.pem", context.etcd_ca.certificate)
        yield File(f"{_PKI}/etcd-client.pem", client.certificate)
        yield File(f"{_PKI}/etcd-client.key", client.key, mode=0o600)
        yield File(
            f"{_PKI}/service-account.key", pki.signing_key(context.paths.pki / "service-account.key"), mode=0o600
        )

    def binds(self, context: Context) -> Mapping[str, str]:
        """Return the binaries, the machine's, not copied, and Puppet's code."""
        paths = {name: (context.paths.kubernetes / name).resolve() for name in CONTROL_PLANE}
        return {**puppet.binds(context), **{str(path): f"/usr/local/bin/{name}" for name, path in paths.items()}}


ROLE = ControlPlane(
    packages=(*puppet.PACKAGES, *calico.PACKAGES),
    units=(*(f"{name}.service" for name in CONTROL_PLANE), *calico.UNITS, *puppet.UNITS),
)
