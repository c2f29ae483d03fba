"""What an operator of the lab has put into Calico's datastore."""

import json
import shlex

from fleet_lab.errors import LabError
from fleet_lab.lab import Lab
from fleet_lab.roles import calico_datastore


def fill(lab: Lab, host: str) -> None:
    """Put in what is not there.

    Args:
        lab: the lab.
        host: a host with calicoctl, which knows the etcd in use.

    Raises:
        LabError: etcd is not ready for it.
    """
    resources = json.dumps(calico_datastore.contents(lab.context.topology))
    done = lab.exec(host, f"printf %s {shlex.quote(resources)} | calicoctl create --skip-exists -f -")
    if done.returncode:
        raise LabError(f"Calico's datastore cannot be filled: {(done.stderr or done.stdout).strip()}")
