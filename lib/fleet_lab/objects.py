"""Conftool's objects of the lab, written with conftool itself: of its apiservers, and of its services' records."""

import logging

from fleet_lab import deployment, operator
from fleet_lab.charts.objects import SERVICES
from fleet_lab.errors import LabError
from fleet_lab.roles import Context, pybal

_WEIGHT = 10


def write(context: Context) -> None:
    """Write the objects, pooled; those that are there stay as they are.

    Args:
        context: the lab.

    Raises:
        LabError: etcd is not ready for it.
    """
    _write(context, again=False)


def pool(context: Context) -> None:
    """Have all objects pooled, whatever has become of them; see :func:`write`."""
    _write(context, again=True)


def _write(context: Context, *, again: bool) -> None:
    # It takes long to load, and other commands need not wait for that.
    from conftool.cli import ConftoolClient
    from conftool.drivers import BackendError

    # Its audit trail is for those who share objects.
    logging.getLogger("ConftoolAudit").disabled = True
    folder = operator.conftool_folder(context)
    files = {"configfile": str(folder / "config.yaml"), "schemafile": str(folder / "schema.yaml")}
    client = ConftoolClient(**files, irc_logging=False)
    node, record = client.get("node"), client.get("discovery")
    server = {"pooled": "yes", "weight": _WEIGHT}
    service = {"pooled": True, "references": [], "ttl": deployment.TTL}
    try:
        objects = [
            *((node(*pybal.TAGS.values(), host.name), server) for host in context.topology.with_role("control-plane")),
            *((record(name, datacenter), service) for name in SERVICES for datacenter in deployment.DATACENTERS),
        ]
        for item, values in objects:
            if again or not item.exists:
                item.update(values)
    except BackendError as error:
        raise LabError(f"Conftool's objects cannot be written: {error}") from error
