"""Calico's datastore in a real etcd, written and read by the lab's stand-in for calicoctl, as on a host."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

import fleet_lab.guest.calicoctl
from fleet.adapters.calico import contents
from fleet.adapters.calico.config import CalicoError
from fleet.adapters.calico.contents import CONFIGURATION, PEER, POOL, Contents, Resource
from fleet.adapters.calico.datastore import Datastore
from fleet.adapters.hosts.remote import mark, parse
from fleet.config.reinitialize import CalicoConfig
from fleet.execution import Result
from support.etcd import programs
from support.plain_etcd import plain_etcd
from support.ports import free_port

OLD = Contents(
    configurations=(
        Resource(
            CONFIGURATION, "default", {"asNumber": 64601, "nodeToNodeMeshEnabled": False, "logSeverityScreen": "Info"}
        ),
    ),
    peers=tuple(
        Resource(PEER, f"cr{number}-{family}", {"peerIP": address.format(number), "asNumber": 64600})
        for number in (1, 2)
        for family, address in (("ipv4", "10.0.0.{}"), ("ipv6", "fd00::{}"))
    ),
    pools=(
        Resource(POOL, "ipv4", {"cidr": "10.78.0.0/16", "ipipMode": "Never", "natOutgoing": False, "blockSize": 26}),
        Resource(
            POOL, "odd", {"cidr": "10.79.0.0/16", "nodeSelector": "row == 'a' || $(exit 3)"}, {"labels": {"a": "b"}}
        ),
    ),
)


@dataclass
class Host:
    """A host with calicoctl; commands run here."""

    folder: Path
    old: str
    new: str
    dry_run: bool = False

    @property
    def config(self) -> CalicoConfig:
        return CalicoConfig(file=self.folder / "calicoctl.cfg")

    @property
    def datastores(self) -> tuple[Datastore, Datastore]:
        """The old one, which the host's own file names, and the new one."""
        return Datastore(self, "w1", self.config, [self.old]), Datastore(self, "w1", self.config, [self.new])

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        if self.dry_run and not safe:
            return {}
        environment = {**os.environ, "PATH": f"{self.folder}:{programs()}", "TMPDIR": str(self.folder / "tmp")}
        done = subprocess.run(
            ["sh", "-c", mark(command)], capture_output=True, text=True, env=environment, timeout=timeout, check=False
        )
        return dict.fromkeys(hosts, parse(done.stdout, timeout=None))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with ExitStack() as stack:
        old, new = (stack.enter_context(plain_etcd(tmp_path / name)) for name in ("old", "new"))
        host = Host(tmp_path, old, new)
        (tmp_path / "tmp").mkdir()
        (tmp_path / "calicoctl").write_text(
            f'#!/bin/sh\nexec {sys.executable} {fleet_lab.guest.calicoctl.__file__} "$@"\n'
        )
        (tmp_path / "calicoctl").chmod(0o755)
        host.config.file.write_text(
            "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata: {}\n"
            f'spec:\n  datastoreType: etcdv3\n  etcdEndpoints: "{old}"\n'
        )
        yield host
        assert list((tmp_path / "tmp").iterdir()) == []


def test_a_datastore_is_moved_into_another_etcd(host: Host) -> None:
    old, new = host.datastores
    export = host.folder / "export.json"
    export.write_text(contents.to_json(OLD))
    command = f"calicoctl create --filename={export} --config={host.config.file}"
    assert host.run(["w1"], command, timeout=20, safe=False)["w1"].ok
    found = old.read()
    assert found == OLD
    wanted = contents.transfer(found, ["kube-system"])

    host.dry_run = True
    planned = new.write(wanted)
    host.dry_run = False
    assert new.write(wanted) == planned == list(map(str, wanted.resources))

    assert new.read() == wanted
    assert new.write(wanted) == []


def test_what_a_crash_has_left_out_is_written_and_what_is_there_stays(host: Host) -> None:
    _, new = host.datastores
    bare = Resource(CONFIGURATION, "default", {"logSeverityScreen": "Info"})
    new.write(Contents(configurations=(bare,), pools=OLD.pools[:1]))

    assert new.write(OLD) == [str(one) for one in (*OLD.configurations, *OLD.pools[1:], *OLD.peers)]

    assert new.read() == OLD
    other = Resource(PEER, "cr1-ipv4", {"asNumber": 1})
    with pytest.raises(CalicoError, match="BGPPeer cr1-ipv4: asNumber is 64600, not 1"):
        new.write(Contents(configurations=OLD.configurations, pools=OLD.pools, peers=(other,)))


def test_a_datastore_that_cannot_be_read_is_not_taken_for_an_empty_one(host: Host) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(
        CalicoError, match=f"Calico's datastore at {dead} cannot be read with calicoctl on w1: .*datastore"
    ):
        Datastore(host, "w1", host.config, [dead]).read()
    host.config.file.unlink()
    with pytest.raises(CalicoError, match=r"calicoctl\.cfg on w1 cannot be read: .*No such file"):
        host.datastores[1].read()


def test_a_calicoctl_that_hangs_is_given_up(host: Host) -> None:
    (host.folder / "calicoctl").write_text("#!/bin/sh\nsleep 60\n")
    with pytest.raises(CalicoError, match="calicoctl did not answer within 10 s"):
        host.datastores[1].read()
