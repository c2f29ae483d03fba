"""Kubernetes sees a node Ready, after its reboot too."""

from collections.abc import Sequence

from fleet.adapters.hosts import probe
from fleet.adapters.k8s.nodes import Node
from fleet.engine.declaration import Verdicts
from fleet.engine.model import TargetState, Verdict, done, pending, unknown
from fleet.execution import Unreachable
from fleet.steps.base import FAST, NodeStep, each

NEW_BOOT = "new_boot_id"
"""The name under which the boot is remembered in which a host runs since this run rebooted it."""
HEARTBEAT = "heartbeat"
"""The name under which a node's last heartbeat before its reboot is remembered."""


def heartbeat(node: Node) -> str:
    """Return a node's last heartbeat as the API has it: by the host's clock, to be compared for being the same only."""
    return node.ready_heartbeat.isoformat() if node.ready_heartbeat else ""


class Ready(NodeStep):
    """Kubernetes sees the node Ready; a rebooted one in the boot that the host runs, with a heartbeat of that boot.

    A kubelet writes the boot id and the condition ``Ready`` with its heartbeat in one change of the status
    (``tryUpdateNodeStatus`` in pkg/kubelet/kubelet_node_status.go), at once when it starts. From then on it writes a
    heartbeat only every five minutes, or when something changes (``nodeStatusReportFrequency``): so what counts is a
    heartbeat that is another one than before the reboot, in a status of another boot. By which clock, does not matter.
    """

    name = "ready"
    deadline = "ready"
    poll = FAST
    gate = True
    acceptable = True

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look at the node as the watch brought it."""

        def judge(state: TargetState) -> Verdict:
            node = self.cluster.node(state.target.name)
            if not node.ready:
                return pending("NotReady")
            if NEW_BOOT not in state.facts:
                return done()
            if node.boot_id and node.boot_id == state.facts.get("boot_id"):
                return pending("the kubelet still reports the old boot id")
            if heartbeat(node) in ("", state.facts.get(HEARTBEAT)):
                return pending("no heartbeat since the boot")
            if node.boot_id in ("", state.facts[NEW_BOOT]):
                return done()
            return self._booted_again(node)

        return each(targets, judge)

    def _booted_again(self, node: Node) -> Verdict:
        """Judge a node in a boot that was not seen yet: whoever repaired its host may have booted it once more."""
        host = self.cluster.hosts[node.name]
        answer = probe.probe(self.cluster.remote, [host])[host]
        if isinstance(answer, Unreachable):
            return unknown(f"{host} does not answer: {answer.reason}")
        if answer.boot_id != node.boot_id:
            return pending(f"the kubelet reports the boot {node.boot_id}, and {host} runs {answer.boot_id}")
        return done(new_boot_id=answer.boot_id)
