"""The procedure of docs/write-a-procedure.md over the whole fleet: the command `cookbook`, from a checkout with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support import guides
from support.places import REPOSITORY
from support.rehearsal import Rehearsal

UNIT = "log-shipper.service"
FILE = f"/etc/systemd/system/{UNIT}"
SHIPPER = "[Service]\\nExecStart=/bin/sleep infinity\\n"
WORKERS = [f"worker{number}" for number in range(1, 7)]


class Command:
    """A cookbook in a process of its own: other tests' are forked from one that has imported this repository's."""

    def __init__(self, arguments, environment, output):
        self._output = output
        command = [Path(sys.executable).with_name("cookbook"), *arguments]
        with output.open("w") as file:
            self._process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)

    @property
    def is_alive(self):
        return self._process.poll() is None

    @property
    def said(self):
        return self._output.read_text()

    def send_signal(self, number):
        self._process.send_signal(number)

    def kill(self):
        self._process.kill()
        self._process.wait()

    def wait(self, *, timeout):
        try:
            return self._process.wait(timeout), self.said
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class Checkout(Rehearsal):
    """A checkout that has the guide's files as well, and a lab."""

    def __init__(self, lab, folder):
        super().__init__(lab, folder, "sre.k8s.restart-unit")
        self.checkout = checkout(folder)
        settings = yaml.safe_load(lab.spicerack_config.read_text())
        self.settings = folder / "spicerack.yaml"
        self.settings.write_text(yaml.safe_dump({**settings, "cookbooks_base_dirs": [str(self.checkout)]}))
        self.environment |= path(self.checkout)
        self.outputs = 0

    def _begin(self, *arguments):
        self.outputs += 1
        output = self.settings.with_name(f"output-{self.outputs}.txt")
        return Command(("-c", str(self.settings), *arguments), self.environment, output)


def checkout(folder):
    """Write a checkout with the guide's files."""
    for part in ("lib/fleet", "cookbooks"):
        shutil.copytree(REPOSITORY / part, folder / "checkout" / part)
    guides.write(folder / "checkout", guides.PROCEDURE)
    return folder / "checkout"


def path(checkout):
    """Return the variable that lets Python find a checkout before what is installed."""
    return {"PYTHONPATH": os.pathsep.join([str(checkout / "lib"), str(checkout)])}


@pytest.fixture
def rehearsal(lab, running_workload, tmp_path):
    """A fleet in order whose workers have such a unit."""
    ready = Checkout(lab, tmp_path)
    ready.restore()
    for host in WORKERS:
        lab.enter(host, "bash", "-c", f"printf '{SHIPPER}' > {FILE}; systemctl daemon-reload; systemctl start {UNIT}")
    yield ready
    for host in WORKERS:
        lab.enter(host, "bash", "-c", f"systemctl stop {UNIT}; rm -f {FILE}; systemctl daemon-reload")
    ready.restore()


def starts(lab):
    """The invocation of the unit on each worker, as its systemd has it."""
    show = ("systemctl", "show", "--property=InvocationID", "--value", UNIT)
    return {host: lab.enter(host, *show).strip() for host in WORKERS}


def test_the_unit_is_restarted_once_on_each_node_and_pods_stay(rehearsal, lab):
    before = starts(lab)
    planned = rehearsal.cookbook(
        "--dry-run", rehearsal.procedure, "--cluster", "lab", "-r", "rehearsal", "--unit", UNIT
    )
    assert planned.code == 0, planned.output
    assert starts(lab) == before

    outcome = rehearsal.start("--unit", UNIT, "--max-unavailable", "2")
    assert outcome.code == 0, outcome.output
    after = starts(lab)
    assert all(after[host] != before[host] for host in WORKERS)
    rehearsal.assert_untouched(*WORKERS)
    assert rehearsal.silences() == []


def test_a_run_that_is_killed_is_resumed_and_nothing_is_restarted_twice(rehearsal, lab):
    rehearsal.kill_at("worker1", "restart", "applied", "--unit", UNIT)
    first = starts(lab)["worker1"]
    resumed = rehearsal.resume(rehearsal.folder().name)
    assert resumed.code == 0, resumed.output
    assert starts(lab)["worker1"] == first
    assert set(rehearsal.statuses().values()) == {"done"}
    rehearsal.assert_untouched(*WORKERS)
    assert rehearsal.silences() == []


def test_a_unit_that_is_not_there_is_a_finding(rehearsal, lab):
    refused = rehearsal.start("--unit", "no-such.service")
    assert refused.code == 2
    assert "worker1 has no no-such.service." in refused.output
