"""kube-apiservers that have one member of etcd alone: each is out of the load balancer while its member is restarted.

That is how control planes are built whose hosts have a member each (``--etcd-servers=https://127.0.0.1:2379``). What
the running processes were started with tells, whatever files say; it is remembered with the run.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from fleet.adapters.etcd import clients
from fleet.adapters.etcd.health import View
from fleet.adapters.hosts import processes
from fleet.adapters.load_balancer.model import LoadBalancer
from fleet.engine.declaration import Bracket, Step, Tell
from fleet.engine.findings import Finding, ask, note
from fleet.engine.model import TargetState, Verdict, done
from fleet.execution import Unreachable
from fleet.steps.balancing import Connections
from fleet.steps.brackets import depooled
from fleet.steps.cluster import Cluster
from fleet.steps.control_plane import Calm, Serving
from fleet.steps.control_plane_health import API, ControlPlane

APISERVERS = "apiservers"
"""The option of a run that names the control-plane host whose apiserver has a member alone, by the member's host."""


@dataclass(frozen=True)
class Uses:
    """On which members the kube-apiservers depend.

    Attributes:
        alone: the control-plane hosts whose apiservers have one member alone, by the member's host.
        strange: the one server of apiservers that have one alone which is no member's own address.
        silent: why it could not be read which members an apiserver has.
    """

    alone: Mapping[str, Sequence[str]]
    strange: Mapping[str, str]
    silent: Mapping[str, str]


def uses(cluster: Cluster, view: View, planes: Sequence[str]) -> Uses:
    """Ask the control-plane hosts with which members their kube-apiservers were started.

    Args:
        cluster: the cluster.
        view: what was heard of all members.
        planes: the control-plane hosts.
    """
    known = clients.addresses(view)
    alone: dict[str, list[str]] = {}
    strange, silent = {}, {}
    for host, words in processes.of_program(cluster.remote, planes, API).items():
        if isinstance(words, Unreachable):
            silent[host] = words.reason
            continue
        member = clients.sole((processes.flag(words, "etcd-servers") or "").split(","), host, known)
        if member in known:
            alone.setdefault(member, []).append(host)
        elif member:
            strange[host] = member
    return Uses(alone, strange, silent)


def spared(found: Uses, planes: Sequence[str], *, has_balancer: bool) -> dict[str, str]:
    """Return the apiservers that are taken out of the load balancer, by the host of the member that each has alone.

    Args:
        found: who depends on what.
        planes: all control-plane hosts.
        has_balancer: whether there is a load balancer to tell.
    """
    if not has_balancer or len(planes) == 1:
        return {}
    return {member: hosts[0] for member, hosts in found.alone.items() if len(hosts) == 1}


def of_uses(found: Uses, out: Mapping[str, str], targets: Collection[str]) -> list[Finding]:
    """Tell which apiservers the restart of members takes away, and what of that clients will notice.

    Args:
        found: who depends on what.
        out: the apiservers that are out of the load balancer meanwhile, by member.
        targets: the hosts whose members are restarted.
    """
    findings = []
    for member, hosts in sorted(found.alone.items()):
        if member not in targets:
            continue
        names = ", ".join(hosts)
        what = f"kube-apiserver on {names} uses the member on {member} alone"
        if member in out:
            findings.append(note(f"{what}: it is out of the load balancer while that is restarted."))
        else:
            todo = "Give it all members (--etcd-servers), and several hosts a load balancer that the run can tell."
            findings.append(ask(f"{what}, and stays in use: requests fail while that is restarted.", todo))
    for host, server in sorted(found.strange.items()):
        what = f"kube-apiserver on {host} uses {server} alone, which is no address of a member."
        findings.append(ask(what, "If one member alone is behind it, requests fail while that is restarted."))
    for host, reason in sorted(found.silent.items()):
        what = f"It cannot be read which members kube-apiserver on {host} uses: {reason}."
        findings.append(ask(what, "If it has one alone, requests fail while that is restarted."))
    return findings


class Only:
    """A step that concerns some targets only, and is done for the others."""

    def __init__(self, step: Step, names: Collection[str]) -> None:
        """Restrict a step to the named units."""
        self.spec = step.spec
        self.wraps = self._step = step
        self._names = names

    def check(self, targets: Sequence[TargetState]) -> Mapping[str, Verdict]:
        """Look at those that it concerns."""
        mine = [state for state in targets if state.target.name in self._names]
        return {**{state.target.name: done() for state in targets}, **(self._step.check(mine) if mine else {})}

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Mapping[str, Verdict]:
        """Act on those that it concerns."""
        mine = [state for state in targets if state.target.name in self._names]
        return {**{state.target.name: done() for state in targets}, **(self._step.apply(mine, tell) if mine else {})}


class Stacked:
    """The apiservers of a run over members, each of which has one of these alone.

    Args:
        plane: the control plane.
        balancer: what is before it.
        out: the control-plane host of each member that has such an apiserver.
    """

    def __init__(self, plane: ControlPlane, balancer: LoadBalancer, out: Mapping[str, str]) -> None:
        # Its steps are about the apiserver's host where those of the member are about the member's.
        self.plane = replace(plane, cluster=replace(plane.cluster, hosts=dict(out)))
        self.balancer = balancer
        self._out = out
        self._depooled = depooled(self.plane, balancer, self._only)

    def problem(self, member: str) -> str:
        """Say why the apiserver of a member cannot be spared now; nothing if it can, or there is none."""
        return self.plane.problem(API, self._out[member]) if member in self._out else ""

    def closed_problem(self, member: str) -> str:
        """Say why the member of an apiserver that is out of the load balancer cannot be restarted."""
        return self.plane.closed_problem(self._out[member]) if member in self._out else ""

    def closing(self) -> tuple[Bracket | Step, ...]:
        """Return what the apiserver goes out of use with."""
        return (self._depooled, self._only(Connections(self.plane, self.balancer)))

    def opening(self) -> tuple[Bracket | Step, ...]:
        """Return what it comes back with, once its member has."""
        return (self._only(Serving(self.plane)), self._depooled)

    def settling(self) -> tuple[Step, ...]:
        """Return the gate that waits until all has been well for a while."""
        return (self._only(Calm(self.plane)),)

    def _only(self, step: Step) -> Step:
        return Only(step, self._out)
