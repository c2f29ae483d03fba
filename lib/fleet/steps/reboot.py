"""The reboot of a host, and Puppet's first run since."""

from collections.abc import Mapping, Sequence

from fleet.adapters.hosts import probe, puppet, reboot
from fleet.adapters.hosts.probe import HostState
from fleet.engine.declaration import Tell, Verdicts
from fleet.engine.findings import Found, stop
from fleet.engine.model import Facts, Kind, TargetState, Verdict, done, failed, pending
from fleet.execution import Result, Unreachable
from fleet.steps import gates
from fleet.steps.at_most_once import AtMostOnce, Incarnation, NodeAtMostOnce
from fleet.steps.base import HostStep, each_host
from fleet.steps.look import Look
from fleet.steps.puppet import no_puppet
from fleet.steps.ready import HEARTBEAT, heartbeat


class RebootHost(AtMostOnce):
    """The host runs under another boot id than when this run first looked."""

    name = "reboot"
    deadline = "reboot"

    fact = "boot_id"
    messages = ("rebooted", "still up, has not gone down yet")

    def preflight(self, look: Look) -> Found:
        """Look whether hosts can be ordered to reboot."""
        lacking = [host for host, answer in look.answering().items() if not answer.can_reboot]
        todo = "Install it: config/hosts/ has one."
        return Found(tuple(stop(f"{host} has no reboot-host in its PATH.", todo) for host in lacking))

    def current(self, hosts: Sequence[str]) -> Mapping[str, Incarnation | Unreachable]:
        """Ask hosts for their boots."""
        answers = probe.probe(self.scope.remote, hosts)
        return {host: _boot(answer) if isinstance(answer, HostState) else answer for host, answer in answers.items()}

    def order(self, ids: Mapping[str, str]) -> Mapping[str, Result]:
        """Order hosts to reboot."""
        return reboot.reboot(self.scope.remote, ids)


class Reboot(NodeAtMostOnce, RebootHost):
    """The same of a node, which must be closed and empty."""

    def noted(self, state: TargetState) -> Facts:
        """Remember the node's last heartbeat, and the containers, of the boot that is to end."""
        containers = gates.with_containers_of_now(self.cluster, state)
        return {HEARTBEAT: heartbeat(self.cluster.node(state.target.name)), **containers}

    def safe(self, state: TargetState) -> Verdict:
        """Look whether the node is closed, empty, and has no volume any more."""
        verdict = super().safe(state)
        if verdict.kind is not Kind.DONE or not self.cluster.config.gates.volumes or "volumes" in state.accepted:
            return verdict
        volumes = gates.VolumesDetached(self.cluster).judge(state.target.name)
        return volumes if volumes.kind is Kind.DONE else failed(f"{volumes.detail}; it was not {self.messages[0]}")


def _boot(host: HostState) -> Incarnation:
    return Incarnation(host.boot_id, host.boot_id, host.uptime, facts={_RUN_AT_BOOT: host.puppet_last_success})


_RUN_AT_BOOT = "puppet_at_boot"
"""The name under which is remembered which run of Puppet the host told of when it was first seen after the boot."""
_HAS_RUN = "puppet_ran"
"""The name under which is remembered that this run had Puppet run to the end, and without an error, since the boot."""


class Puppet(HostStep):
    """Puppet has run without an error since the boot.

    That is so if the host tells of another run than when it was first seen after the boot, or if this run itself had
    Puppet run. When a run ended is told by the host's clock, which may be wrong right after a boot until NTP corrects
    it: such times are compared for being the same or not, and with nothing else.
    """

    name = "puppet"
    deadline = "puppet"
    poll = 10.0
    acceptable = True

    @property
    def wanted(self) -> bool:
        """Whether there is a Puppet."""
        return self.scope.config.puppet.enabled

    def preflight(self, look: Look) -> Found:
        """Look whether it is there, and enabled."""
        findings = []
        disabled: dict[str, list[str]] = {}
        for host, answer in look.answering().items():
            if not answer.puppet_installed:
                findings.append(no_puppet(host))
            elif answer.puppet_disabled is not None:
                disabled.setdefault(answer.puppet_disabled, []).append(host)
        for reason, hosts in disabled.items():
            names = ",".join(sorted(hosts))
            what = f"Puppet is disabled on {names}: {reason!r}"
            findings.append(stop(what, f"Enable it there, or --exclude {names}."))
        return Found(tuple(findings))

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look at Puppet's last run and lock on all hosts at once."""

        def judge(state: TargetState, host: HostState) -> Verdict:
            if host.puppet_disabled is not None:
                return failed(f"Puppet is disabled: {host.puppet_disabled!r}; enable it, then resume")
            last, at_boot = host.puppet_last_success, state.facts.get(_RUN_AT_BOOT, host.puppet_last_success)
            if last is not None and (last != at_boot or state.facts.get(_HAS_RUN)):
                return done()
            return pending("no successful Puppet run since the boot")

        answers = probe.probe(self.scope.remote, self.hosts(targets))
        return each_host(self.scope, targets, answers, judge)

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Run Puppet; a run that the boot started is waited for."""
        hosts = self.scope.by_host(state.target.name for state in targets)
        results = puppet.run(self.scope.remote, list(hosts), timeout=self.scope.config.deadlines.puppet)
        return {
            node: pending(f"Puppet: {results[host].error}")
            if results[host].error
            else Verdict(Kind.DONE, facts={_HAS_RUN: True})
            for host, node in hosts.items()
        }
