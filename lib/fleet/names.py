"""Names of hosts: Cumin has one for each, and others may know it by the first label of that."""

from typing import Literal

Naming = Literal["fqdn", "short"]
"""Whether somebody knows hosts by the names Cumin has for them, or by their first labels."""


def known_as(host: str, naming: Naming) -> str:
    """Return the name that somebody has for a host.

    Args:
        host: its name, as Cumin knows it.
        naming: how they name hosts.
    """
    return host if naming == "fqdn" else host.split(".", 1)[0]
