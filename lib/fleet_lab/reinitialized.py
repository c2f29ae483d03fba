"""The way back of a lab that was moved, or half moved, onto the other etcd: for tests and rehearsals."""

import shlex
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

from fleet_lab import objects
from fleet_lab.binaries import CONTROL_PLANE
from fleet_lab.command import run
from fleet_lab.errors import LabError
from fleet_lab.guest.kubelet.api import TROUBLE, ApiError
from fleet_lab.lab import Lab
from fleet_lab.roles import calico, calico_datastore, control_plane, load_balancer, puppet, puppet_code
from fleet_lab.waiting import wait_for

_LED = CONTROL_PLANE[1:]
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"

_API = 60.0
_NODES = 60.0
_ETCD = 30.0
_ETCDCTL = ". /etc/profile.d/etcdctl.sh; etcdctl"

# Killed, as an apiserver that is asked to stop waits for its watchers.
_STOP = f"systemctl kill --kill-whom=main --signal=KILL {' '.join(CONTROL_PLANE)} 2>/dev/null; systemctl stop "
_STOP += " ".join(CONTROL_PLANE)


def is_begun(lab: Lab) -> bool:
    """Return whether there is something to restore: whatever is moved begins with data in the new etcd.

    Raises:
        LabError: the new etcd does not answer.
    """
    return bool(lab.enter(lab.names("new-etcd")[0], "sh", "-c", f"{_ETCDCTL} get --from-key '' --keys-only --limit=1"))


def restore(lab: Lab) -> None:
    """Have the lab as if it had never been moved, in half a minute, whatever it is like now.

    All faults are healed, Puppet is enabled and its change is not merged, Kubernetes and Calico use the old etcd as it
    was left, the new one is empty, all hosts are before the load balancer, all nodes are Ready and all sessions up.
    What was deleted in the old etcd stays so; conftool's objects are pooled.

    Args:
        lab: the lab.

    Raises:
        LabError: some part of it does not come back.
    """
    lab.heal()
    started = datetime.now(UTC).replace(microsecond=0)
    control_planes, workers = lab.names("control-plane"), lab.names("worker")
    run([str(lab.paths.bin / "puppet-change-revert"), puppet_code.CHANGE])
    _everywhere(lab, dict.fromkeys(control_planes, _STOP))
    _empty(lab)
    written = {name: _files(lab, name) for name in (*control_planes, *workers)}
    start = f"systemctl start --no-block {' '.join(CONTROL_PLANE)}"
    _everywhere(lab, {name: f"{written[name]}\n{start}" for name in control_planes})
    servers = [f"{load_balancer.BACKEND}/{name}" for name in control_planes]
    orders = "; ".join(f"enable health {server}; set server {server} state ready" for server in servers)
    balancer = lab.names("load-balancer")[0]
    lab.enter(balancer, "sh", "-c", f"echo {shlex.quote(orders)} | socat - UNIX-CONNECT:{load_balancer.SOCKET}")
    objects.pool(lab.context)
    wait_for(lambda: _silent(lab), what="the API on all hosts", timeout=_API, trouble=TROUBLE)
    _depose(lab)
    # Everything that watches begins anew: the revisions that it knows are another etcd's.
    restart = f"systemctl restart {calico.UNIT}"
    commands = {name: f"{written[name]}\n{restart} kubelet.service" for name in workers}
    _everywhere(lab, {**commands, **dict.fromkeys(control_planes, restart)})
    wait_for(lambda: _unready(lab, started), what="nodes that are Ready", timeout=_NODES, trouble=TROUBLE)
    lab.wait_for_sessions()
    wait_for(lambda: _leaderless(lab), what="leaders", timeout=_API, trouble=TROUBLE)


def _depose(lab: Lab) -> None:
    """Delete the Leases of leaders that were killed: nobody waits for their end then."""
    for name in _LED:
        with suppress(ApiError):  # It is not there.
            lab.api().request("DELETE", f"{_LEASES}/{name}")


def _leaderless(lab: Lab) -> str:
    leases = {item["metadata"]["name"]: item["spec"] for item in lab.api().request("GET", _LEASES)["items"]}
    return ", ".join(name for name in _LED if not leases.get(name, {}).get("holderIdentity"))


def _files(lab: Lab, name: str) -> str:
    """Return the commands that write what Puppet would write, in no time, and enable Puppet."""
    host = lab.hosts[name]
    files = {calico_datastore.CONFIG: puppet_code.calicoctl_cfg(lab.paths)}
    if host.role == "control-plane":
        flags = control_plane.apiserver_flags(lab.context, host)
        files["/etc/default/kube-apiserver"] = puppet_code.apiserver_defaults(lab.paths, flags)
    lines = [f"printf %s {shlex.quote(text)} > {path}" for path, text in files.items()]
    return "\n".join(["set -e", f"rm -f {puppet.DISABLED}", *lines])


def _empty(lab: Lab) -> None:
    """Delete every key of the new etcd."""
    host = lab.names("new-etcd")[0]

    def keys() -> str:
        lab.enter(host, "sh", "-c", f"{_ETCDCTL} del --from-key ''")
        return ""

    wait_for(keys, what="the new etcd to be empty", timeout=_ETCD, trouble=(LabError,))


def _everywhere(lab: Lab, commands: dict[str, str]) -> None:
    """Run a command on each host, on all at once."""
    with ThreadPoolExecutor(len(commands)) as pool:
        for done in [pool.submit(lab.enter, name, "sh", "-c", command) for name, command in commands.items()]:
            done.result()


def _silent(lab: Lab) -> str:
    for name in lab.names("control-plane"):
        lab.api(host=name).request("GET", "/api/v1/namespaces/kube-system")
    lab.api().request("GET", "/version")
    return ""


def _unready(lab: Lab, since: datetime) -> str:
    """Return the nodes that have not said since then that they are Ready."""
    ready = set()
    for node in lab.api().request("GET", "/api/v1/nodes")["items"]:
        for condition in node["status"].get("conditions", []):
            said = datetime.strptime(condition["lastHeartbeatTime"], "%Y-%m-%dT%H:%M:%S%z")
            if condition["type"] == "Ready" and condition["status"] == "True" and said > since:
                ready.add(node["metadata"]["name"])
    return ", ".join(sorted(set(lab.names("worker")) - ready))
