"""Commands on hosts, over real sshds on the loopback interface, through Cumin and spicerack as they are."""

import os
import pwd
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from spicerack import Spicerack

from fleet.adapters.hosts import puppet
from fleet.adapters.hosts.probe import HostState, probe
from fleet.adapters.hosts.reboot import reboot
from fleet.adapters.hosts.remote import Remote
from fleet.execution import RemoteError, Result, Unreachable
from support.places import CONFIG
from support.ports import free_port

BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
HOSTS = CONFIG / "hosts"


@dataclass
class Sshds:
    """Hosts that are nothing but an sshd on a port of their own."""

    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def key(self, name: str) -> Path:
        path = self.folder / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        return path

    def start(self, name: str, *options: str, known: bool = True, path: str = "/usr/sbin:/usr/bin:/sbin:/bin") -> None:
        """Start a host; ``known`` is whether its host key is."""
        port = free_port()
        key = self.key(f"{name}.key")
        config = self.folder / f"{name}.conf"
        common = (
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {key}\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"AuthorizedKeysFile {self.folder}/client.pub\nMaxStartups 100\nKexAlgorithms curve25519-sha256\n"
            # Not what this machine's root has in .bashrc.
            f"SetEnv HOME={self.folder} PATH={path}\n"
        )
        # Of an option that is there twice, sshd takes the first.
        config.write_text("".join(f"{option}\n" for option in options) + common)
        self.processes.append(subprocess.Popen([shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", config]))
        if known:
            public = key.with_suffix(".key.pub").read_text()
            with (self.folder / "known_hosts").open("a") as file:
                file.write(f"[127.0.0.1]:{port} {public}")
        self.name(name, port)

    def name(self, name: str, port: int) -> None:
        with (self.folder / "ssh_config").open("a") as file:
            file.write(f"Host {name}\n  HostName 127.0.0.1\n  Port {port}\n")

    def wait(self, name: str) -> None:
        deadline = time.monotonic() + 10
        while subprocess.run(["ssh", "-F", self.folder / "ssh_config", name, "true"], check=False).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture(scope="module")
def sshds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshds]:
    assert shutil.which("sshd") or Path("/usr/sbin/sshd").exists(), "install it: apt-get install openssh-server"
    sshds = Sshds(tmp_path_factory.mktemp("ssh"))
    Path("/run/sshd").mkdir(exist_ok=True)
    client = sshds.key("client")
    (sshds.folder / "ssh_config").write_text(
        f"IdentityFile {client}\nUser {pwd.getpwuid(os.getuid()).pw_name}\nBatchMode yes\nLogLevel ERROR\n"
        f"UserKnownHostsFile {sshds.folder}/known_hosts\nStrictHostKeyChecking yes\n"
    )
    noise = 'ForceCommand echo "Welcome"; eval "$SSH_ORIGINAL_COMMAND"; echo "Bye"'
    try:
        for host in ("good1", "good2", "good3"):
            sshds.start(host)
        sshds.start("noisy", noise)
        sshds.start("stranger", known=False)
        sshds.start("denied", "AuthorizedKeysFile /dev/null")
        sshds.name("refused", free_port())
        for host in ("good1", "good2", "good3", "noisy"):
            sshds.wait(host)
        yield sshds
    finally:
        for process in sshds.processes:
            process.terminate()
        for process in sshds.processes:
            process.wait()


def make_remote(sshds: Sshds, *, dry_run: bool = False) -> Remote:
    config = sshds.folder / "config.yaml"
    settings = {
        "transport": "clustershell",
        "default_backend": "direct",
        "log_file": str(sshds.folder / "cumin.log"),
        "clustershell": {"ssh_options": [f"-F {sshds.folder}/ssh_config"], "fanout": 64},
    }
    config.write_text(yaml.safe_dump(settings))
    (sshds.folder / "aliases.yaml").write_text("good: D{good[1-3]}\n")
    return Remote(Spicerack(dry_run=dry_run, cumin_config=str(config), spicerack_config_dir=str(sshds.folder)))


@pytest.fixture
def remote(sshds: Sshds) -> Remote:
    return make_remote(sshds)


def test_queries(remote: Remote) -> None:
    assert remote.query("good[1-2]") == ["good1", "good2"]
    assert remote.query("A:good and not D{good2}") == ["good1", "good3"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "The Cumin query is empty"),
        ("  ", "The Cumin query is empty"),
        ("good1 and good2", "finds no host"),
        ("A:nonsense", "'A:nonsense' cannot be used: "),
        ("good1 or or", "cannot be used: "),
        ("X{x}", "cannot be used: "),
    ],
)
def test_wrong_queries(remote: Remote, query: str, message: str) -> None:
    with pytest.raises(RemoteError, match=message) as caught:
        remote.query(query)

    assert "\n" not in str(caught.value)


def test_every_host_has_its_own_result(remote: Remote) -> None:
    command = 'echo "$SSH_CONNECTION" >/dev/null; printf "%s %%h %%%%" "$((6 * 7))"; exit 3'

    results = remote.run(["good1", "good2", "noisy"], command, timeout=20, safe=True)

    assert results["good1"] == results["good2"] == Result(3, "42 %h %%")
    assert results["noisy"] == Result(3, "Welcome\n42 %h %%")
    assert not results["good1"].ok


