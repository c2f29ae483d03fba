"""What an operator of the lab's fleet has on a cluster-management host: configuration, kubeconfigs, commands.

Everything is rendered from the examples in ``config/``, with only the values replaced that the lab has to give.
"""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fleet.config.scope import HostDeadlines
from fleet_lab import deployment, kubeconfig, operator_commands
from fleet_lab.installation import cookbooks_folder, examples
from fleet_lab.roles import Context, control_plane, etcd, load_balancer, netconf, pybal, web
from fleet_lab.roles.alertmanager import PORT
from fleet_lab.topology import RoleName

CLUSTER = "lab"
"""The cluster's name for ``--cluster``."""

GROUP = "web"
"""The name of the group of hosts without Kubernetes for ``--group``."""

NEW_ETCD = "lab-b"
"""The name of the other etcd cluster for ``--new-etcd``."""

_ALIASES: Mapping[str, RoleName] = {
    "lab-control-plane": "control-plane",
    "lab-workers": "worker",
    "lab-etcd": "etcd",
    "lab-etcd-b": "new-etcd",
    "lab-web": "web",
}

# Faults are to show in minutes, not in half an hour.
_DEADLINES = {
    "drain": "3m",
    "reboot": "2m",
    "puppet": "2m",
    "ready": "2m",
    "alerts": "2m",
    "restart": "2m",
    "bgp": "1m",
    "blocked": "3m",
}


def admin_kubeconfig(context: Context) -> Path:
    """Return the kubeconfig of the cluster's administrator."""
    return context.paths.operator / "kubernetes" / "admin.config"


def fleet_config(context: Context) -> Path:
    """Return this project's configuration for the lab."""
    return context.paths.operator / "spicerack" / "fleet" / "config.yaml"


def write(context: Context) -> None:
    """Write all of the operator's files."""
    spicerack = context.paths.operator / "spicerack"
    cumin = context.paths.operator / "cumin"
    _write_kubeconfigs(context)
    _write_cumin(context, cumin)
    client = context.etcd_ca.issue("spicerack")
    etcd_pki = context.paths.operator / "etcd"
    _write(etcd_pki / "ca.pem", context.etcd_ca.certificate)
    # One file for both: a configuration in YAML cannot hold the tuple that python-etcd wants for two.
    _write(etcd_pki / "spicerack.pem", client.certificate + client.key)

    _render(
        "spicerack.yaml",
        spicerack / "config.yaml",
        cookbooks_base_dirs=[str(cookbooks_folder())],
        logs_base_dir=str(context.paths.operator / "log"),
        instance_params={
            "cumin_config": str(cumin / "config.yaml"),
            "spicerack_config_dir": str(spicerack),
            "etcd_config": str(spicerack / "etcd.yaml"),
        },
    )
    _render(
        "alertmanager.yaml",
        spicerack / "alertmanager" / "config.yaml",
        instances={
            "main": {"urls": [f"http://{host.ipv4}:{PORT}" for host in context.topology.with_role("alertmanager")]}
        },
    )
    _render(
        "etcd-lock.yaml",
        spicerack / "etcd.yaml",
        host=str(context.topology.with_role("lock-store")[0].ipv4),
        protocol="https",
        ca_cert=str(etcd_pki / "ca.pem"),
        cert=str(etcd_pki / "spicerack.pem"),
    )
    _write_conftool(context, spicerack / "etcd.yaml")
    example = yaml.safe_load((examples() / "fleet.yaml").read_text(encoding="utf-8"))
    cluster = next(iter(example["clusters"].values()))
    del cluster["bgp"]
    section = cluster.pop("reinitialize")
    cluster |= (
        _bgp(context)
        | _reinitialize(context, section)
        | {
            "kubeconfig": str(_maintenance_kubeconfig(context)),
            "hosts": {"workers": "A:lab-workers", "control_plane": "A:lab-control-plane"},
            "etcd": _etcd(context, "A:lab-etcd", "etcd"),
            "node_names": "short",
            "deadlines": _DEADLINES,
            "control_plane": _control_plane(context),
        }
    )
    _render(
        "fleet.yaml",
        fleet_config(context),
        state_dir=str(context.paths.operator / "runs"),
        clusters={CLUSTER: cluster},
        groups=_groups(context),
    )
    operator_commands.write(context, spicerack / "config.yaml", admin_kubeconfig(context))


def _bgp(context: Context) -> dict[str, Any]:
    """Return the section of the routers; nothing in a lab that has none."""
    routers = context.topology.with_role("router")
    if not routers:
        return {}
    known_hosts = context.paths.operator / "netconf" / "known_hosts"
    _write(known_hosts, netconf.known_hosts(context))
    section = {
        "routers": {router.name: {"address": str(router.ipv4), "port": netconf.PORT} for router in routers},
        "username": netconf.USER,
        "ssh_key": str(netconf.login_key(context.paths)),
        "known_hosts": str(known_hosts),
        "asn": context.topology.bgp.nodes_asn,
        "stable": "1s",
        "connect_timeout": "3s",
        "rpc_timeout": "5s",
    }
    return {"bgp": section}


