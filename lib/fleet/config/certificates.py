"""The certificates of a client of etcd."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths on the host of a client."""

    ca: Path
    """The authority of the members' certificates."""
    cert: Path
    """The certificate that the client shows."""
    key: Path
    """The key of that certificate."""