def test_hosts_that_cannot_be_reached(remote: Remote) -> None:
    results = remote.run(["good1", "refused", "stranger", "denied"], "true", timeout=20, safe=True)

    assert results["good1"] == Result(0, "")
    for host, reason in (
        ("refused", "Connection refused"),
        ("stranger", "Host key verification failed"),
        ("denied", "Permission denied"),
    ):
        assert results[host].exit_code is None
        assert reason in results[host].output


def test_a_command_that_takes_too_long(remote: Remote) -> None:
    started = time.monotonic()

    results = remote.run(["good1"], "echo begun; sleep 30", timeout=1.5, safe=True)

    assert results == {"good1": Result(None, "no answer within 1.5 s, after: begun")}
    assert time.monotonic() - started < 10


def test_a_shell_that_dies_is_no_success(remote: Remote) -> None:
    results = remote.run(["good1"], "kill -9 $PPID", timeout=20, safe=True)

    assert results["good1"].exit_code is None


def test_syntax_errors_and_input(remote: Remote) -> None:
    results = remote.run(["good1"], "cat; echo $((", timeout=20, safe=True)

    assert results["good1"].exit_code not in (0, None)


def test_nothing_to_run_on(remote: Remote) -> None:
    assert remote.run([], "true", timeout=5, safe=True) == {}


def test_a_dry_run_runs_what_is_safe_alone(sshds: Sshds) -> None:
    remote = make_remote(sshds, dry_run=True)
    trace = sshds.folder / "trace"

    assert remote.run(["good1"], f"touch {trace}", timeout=10, safe=False) == {}
    assert not trace.exists()
    assert remote.run(["good1"], "exit 4", timeout=10, safe=True) == {"good1": Result(4, "")}


def test_worker_threads(remote: Remote) -> None:
    hosts = ["good1", "good2", "good3"]

    def ask(number: int) -> dict[str, Result]:
        return remote.run(hosts, f"echo {number}; exit {number % 7}", timeout=60, safe=True)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(ask, range(40)))
    assert results == [dict.fromkeys(hosts, Result(number % 7, str(number))) for number in range(40)]
    assert threading.active_count() < 20


def ssh_children() -> list[int]:
    """The processes of ssh that this one has started."""
    found = []
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == "ssh":
                    found.append(int(pid))
    return found


def test_an_interrupt_on_the_terminal_ends_no_command_in_flight(remote: Remote) -> None:
    """It reaches all processes of the terminal, ssh as well."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(remote.run, ["good1"], "sleep 2; echo ended", timeout=30, safe=True)
        deadline = time.monotonic() + 10
        while not (processes := ssh_children()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.5)  # It has its own handlers now.
        for pid in processes:
            os.kill(pid, signal.SIGINT)
        assert running.result()["good1"] == Result(0, "ended")


def test_threads_leave_nothing_open(remote: Remote) -> None:
    def ask() -> None:
        assert remote.run(["good1"], "true", timeout=20, safe=True)["good1"].ok

    remote.run(["good1"], "true", timeout=20, safe=True)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

    assert len(list(Path("/proc/self/fd").iterdir())) == before


@given(
    words=st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs", "Cc"]), max_size=20), min_size=1
    )
)
@settings(max_examples=25, deadline=None)
def test_words_arrive_as_they_are(sshds: Sshds, words: list[str]) -> None:
    received = sshds.folder / "received"
    program = sshds.folder / "receive"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{received}\n')
    program.chmod(0o755)

    results = make_remote(sshds).run(["good1"], puppet.command([str(program), *words]), timeout=20, safe=True)

    assert results["good1"].exit_code == 0
    assert received.read_text().split("\n")[:-1] == words


def test_probe(remote: Remote) -> None:
    states = probe(remote, ["good1", "noisy", "refused"])

    for host in ("good1", "noisy"):
        state = states[host]
        assert isinstance(state, HostState)
        assert state.boot_id == BOOT_ID
        assert state.now == pytest.approx(time.time(), abs=30)
        assert state.uptime > 0
    refused = states["refused"]
    assert isinstance(refused, Unreachable)
    assert "refused" in refused.reason


@pytest.fixture
def tools(tmp_path: Path, sshds: Sshds) -> tuple[str, Path]:
    """Start a host whose PATH holds a ``reboot-host`` that only writes down that it ran."""
    program = tmp_path / "reboot-host"
    trace = tmp_path / "rebooted"
    program.write_text(f"#!/bin/sh\necho yes >>{trace}\n")
    program.chmod(0o755)
    name = f"tools{len(sshds.processes)}"
    sshds.start(name, path=f"{tmp_path}:/usr/bin:/bin")
    sshds.wait(name)
    return name, trace


def test_a_reboot_ends_the_boot_it_names(remote: Remote, tools: tuple[str, Path]) -> None:
    host, trace = tools

    results = reboot(remote, {host: BOOT_ID, "good1": "11111111-2222-3333-4444-555555555555"})

    assert results[host].ok
    # good1 is in the boot that was named for the other host, and has no reboot-host: on one machine they share it.
    assert results["good1"].exit_code == 127
    assert trace.read_text() == "yes\n"


def test_a_reboot_that_has_happened_is_not_repeated(remote: Remote, tools: tuple[str, Path]) -> None:
    host, trace = tools

    result = reboot(remote, {host: "11111111-2222-3333-4444-555555555555"})[host]

    assert result.ok
    assert "another one" in result.output
    assert not trace.exists()


def test_no_boot_id_no_reboot(remote: Remote) -> None:
    with pytest.raises(RemoteError, match="good1 is not rebooted"):
        reboot(remote, {"good1": "x) touch /tmp/x ;; *"})
