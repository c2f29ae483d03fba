"""Parts of the lab that need no root: disks, certificates, preflight, the host watcher's packets, the wait."""

import os
import socket
import ssl
import stat
import threading
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509

from fleet_lab import preflight
from fleet_lab.errors import LabError
from fleet_lab.files import Disk, File, Link
from fleet_lab.guest.host_watcher import echo_request
from fleet_lab.guest.kubelet.faults import NOT_READY, SLOW_TERMINATION, Faults
from fleet_lab.lab import Lab
from fleet_lab.paths import Paths
from fleet_lab.pki import Authority, signing_key
from fleet_lab.roles import ROLES, packages
from fleet_lab.ssh import Ssh
from fleet_lab.status import HostStatus
from fleet_lab.topology import DEFAULT, load
from fleet_lab.waiting import answers_ssh, wait_for


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    image = tmp_path / "image"
    (image / "etc").mkdir(parents=True)
    me = f"{os.getuid()}:{os.getgid()}"
    (image / "etc" / "passwd").write_text(f"root:x:{me}:root:/root:/bin/sh\n", encoding="utf-8")
    (image / "private").mkdir(mode=0o700)
    (image / "lib").symlink_to("usr/lib")
    (tmp_path / "upper").mkdir()
    return Disk(image, tmp_path / "upper")


def test_files_are_written_as_they_are_to_be(disk: Disk, tmp_path: Path) -> None:
    for content in ("one", "two"):
        disk.write([File("/private/new/key", content, mode=0o600), Link("/etc/link", "/private")])
    upper = tmp_path / "upper"
    assert (upper / "private/new/key").read_text() == "two"
    modes = [stat.S_IMODE((upper / path).stat().st_mode) for path in ("private", "private/new", "private/new/key")]
    assert modes == [0o700, 0o755, 0o600]
    assert (upper / "etc/link").readlink() == Path("/private")


@pytest.mark.parametrize(
    ("file", "message"),
    [(File("/lib/x", ""), "/lib is a symbolic link"), (File("/etc/x", "", owner="nobody"), "no user nobody")],
)
def test_files_that_would_go_elsewhere_are_refused(disk: Disk, file: File, message: str) -> None:
    with pytest.raises(LabError, match=message):
        disk.write([file])


def test_certificates_are_made_once_and_are_for_whom_they_say(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "test")
    issued = authority.issue("system:node:a", organization="nodes", names=["a"], addresses=[IPv4Address("10.0.0.1")])
    assert Authority(tmp_path / "ca", "test").issue("system:node:a") == issued
    certificate = x509.load_pem_x509_certificate(issued.certificate.encode())
    assert certificate.subject.rfc4514_string() == "CN=system:node:a,O=nodes"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a"]
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate.encode()))
    context = ssl.create_default_context(cafile=str(authority.path))
    context.load_cert_chain(tmp_path / "ca/system-node-a.pem", tmp_path / "ca/system-node-a.key")
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (tmp_path / "ca").iterdir())
    assert "BEGIN EC PRIVATE KEY" in signing_key(tmp_path / "key")


def test_every_host_has_a_key_of_its_own_that_is_known(tmp_path: Path) -> None:
    ssh, topology = Ssh(tmp_path), load(DEFAULT)
    ssh.write_config(topology)
    known = (tmp_path / "known_hosts").read_text().splitlines()
    assert len({line.split()[2] for line in known}) == len(topology.hosts)
    assert "StrictHostKeyChecking yes" in ssh.config.read_text()


def test_everything_that_is_missing_is_said_at_once() -> None:
    machine = preflight.Machine(
        is_root=False,
        programs=preflight.PROGRAMS.keys() - {"systemd-nspawn", "mmdebstrap"},
        free={Path("/var/lib"): 2.0},
        memory=1.5,
        inotify=(128, 100),
        drops_packets=True,
        has_cgroups=False,
        namespaces=preflight.NAMESPACES.keys() - {"time"},
        has_overlay=False,
    )
    said = preflight.lacking(machine, hosts=14, bridge="fleetlab")
    for part in (
        "run it with sudo",
        "apt-get install systemd-container",
        "apt-get install mmdebstrap",
        "/var/lib has 2.0 GB free, 5 are needed",
        "1.5 GB of memory are free, 3.5 are needed",
        "28 inotify instances free, 14 hosts need 56: sysctl fs.inotify.max_user_instances=512",
        "mount -t cgroup2",
        "iptables -I FORWARD -i fleetlab -o fleetlab -j ACCEPT",
        "no time namespaces: boot a kernel with them (a kernel of 5.6 or later)",
        "modprobe overlay",
    ):
        assert [line for line in said if part in line], part
    assert len(said) == 10
    well = preflight.Machine(
        is_root=True,
        programs=preflight.PROGRAMS.keys(),
        free={Path("/var/lib"): 5.0},
        memory=3.5,
        inotify=(512, 100),
        drops_packets=False,
        has_cgroups=True,
        namespaces=preflight.NAMESPACES.keys(),
        has_overlay=True,
    )
    assert preflight.lacking(well, hosts=14, bridge="fleetlab") == []


