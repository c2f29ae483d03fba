"""The rules that never bend, judged by what a world of nodes records at the moment that counts."""

from typing import Protocol

from fleet.adapters.k8s.client import JSON
from fleet.adapters.k8s.model import parse_node
from fleet.adapters.k8s.nodes import PENDING_TAINT, ownership
from worlds.alertmanager import OTHERS, Alertmanagers, Kept
from worlds.components import ZONE
from worlds.kubernetes import ATTACHMENTS, NODES, PODS, Kubernetes, is_ready
from worlds.machines import Machines
from worlds.network import Routers
from worlds.timeline import rule

FRESH = 12.0
"""Seconds for which what others do need not be known yet: a watch is late, and calls take their time."""
LEASE = ("leases", "fleet-maintenance", "kube-system")


class Seen(Protocol):
    """What the rules are judged by."""

    now: float
    run: str
    verb: str
    most: int
    lost_after: float
    kubernetes: Kubernetes
    machines: Machines
    network: Routers
    alertmanagers: Alertmanagers
    held_silence: float
    is_reboot: bool


class Rules:
    """Watches over a run in a world."""

    def __init__(self, world: Seen) -> None:
        self._world = world
        self.gone_since: dict[str, float] = {}
        """Since when nodes are unavailable, for whatever reason."""
        self.down_since: dict[str, float] = {}
        """Since when nodes are not Ready."""
        self.closed_by_us: dict[str, str] = {}
        """The UIDs of the nodes that this run has cordoned."""
        self.fires_since: dict[tuple[str, str], float] = {}
        self.before: dict[str, set[str]] = {}
        """The alerts that fired when a node was first cordoned, by host."""
        self.lease_gone: float | None = None
        """Since when somebody else has the lock."""
        self.given_up: set[str] = set()
        """The nodes that an operator has given up."""
        self.accepted: set[tuple[str, str]] = set()
        """The proofs that an operator has accepted, by node and step."""

    # What changes in the API, whoever does it.

    def changed(self, resource: str, before: JSON | None, after: JSON | None) -> None:
        if resource == NODES and (item := after or before) is not None:
            name = item["metadata"]["name"]
            ready = after is not None and is_ready(after)
            open_ = ready and after is not None and not after["spec"].get("unschedulable")
            for since, well in ((self.gone_since, open_ or after is None), (self.down_since, ready or after is None)):
                if well:
                    since.pop(name, None)
                else:
                    since.setdefault(name, self._world.now)
        if resource == LEASE[0] and after is not None:
            holder = after["spec"].get("holderIdentity") or ""
            if holder in ("", self._ours()):
                self.lease_gone = None
            elif self.lease_gone is None:
                self.lease_gone = self._world.now

    def _ours(self) -> str:
        return f"{self._world.run}@here"

    # What we change in the API.

    def asked(self, verb: str, resource: str, before: JSON | None, after: JSON | None) -> None:
        if resource == NODES and before is not None and after is not None:
            self._of_node(before, after)
        elif resource == NODES:
            rule(f"a node is {verb}d", holds=False)
        elif resource == PODS:
            rule("a pod is deleted, not evicted", holds=verb == "evict")
            assert before is not None
            self._of_eviction(before)
        elif resource == LEASE[0] and before is not None:
            holder = before["spec"].get("holderIdentity") or ""
            alive = before["metadata"].get("annotations", {}).get("alive") == "yes"
            rule(f"the Lease of {holder} is taken", holds=not alive or holder in ("", self._ours()))

    def _of_node(self, before: JSON, after: JSON) -> None:
        name = before["metadata"]["name"]
        for key in ("labels", "uid"):
            rule(f"{key} of {name} are changed", holds=before["metadata"].get(key) == after["metadata"].get(key))
        others = [
            [taint for taint in each["spec"].get("taints") or () if taint["key"] != PENDING_TAINT]
            for each in (before, after)
        ]
        rule(f"taints of others on {name} are changed", holds=others[0] == others[1])
        owner = ownership(parse_node(before))
        if owner is not None and before["spec"].get("unschedulable"):
            rule(f"what run {owner.run} wrote on {name} is changed", holds=owner.run == self._world.run)
        was, is_ = (bool(each["spec"].get("unschedulable")) for each in (before, after))
        rule(f"{name} is changed, which was given up", holds=name not in self.given_up or is_ == was)
        if is_ and not was:
            self._closing(name, before)
        elif was and not is_:
            self._opening(name, before)

    def _closing(self, name: str, node: JSON) -> None:
        """Rules 1 and 9, at the moment when a node is taken out of service."""
        world = self._world
        self.closed_by_us[name] = node["metadata"]["uid"]
        fired = (member.firing.get(name, set()) for member in world.alertmanagers.members.values())
        self.before.setdefault(name, set()).update(*fired)
        self._has_lock(f"{name} is cordoned")
        known = {each["metadata"]["name"]: each for each in world.kubernetes.all(NODES)}
        ours = {
            other
            for other, each in known.items()
            if each["spec"].get("unschedulable") and (owner := ownership(parse_node(each))) and owner.run == world.run
        }
        late = world.now - FRESH
        gone = {other for other, since in self.gone_since.items() if since < late} | ours
        # The cordon of a node that was given up is anybody's: its failure domain is not being worked on any more.
        down = {other for other, since in self.down_since.items() if since < late} | (ours - self.given_up)
        unavailable = sorted((gone & set(known)) - {name})
        rule(
            f"{name} is cordoned while {unavailable} are unavailable",
            holds=name in self.gone_since or len(unavailable) < world.most,
        )
        zones = {known[other]["metadata"]["labels"][ZONE] for other in down & set(known)}
        rule(f"{name} is cordoned beside {sorted(zones)}", holds=len(zones | {node["metadata"]["labels"][ZONE]}) == 1)

    def _opening(self, name: str, node: JSON) -> None:
        """Rules 4 and 5, at the moment when a node is given back."""
        world = self._world
        uid = node["metadata"]["uid"]
        rule(f"{name} is uncordoned, which others cordoned", holds=self.closed_by_us.get(name) == uid)
        ready = self.down_since.get(name, world.now) > world.now - FRESH
        self._proof(name, "ready", "while it is not Ready", holds=ready)
        machine = world.machines.machines[name]
        if not world.machines.acts[name]:
            return
        boot = node["status"]["nodeInfo"]["bootID"]
        reports = boot == machine.boot_id or not machine.is_up
        self._proof(name, "ready", "before its kubelet reports", holds=reports)
        since = machine.booted if world.is_reboot else machine.started
        for router in world.network.names:
            told, up_since = world.network.proven.get((router, name), (0.0, 0.0))
            proven = told > since and up_since >= since - 1.0
            self._proof(name, "bgp", f"without proof of {router}", holds=proven)
        if world.verb != "abort":
            self._of_daemons(name)
            new = {
                alert
                for (host, alert), begins in self.fires_since.items()
                if host == name and begins < world.now - FRESH and alert.split()[0] not in self.before.get(name, ())
            }
            self._proof(name, "alerts", f"while {sorted(new)} fire", holds=not new)

    def _proof(self, name: str, gate: str, what: str, *, holds: bool) -> None:
        rule(f"{name} is uncordoned {what}", holds=holds or (name, gate) in self.accepted)

    def _of_daemons(self, name: str) -> None:
        world = self._world
        for pod in world.kubernetes.all(PODS):
            if pod["spec"].get("nodeName") == name and pod["metadata"]["ownerReferences"][0]["kind"] == "DaemonSet":
                boot = pod["status"].get("containerStatuses", [{}])[0].get("containerID", "").rpartition("-")[2]
                self._proof(name, "daemons", "while a DaemonSet's pod there is not Ready", holds=is_ready(pod))
                is_new = boot == str(world.machines.machines[name].number)
                self._proof(name, "daemons", "before its pods were started", holds=not world.is_reboot or is_new)

    def _of_eviction(self, pod: JSON) -> None:
        name = pod["spec"].get("nodeName", "")
        node = self._world.kubernetes.find(NODES, name)
        rule(f"a pod of no node ({name}) is evicted", holds=node is not None)
        assert node is not None
        owner = ownership(parse_node(node))
        rule(f"a pod of {name} is evicted, which is not ours", holds=owner is not None and owner.run == self._world.run)
        self._has_lock(f"a pod of {name} is evicted", fatal=False)

    def _has_lock(self, what: str, *, fatal: bool = True) -> None:
        lost = 0.0 if self.lease_gone is None else self._world.now - self.lease_gone
        rule(f"{what} {lost:.0f} s after the lock was lost", holds=not fatal or lost <= self._world.lost_after)

    # What happens to hosts, and to silences.

    def ordered(self, host: str) -> None:
        """Rules 3, 4, 8, 9 and 10, at the moment when a host obeys an order."""
        world = self._world
        node = world.kubernetes.find(NODES, host)
        self._has_lock(f"{host} is acted on")
        rule(f"{host} is acted on, and is no node", holds=node is not None)
        assert node is not None
        owner = ownership(parse_node(node))
        ours = owner is not None and owner.run == world.run and node["spec"].get("unschedulable")
        rule(f"{host} is acted on, and is not cordoned by this run", holds=bool(ours))
        left = [
            pod["metadata"]["name"]
            for pod in world.kubernetes.all(PODS)
            if pod["spec"].get("nodeName") == host and pod["metadata"]["ownerReferences"][0]["kind"] != "DaemonSet"
        ]
        rule(f"{host} is acted on with {left} on it", holds=not left)
        attached = [
            each["metadata"]["name"]
            for each in world.kubernetes.all(ATTACHMENTS)
            if each["spec"]["nodeName"] == host and world.is_reboot
        ]
        accepted = (host, "volumes") in self.accepted
        rule(f"{host} is rebooted with {attached} attached", holds=not attached or accepted)
        loud = world.alertmanagers.loud(host)
        rule(f"{host} is acted on, and is not silenced at {loud}", holds=not loud)
        rule(f"{host} is acted on once more", holds=not world.machines.acts[host])

    def silenced(self, silence: Kept, ends_at: float) -> None:
        """Rules 4 and 10, at the moment when a silence is created, extended or ended."""
        rule(f"a silence of others is changed: {silence.comment}", holds=silence.author != OTHERS)
        lasts = ends_at - self._world.now
        rule(f"a silence lasts for {lasts:.0f} s", holds=lasts <= self._world.held_silence + FRESH)

    def fires(self, host: str, alert: str, *, firing: bool) -> None:
        """Note an alert."""
        if firing:
            self.fires_since.setdefault((host, alert), self._world.now)
        else:
            self.fires_since.pop((host, alert), None)

    # What is left in the end.

    def is_clean(self, why: str) -> None:
        """Nothing of the run is left."""
        world = self._world
        for each in world.kubernetes.all(NODES):
            node = parse_node(each)
            owner = ownership(node)
            ours = owner is not None and owner.run == world.run and not owner.given_up
            rule(f"{why}: {node.name} is still marked", holds=not ours)
            tainted = any(taint.value == world.run for taint in node.taints)
            rule(f"{why}: {node.name} is still tainted", holds=not tainted)
        left = [silence.comment for silence in world.alertmanagers.ours() if silence.host not in self.given_up]
        rule(f"{why}: still silenced: {left}", holds=not left)
        lease = world.kubernetes.find(*LEASE)
        holder = "" if lease is None else lease["spec"].get("holderIdentity")
        rule(f"{why}: the Lease is still ours", holds=holder != self._ours())
