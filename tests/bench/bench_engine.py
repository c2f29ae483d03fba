"""How long decisions take for a fleet of 5,000 nodes."""

import resource
import statistics
import time

from fleet.engine import advance as a
from fleet.engine import decide as d
from fleet.engine import model as m
from fleet.engine import planner

NODES, IN_FLIGHT = 5_000, 500
STEPS = tuple(m.StepSpec(name, 600, pivot=name == "reboot") for name in ("cordon", "drain", "reboot", "uncordon"))


def test_one_tick_of_5000_nodes():
    units = planner.order(m.Target(f"node{i}", f"row-{i % 20}", f"group-{i % 3}") for i in range(NODES))
    limits = m.Limits(max_unavailable=IN_FLIGHT, max_domains=2, groups={"group-0": 200})
    stage = m.Stage("nodes", units, STEPS, limits, renew=300)
    states = {unit.name: m.TargetState(unit) for unit in units}
    for unit in units[: IN_FLIGHT // 2]:
        states[unit.name] = a.enter(stage, states[unit.name], 1, 0.0)
    seen = m.Observation({f"node{i}": m.Absent(f"row-{i % 20}", "group-1", False, "cordoned") for i in range(0, 100)})
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        d.decide(stage, d.Progress(states), seen, 1.0)
        times.append(time.perf_counter() - begin)
    median = statistics.median(times)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\none tick over {NODES} nodes: {median * 1000:.1f} ms (aim: 100 ms); peak memory {memory:.0f} MiB")
    assert median < 0.1
