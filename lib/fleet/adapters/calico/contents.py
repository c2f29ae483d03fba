"""What Calico's datastore holds, how two of them differ, and what a new one needs of an old one. Pure: no I/O.

Resources are those that calicoctl 3 prints and takes, as its reference describes them. Of their metadata only what
``calicoctl create`` keeps is looked at: the name, labels and annotations.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fleet.adapters.calico.config import CalicoError

VERSION = "projectcalico.org/v3"
CONFIGURATION, PEER, POOL, PROFILE = "BGPConfiguration", "BGPPeer", "IPPool", "Profile"
KINDS = (CONFIGURATION, POOL, PEER, PROFILE)
"""The kinds that are moved, in the order in which they are created: before there are peers, the mesh is off."""

_DEFAULT = "default"
"""The name of the BGPConfiguration that counts for all nodes."""
_KEPT = ("labels", "annotations")


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource, without what its datastore has added."""

    kind: str
    name: str
    spec: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Its labels and annotations, if there are any."""

    def __str__(self) -> str:
        """Return its kind and its name."""
        return f"{self.kind} {self.name}"

    def manifest(self) -> dict[str, Any]:
        """Return it as calicoctl takes it."""
        metadata = {"name": self.name, **self.metadata}
        return {"apiVersion": VERSION, "kind": self.kind, "metadata": metadata, "spec": dict(self.spec)}


@dataclass(frozen=True, slots=True)
class Contents:
    """What a datastore holds of the kinds that are moved, each by name."""

    configurations: tuple[Resource, ...] = ()
    peers: tuple[Resource, ...] = ()
    pools: tuple[Resource, ...] = ()
    profiles: tuple[Resource, ...] = ()

    @property
    def as_number(self) -> int | str | None:
        """The AS number of all nodes that have none of their own; ``None`` if it is not set."""
        number: int | str | None = self._default.get("asNumber")
        return number

    @property
    def mesh(self) -> bool:
        """Whether every node peers with every other one, as is Calico's default."""
        return self._default.get("nodeToNodeMeshEnabled") is not False

    @property
    def resources(self) -> tuple[Resource, ...]:
        """All of them, in the order of :data:`KINDS`."""
        return (*self.configurations, *self.pools, *self.peers, *self.profiles)

    @property
    def _default(self) -> Mapping[str, Any]:
        return next((found.spec for found in self.configurations if found.name == _DEFAULT), {})


def gather(resources: Iterable[Resource]) -> Contents:
    """Return the contents that consist of resources, in any order.

    Args:
        resources: of the kinds of :data:`KINDS`.

    Raises:
        CalicoError: there are two of a kind with the same name.
    """
    kinds: dict[str, dict[str, Resource]] = {kind: {} for kind in KINDS}
    for resource in resources:
        if resource.name in kinds[resource.kind]:
            raise CalicoError(f"There are two of {resource}.")
        kinds[resource.kind][resource.name] = resource
    configurations, pools, peers, profiles = (
        tuple(named[name] for name in sorted(named)) for named in (kinds[kind] for kind in KINDS)
    )
    return Contents(configurations=configurations, pools=pools, peers=peers, profiles=profiles)


def parse(text: str) -> list[Resource]:
    """Read what ``calicoctl get -o json`` prints: a resource, a list of a kind, or an array of these.

    Args:
        text: what it printed.

    Raises:
        CalicoError: it is none of these, or of another kind than :data:`KINDS`.
    """
    try:
        return list(_resources(json.loads(text)))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CalicoError(
            f"These are no resources of Calico that could be moved: {text.strip()[:200]!r}. Look at them with:"
            " calicoctl get bgpconfig -o json"
        ) from error


def to_json(contents: Contents) -> str:
    """Return the text of an export: JSON, which ``calicoctl create -f`` takes as well.

    Args:
        contents: what is to be kept.
    """
    return json.dumps([resource.manifest() for resource in contents.resources], indent=2) + "\n"


def from_json(text: str) -> Contents:
    """Read an export.

    Args:
        text: what :func:`to_json` returned.

    Raises:
        CalicoError: it is no export.
    """
    return gather(parse(text))


def default_profile(namespace: str) -> Resource:
    """Return the profile of a namespace that lets everything in and out.

    Pods in a namespace that has no profile reach nothing: not even Calico's own controller, which writes all profiles,
    would reach the API. It replaces this one by its own (with the same rules, and the namespace's labels).

    Args:
        namespace: its name.
    """
    rule = {"action": "Allow", "source": {}, "destination": {}}
    return Resource(PROFILE, f"kns.{namespace}", {"ingress": [rule], "egress": [rule]})


