"""The alerts of hosts: none that did not fire before."""

from collections.abc import Sequence

from fleet.engine.declaration import Verdicts
from fleet.engine.model import TargetState, Verdict, done, pending
from fleet.steps.base import HostStep, each


class Alerts(HostStep):
    """No alert of the host fires that did not fire before."""

    name = "alerts"
    deadline = "alerts"
    gate = True
    acceptable = True

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Ask Alertmanager for the alerts of all hosts at once, silenced ones too."""
        hosts = self.scope.by_host(state.target.name for state in targets)
        alerts = self.scope.silences.alerts(list(hosts))

        def judge(state: TargetState) -> Verdict:
            expected = {*self.scope.config.alerts.ignore, *state.facts.get("alerts_before", [])}
            host = self.scope.hosts[state.target.name]
            firing = sorted({alert.name for alert in alerts if alert.host == host} - expected)
            return pending(f"firing: {', '.join(firing)}") if firing else done()

        return each(targets, judge)
