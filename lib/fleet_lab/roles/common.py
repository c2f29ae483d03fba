"""What every host of the lab has: its network, names, SSH."""

from collections.abc import Iterable

from fleet_lab.container import FAULTS
from fleet_lab.files import File, Link, unit_override
from fleet_lab.roles.context import Context
from fleet_lab.topology import Host

PACKAGES = (
    "systemd",
    "systemd-sysv",
    "openssh-server",
    "iproute2",
    "iputils-ping",
    "procps",
    "ca-certificates",
    "curl",
    "less",
    "python3",
)
"""Packages that every host has."""

UNITS = ("lab-network.service", "ssh.service")
"""Units that every host starts."""

SSH_REFUSED = "ssh-refused"
"""Fault: nothing listens on the SSH port."""

_SSHD = """\
# Only the lab's key, only this host's own key; what takes long at each connection is left out.
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
HostKey /etc/ssh/ssh_host_ed25519_key
UsePAM no
UseDNS no
PrintMotd no
# Maintenance opens many connections at once; sshd's default drops some beyond ten.
MaxStartups 100:30:200
"""

_NETWORK = """\
[Unit]
Description=The host's addresses
DefaultDependencies=no
After=systemd-sysctl.service
Before=network.target network-online.target shutdown.target
Wants=network.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/ip -batch /etc/lab-network
"""


def files(context: Context, host: Host, units: Iterable[str]) -> Iterable[File | Link]:
    """Return the files that a host has whatever its role is.

    Args:
        context: the lab.
        host: the host.
        units: all units that it starts at boot.
    """
    network = context.topology.network
    names = [f"{other.ipv4} {other.name}\n{other.ipv6} {other.name}\n" for other in context.topology.hosts.values()]
    yield File("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n" + "".join(names))
    yield File("/etc/hostname", f"{host.name}\n")
    yield File("/etc/machine-id", f"{context.machine_id(host)}\n", mode=0o444)

    # The units of this role and nothing else: no timers, no logins, no mounts.
    yield File(
        "/etc/systemd/system/default.target",
        "[Unit]\nDescription=The host's role\nRequires=sysinit.target\nAfter=sysinit.target\n"
        f"AllowIsolate=yes\nWants={' '.join(units)}\n",
    )
    for path in ("console", "wall"):  # nobody is asked for a password, and inotify instances are scarce
        yield Link(f"/etc/systemd/system/systemd-ask-password-{path}.path", "/dev/null")
    yield File("/etc/systemd/system/lab-network.service", _NETWORK)
    yield File(
        "/etc/lab-network",
        "link set lo up\n"
        f"address replace {host.ipv4}/{network.ipv4.prefixlen} dev host0\n"
        f"address replace {host.ipv6}/{network.ipv6.prefixlen} dev host0 nodad\n"
        "link set host0 up\n",
    )
    yield File("/etc/systemd/journald.conf.d/lab.conf", "[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n")

    key = context.ssh.host_key(host.name)
    yield File("/etc/ssh/ssh_host_ed25519_key", key.private, mode=0o600)
    yield File("/etc/ssh/ssh_host_ed25519_key.pub", key.public)
    yield File("/etc/ssh/sshd_config.d/lab.conf", _SSHD)
    yield File("/root/.ssh/authorized_keys", context.ssh.operator_key().public, mode=0o600)
    yield unit_override("ssh.service", f"[Unit]\nConditionPathExists=!{FAULTS}/{SSH_REFUSED}\n")
