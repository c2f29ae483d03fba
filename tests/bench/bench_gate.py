"""How long a node waits once its last BGP session is up at the last router: the routers' clock against the gate."""

import os
import time

import pytest

from fleet.engine import journal
from fleet_lab import workload
from fleet_lab.lab import Lab
from lab.conftest import lab  # noqa: F401 (a fixture)
from support.rehearsal import RESTART_CALICO, Rehearsal

AIM = 2.0
"""Seconds."""


@pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root")
def test_from_the_last_session_to_the_open_gate(lab: Lab, tmp_path):  # noqa: F811
    workload.create(lab)
    rehearsal = Rehearsal(lab, tmp_path, RESTART_CALICO)
    rehearsal.change_config(lambda cluster: cluster["bgp"].update(stable="0s"))
    outcome = rehearsal.start("--max-unavailable", "2")
    assert outcome.code == 0, outcome.output
    up: dict[str, float] = {}
    for (_, address), session in lab.sessions().items():
        since = time.time() - session["peerUptimeMsec"] / 1000
        up[address] = max(up.get(address, 0.0), since)
    opened = {
        event.target: event.at
        for event in journal.read(rehearsal.folder()).events
        if (event.step, event.kind) == ("bgp", "done")
    }
    waits = [
        at - max(up[str(address)] for address in (lab.hosts[name].ipv4, lab.hosts[name].ipv6))
        for name, at in opened.items()
    ]
    print(
        f"\nfrom the last session at the last router to the open gate: {min(waits):.1f} to {max(waits):.1f} s,"
        f" {sum(waits) / len(waits):.1f} s on average over {len(waits)} nodes (aim: {AIM:.0f} s)"
    )
    assert len(waits) == len(lab.names("worker"))
    assert max(waits) < AIM
    workload.delete(lab)
