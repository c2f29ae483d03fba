"""PersistentVolumes that can be used on some nodes alone, such as local ones and those of a zone. Pure: no I/O."""

from collections.abc import Iterable, Mapping
from typing import Any

from fleet.adapters.k8s.demand import NodeTerm, parse_node_terms

Claim = tuple[str, str]
"""Namespace and name of a PersistentVolumeClaim."""
Volumes = Mapping[Claim, tuple[NodeTerm, ...]]
"""Where the volumes of claims can be used; claims whose volumes can be used everywhere are not in it."""


def bound(claims: Iterable[tuple[Claim, str]], where: Mapping[str, tuple[NodeTerm, ...]]) -> Volumes:
    """Return where the volumes of claims can be used.

    Args:
        claims: claims, each with the name of its PersistentVolume, which is empty as long as it has none.
        where: the node affinity of PersistentVolumes by their names.
    """
    return {claim: where[volume] for claim, volume in claims if volume in where}


def parse_claim(data: Mapping[str, Any]) -> tuple[Claim, str]:
    """Read a PersistentVolumeClaim from the API's JSON: which it is, and the name of its volume."""
    metadata = data["metadata"]
    return (metadata["namespace"], metadata["name"]), (data.get("spec") or {}).get("volumeName") or ""


def parse_volume(data: Mapping[str, Any]) -> tuple[str, tuple[NodeTerm, ...] | None]:
    """Read a PersistentVolume from the API's JSON: its name, and the nodes where it can be used; None for all."""
    affinity = (data.get("spec") or {}).get("nodeAffinity") or {}
    return data["metadata"]["name"], parse_node_terms(affinity.get("required"))