def _groups(context: Context) -> dict[str, Any]:
    """Return the groups of hosts without Kubernetes."""
    hosts = context.topology.with_role("web")
    if not hosts:
        return {}
    domains = context.paths.operator / "spicerack" / "fleet" / "domains.yaml"
    _write(domains, yaml.safe_dump({host.name: host.row for host in hosts}))
    section = {
        "hosts": "A:lab-web",
        "domains": str(domains),
        "before": web.BEFORE,
        "after": web.AFTER,
        "deadlines": {name: _DEADLINES[name] for name in HostDeadlines.model_fields if name in _DEADLINES},
    }
    return {GROUP: section}


def _etcd(context: Context, hosts: str, role: RoleName) -> dict[str, Any]:
    return {
        "hosts": hosts,
        "environment": dict(etcd.ETCDCTL),
        "snapshots": "/var/backups/etcd",
        "endpoints": context.etcd_endpoints(role),
    }


def _reinitialize(context: Context, example: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section about moving to the other etcd; nothing in a lab that has none."""
    if not context.topology.with_role("new-etcd"):
        return {}
    commands = {action: str(context.paths.bin / f"puppet-change-{action}") for action in ("merged", "merge", "revert")}
    plugins = control_plane.admission_plugins(context)
    section = {
        **example,
        "etcds": {NEW_ETCD: _etcd(context, "A:lab-etcd-b", "new-etcd")},
        "kubeconfig": str(admin_kubeconfig(context)),
        "puppet_change": {action: f"{shlex.quote(path)} {{change}}" for action, path in commands.items()},
        "admission_plugins": plugins,
        "command_timeout": "2m",
        **deployment.write(context, policies=bool(plugins)),
    }
    return {"reinitialize": section}


def _control_plane(context: Context) -> dict[str, Any]:
    hosts = context.topology.with_role("control-plane")
    haproxy = {
        "hosts": f"D{{{context.topology.api_host.name}}}",
        "socket": load_balancer.SOCKET,
        "backend": load_balancer.BACKEND,
    }
    return {
        # The machine itself has no names for the lab's hosts.
        "addresses": {host.name: str(host.ipv4) for host in hosts},
        "load_balancer": {"haproxy": haproxy, "drain": "3s"},
        "settle": "2s",
    }


def conftool(context: Context) -> dict[str, Any]:
    """Return what may stand under ``load_balancer`` instead of ``haproxy``: the lab has both."""
    folder = conftool_folder(context)
    section = {
        "config_file": str(folder / "config.yaml"),
        "schema_file": str(folder / "schema.yaml"),
        "selector": dict(pybal.TAGS),
        "pybal": [pybal.url(context)],
    }
    return {"conftool": section, "drain": "3s"}


def conftool_folder(context: Context) -> Path:
    """Return the folder of conftool's configuration and schema."""
    return context.paths.operator / "conftool"


def _write_conftool(context: Context, etcd: Path) -> None:
    _render(
        "conftool.yaml",
        conftool_folder(context) / "config.yaml",
        namespace=pybal.NAMESPACE,
        api_version=pybal.VERSION,
        pools_path=pybal.POOLS_PATH,
        driver_options={"etcd_config_file": str(etcd), "suppress_san_warnings": False},
    )
    _write(conftool_folder(context) / "schema.yaml", (examples() / "conftool-schema.yaml").read_text(encoding="utf-8"))


def environment(context: Context) -> dict[str, str]:
    """Return what to set so that ``cookbook``, ``fleet`` and ``kubectl`` talk to the lab."""
    return {
        "PATH": f"{context.paths.bin}:{os.environ.get('PATH', os.defpath)}",
        "KUBECONFIG": str(admin_kubeconfig(context)),
        "FLEET_CONFIG": str(fleet_config(context)),
        "FLEET_LAB_DIR": str(context.paths.state),
    }


def _maintenance_kubeconfig(context: Context) -> Path:
    return context.paths.operator / "kubernetes" / f"maintenance-{CLUSTER}.config"


def _write_kubeconfigs(context: Context) -> None:
    for path, user, group in (
        (admin_kubeconfig(context), "admin", "system:masters"),
        (_maintenance_kubeconfig(context), "fleet-maintenance", ""),  # with what config/kubernetes-rbac.yaml allows
    ):
        credential = context.kubernetes_ca.issue(user, organization=group)
        _write(path, kubeconfig.render(context.api_url, context.kubernetes_ca, credential, user))


def _write_cumin(context: Context, folder: Path) -> None:
    example = yaml.safe_load((examples() / "cumin.yaml").read_text(encoding="utf-8"))
    options = [option for option in example["clustershell"]["ssh_options"] if not option.startswith("-F")]
    _render(
        "cumin.yaml",
        folder / "config.yaml",
        log_file=str(context.paths.operator / "log" / "cumin.log"),
        clustershell=example["clustershell"] | {"ssh_options": [f"-F {context.ssh.config}", *options]},
    )
    groups: dict[str, str] = {}
    for alias, role in _ALIASES.items():
        if hosts := context.topology.with_role(role):
            groups[alias] = f"D{{{','.join(host.name for host in hosts)}}}"
    groups["lab"] = "A:lab-control-plane or A:lab-workers"
    _write(folder / "aliases.yaml", yaml.safe_dump(groups))


def _render(example: str, target: Path, **values: Any) -> None:
    data: Mapping[str, Any] = yaml.safe_load((examples() / example).read_text(encoding="utf-8"))
    _write(target, yaml.safe_dump({**data, **values}, sort_keys=False))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:  # noqa: PTH123
        stream.write(text)
