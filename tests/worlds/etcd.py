"""Members of etcd in memory, for tests that let time pass: the world watches over the quorum."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fleet.config.reinitialize import EtcdConfig
from fleet.execution import Result
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
        self.learners: set[str] = set()
        self.otherwise: set[str] = set()
        """Those whose etcd runs, but not as the unit."""

    def up(self, host: str) -> bool:
        runs = host in self.otherwise or self.hosts[host].services[UNIT].active == "active"
        return runs and host not in self.down

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

    def _run(self, host: str, command: str) -> Result:
        if "move-leader" in command:
            return self._move_leader(host, command)
        if "snapshot save" in command:
            return self._snapshot(command)
        if "endpoint status" in command:
            return self._view(host)
        return super()._run(host, command)

    def _view(self, host: str) -> Result:
        if not self.up(host):
            return Result(None, "connection refused")
        index = 5000 + int(self.now - 1_800_000_000)
        status = {
            "header": {"member_id": self.ids[host]},
            "leader": self.ids[self.leader] if self.up(self.leader) else 0,
            "raftTerm": self.term,
            "raftIndex": index,
            "raftAppliedIndex": index - self.lag[host],
            "dbSize": 1,
            "version": "3.5.1",
            "isLearner": host in self.learners,
        }
        members = [{"ID": self.ids[name], "name": name, "isLearner": name in self.learners} for name in self.names]
        said: dict[str, Any] = {
            "status": [{"Status": status}],
        }
        if host not in self.learners:  # They serve nothing else.
            said |= {"members": {"members": members}, "health": [{"health": True}]}
        return Result(
            0, "\n".join(f"fleet-etcd-{key}={json.dumps(value, separators=(',', ':'))}" for key, value in said.items())
        )

    def _move_leader(self, host: str, command: str) -> Result:
        if host != self.leader:
            return Result(1, f"{host} does not lead")
        heir = int(command.split()[-1], 16)
        self.elect(next(name for name, member in self.ids.items() if member == heir))
        return Result(0, "")

    def _snapshot(self, command: str) -> Result:
        self.snapshots.append(re.findall(r"^mv -- \S+ (\S+) ", command, re.MULTILINE)[0])
        status = {"hash": 0, "revision": 5000, "totalKey": 10, "totalSize": 1}
        return Result(0, f"fleet-etcd-snapshot={json.dumps(status)}")

    def of(self, targets: Sequence[str]) -> Cluster:
        """Return the cluster of a run, whose members are these."""
        config = CONFIG.model_copy(update={"etcd": EtcdConfig(hosts="etcd[1-5]")})
        return replace(self.cluster(targets), config=config)
