"""NETCONF on the routers: the server, its host keys and its one login, which the operator has as well."""

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

from fleet_lab.container import FAULTS
from fleet_lab.files import File
from fleet_lab.paths import Paths
from fleet_lab.roles.context import Context
from fleet_lab.ssh import KeyPair, key_pair
from fleet_lab.topology import Host

PACKAGES = ("python3-asyncssh",)
UNIT = "lab-netconf.service"
UNITS = (UNIT,)

PORT = 830
USER = "fleet"

_LIBRARY = "/usr/local/lib/fleet-lab"
_FOLDER = "/etc/lab-netconf"
_SETTINGS = "/etc/lab-netconf.json"

_UNIT = f"""\
[Unit]
Description=NETCONF over SSH, from FRR's state
After=network.target frr-bgpd.service
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/python3 -m netconf {_SETTINGS}
# It has started when it listens, on both of its addresses.
ExecStartPost=/bin/sh -c 'until [ "$(ss --no-header --listening --tcp sport = :{PORT} | wc --lines)" = 2 ]; \
do sleep 0.05; done'
TimeoutStartSec=20
WorkingDirectory={_LIBRARY}
Restart=always
RestartSec=1
"""


def host_key(paths: Paths, name: str) -> KeyPair:
    """Return the host key of a router's NETCONF server; for ``NAME-other`` the one that it is not to have."""
    return key_pair(paths.ssh / "netconf" / name, f"netconf@{name}")


def login_key(paths: Paths) -> Path:
    """Return the file of the private key that may log in, made if it is not there."""
    path = paths.operator / "netconf" / "id_ed25519"
    key_pair(path, f"{USER}@fleet-lab")
    return path


def password(paths: Paths) -> Path:
    """Return the file of the password that may log in as well, made if it is not there."""
    path = paths.operator / "netconf" / "password"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:  # noqa: PTH123
            stream.write(secrets.token_urlsafe(24) + "\n")
        temporary.replace(path)
    return path


def known_hosts(context: Context) -> str:
    """Return the routers' host keys as OpenSSH knows them."""
    lines = []
    for router in context.topology.with_role("router"):
        names = f"[{router.ipv4}]:{PORT},[{router.ipv6}]:{PORT}"
        lines.append(f"{names} {' '.join(host_key(context.paths, router.name).public.split()[:2])}\n")
    return "".join(lines)


def files(context: Context, host: Host, groups: Mapping[str, str]) -> Iterable[File]:
    """Return the server, its unit, settings and keys.

    Args:
        context: the lab.
        host: the router.
        groups: the names of the groups of its peers, by address.
    """
    paths = context.paths
    settings = {
        "listen": [str(host.ipv4), str(host.ipv6)],
        "port": PORT,
        "host_key": f"{_FOLDER}/host_key",
        "other_host_key": f"{_FOLDER}/other_host_key",
        "users": {
            USER: {
                "authorized_keys": f"{_FOLDER}/authorized_keys",
                "password": password(paths).read_text(encoding="ascii").strip(),
            }
        },
        "vtysh": ["vtysh"],
        "faults": FAULTS,
        "router_id": str(host.ipv4),
        "local_as": context.topology.bgp.routers_asn,
        "groups": dict(groups),
    }
    yield File(_SETTINGS, json.dumps(settings, indent=1), mode=0o600)
    yield File(f"{_FOLDER}/host_key", host_key(paths, host.name).private, mode=0o600)
    yield File(f"{_FOLDER}/other_host_key", host_key(paths, f"{host.name}-other").private, mode=0o600)
    public = login_key(paths).with_suffix(".pub").read_text(encoding="ascii")
    yield File(f"{_FOLDER}/authorized_keys", public, mode=0o600)
    yield File(f"/etc/systemd/system/{UNIT}", _UNIT)
    for source in (resources.files("fleet_lab.guest") / "netconf").iterdir():
        if source.name.endswith(".py"):
            yield File(f"{_LIBRARY}/netconf/{source.name}", source.read_bytes())
