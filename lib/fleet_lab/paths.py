"""Where the lab keeps its things."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HostPaths:
    """The folder of one host: its disk, what its supervisor is to do, and what became of it."""

    root: Path

    @property
    def spec(self) -> Path:
        """What the supervisor boots (:class:`fleet_lab.container.Spec`)."""
        return self.root / "spec.json"

    @property
    def upper(self) -> Path:
        """The host's own layer over the base image: its disk."""
        return self.root / "upper"

    @property
    def work(self) -> Path:
        """The overlay's working folder."""
        return self.root / "work"

    @property
    def mountpoint(self) -> Path:
        """Where the overlay is mounted, in the supervisor's mount namespace only."""
        return self.root / "root"

    @property
    def faults(self) -> Path:
        """One file for each fault of this host; the host sees the folder as ``/run/fleet-lab/faults``."""
        return self.root / "faults"

    @property
    def lock(self) -> Path:
        """Held by the supervisor as long as it lives, and holds its process id."""
        return self.root / "supervisor.lock"

    @property
    def status(self) -> Path:
        """What the supervisor last said of the host."""
        return self.root / "status.json"

    @property
    def console(self) -> Path:
        """The console of the current boot; ``console.log.1`` is that of the one before."""
        return self.root / "console.log"

    @property
    def log(self) -> Path:
        """What the supervisor says."""
        return self.root / "supervisor.log"


@dataclass(frozen=True)
class Paths:
    """The lab's folders: the state that ``down`` removes, and the cache that stays."""

    state: Path
    cache: Path

    @classmethod
    def from_environment(cls) -> "Paths":
        """Return the folders: ``$FLEET_LAB_DIR`` and ``$FLEET_LAB_CACHE``, or the usual ones below ``/var``."""
        return cls(
            state=Path(os.environ.get("FLEET_LAB_DIR") or "/var/lib/fleet-lab").absolute(),
            cache=Path(os.environ.get("FLEET_LAB_CACHE") or "/var/cache/fleet-lab").absolute(),
        )

    @property
    def lock(self) -> Path:
        """Held by ``up`` and ``down``; beside the state, as ``down`` removes that."""
        return self.state.with_name(f"{self.state.name}.lock")

    @property
    def topology(self) -> Path:
        """The topology that the running lab was made from."""
        return self.state / "topology.yaml"

    @property
    def kubernetes(self) -> Path:
        """Links to the Kubernetes binaries that the lab was made with."""
        return self.state / "kubernetes"

    @property
    def pki(self) -> Path:
        """Certificate authorities, certificates and keys."""
        return self.state / "pki"

    @property
    def ssh(self) -> Path:
        """The operator's key, the known hosts and the client's configuration."""
        return self.state / "ssh"

    @property
    def puppet(self) -> Path:
        """Puppet's code: a git repository, which hosts see as it is checked out."""
        return self.state / "puppet"

    @property
    def operator(self) -> Path:
        """What an operator of the lab's fleet has on a cluster-management host."""
        return self.state / "operator"

    @property
    def bin(self) -> Path:
        """Wrappers of ``cookbook`` and ``kubectl``, to be first on PATH."""
        return self.state / "bin"

    def host(self, name: str) -> HostPaths:
        """Return the folder of a host."""
        return HostPaths(self.state / "hosts" / name)
