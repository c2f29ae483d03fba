"""Calico's datastore in etcd: ``calicoctl`` on the hosts, and what an operator has put there."""

from collections.abc import Iterable
from importlib import resources
from typing import Any

from fleet_lab.files import File
from fleet_lab.roles import puppet_code
from fleet_lab.roles.context import Context
from fleet_lab.topology import Topology

CONFIG = "/etc/calico/calicoctl.cfg"
"""Puppet's: it points at the etcd in use."""

CHECK = "/usr/local/lib/fleet-lab/calico-datastore"

_PKI = "/etc/calico/pki"

# As calico-node gets AS number and peers from there when it starts, which BIRD here has from files.
_CHECK = """\
#!/bin/sh
# Reads from etcd what calico-node would be configured by; fails if that cannot be had.
endpoints=$(sed -n 's/^ *etcdEndpoints: *"\\(.*\\)"$/\\1/p' {config})
found=$(ETCDCTL_API=3 etcdctl --endpoints="$endpoints" --cacert={pki}/ca.pem --cert={pki}/client.pem \\
    --key={pki}/client.key --dial-timeout=2s --command-timeout=5s \\
    get --prefix --keys-only /calico/resources/v3/projectcalico.org/bgp) || exit
for wanted in {wanted}; do
    case "$found" in
    *"/$wanted"*) ;;
    *) echo "no $wanted in the datastore at $endpoints" >&2; exit 1 ;;
    esac
done
"""


def contents(topology: Topology) -> list[dict[str, Any]]:
    """Return what the datastore of a new lab has: AS number, no mesh, every router, pools, profiles.

    Args:
        topology: the lab's topology.
    """
    spec: dict[str, Any] = {
        "logSeverityScreen": "Info",
        "nodeToNodeMeshEnabled": False,
        "asNumber": topology.bgp.nodes_asn,
    }
    found = [_resource("BGPConfiguration", "default", spec)]
    for router in topology.with_role("router"):
        for family, address in (("ipv4", router.ipv4), ("ipv6", router.ipv6)):
            spec = {"peerIP": str(address), "asNumber": topology.bgp.routers_asn}
            found.append(_resource("BGPPeer", f"{router.name}-{family}", spec))
    for family, network, size in (("ipv4", topology.network.pods_ipv4, 26), ("ipv6", topology.network.pods_ipv6, 122)):
        spec = {
            "cidr": str(network),
            "blockSize": size,
            "ipipMode": "Never",
            "vxlanMode": "Never",
            "natOutgoing": False,
            "nodeSelector": "all()",
        }
        found.append(_resource("IPPool", f"default-{family}-ippool", spec))
    rule = {"action": "Allow", "destination": {}, "source": {}}
    for namespace in ("default", "kube-system"):
        labels = {"pcns.projectcalico.org/name": namespace}
        spec = {"egress": [rule], "ingress": [rule], "labelsToApply": labels}
        found.append(_resource("Profile", f"kns.{namespace}", spec))
    return found


def files(context: Context) -> Iterable[File]:
    """Return calicoctl, its configuration and certificate, and the check that calico-node starts with."""
    client = context.etcd_ca.issue("calico")
    yield File(CONFIG, puppet_code.calicoctl_cfg(context.paths))
    yield File(f"{_PKI}/ca.pem", context.etcd_ca.certificate)
    yield File(f"{_PKI}/client.pem", client.certificate)
    yield File(f"{_PKI}/client.key", client.key, mode=0o600)
    program = (resources.files("fleet_lab.guest") / "calicoctl.py").read_bytes()
    yield File("/usr/local/bin/calicoctl", program, mode=0o755)
    wanted = ["bgpconfigurations/default", *(["bgppeers/"] if context.topology.with_role("router") else [])]
    text = _CHECK
    for name, value in {"config": CONFIG, "pki": _PKI, "wanted": " ".join(wanted)}.items():
        text = text.replace(f"{{{name}}}", value)
    yield File(CHECK, text, mode=0o755)


def _resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec}