def transfer(old: Contents, profiles: Sequence[str]) -> Contents:
    """Return what a new datastore must hold: all BGP configuration, peers and pools of the old one, default profiles.

    Calico itself writes nodes, blocks of addresses and profiles anew; policies belong to what is deployed.

    Args:
        old: what the old one holds.
        profiles: the namespaces that get a default profile.

    Raises:
        CalicoError: the old one has no AS number or the mesh on: it is another one, or not of a cluster that is routed
            by its core routers.
    """
    if old.as_number is None:
        raise CalicoError(
            "The old datastore of Calico has no BGPConfiguration default with an asNumber: is it the right one? Look at"
            " it with: calicoctl get bgpconfig default -o yaml"
        )
    if old.mesh:
        raise CalicoError(
            "The node-to-node mesh is on in the old datastore of Calico, and only clusters without it can be moved. See"
            " nodeToNodeMeshEnabled in: calicoctl get bgpconfig default -o yaml"
        )
    return gather((*old.configurations, *old.pools, *old.peers, *map(default_profile, dict.fromkeys(profiles))))


def differences(wanted: Contents, found: Contents) -> list[str]:
    """Compare contents field by field.

    Profiles are Calico's own: further ones, and further fields in one, are no difference.

    Args:
        wanted: what should be there.
        found: what is there.

    Returns:
        Sentences without their full stops, such as ``BGPPeer cr1-ipv4: peerIP is 10.0.0.1, not 10.0.0.2``.
    """
    there = {str(resource): resource for resource in found.resources}
    said = []
    for resource in wanted.resources:
        other = there.pop(str(resource), None)
        said += [f"{resource} is missing"] if other is None else _field_differences(resource, other)
    return said + [f"{name} is there, and should not be" for name, other in there.items() if other.kind != PROFILE]


def missing(wanted: Contents, found: Contents) -> tuple[Resource, ...]:
    """Return what has to be written so that contents become what is wanted, where nothing that is set has to change.

    These are resources that are missing, and the BGPConfiguration ``default`` if some of its fields are: with them set.

    Args:
        wanted: what should be there.
        found: what is there.

    Raises:
        CalicoError: there is something else than what is wanted; all of it is named.
    """
    there = {str(resource): resource for resource in found.resources}
    written = []
    for resource in wanted.resources:
        other = there.get(str(resource))
        if other is None:
            written.append(resource)
        elif (other.kind, other.name) == (CONFIGURATION, _DEFAULT) and _field_differences(resource, other):
            written.append(replace(other, spec={**resource.spec, **other.spec}))
    then = gather({**there, **{str(resource): resource for resource in written}}.values())
    if conflicts := differences(wanted, then):
        raise CalicoError(
            f"Calico's datastore holds something else already, which is left alone: {'; '.join(conflicts)}. Change it"
            " with calicoctl, or take an empty etcd."
        )
    return tuple(written)


def _resources(document: Any) -> Iterable[Resource]:
    if isinstance(document, list):
        for entry in document:
            yield from _resources(entry)
    elif str(document["kind"]).endswith("List"):
        # A list without any is null, as Go writes it.
        yield from _resources(document["items"] or [])
    else:
        if document["apiVersion"] != VERSION or document["kind"] not in KINDS:
            raise ValueError(document["kind"])
        metadata = {key: dict(document["metadata"][key]) for key in _KEPT if document["metadata"].get(key)}
        yield Resource(document["kind"], str(document["metadata"]["name"]), dict(document.get("spec") or {}), metadata)


def _field_differences(wanted: Resource, found: Resource) -> list[str]:
    expected, actual = _fields(wanted), _fields(found)
    said = []
    for name in expected if wanted.kind == PROFILE else {**expected, **actual}:
        if name not in actual:
            said.append(f"{wanted}: {name} is not set, and should be {expected[name]}")
        elif name not in expected:
            said.append(f"{wanted}: {name} is {actual[name]}, and should not be set")
        elif actual[name] != expected[name]:
            said.append(f"{wanted}: {name} is {actual[name]}, not {expected[name]}")
    return said


def _fields(resource: Resource) -> dict[str, str]:
    """Return all fields with their values as JSON; those that are empty are as good as not there."""
    fields = {name: _full(value) for name, value in {**resource.metadata, **resource.spec}.items()}
    return {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for name, value in fields.items()
        if value is not None
    }


def _full(value: Any) -> Any:
    """Return a value without what is empty in it, which Go's encoders leave out or not; ``None`` for nothing."""
    if isinstance(value, dict):
        return {key: full for key, entry in value.items() if (full := _full(entry)) is not None} or None
    if isinstance(value, list):
        return [_full(entry) for entry in value] or None
    return value
