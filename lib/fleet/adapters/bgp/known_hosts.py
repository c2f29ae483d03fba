"""The routers' SSH host keys, as OpenSSH's ``known_hosts`` has them."""

from pathlib import Path

import paramiko
from paramiko.hostkeys import InvalidHostKey

from fleet.errors import FleetError


def keys_of(path: Path, address: str, port: int) -> list[paramiko.PKey]:
    """Return the keys of a router: those of its address alone, and those of its address and port.

    Args:
        path: the file. Hashed names are found, patterns are not; ``@revoked`` and ``@cert-authority`` are left out.
        address: host name or address.
        port: where it listens.

    Raises:
        FleetError: the file cannot be read, or a line of it.
    """
    keys = paramiko.HostKeys()
    try:
        keys.load(str(path))
    except OSError as error:
        raise FleetError(f"{path}: {error.strerror}.") from error
    except InvalidHostKey as error:
        raise FleetError(f"{path}: this line has no key: {error.line.strip()[:60]}…") from error
    except ValueError as error:
        raise FleetError(f"{path} is no list of keys.") from error
    names = (address, f"[{address}]:{port}")
    return [key for name in names for key in (keys.lookup(name) or {}).values()]


def usable(keys: list[paramiko.PKey]) -> bool:
    """Tell whether ncclient can verify one of them: of RSA keys it asks for signatures that paramiko has dropped."""
    return any(key.get_name() != "ssh-rsa" for key in keys)
