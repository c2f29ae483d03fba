"""Up and down of a small lab of its own: run again, killed half-way, two at once, and nothing left behind.

Each test goes on with the small lab that the one before it has left, or makes one: a lab takes its time to come up.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fleet
from fleet_lab import cgroups
from fleet_lab.lab import Lab
from fleet_lab.machine import Machine
from fleet_lab.paths import Paths

BRIDGE = "fleettest"
TOPOLOGY = f"""\
network: {{bridge: {BRIDGE}, ipv4: 10.187.0.0/24, ipv6: "fd00:187::/64"}}
firmware_delay: 100ms
hosts:
  t-cp1: {{role: control-plane}}
  t-etcd1: {{role: etcd}}
  t-lb1: {{role: load-balancer}}
  t-worker1: {{role: worker}}
  t-alerts1: {{role: alertmanager}}
  t-conf1: {{role: lock-store}}
"""
MAPS = "/api/v1/namespaces/default/configmaps"


class Small:
    """The small lab, through its command."""

    def __init__(self, folder: Path) -> None:
        self.paths = Paths(folder / "state", Paths.from_environment().cache)
        self.topology = folder / "topology.yaml"
        self.topology.write_text(TOPOLOGY, encoding="utf-8")
        self.environment = {
            **os.environ,
            "FLEET_LAB_DIR": str(self.paths.state),
            "PYTHONPATH": str(Path(fleet.__file__).parents[1]),
        }

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "fleet_lab.cli", *arguments]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def up(self) -> None:
        """Bring it up, unless it is."""
        code, output = self.run("up", "--topology", str(self.topology))
        assert code == 0, output

    def down(self) -> None:
        """Take it down, if there is one."""
        code, output = self.run("down")
        assert code == 0, output
        assert self.leftovers() == []

    def lab(self) -> Lab:
        return Lab(self.paths)

    def leftovers(self) -> list[str]:
        """What the machine still has of the lab."""
        found = [str(path) for path in (self.paths.state, self.paths.lock) if path.exists()]
        links = json.loads(subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout)
        found += [link["ifname"] for link in links if link["ifname"] == BRIDGE or link["ifname"].startswith("vb-t-")]
        mountpoint = cgroups.mountpoint()
        assert mountpoint is not None
        cgroup = mountpoint / Machine(self.paths.state).cgroup_name
        found += [str(cgroup)] if cgroup.exists() else []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                mounts = (process / "mountinfo").read_text(encoding="utf-8")
            except OSError:
                continue
            if int(process.name) != os.getpid() and str(self.paths.state) in command + mounts:
                found.append(f"process {process.name}: {command}")
        return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    lab = Small(tmp_path_factory.mktemp("small"))
    assert lab.leftovers() == []
    yield lab
    lab.down()


def network_namespaces() -> dict[str, str]:
    """All network namespaces that processes are in, each with the cgroups of one of these."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found[str((process / "ns" / "net").readlink())] = (process / "cgroup").read_text(encoding="utf-8")
        except OSError:
            continue
    return found


def kill_up(small: Small, line: str) -> None:
    """Start ``up`` and kill it once it has said something."""
    process = small.start("up", "--topology", str(small.topology))
    assert process.stdout is not None
    assert any(line in text for text in process.stdout)
    process.kill()
    process.wait()
    process.stdout.close()


def test_up_is_killed_half_way_and_two_go_on_at_once(small: Small) -> None:
    small.down()
    kill_up(small, "starting")
    first = small.start("up", "--topology", str(small.topology))
    second = small.start("up", "--topology", str(small.topology))
    outputs = [process.communicate(timeout=300)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    assert "another fleet-lab is at work: waiting for it" in "".join(outputs)
    assert any("all hosts have been started" in output for output in outputs)
    assert len(small.lab().api().request("GET", "/api/v1/nodes")["items"]) == 1


def test_up_is_idempotent_and_mends_what_died(small: Small) -> None:
    small.up()
    lab = small.lab()
    lab.api().request("POST", MAPS, {"metadata": {"name": "kept"}, "data": {"key": "value"}})
    boots = {name: lab.exec(name, "cat /proc/sys/kernel/random/boot_id").stdout for name in lab.hosts}

    small.up()
    again = {name: lab.exec(name, "cat /proc/sys/kernel/random/boot_id").stdout for name in lab.hosts}
    assert again == boots, "what runs is left alone"

    for name in ("t-etcd1", "t-worker1"):
        os.kill(lab.supervisor(name) or 0, signal.SIGKILL)
    lab.enter("t-conf1", "systemctl", "poweroff")
    deadline = time.monotonic() + 30
    while (states := {s.host.name: s.state for s in lab.status()})["t-conf1"] != "off":
        assert time.monotonic() < deadline, states
        time.sleep(0.1)
    assert states["t-etcd1"] == states["t-worker1"] == "dead"
    assert small.run("status")[0] == 1

    small.up()
    assert lab.api().request("GET", f"{MAPS}/kept")["data"] == {"key": "value"}
    assert {status.state for status in lab.status()} == {"running"}
    code, output = small.run("status")
    assert code == 0, output

    other = small.topology.with_name("other.yaml")
    other.write_text(TOPOLOGY + "  t-worker2: {role: worker}\n", encoding="utf-8")
    code, output = small.run("up", "--topology", str(other))
    assert (code, "take it down first" in output) == (1, True)


def test_down_after_a_crash_leaves_nothing(small: Small) -> None:
    small.up()
    lab = small.lab()
    cgroup = Machine(small.paths.state).cgroup_name
    machine = str(Path("/proc/self/ns/net").readlink())
    ours = {name for name, cgroups in network_namespaces().items() if cgroup in cgroups} - {machine}
    assert len(ours) == len(lab.hosts)
    for name in lab.hosts:
        os.kill(lab.supervisor(name) or 0, signal.SIGKILL)
    assert len(small.leftovers()) > 3
    small.down()
    assert ours.isdisjoint(network_namespaces())
    small.down()


def test_commands_without_a_lab(small: Small) -> None:
    small.down()
    for command in (["status"], ["env"], ["exec", "cp1", "true"], ["inject", "ssh-refused", "cp1"], ["heal"]):
        code, output = small.run(*command)
        assert (code, output) == (1, "There is no lab: start one with `fleet-lab up`.\n")
    assert small.leftovers() == []


def test_a_network_that_is_taken(small: Small) -> None:
    small.down()
    text = TOPOLOGY.replace(BRIDGE, "lo")
    small.topology.write_text(text, encoding="utf-8")
    code, output = small.run("up", "--topology", str(small.topology))
    assert code == 1
    assert "There is a network interface lo that is not this lab's" in output
