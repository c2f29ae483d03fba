"""etcd: the cluster behind Kubernetes, another one that it may be moved to, and the store of spicerack's locks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fleet_lab.container import FAULTS
from fleet_lab.files import File, unit_override
from fleet_lab.roles import puppet
from fleet_lab.roles.context import LOCALHOST, Context
from fleet_lab.roles.role import Role
from fleet_lab.topology import Host

UNIT = "etcd.service"

STOPPED = "etcd-stopped"
"""Fault: this host's etcd does not run."""

FAILS = "etcd-fails"
"""Fault: this host's etcd does not start any more."""

SLOW = "etcd-slow"
"""Fault: this host's etcd is paused."""

_PKI = "/etc/etcd/pki"

ETCDCTL: Mapping[str, str] = {
    "ETCDCTL_ENDPOINTS": "https://127.0.0.1:2379",
    "ETCDCTL_CACERT": f"{_PKI}/ca.pem",
    "ETCDCTL_CERT": f"{_PKI}/etcd.pem",
    "ETCDCTL_KEY": f"{_PKI}/etcd.key",
}
"""What etcdctl needs on a host to reach its member."""


def _settings(host: Host, members: Sequence[Host], *, v2: bool) -> str:
    # A leader is missed after 2 s rather than 1 s: two cores that boot a fleet are busy.
    values = {
        "NAME": host.name,
        "DATA_DIR": "/var/lib/etcd/default",
        "LISTEN_CLIENT_URLS": f"https://{host.ipv4}:2379,https://127.0.0.1:2379",
        "ADVERTISE_CLIENT_URLS": f"https://{host.ipv4}:2379",
        "LISTEN_PEER_URLS": f"https://{host.ipv4}:2380",
        "INITIAL_ADVERTISE_PEER_URLS": f"https://{host.ipv4}:2380",
        "INITIAL_CLUSTER": ",".join(f"{member.name}=https://{member.ipv4}:2380" for member in members),
        "INITIAL_CLUSTER_TOKEN": f"lab-{members[0].name}",
        "INITIAL_CLUSTER_STATE": "new",
        "HEARTBEAT_INTERVAL": "200",
        "ELECTION_TIMEOUT": "2000",
        "ENABLE_V2": str(v2).lower(),
        "TRUSTED_CA_FILE": f"{_PKI}/ca.pem",
        "CERT_FILE": f"{_PKI}/etcd.pem",
        "KEY_FILE": f"{_PKI}/etcd.key",
        "CLIENT_CERT_AUTH": "true",
        "PEER_TRUSTED_CA_FILE": f"{_PKI}/ca.pem",
        "PEER_CERT_FILE": f"{_PKI}/etcd.pem",
        "PEER_KEY_FILE": f"{_PKI}/etcd.key",
        "PEER_CLIENT_CERT_AUTH": "true",
    }
    return "".join(f"ETCD_{key}={value}\n" for key, value in values.items())


_PROFILE = "".join(
    [
        "# For the people who log in: etcdctl finds this member and its certificate.\n",
        *(f"export {key}={value}\n" for key, value in {"ETCDCTL_API": "3", **ETCDCTL}.items()),
    ]
)

# It is paused only when it is up: systemd would wait for it to say so.
_FAULTS = f"""\
[Unit]
ConditionPathExists=!{FAULTS}/{STOPPED}
ConditionPathExists=!{FAULTS}/{FAILS}

[Service]
# One processor is enough for it; with two its threads wake each other up all the time.
Environment=GOMAXPROCS=1
ExecStartPost=/bin/sh -c 'test ! -e {FAULTS}/{SLOW} || kill -STOP $MAINPID'
"""


@dataclass(frozen=True)
class Etcd(Role):
    """A member of an etcd cluster: of that of its role."""

    v2: bool = False
    """Whether the v2 API is served, which spicerack's locks speak."""

    def files(self, context: Context, host: Host) -> Iterable[File]:
        """Return etcd's settings, certificates and ways to fail."""
        credential = context.etcd_ca.issue(
            host.name,
            names=[host.name, "localhost"],
            addresses=[host.ipv4, host.ipv6, LOCALHOST],
        )
        yield File("/etc/default/etcd", _settings(host, context.topology.with_role(host.role), v2=self.v2))
        yield File(f"{_PKI}/ca.pem", context.etcd_ca.certificate)
        yield File(f"{_PKI}/etcd.pem", credential.certificate)
        yield File(f"{_PKI}/etcd.key", credential.key, mode=0o600, owner="etcd")
        yield File("/etc/profile.d/etcdctl.sh", _PROFILE)
        yield from puppet.files(context)
        yield unit_override(UNIT, _FAULTS)

    def binds(self, context: Context) -> Mapping[str, str]:
        """Return Puppet's code."""
        return puppet.binds(context)


MEMBER = Etcd(packages=(*puppet.PACKAGES, "etcd-server", "etcd-client"), units=(UNIT,))
LOCK_STORE = Etcd(packages=("etcd-server", "etcd-client"), units=(UNIT,), v2=True)
