"""A real control plane that stands a thousand nodes, and what its processes use."""

import os
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from fleet_lab.binaries import CONTROL_PLANE
from support.apiserver import Cluster

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Use:
    """What a process has used.

    Attributes:
        cpu: seconds, of all its threads.
        memory: MiB at most.
    """

    cpu: float
    memory: float

    def since(self, before: "Use") -> "Use":
        return Use(self.cpu - before.cpu, self.memory)


def use_of(pid: int) -> Use:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return Use((int(fields[11]) + int(fields[12])) / _TICK, int(peak) / 1024)


def use_of_self() -> Use:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Use(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


class ControlPlane(Cluster):
    """The four processes, with the rates that large clusters give controller manager and scheduler."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._components: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        super().start()
        # There is nobody else to lead; who lost the lead on a busy machine would end.
        rates = ("--kube-api-qps=1000", "--kube-api-burst=1000", "--leader-elect=false")
        manager, scheduler = CONTROL_PLANE[1:]
        self._components[manager] = self.spawn_component(
            manager,
            self.kubeconfig,
            *rates,
            "--node-monitor-grace-period=120s",  # where two cores do all of this, heartbeats may be late
            "--concurrent-deployment-syncs=10",
            "--concurrent-replicaset-syncs=10",
        )
        self._components[scheduler] = self.spawn_component(scheduler, self.kubeconfig, *rates)

    def stop(self) -> None:
        for process in self._components.values():
            process.kill()
            process.wait()
        super().stop()

    def spawn_apiserver(self, port: int, **options: object) -> "subprocess.Popen[bytes]":
        return super().spawn_apiserver(port, flags=["--etcd-compaction-interval=1m"])

    def find_etcd(self) -> str | None:
        # From 3.5.13 on it lets the API server answer lists from memory; the package that tests install is older.
        given = os.environ.get("FLEET_ETCD")
        return f"{given}/etcd" if given else shutil.which("etcd") or super().find_etcd()

    def use(self) -> dict[str, Use]:
        """Return what each process has used so far."""
        assert self.etcd
        assert self.apiserver
        processes = {"etcd": self.etcd, "kube-apiserver": self.apiserver, **self._components}
        for name, process in processes.items():
            assert process.poll() is None, f"{name} has ended: see {self.directory}"
        return {name: use_of(process.pid) for name, process in processes.items()}
