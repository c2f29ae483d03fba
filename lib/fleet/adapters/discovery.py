"""Discovery records: in which datacenters a service's name leads to it, as conftool's objects say."""

import re
from collections.abc import Mapping, Sequence

from conftool.cli import ObjectTypeError
from conftool.configuration import ConfigurationError
from conftool.drivers import BackendError
from spicerack.confctl import Confctl, ConfctlError, ConftoolEntity

from fleet.config.reinitialize import DiscoveryConfig
from fleet.errors import FleetError

_TROUBLE = (BackendError, ConfctlError, ValueError)
"""What conftool raises: of etcd, of no match, and of objects or a schema that are not as they should be."""


class DiscoveryError(FleetError):
    """Discovery records could not be read or set, or there is none."""


class Discovery:
    """The objects of the type ``discovery``: a service's (tag ``dnsdisc``) in each datacenter (name).

    Conftool keeps its connection, and whether this is a dry-run, in a class: of all that are made in a process, those
    for load balancers included, the last one counts.

    Args:
        config: conftool's files.
        dry_run: whether nothing is to be written.

    Raises:
        DiscoveryError: conftool's files are of no use.
    """

    def __init__(self, config: DiscoveryConfig, *, dry_run: bool) -> None:
        try:
            confctl = Confctl(str(config.config_file), str(config.schema_file), dry_run=dry_run)
            self._records: ConftoolEntity = confctl.entity("discovery")
        except ConfigurationError as error:
            raise DiscoveryError(f"Conftool cannot be used with {config.config_file}: {error}") from error
        except ObjectTypeError as error:
            raise DiscoveryError(f"{config.schema_file} does not have conftool's type {error}: add it.") from error
        except SystemExit as error:  # that is what it does when it has logged why
            raise DiscoveryError(
                f"Conftool cannot be used with {config.config_file}: its driver or its etcd_config_file is wrong, "
                "see the log above."
            ) from error

    def pooled(self, services: Sequence[str]) -> dict[str, dict[str, bool]]:
        """Return where services are pooled: by service and datacenter.

        Raises:
            DiscoveryError: conftool could not be asked, or has no record for a service.
        """
        found: dict[str, dict[str, bool]] = {service: {} for service in services}
        try:
            for record in self._records.get(dnsdisc=f"(?:{'|'.join(map(re.escape, services))})"):
                found[record.tags["dnsdisc"]][record.name] = bool(record.pooled)
        except _TROUBLE as error:
            raise DiscoveryError(f"Conftool has no discovery records for {', '.join(services)}: {error}") from error
        if missing := [service for service, states in found.items() if not states]:
            raise DiscoveryError(f"Conftool has no discovery record for {', '.join(missing)}: see discovery.services.")
        return found

    def set(self, service: str, datacenter: str, *, pooled: bool) -> None:
        """Pool a service in a datacenter, or depool it; it is read back.

        Raises:
            DiscoveryError: there is no such record, or it could not be set.
        """
        try:
            self._records.set_and_verify("pooled", pooled, dnsdisc=re.escape(service), name=re.escape(datacenter))
        except _TROUBLE as error:
            raise DiscoveryError(
                f"Conftool did not set {service}'s discovery record in {datacenter} to pooled={pooled}: {error}"
            ) from error


def last_one(states: Mapping[str, Mapping[str, bool]], datacenter: str) -> list[str]:
    """Return the services that are pooled in no other datacenter: without this one they would be nowhere.

    Args:
        states: what :meth:`Discovery.pooled` says.
        datacenter: the one that is to be depooled.
    """
    return [
        service
        for service, pooled in states.items()
        if not any(there for name, there in pooled.items() if name != datacenter)
    ]
