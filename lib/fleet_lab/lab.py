"""The lab as others use it: what is running, commands on its hosts, faults."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable
from functools import cached_property
from ipaddress import IPv4Address
from pathlib import Path

from fleet_lab import bgp, cgroups, faults, operator, preflight, status, topology
from fleet_lab.command import run
from fleet_lab.context import make as make_context
from fleet_lab.errors import LabError
from fleet_lab.faults import FAULTS, Fault
from fleet_lab.guest.kubelet.api import TROUBLE, Api
from fleet_lab.machine import Machine
from fleet_lab.paths import Paths
from fleet_lab.roles import Context
from fleet_lab.status import HostStatus
from fleet_lab.topology import Host, RoleName
from fleet_lab.waiting import answers_ssh, is_listening, wait_for

_BOOT = 90.0
"""Seconds after which a host that runs has started its services, on a busy machine as well."""
_BACK = 60.0
"""Seconds for a host to be back once nothing keeps it down any more."""


class Lab:
    """A lab that was made by ``fleet-lab up``.

    Args:
        paths: its folders; those of the environment if none are given.
    """

    def __init__(self, paths: Paths | None = None) -> None:
        self.paths = paths or Paths.from_environment()

    @property
    def exists(self) -> bool:
        """Whether there is a lab, running or not; nobody but root can tell."""
        try:
            return self.paths.topology.exists()
        except PermissionError:
            return False

    @cached_property
    def context(self) -> Context:
        """All of the lab's parts.

        Raises:
            LabError: there is no lab, or this is not root.
        """
        if os.geteuid() != 0:
            raise LabError("The lab is root's alone: run this with sudo.")
        if not self.exists:
            raise LabError("There is no lab: start one with `fleet-lab up`.")
        return make_context(self.paths, topology.load(self.paths.topology))

    @property
    def hosts(self) -> dict[str, Host]:
        """All hosts by name."""
        return self.context.topology.hosts

    def names(self, role: RoleName) -> list[str]:
        """Return the names of the hosts with a role."""
        return [host.name for host in self.context.topology.with_role(role)]

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of the cluster's administrator."""
        return operator.admin_kubeconfig(self.context)

    @property
    def fleet_config(self) -> Path:
        """This project's configuration for the lab."""
        return operator.fleet_config(self.context)

    @property
    def spicerack_config(self) -> Path:
        """Spicerack's configuration for the lab."""
        return self.paths.operator / "spicerack" / "config.yaml"

    def environment(self) -> dict[str, str]:
        """Return what to set so that ``cookbook``, ``fleet`` and ``kubectl`` talk to the lab."""
        return operator.environment(self.context)

    def api(self, *, host: str | None = None) -> Api:
        """Return a client of the Kubernetes API, with all rights; for one thread.

        Args:
            host: a control-plane host, to ask its own apiserver; the load balancer otherwise.
        """
        context = self.context
        address: IPv4Address = self.hosts[host].ipv4 if host else context.topology.api_host.ipv4
        context.kubernetes_ca.issue("admin", organization="system:masters")
        folder = context.kubernetes_ca.path.parent
        return Api(
            {
                "server": f"https://{address}:6443",
                "ca": str(context.kubernetes_ca.path),
                "certificate": str(folder / "admin.pem"),
                "key": str(folder / "admin.key"),
            }
        )

    def exec(self, host: str, command: str, *, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, over SSH.

        Args:
            host: the host's name.
            command: what the shell there runs.
            timeout: seconds.

        Returns:
            The finished command with its output; exit code 255 if the host cannot be reached.
        """
        self._known([host])
        return self.context.ssh.run(host, command, timeout=timeout)

    def enter(self, host: str, *command: str, timeout: float = 60.0) -> str:
        """Run a command inside a host from the machine, whatever its SSH does.

        Raises:
            LabError: the host is down, or the command failed.
        """
        self._known([host])
        leader = self._leader(host)
        if leader is None:
            raise LabError(f"{host} is down.")
        return run(["nsenter", "--all", "--target", str(leader), "--", *command], timeout=timeout)

    def status(self) -> list[HostStatus]:
        """Return what is known of every host, without asking it."""
        return [
            status.read(host, self.paths.host(host.name), supervised=self.supervisor(host.name) is not None)
            for host in self.hosts.values()
        ]

    def supervisor(self, host: str) -> int | None:
        """Return the process id of a host's supervisor; None if it does not run."""
        paths = self.paths.host(host)
        try:
            pid = int(paths.lock.read_text(encoding="ascii"))
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if str(paths.root).encode() in command else None

    def silent(self, *, answers: Callable[[IPv4Address], bool] = answers_ssh) -> list[str]:
        """Return the hosts that run, have had the time to boot, and do not answer although no fault is injected."""
        running = [
            known.host
            for known in self.status()
            if known.state == "running" and not known.faults and time.time() - known.since > _BOOT
        ]
        return [host.name for host in running if not answers(host.ipv4)]

    def inject(self, fault: str, *hosts: str, seconds: float | None = None) -> None:
        """Inject a fault into hosts. It lasts, over reboots too, until it is healed.

        Args:
            fault: a key of :data:`fleet_lab.faults.FAULTS`.
            hosts: the hosts' names.
            seconds: how long, for the faults that have a number.

        Raises:
            LabError: there is no such fault or host, or the fault is not for hosts of that role. Nothing was done then.
        """
        self._known(hosts)
        known = faults.choose(fault, [self.hosts[name] for name in hosts], seconds)
        for name in hosts:
            self._write_fault(name, known, seconds)

    def _write_fault(self, name: str, fault: Fault, seconds: float | None) -> None:
        paths = self.paths.host(name)
        content = "" if fault.seconds is None else str(fault.seconds if seconds is None else seconds)
        temporary = paths.root / "fault.new"
        temporary.write_text(content, encoding="ascii")
        temporary.replace(paths.faults / fault.name)
        self._nudge(name)
        self._run_beside(name, fault.inject)

    def _run_beside(self, name: str, command: str) -> None:
        """Run what goes with a fault in a host; nothing in one that has yet to start its units: they see its file."""
        if command and self._leader(name):
            self.enter(name, "sh", "-c", f"test -S /run/systemd/private || exit 0\n{command}")

    def heal(self, *hosts: str) -> list[str]:
        """Undo all faults of hosts, and wait until these are back.

        Args:
            hosts: the hosts' names; none for all.

        Returns:
            What was healed, as ``host: fault``.

        Raises:
            LabError: there is no such host, or it does not come back.
        """
        self._known(hosts)
        healed = []
        for known in self.status():
            name = known.host.name
            if hosts and name not in hosts:
                continue
            for fault in known.faults:
                (self.paths.host(name).faults / fault).unlink(missing_ok=True)
                healed.append(f"{name}: {fault}")
        names = [entry.split(":")[0] for entry in healed]
        for name in dict.fromkeys(names):
            self._nudge(name)
        for name, fault in (entry.split(": ") for entry in healed):
            if fault in FAULTS:
                self._run_beside(name, FAULTS[fault].heal)
        self.wait_for_ssh(dict.fromkeys(names), timeout=_BACK)
        return healed

    def wait_for_ssh(self, hosts: Iterable[str], *, timeout: float) -> None:
        """Wait until hosts answer on their SSH port.

        Raises:
            LabError: some do not in time; with the end of their consoles.
        """
        waiting = {name: self.hosts[name].ipv4 for name in hosts}
        deadline = time.monotonic() + timeout
        while waiting:
            waiting = {name: address for name, address in waiting.items() if not is_listening(address, 22)}
            if waiting and time.monotonic() > deadline:
                lacking = preflight.lacking_inotify(*preflight.inotify_instances(), hosts=len(waiting))
                raise LabError(
                    f"{', '.join(waiting)} did not come up within {timeout:.0f} s."
                    + "".join(f" {what}, then `fleet-lab up` once more." for what in lacking)
                    + " What their consoles say:\n"
                    + "\n".join(self._console(name) for name in waiting)
                )
            if waiting:
                time.sleep(0.1)

    def wait_for_nodes(self, nodes: Iterable[str], *, timeout: float) -> None:
        """Wait until Kubernetes has nodes as Ready.

        Raises:
            LabError: some are not Ready in time.
        """
        wanted = set(nodes)

        def missing() -> str:
            items = self.api().request("GET", "/api/v1/nodes")["items"]
            ready = {
                node["metadata"]["name"]
                for node in items
                for condition in node["status"].get("conditions", [])
                if condition["type"] == "Ready" and condition["status"] == "True"
            }
            return ", ".join(sorted(wanted - ready))

        wait_for(missing, what="nodes that are Ready", timeout=timeout, trouble=TROUBLE)

    def sessions(self) -> dict[tuple[str, str], bgp.Session]:
        """Return the nodes' BGP sessions as the routers themselves see them: :func:`fleet_lab.bgp.sessions`."""
        return bgp.sessions(self.context.topology, self.enter)

    def wait_for_sessions(self, *, without: Collection[str] = (), timeout: float = 30.0) -> None:
        """Wait until all nodes have all their sessions: :func:`fleet_lab.bgp.wait_for_sessions`."""
        bgp.wait_for_sessions(self.context.topology, self.enter, without=without, timeout=timeout)

    def _console(self, name: str) -> str:
        paths = self.paths.host(name)
        text = "".join(
            path.read_text(encoding="utf-8", errors="replace")[-1000:]
            for path in (paths.console, paths.log)
            if path.exists()
        )
        return f"{name}: {text.strip() or 'nothing'}"

    def _leader(self, name: str) -> int | None:
        return cgroups.leader(Machine(self.paths.state).host_cgroup(name))

    def _nudge(self, name: str) -> None:
        """Tell a host's supervisor that its faults have changed."""
        pid = self.supervisor(name)
        if pid is not None:
            os.kill(pid, signal.SIGHUP)

    def _known(self, names: Iterable[str]) -> None:
        unknown = [name for name in names if name not in self.hosts]
        if unknown:
            raise LabError(f"The lab has no host {', '.join(unknown)}. It has: {', '.join(self.hosts)}.")
