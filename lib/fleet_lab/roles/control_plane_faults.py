"""What can go wrong with a control-plane host's components when they are started the next time.

Their units run a script before and after each start that makes those faults true that are injected, and the others
untrue: a fault is the same after a reboot, and nothing of it is left when it is healed.
"""

from collections.abc import Iterable, Mapping

from fleet_lab.container import FAULTS
from fleet_lab.files import File
from fleet_lab.roles.context import Context

BAD_FLAG = "apiserver-bad-flag"
"""Fault: a typing error in the flags of this host's kube-apiserver, which does not start with it."""

ETCD_CUT = "apiserver-etcd-cut"
"""Fault: from the next start of kube-apiserver on, as soon as it is up, this host cannot reach etcd."""

BALANCER_CUT = "lb-unreachable"
"""Fault: from the next start of kube-apiserver on, nothing from this host gets to the load balancer."""

LEADER_STUCK = "leader-stuck"
"""Fault: from their next start on, controller manager and scheduler are paused as soon as they are well."""

SCRIPT = "/usr/local/lib/fleet-lab/control-plane-faults"

HEALTH_PORTS: Mapping[str, int] = {"kube-controller-manager": 10257, "kube-scheduler": 10259}
"""Where those components answer ``/healthz``."""

_SCRIPT = """\
#!/bin/sh
# Makes injected faults true and all others untrue.
fault() { test -e {folder}/"$1"; }

flags() {
    if fault {bad_flag}; then
        sed -i 's/--secure-port=/--secure-prot=/' /etc/default/kube-apiserver
    else
        sed -i 's/--secure-prot=/--secure-port=/' /etc/default/kube-apiserver
    fi
}

# Drops what goes to these addresses: the connections hang, as behind a firewall.
cut() { for address; do ip route replace blackhole "$address"; done; }
mend() { for address; do ip route delete blackhole "$address" 2>/dev/null; done; }

# Waits until a component says that it is well.
well() {
    for _ in $(seq 100); do
        curl --insecure --silent --fail --max-time 1 --output /dev/null "https://127.0.0.1:$1" && return
        sleep 0.1
    done
}

case "$1" in
flags) flags ;;
mend-etcd) mend {etcd} ;;
mend-balancer) mend {balancer} ;;
before-apiserver)
    flags
    mend {etcd}  # It does not start without.
    if fault {balancer_cut}; then cut {balancer}; else mend {balancer}; fi
    ;;
after-apiserver) if fault {etcd_cut}; then well 6443/readyz; cut {etcd}; fi ;;
after-component) if fault {leader_stuck}; then well "$2/healthz"; kill -STOP "$3"; fi ;;
esac
exit 0
"""


def files(context: Context) -> Iterable[File]:
    """Return the script."""
    values = {
        "folder": FAULTS,
        "bad_flag": BAD_FLAG,
        "etcd_cut": ETCD_CUT,
        "balancer_cut": BALANCER_CUT,
        "leader_stuck": LEADER_STUCK,
        "etcd": " ".join(
            str(host.ipv4) for host in context.topology.hosts.values() if host.role in ("etcd", "new-etcd")
        ),
        "balancer": f"{context.topology.api_host.ipv4} {context.topology.api_host.ipv6}",
    }
    text = _SCRIPT
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    yield File(SCRIPT, text, mode=0o755)


APISERVER = f"ExecStartPre={SCRIPT} before-apiserver\nExecStartPost={SCRIPT} after-apiserver\n"
"""Lines of kube-apiserver's unit."""


def component(name: str) -> str:
    """Return the lines of another component's unit."""
    return f"ExecStartPost={SCRIPT} after-component {HEALTH_PORTS[name]} $MAINPID\n"
