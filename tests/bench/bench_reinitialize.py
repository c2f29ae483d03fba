"""How long it takes to move the lab's cluster, with its ten services, onto the new etcd: stage by stage."""

import os
import time
from collections import defaultdict

import pytest

from fleet_lab import deployment, reinitialized
from fleet_lab.lab import Lab
from lab.conftest import lab  # noqa: F401 (a fixture)
from lab.test_reinitialize import NEW, REINITIALIZE, carry_out
from support.rehearsal import Rehearsal


@pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root")
def test_from_the_old_etcd_to_the_new_one(lab: Lab, tmp_path):  # noqa: F811
    reinitialized.restore(lab)
    deployment.load(lab.api())
    rehearsal = Rehearsal(lab, tmp_path, REINITIALIZE)
    rehearsal.hurry(puppet="5m", ready="5m", restart="2m", bgp="2m")
    begin = time.monotonic()
    code, output = carry_out(rehearsal, *NEW, timeout=1800)
    seconds = time.monotonic() - begin
    assert code == 0, output
    stages: dict[str, float] = defaultdict(float)
    for unit in rehearsal.report()["units"]:
        stages[unit["stage"]] = max(stages[unit["stage"]], unit["seconds"])
    print(f"\nA cluster of {len(lab.names('worker'))} workers onto a new etcd: {seconds:.0f} s")
    for stage, longest in stages.items():
        print(f"  {stage}: {longest:.1f} s")
    reinitialized.restore(lab)
    deployment.unload(lab.api())
