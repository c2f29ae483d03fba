"""The node object: registration, status and Lease."""

import os
from datetime import UTC, datetime
from pathlib import Path

from .api import Api, ApiError, Json

LEASE_SECONDS = 40


def now() -> str:
    """Return the time as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _micro_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Node:
    """This host as a node.

    Args:
        api: the API.
        settings: ``node`` (its name), ``addresses``, ``labels``, ``annotations``.
    """

    def __init__(self, api: Api, settings: Json) -> None:
        self._api = api
        self._name = str(settings["node"])
        self._addresses = [{"type": "InternalIP", "address": address} for address in settings["addresses"]]
        self._addresses.append({"type": "Hostname", "address": self._name})
        self._labels = dict(settings["labels"]) | {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        self._annotations = dict(settings["annotations"])
        self._conditions: dict[str, Json] = {}
        self._lease: Json | None = None
        self._info: Json = {}

    @property
    def _path(self) -> str:
        return f"/api/v1/nodes/{self._name}"

    def register(self) -> None:
        """Make the node, or take over the one that is there."""
        self._info = _node_info(self._api.request("GET", "/version")["gitVersion"])
        try:
            node = self._api.request("GET", self._path)
        except ApiError as error:
            if error.status != 404:
                raise
            metadata = {"name": self._name, "labels": self._labels, "annotations": self._annotations}
            node = self._api.request("POST", "/api/v1/nodes", {"metadata": metadata})
        wanted = {"labels": self._labels, "annotations": self._annotations}
        if any(not items.items() <= (node["metadata"].get(kind) or {}).items() for kind, items in wanted.items()):
            self._api.patch(self._path, {"metadata": wanted})
        self._conditions = {condition["type"]: condition for condition in node["status"].get("conditions", [])}

    def report(self, *, ready: bool, message: str) -> None:
        """Write the node's status: the heartbeat, and whether it is ready.

        Args:
            ready: whether it takes pods.
            message: why, for people.
        """
        reason = "KubeletReady" if ready else "KubeletNotReady"
        conditions = [self._condition("Ready", ready, reason, message)]
        for pressure in ("MemoryPressure", "DiskPressure", "PIDPressure"):
            conditions.append(self._condition(pressure, False, "KubeletHasNo" + pressure, "there is none"))
        resources = {"cpu": "4", "memory": "16Gi", "pods": "110"}
        status = {
            # Merged by type otherwise, which keeps only one address of each.
            "addresses": [{"$patch": "replace"}, *self._addresses],
            "allocatable": resources,
            "capacity": resources,
            "conditions": conditions,
            "nodeInfo": self._info,
        }
        self._api.patch(f"{self._path}/status", {"status": status})
        self._conditions = {condition["type"]: condition for condition in conditions}

    def _condition(self, kind: str, status: bool, reason: str, message: str) -> Json:
        before = self._conditions.get(kind, {})
        value = str(status)
        return {
            "type": kind,
            "status": value,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now(),
            "lastTransitionTime": before["lastTransitionTime"] if before.get("status") == value else now(),
        }

    def renew_lease(self) -> None:
        """Renew the Lease by which the control plane knows that the node lives."""
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        if self._lease is None:
            try:
                self._lease = self._api.request("GET", f"{path}/{self._name}")
            except ApiError as error:
                if error.status != 404:
                    raise
                spec = {"holderIdentity": self._name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": _micro_now()}
                self._lease = self._api.request("POST", path, {"metadata": {"name": self._name}, "spec": spec})
                return
        self._lease["spec"] |= {"holderIdentity": self._name, "renewTime": _micro_now()}
        lease, self._lease = self._lease, None  # read again after a conflict, or after any other failure
        self._lease = self._api.request("PUT", f"{path}/{self._name}", lease)


def _node_info(version: str) -> Json:
    machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    release = dict(
        line.rstrip().split("=", 1) for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines() if line
    )
    return {
        "machineID": machine,
        "systemUUID": machine,
        "bootID": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        "kernelVersion": os.uname().release,
        "osImage": release.get("PRETTY_NAME", "Debian").strip('"'),
        "containerRuntimeVersion": "lab://1",
        "kubeletVersion": version,
        "kubeProxyVersion": version,
        "operatingSystem": "linux",
        "architecture": "amd64",
    }
