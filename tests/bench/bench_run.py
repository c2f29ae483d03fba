"""The wall time of a whole run in the lab, against the least that its steps would allow; and the run's own memory."""

import itertools
import os
import resource
import statistics
import subprocess
import time
from collections import defaultdict

import pytest

from fleet_lab import workload
from fleet_lab.lab import Lab
from lab.conftest import lab  # noqa: F401 (a fixture)
from support.rehearsal import REBOOT, Rehearsal


@pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root")
def test_six_nodes_two_at_once(lab: Lab, tmp_path):  # noqa: F811
    workload.create(lab)
    rehearsal = Rehearsal(lab, tmp_path)
    # The command itself, whose start and memory count as well.
    new = ("--cluster", "lab", "-r", "rehearsal", "--unattended", "--max-unavailable", "2")
    begin = time.monotonic()
    done = subprocess.run(
        ["cookbook", REBOOT, *new], env=rehearsal.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    wall = time.monotonic() - begin
    assert done.returncode == 0, done.stdout + done.stderr
    rows, steps = defaultdict(list), defaultdict(list)
    for unit in rehearsal.report()["units"]:
        rows[unit["domain"]].append(sum(unit["steps"].values()))
        for step, seconds in unit["steps"].items():
            steps[step].append(seconds)
    least = sum(max(times) for times in rows.values())
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    each = ", ".join(f"{seconds:.1f}" for seconds in itertools.chain(*rows.values()))
    print(
        f"\nsix nodes, two at once: {wall:.1f} s, the least that the steps allow is {least:.1f} s"
        f" (+{(wall / least - 1) * 100:.0f} %, aim: 15 %); nodes took {each} s; peak memory {memory:.0f} MiB"
    )
    print("of it, on average:", ", ".join(f"{step} {statistics.mean(times):.1f}" for step, times in steps.items()))
    assert wall < 1.15 * least
    workload.delete(lab)
