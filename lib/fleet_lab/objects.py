"""Conftool's objects of the lab's apiservers, written with conftool itself."""

import logging

from fleet_lab import operator
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
    # It takes long to load, and other commands need not wait for that.
    from conftool.cli import ConftoolClient
    from conftool.drivers import BackendError

    # Its audit trail is for those who share objects.
    logging.getLogger("conftool.audit").disabled = True
    folder = operator.conftool_folder(context)
    files = {"configfile": str(folder / "config.yaml"), "schemafile": str(folder / "schema.yaml")}
    kind = ConftoolClient(**files, irc_logging=False).get("node")
    try:
        for host in context.topology.with_role("control-plane"):
            node = kind(*pybal.TAGS.values(), host.name)
            if not node.exists:
                node.update({"pooled": "yes", "weight": _WEIGHT})
    except BackendError as error:
        raise LabError(f"Conftool's objects cannot be written: {error}") from error
