"""The roles of hosts: packages, files and units of each."""

from collections.abc import Mapping

from fleet_lab.roles import alertmanager, common, control_plane, etcd, load_balancer, router, web, worker
from fleet_lab.roles.context import Context
from fleet_lab.roles.role import Role
from fleet_lab.topology import RoleName

ROLES: Mapping[RoleName, Role] = {
    "control-plane": control_plane.ROLE,
    "etcd": etcd.MEMBER,
    "new-etcd": etcd.MEMBER,
    "load-balancer": load_balancer.ROLE,
    "worker": worker.ROLE,
    "alertmanager": alertmanager.ROLE,
    "lock-store": etcd.LOCK_STORE,
    "router": router.ROLE,
    "web": web.ROLE,
}


def packages() -> list[str]:
    """Return the Debian packages of the base image: those of every role."""
    return sorted({*common.PACKAGES, *(package for role in ROLES.values() for package in role.packages)})


__all__ = ["ROLES", "Context", "Role", "packages"]
