"""A real Alertmanager (Debian's prometheus-alertmanager) on the loopback interface."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import requests

from support.ports import free_port


@contextmanager
def running_alertmanager(folder: Path, *, mesh: str = "", peer: str = "") -> Iterator[str]:
    """Run an Alertmanager that keeps its data in a folder; give its URL.

    Args:
        folder: for its data.
        mesh: the address and port at which it listens for other members; empty for one on its own.
        peer: those of another member.
    """
    program = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    assert program, "install it: apt-get install prometheus-alertmanager"
    (folder / "config.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    address = f"127.0.0.1:{free_port()}"
    command = [
        *_with_templates(Path(program)),
        program,
        f"--config.file={folder}/config.yml",
        f"--storage.path={folder}/data",
        f"--web.listen-address={address}",
        f"--cluster.listen-address={mesh}",
        *([f"--cluster.peer={peer}"] if peer else []),
    ]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _wait_until_ready(f"http://{address}", folder / "log")
            yield f"http://{address}"
        finally:
            process.terminate()


def _with_templates(program: Path) -> list[str]:
    """Return what to put before the command of an Alertmanager that was unpacked and not installed.

    Debian's reads its templates from /usr/share whatever it is told: it gets a view of its own of that folder.
    """
    share = program.parent.parent / "share"
    if Path("/usr/share/prometheus/alertmanager/default.tmpl").exists() or program.is_relative_to("/usr/bin"):
        return []
    namespaces = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
    return ["unshare", *namespaces, "sh", "-c", 'mount --bind "$1" /usr/share && shift && exec "$@"', "sh", str(share)]


def _wait_until_ready(url: str, log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            if requests.get(f"{url}/-/ready", timeout=1).ok:
                return
        except requests.RequestException:
            pass
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def fire(url: str, instance: str, name: str = "HostDown", **labels: str) -> None:
    """Raise an alert of a host."""
    now = datetime.now(UTC)
    alert = {
        "labels": {"alertname": name, "instance": instance, **labels},
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(minutes=5)).isoformat(),
    }
    requests.post(f"{url}/api/v2/alerts", json=[alert], timeout=5).raise_for_status()
