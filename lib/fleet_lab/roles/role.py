"""What a role is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fleet_lab.files import File, Link
from fleet_lab.roles.context import Context
from fleet_lab.topology import Host


@dataclass(frozen=True)
class Role:
    """What makes a host what it is: what it needs of the base image, its files and its units."""

    packages: tuple[str, ...] = ()
    """Debian packages that the base image must have."""
    units: tuple[str, ...] = ()
    """systemd units that are started at boot."""

    def files(self, context: Context, host: Host) -> Iterable[File | Link]:
        """Return the files of a host with this role."""
        raise NotImplementedError

    def binds(self, context: Context) -> Mapping[str, str]:  # noqa: ARG002
        """Return read-only bind mounts: the machine's path to the host's path."""
        return {}
