"""What the lab's HAProxy itself says of the apiservers."""

import csv

from fleet_lab.lab import Lab
from fleet_lab.roles.load_balancer import BACKEND, SOCKET
from support.rehearsal import eventually


def servers(lab: Lab) -> dict[str, dict[str, str]]:
    """Return the rows of ``show stat`` by server: ``status``, ``check_status``, ``scur`` …"""
    text = lab.enter("lb1", "sh", "-c", f"echo show stat | socat - {SOCKET}")
    rows = csv.DictReader(text.removeprefix("# ").splitlines())
    names = lab.names("control-plane")
    return {row["svname"]: row for row in rows if row["pxname"] == BACKEND and row["svname"] in names}


def wait_until_in_service(lab: Lab, *, within: float = 120.0) -> None:
    """Wait until HAProxy uses all apiservers.

    Args:
        lab: the lab.
        within: seconds; an apiserver takes a few to start, and many on a machine that has much else to do.
    """
    names = set(lab.names("control-plane"))
    eventually(lambda: {name for name, row in servers(lab).items() if row["status"] == "UP"} == names, within=within)
