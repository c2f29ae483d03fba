"""Nodes and the values that the Kubernetes API writes as strings. Pure: no I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

_SUFFIXES = {
    "": Decimal(1),
    **{suffix: Decimal(1000) ** power for power, suffix in zip(range(-3, 0), ("n", "u", "m"), strict=True)},
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint of a node."""

    key: str
    value: str
    effect: str
    time_added: str | None = field(default=None, compare=False)
    """Since when, as the API has it; only taints with the effect ``NoExecute`` have it."""


@dataclass(frozen=True, slots=True)
class Node:
    """What this project needs to know of a node.

    Attributes:
        ready: whether the condition ``Ready`` is ``True``.
        ready_heartbeat: when the kubelet last wrote that condition; it does so at once when the condition changes and
            every five minutes otherwise (``nodeStatusReportFrequency``).
        boot_id: the kernel's, as the kubelet saw it; new with every boot.
        addresses: the internal ones, of every address family.
        cpu_millis: allocatable CPU in thousandths of a core.
        memory_bytes: allocatable memory.
        max_pods: how many pods the node takes.
        disk_bytes: allocatable ephemeral storage.
        extended: what else is allocatable, such as ``nvidia.com/gpu`` and ``hugepages-2Mi``.
    """

    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    taints: tuple[Taint, ...]
    unschedulable: bool
    ready: bool
    ready_heartbeat: datetime | None
    boot_id: str
    addresses: tuple[str, ...]
    cpu_millis: int
    memory_bytes: int
    max_pods: int
    resource_version: str
    disk_bytes: int = 0
    extended: Mapping[str, int] = field(default_factory=dict)


def parse_node(data: Mapping[str, Any]) -> Node:
    """Read a node from the API's JSON; whatever the kubelet has not reported yet is empty or zero."""
    metadata, spec, status = data["metadata"], data.get("spec") or {}, data.get("status") or {}
    ready: Mapping[str, Any] = next(
        (condition for condition in status.get("conditions") or () if condition["type"] == "Ready"), {}
    )
    allocatable = status.get("allocatable") or {}
    return Node(
        name=metadata["name"],
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        taints=tuple(
            Taint(taint["key"], taint.get("value") or "", taint["effect"], taint.get("timeAdded"))
            for taint in spec.get("taints") or ()
        ),
        unschedulable=bool(spec.get("unschedulable")),
        ready=ready.get("status") == "True",
        ready_heartbeat=parse_time(ready.get("lastHeartbeatTime")),
        boot_id=(status.get("nodeInfo") or {}).get("bootID") or "",
        addresses=tuple(
            address["address"] for address in status.get("addresses") or () if address["type"] == "InternalIP"
        ),
        cpu_millis=int(parse_quantity(allocatable.get("cpu", "0")) * 1000),
        memory_bytes=int(parse_quantity(allocatable.get("memory", "0"))),
        max_pods=int(parse_quantity(allocatable.get("pods", "0"))),
        resource_version=metadata.get("resourceVersion") or "",
        disk_bytes=int(parse_quantity(allocatable.get("ephemeral-storage", "0"))),
        extended={name: int(parse_quantity(value)) for name, value in allocatable.items() if name not in _PLAIN},
    )


_PLAIN = frozenset({"cpu", "memory", "pods", "ephemeral-storage"})


def parse_release(version: str) -> tuple[int, int] | None:
    """Return the major and the minor version of one such as ``v1.36.3`` or ``v1.27.4-gke.900``; None if it is none."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def parse_time(value: str | None) -> datetime | None:
    """Read a time such as ``2024-05-01T12:00:00Z``; nothing gives None."""
    return datetime.fromisoformat(value) if value else None


@lru_cache(maxsize=4096)  # a cluster has few different ones, and very many of them
def parse_quantity(value: str | int | float) -> Decimal:
    """Read a quantity such as ``250m``, ``1.5``, ``128Mi`` or ``1e3``, in the base unit (cores, bytes, pods).

    Raises:
        ValueError: the value is no quantity.
    """
    text = str(value).strip()
    suffix = text.lstrip("+-.0123456789")
    try:
        if suffix in _SUFFIXES:
            return Decimal(text.removesuffix(suffix) if suffix else text) * _SUFFIXES[suffix]
        if suffix.lower().startswith("e"):
            return Decimal(text)  # an exponent, such as 12e6
    except InvalidOperation:
        pass
    raise ValueError(f"{value!r} is no quantity such as 250m or 128Mi")
