"""Units of systemd on the hosts of a run: their lives, their restart, and whether they are active."""

from collections.abc import Sequence

from fleet.hosts import services
from fleet.hosts.probe import Unreachable
from fleet.hosts.services import ServiceState
from fleet.maintenance.model import UnitState, Verdict, done, failed, pending
from fleet.procedures.cluster import Cluster
from fleet.procedures.once import Life
from fleet.procedures.steps import NodeStep, Verdicts, each_host


def lives(cluster: Cluster, hosts: Sequence[str], unit: str) -> dict[str, Life | Unreachable]:
    """Ask hosts for a unit's last start."""
    answers = services.state(cluster.remote, hosts, unit)
    return {
        host: _start(unit, answer) if isinstance(answer, ServiceState) else answer for host, answer in answers.items()
    }


def _start(unit: str, service: ServiceState) -> Life:
    # One that cannot be started again, such as where a condition fails, keeps the id of its last start.
    trouble = "" if service.active == "active" else f"{unit} is {service.active}"
    return Life(service.invocation, service.boot_id, service.age, moving=service.moving, trouble=trouble)


class Active(NodeStep):
    """The unit is active."""

    def __init__(self, cluster: Cluster, unit: str) -> None:
        """Look at a unit on the hosts of a cluster."""
        super().__init__(cluster)
        self._unit = unit

    def check(self, units: Sequence[UnitState]) -> Verdicts:
        """Ask systemd on all hosts at once."""

        def judge(_state: UnitState, service: ServiceState) -> Verdict:
            if service.active == "failed":
                return failed(f"{self._unit} has failed ({service.result}); see journalctl -u {self._unit} there")
            return done() if service.active == "active" else pending(f"{self._unit} is {service.active}")

        answers = services.state(self.cluster.remote, self.hosts(units), self._unit)
        return each_host(self.cluster, units, answers, judge)
