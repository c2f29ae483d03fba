"""What a run leaves beside its steps, and what is to be done when it goes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fleet.adapters.k8s.apiserver import Apiservers
from fleet.adapters.k8s.model import Node, Taint, parse_node
from fleet.adapters.k8s.nodes import PENDING_TAINT
from fleet.adapters.load_balancer.model import ServerState
from fleet.engine.model import Status, Target, TargetState
from fleet.procedures.restart_control_plane import of_balancer
from fleet.steps.cleanup import TaintPending
from fleet.steps.control_plane_health import API, ControlPlane
from support.clusters import RUN, Nodes, cluster

STAGE = [TargetState(Target("taint"))]


def node(name: str, *taints: Taint) -> Node:
    return replace(parse_node({"metadata": {"name": name}}), taints=taints)


@dataclass
class Balancer:
    """A load balancer that is only asked."""

    known: dict[str, ServerState]

    def states(self, hosts: Sequence[str]) -> dict[str, ServerState]:
        return {host: self.known[host] for host in hosts}

    def depool(self, host: str, at: Sequence[str]) -> None:
        raise AssertionError(host)

    def pool(self, host: str, at: Sequence[str]) -> None:
        raise AssertionError(host)

    def watch_again(self, host: str) -> None:
        raise AssertionError(host)


def test_a_taint_that_is_lost_is_set_again():
    taint = Taint(PENDING_TAINT, RUN.id, "PreferNoSchedule")
    nodes = Nodes({"worker1": node("worker1", taint), "worker2": node("worker2")})
    states = {name: TargetState(Target(name)) for name in ("worker1", "worker2", "gone")}
    states["worker3"] = TargetState(Target("worker3"), Status.DONE)
    step = TaintPending(cluster({}, view=nodes), lambda: states)
    verdict = step.check(STAGE)["taint"]
    assert verdict.undone
    assert verdict.detail == "no taint on worker2"
    nodes.known["worker2"] = node("worker2", taint)
    assert step.check(STAGE)["taint"].kind == "done"


def test_a_host_that_only_one_of_two_load_balancers_uses_is_found_though_it_alone_is_restarted():
    states = {
        "cp1": ServerState(pooled_at=("lb1",), out=False, up=True, connections=0, detail=""),
        "cp2": ServerState(pooled_at=("lb1", "lb2"), out=False, up=True, connections=0, detail=""),
    }
    run = cluster({"cp1": "cp1"})
    apiservers = Apiservers(run.config.kubeconfig, run.config.control_plane, [], run.config.lease)
    (finding,) = of_balancer(ControlPlane(run, ["cp1", "cp2"], apiservers, Balancer(states)), [API])
    assert finding.level == "stop"
    assert finding.what == "cp1 gets no connections from lb2, but from others."