def test_this_machine_can_be_looked_at(tmp_path: Path) -> None:
    machine = preflight.look(tmp_path / "state", tmp_path / "cache", bridge="fleetlab")
    assert list(machine.free) == [tmp_path]
    assert machine.memory > 0
    assert machine.is_root == (os.geteuid() == 0)


@pytest.mark.parametrize(
    ("allowed", "used", "hosts", "said"),
    [
        (128, 67, 19, ["61 inotify instances free, 19 hosts need 76: sysctl fs.inotify.max_user_instances=512"]),
        (128, 130, 1, ["0 inotify instances free, 1 host needs 4: sysctl fs.inotify.max_user_instances=512"]),
        (
            1024,
            999,
            19,
            ["25 inotify instances free, 19 hosts need 76: sysctl fs.inotify.max_user_instances=1151"],
        ),
        (143, 67, 19, []),
    ],
)
def test_a_second_lab_needs_inotify_instances(allowed: int, used: int, hosts: int, said: list[str]) -> None:
    assert preflight.lacking_inotify(allowed, used, hosts=hosts) == said


class Greeting(threading.Thread):
    """A server that says something to whoever connects, or nothing at all, as one that is frozen."""

    def __init__(self, says: bytes | None) -> None:
        super().__init__(daemon=True)
        self._says, self._socket = says, socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    def run(self) -> None:
        while self._says is not None:
            connection, _ = self._socket.accept()
            connection.sendall(self._says)
            connection.close()


@pytest.mark.parametrize(("says", "answers"), [(b"SSH-2.0-OpenSSH_9.2", True), (b"hello", False), (None, False)])
def test_a_connection_alone_is_no_answer(says: bytes | None, answers: bool) -> None:
    server = Greeting(says)
    server.start()

    assert answers_ssh(IPv4Address("127.0.0.1"), server.port, tries=1) is answers


def test_a_host_that_runs_and_does_not_answer_is_found(tmp_path: Path) -> None:
    now = time.time()
    hosts = list(load(DEFAULT).hosts.values())
    known = [
        HostStatus(hosts[0], "running", 1, now - 1000, ()),
        HostStatus(hosts[1], "running", 1, now - 1000, ("ssh-unreachable",)),
        HostStatus(hosts[2], "running", 1, now - 10, ()),
        HostStatus(hosts[3], "rebooting", 1, now - 1000, ()),
        HostStatus(hosts[4], "running", 1, now - 1000, ()),
    ]

    class Known(Lab):
        def status(self) -> list[HostStatus]:
            return known

    lab = Known(Paths.from_environment())

    assert lab.silent(answers=lambda address: address == hosts[4].ipv4) == [hosts[0].name]


def test_the_folders_are_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_LAB_DIR", "/somewhere")
    monkeypatch.delenv("FLEET_LAB_CACHE", raising=False)
    paths = Paths.from_environment()
    assert (paths.state, paths.cache) == (Path("/somewhere"), Path("/var/cache/fleet-lab"))
    assert not paths.lock.is_relative_to(paths.state)


def test_every_role_is_provided_for() -> None:
    roles = {host.role for host in load(DEFAULT).hosts.values()}
    assert roles == set(ROLES)
    assert {"haproxy", "etcd-server", "puppet-agent", "openssh-server"} <= set(packages())


def test_an_echo_request_has_the_right_checksum() -> None:
    for number in (0, 1, 0xFFFF):
        words = memoryview(echo_request(number)).cast("B")
        total = sum(words[index] << 8 | words[index + 1] for index in range(0, len(words), 2))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        assert total == 0xFFFF


def test_faults_are_read_when_they_change(tmp_path: Path) -> None:
    faults = Faults(tmp_path)
    assert not faults.refresh()
    (tmp_path / SLOW_TERMINATION).write_text("7.5", encoding="ascii")
    assert faults.refresh()
    assert not faults.refresh()
    assert SLOW_TERMINATION in faults
    assert NOT_READY not in faults
    assert (faults.seconds(SLOW_TERMINATION), faults.seconds(NOT_READY)) == (7.5, 0)


def test_what_is_still_missing_is_said() -> None:
    answers = iter(["a, b", "b", ""])
    wait_for(lambda: next(answers), what="all", timeout=10)
    with pytest.raises(LabError, match="Waited 0 s for all: it broke"):
        wait_for(lambda: "it broke", what="all", timeout=0)
