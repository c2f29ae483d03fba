"""Volumes of a node: which are in use there, or attached, beside those of pods that stay.

A node that is powered off, or rebooted, while a volume is attached keeps the volume from its pod on another node: a
forced detach takes six minutes, and a volume that is mounted twice is damaged (kubernetes-csi's external-attacher,
``VolumeAttachment``; the kubelet writes ``status.volumesInUse`` as it mounts and unmounts).
"""

from collections.abc import Callable, Iterable

from fleet.adapters.k8s.client import JSON, Api

_ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"


def in_use(api: Api, node: str, staying: Callable[[], Iterable[JSON]]) -> list[str]:
    """Return what is still in use on a node, or attached to it, in lines; nothing if the node may go.

    Args:
        api: the cluster.
        node: the node's name.
        staying: returns the pods that stay on the node, with whose volumes it goes; asked only if that matters.

    Raises:
        KubernetesError: the API could not be read, so that nothing is known.
    """
    status = api.get(f"/api/v1/nodes/{node}").get("status") or {}
    ours: tuple[set[str], set[str]] | None = None
    if mounted := list(status.get("volumesInUse") or ()):
        ours = _of(api, staying())
        if lines := [f"{volume} is in use" for volume in mounted if volume.rpartition("^")[2] not in ours[1]]:
            return lines  # What is mounted is attached, too: the cluster's attachments are a long list.
    attached = [
        (item["metadata"]["name"], (item["spec"].get("source") or {}).get("persistentVolumeName") or "")
        for item in api.list_all(_ATTACHMENTS)[0]
        if item["spec"].get("nodeName") == node
    ]
    if not attached:
        return []
    names, _ = ours or _of(api, staying())
    return [f"{volume or name} is attached ({name})" for name, volume in attached if volume not in names]


def _of(api: Api, pods: Iterable[JSON]) -> tuple[set[str], set[str]]:
    """Return the names and the handles of the volumes that pods have claimed."""
    names, handles = set(), set()
    for pod in pods:
        for volume in (pod.get("spec") or {}).get("volumes") or ():
            claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if "ephemeral" in volume:
                claim = f"{pod['metadata']['name']}-{volume['name']}"
            found = claim and _volume(api, pod["metadata"]["namespace"], claim)
            if found:
                names.add(str(found["metadata"]["name"]))
                handles.add(str((found["spec"].get("csi") or {}).get("volumeHandle") or ""))
    return names, handles - {""}


def _volume(api: Api, namespace: str, claim: str) -> JSON | None:
    """Return the volume that a claim is bound to, if it is."""
    claims, _ = api.list_all(
        f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", fieldSelector=f"metadata.name={claim}"
    )
    bound = next((item["spec"].get("volumeName") for item in claims), None)
    if not bound:
        return None
    found, _ = api.list_all("/api/v1/persistentvolumes", fieldSelector=f"metadata.name={bound}")
    return next(iter(found), None)
