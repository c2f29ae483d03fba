"""What kinds of objects a cluster's API serves, asked of the API itself."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from fleet.adapters.k8s.client import JSON, Api
from fleet.adapters.k8s.errors import ApiError

_OTHER_NAMES = ("extensions",)  # a group whose objects are those of other groups


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object, as it is listed.

    Attributes:
        group: the API group; empty for the core group.
        version: the group's version, such as ``v1``.
        name: the resource, such as ``configmaps``.
        kind: such as ``ConfigMap``.
        namespaced: whether its objects are in namespaces.
    """

    group: str
    version: str
    name: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        """What stands in an object as ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None) -> str:
        """Return the path of all objects, or of those in a namespace."""
        base = f"{'/apis' if self.group else '/api'}/{self.api_version}"
        return f"{base}/namespaces/{namespace}/{self.name}" if namespace else f"{base}/{self.name}"

    def __str__(self) -> str:
        """Return what kubectl calls it, such as ``deployments.apps``."""
        return f"{self.name}.{self.group}" if self.group else self.name


def listable(api: Api, *, groups: Collection[str] | None = None) -> tuple[list[Resource], list[str]]:
    """Return all resources whose objects are kept, each in one version, and what could not be asked.

    Those can be listed and watched; what is computed when it is asked for (ComponentStatuses, metrics) cannot.

    A resource is taken in the version that the API prefers for its group, or in the first other one that has it: in
    Kubernetes 1.20 CronJobs are in ``batch/v1beta1`` alone, although ``batch/v1`` is preferred.

    Args:
        api: the cluster's API.
        groups: those that are of interest, the core group as an empty string; None for all.

    Returns:
        The resources, and a sentence for each version of a group that did not answer: one that another server is
        responsible for.

    Raises:
        KubernetesError: the API could not be asked for its groups.
    """
    found: dict[tuple[str, str], Resource] = {}
    problems = []
    for group, version in _versions(api):
        if groups is not None and group not in groups:
            continue
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        try:
            answer = api.get(path)
        except ApiError as error:
            problems.append(f"{path} cannot be listed: {error.status} {error.message}")
            continue
        for entry in answer.get("resources") or ():
            if "/" not in entry["name"] and {"list", "watch"}.issubset(entry.get("verbs") or ()):
                resource = Resource(group, version, entry["name"], entry["kind"], bool(entry["namespaced"]))
                found.setdefault((group, resource.name), resource)
    return list(found.values()), problems


def _versions(api: Api) -> Iterator[tuple[str, str]]:
    """Return all versions of all groups, of each group the preferred one first."""
    yield from (("", str(version)) for version in api.get("/api")["versions"])
    groups: list[JSON] = api.get("/apis").get("groups") or []
    for group in sorted(groups, key=lambda group: group["name"] in _OTHER_NAMES):
        preferred = (group.get("preferredVersion") or {}).get("version")
        versions = [str(entry["version"]) for entry in group["versions"]]
        yield from ((group["name"], version) for version in sorted(versions, key=lambda version: version != preferred))
