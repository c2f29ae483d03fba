"""SSH to the hosts: keys of the hosts and of the operator, known hosts, the client's configuration."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fleet_lab.topology import Topology


@dataclass(frozen=True)
class KeyPair:
    """A key as OpenSSH keeps it."""

    private: str
    public: str


def key_pair(path: Path, comment: str) -> KeyPair:
    """Return a key, made if it is not there.

    Args:
        path: the private key's file; the public one is beside it, with the suffix ``.pub``.
        comment: whose key it is.
    """
    public = path.with_suffix(".pub")
    if not public.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:  # noqa: PTH123
            stream.write(private)
        text = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        public.write_text(f"{text.decode()} {comment}\n", encoding="ascii")
    return KeyPair(path.read_text(encoding="ascii"), public.read_text(encoding="ascii"))


class Ssh:
    """The operator's side of SSH.

    Args:
        folder: where keys and configuration are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def config(self) -> Path:
        """The client's configuration: ``ssh -F``."""
        return self._folder / "config"

    def operator_key(self) -> KeyPair:
        """Return the key that may log in as root on every host."""
        return key_pair(self._folder / "id_ed25519", "operator@fleet-lab")

    def host_key(self, name: str) -> KeyPair:
        """Return a host's key."""
        return key_pair(self._folder / "hosts" / name, name)

    def write_config(self, topology: Topology) -> None:
        """Write the client's configuration and the known hosts: names lead to addresses, keys are verified."""
        self.operator_key()
        known = self._folder / "known_hosts"
        lines, blocks = [], []
        for host in topology.hosts.values():
            lines.append(f"{host.name},{host.ipv4},{host.ipv6} {self.host_key(host.name).public}")
            blocks.append(f"Host {host.name}\n    HostName {host.ipv4}\n")
        known.write_text("".join(lines), encoding="ascii")
        blocks.append(
            "Host *\n"
            "    User root\n"
            f"    IdentityFile {self._folder / 'id_ed25519'}\n"
            "    IdentitiesOnly yes\n"
            f"    UserKnownHostsFile {known}\n"
            "    GlobalKnownHostsFile /dev/null\n"
            "    StrictHostKeyChecking yes\n"
            "    KexAlgorithms curve25519-sha256\n"
            "    ConnectTimeout 10\n"
            "    LogLevel ERROR\n"
        )
        self.config.write_text("".join(blocks), encoding="ascii")

    def run(
        self, host: str, command: str, *, timeout: float = 60.0, capture: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host.

        Args:
            host: the host's name.
            command: what the shell there runs.
            timeout: seconds until the client is killed.
            capture: whether the output is returned; it goes to this process's own otherwise.

        Returns:
            The finished command; exit code 255 if the host could not be reached.

        Raises:
            subprocess.TimeoutExpired: it took too long.
        """
        options: Sequence[str] = ["-o", "BatchMode=yes"] if capture else []
        return subprocess.run(
            ["ssh", "-F", str(self.config), *options, host, "--", command],
            capture_output=capture,
            stdin=subprocess.DEVNULL if capture else None,
            text=True,
            timeout=timeout,
            check=False,
        )
