"""Members of etcd in memory, for tests that let time pass: the world watches over the quorum."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fleet.adapters.etcd.health import Answer, Member, NoAnswer, View
from fleet.adapters.etcd.health import Status as MemberStatus
from fleet.adapters.etcd.members import EtcdError, Snapshot
from fleet.config.reinitialize import EtcdConfig
from fleet.steps.cluster import Cluster
from worlds.hosts import CONFIG, World, rule

NAMES = ("etcd1", "etcd2", "etcd3", "etcd4", "etcd5")
UNIT = "etcd.service"


class Members(World):
    """Members of etcd in memory: who is up, who leads, and how far each has come."""

    def __init__(self, names: Sequence[str], **values: Any) -> None:
        super().__init__(names, **{"units": ("etcd",), **values})
        self.ids = {name: 100 + number for number, name in enumerate(names)}
        self.leader, self.term = names[0], 7
        self.down: set[str] = set()
        self.snapshots: list[str] = []
        self.lag = dict.fromkeys(names, 0)

    def up(self, host: str) -> bool:
        return host not in self.down and self.hosts[host].services[UNIT].active == "active"

    def may_be_closed(self, host: str) -> None:
        up = [other for other in self.names if other != host and self.up(other)]
        rule(f"{host} goes while others are down", holds=len(up) == len(self.names) - 1)
        rule(f"{host} goes without a quorum", holds=len(up) > len(self.names) // 2)
        rule(f"{host} goes while it leads", holds=host != self.leader)
        rule("nothing was saved", holds=bool(self.snapshots))

    def elect(self, host: str) -> None:
        """Let a member lead, if it is there to do so."""
        if self.up(host):
            self.leader, self.term = host, self.term + 1

    def fall(self, host: str) -> None:
        """Let a member be down; if it led, another one leads."""
        self.down.add(host)
        if host == self.leader:
            self.elect(next((other for other in self.names if self.up(other)), host))

    def view(self, *_: Any) -> View:
        listed = tuple(Member(self.ids[name], name, (), False) for name in self.names)
        index = 5000 + int(self.now - 1_800_000_000)

        def answer(host: str) -> Answer | NoAnswer:
            if not self.up(host):
                return NoAnswer("connection refused")
            applied = index - self.lag[host]
            known = self.ids[self.leader] if self.up(self.leader) else 0
            said = MemberStatus(host, self.ids[host], known, self.term, index, applied, 1, False, (), "3.5.1")
            return Answer(said, listed, "")

        return {host: answer(host) for host in self.names}

    def move_leader(self, _remote: Any, host: str, _config: Any, to: int) -> None:
        self.moment()
        if host != self.leader:
            raise EtcdError(f"{host} does not lead")
        self.elect(next(name for name, member in self.ids.items() if member == to))
        self.moment()

    def snapshot(self, _remote: Any, host: str, _config: Any, name: str) -> Snapshot:
        self.moment()
        self.snapshots.append(name)
        self.moment()
        return Snapshot(host, Path("/var/backups/etcd") / name, 0, 5000, 10, 1)

    def of(self, targets: Sequence[str], patch: pytest.MonkeyPatch) -> Cluster:
        """Return the cluster of a run, whose members are these."""
        for name in ("view", "move_leader", "snapshot"):
            patch.setattr(f"fleet.adapters.etcd.members.{name}", getattr(self, name))
        config = CONFIG.model_copy(update={"etcd": EtcdConfig(hosts="etcd[1-5]")})
        return replace(self.cluster(targets), config=config)
