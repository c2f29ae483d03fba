"""The file with the failure domains of a group's hosts."""

from collections.abc import Mapping
from pathlib import Path

from fleet.config.file import ConfigError, read_yaml


def read_domains(path: Path) -> Mapping[str, str]:
    """Read the failure domain (row, rack) of each host.

    The file has one line for each host, as Cumin knows it::

        web1.example.org: row-a
        web2.example.org: row-b

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    found = read_yaml(path)
    domains = {str(host): domain.strip() for host, domain in found.items() if isinstance(domain, str)}
    wrong = [str(host) for host in found if not domains.get(str(host))]
    if wrong:
        raise ConfigError(f"{path}: {', '.join(wrong[:5])}: write the name of a failure domain, such as row-a")
    return domains
