"""What a run leaves beside its steps, and what is to be done when it goes."""

from types import SimpleNamespace
from typing import Any

from fleet.adapters.k8s.model import Taint
from fleet.adapters.k8s.nodes import PENDING_TAINT
from fleet.adapters.load_balancer.model import ServerState
from fleet.engine.model import Status, Unit, UnitState
from fleet.procedures.restart_control_plane import of_balancer
from fleet.steps.cleanup import TaintPending
from fleet.steps.control_plane_health import API

STAGE = [UnitState(Unit("taint"))]


def test_a_taint_that_is_lost_is_set_again():
    taint = Taint(PENDING_TAINT, "run-1", "PreferNoSchedule")
    nodes = {"worker1": SimpleNamespace(taints=(taint,)), "worker2": SimpleNamespace(taints=())}
    cluster: Any = SimpleNamespace(
        nodes=SimpleNamespace(snapshot=lambda: nodes), run=SimpleNamespace(id="run-1"), check_current=lambda: None
    )
    states = {name: UnitState(Unit(name)) for name in ("worker1", "worker2", "gone")}
    states["worker3"] = UnitState(Unit("worker3"), Status.DONE)
    step = TaintPending(cluster, lambda: states)
    verdict = step.check(STAGE)["taint"]
    assert verdict.undone
    assert verdict.detail == "no taint on worker2"
    nodes["worker2"] = nodes["worker1"]
    assert step.check(STAGE)["taint"].kind == "done"


def test_a_host_that_only_one_of_two_load_balancers_uses_is_found_though_it_alone_is_restarted():
    states = {
        "cp1": ServerState(pooled_at=("lb1",), out=False, up=True, connections=0, detail=""),
        "cp2": ServerState(pooled_at=("lb1", "lb2"), out=False, up=True, connections=0, detail=""),
    }
    balancer = SimpleNamespace(states=lambda hosts: {host: states[host] for host in hosts})
    plane: Any = SimpleNamespace(hosts=["cp1", "cp2"], balancer=balancer, cluster=SimpleNamespace(hosts={"cp1": "cp1"}))
    (finding,) = of_balancer(plane, [API])
    assert finding.level == "stop"
    assert finding.what == "cp1 gets no connections from lb2, but from others."
