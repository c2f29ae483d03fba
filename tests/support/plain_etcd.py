"""An etcd of one member without TLS, for tests that need no more."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from support.apiserver import eventually
from support.etcd import programs
from support.ports import free_port


@contextmanager
def plain_etcd(directory: Path) -> Iterator[str]:
    """Run it, and give its URL as soon as it answers."""
    url, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    directory.mkdir()
    flags = {
        "data-dir": str(directory / "data"),
        "listen-client-urls": url,
        "advertise-client-urls": url,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
    }
    command = ["etcd", "--unsafe-no-fsync", *(f"--{name}={value}" for name, value in flags.items())]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={"PATH": programs()})

    def answers() -> bool:
        try:
            return requests.get(f"{url}/health", timeout=2).ok
        except requests.RequestException:
            return False

    try:
        eventually(answers, 30)
        yield url
    finally:
        process.kill()
        process.wait()
