"""What rolling restarts of the control plane cost its clients: plainly one host after the other, and by the cookbook.

The clients are those of the lab's tests: none of them tries again.
"""

import os
import time
from collections.abc import Callable

import pytest

from fleet_lab.lab import Lab
from lab.conftest import lab  # noqa: F401 (a fixture)
from support.haproxy import wait_until_in_service
from support.load import Load, Report
from support.rehearsal import Rehearsal

RESTART = "systemctl restart {} kube-apiserver kube-controller-manager kube-scheduler"
BETWEEN = 3
"""Seconds between two hosts, as people have it who find that enough."""


def under_load(lab: Lab, restart: Callable[[], object]) -> tuple[Report, float]:  # noqa: F811
    """Restart under the load, until all is as before; return what the load saw, and the seconds that it took."""
    wait_until_in_service(lab)
    with Load(lab) as load:
        time.sleep(2)
        begin = time.monotonic()
        restart()
        wait_until_in_service(lab, within=180)
        seconds = time.monotonic() - begin
        time.sleep(2)
    assert load.report
    return load.report, seconds


@pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root")
def test_plainly_and_by_the_cookbook(lab: Lab, tmp_path):  # noqa: F811
    def plainly(flag: str) -> None:
        for host in lab.names("control-plane"):
            done = lab.exec(host, RESTART.format(flag), timeout=400)
            assert done.returncode == 0, done.stderr
            time.sleep(BETWEEN)

    rehearsal = Rehearsal(lab, tmp_path, "sre.k8s.restart-control-plane")
    rehearsal.change_config(lambda cluster: cluster["deadlines"].update(restart="5m", ready="5m"))

    def by_the_cookbook() -> None:
        outcome = rehearsal.start(timeout=1200)
        assert outcome.code == 0, outcome.output

    ways: dict[str, Callable[[], None]] = {
        f"systemctl restart, {BETWEEN} s between the hosts": lambda: plainly("--no-block"),
        f"systemctl restart, {BETWEEN} s after the first host's is done": lambda: plainly(""),
        "the cookbook": by_the_cookbook,
    }
    print()
    for way, restart in ways.items():
        report, seconds = under_load(lab, restart)
        print(f"{way}: {seconds:.0f} s; {report.headline}", flush=True)
    assert report.rate > 50, report
    assert report.failed == 0, report
