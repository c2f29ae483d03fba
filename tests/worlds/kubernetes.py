"""A Kubernetes API in memory, behind the connections of the official client.

The real :class:`fleet.adapters.k8s.client.Api` speaks to it. Facts: ``registry/core/pod/rest/eviction.go`` for
evictions, RFC 7386 for merge patches.
"""

import copy
import json
import urllib.parse
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import urllib3

from fleet.adapters.k8s.client import JSON, Api
from support import official
from worlds.timeline import Time

Key = tuple[str, str]
"""An object's namespace, perhaps empty, and its name."""
NODES, PODS, BUDGETS, ATTACHMENTS = "nodes", "pods", "poddisruptionbudgets", "volumeattachments"


class Refusal(Exception):
    """The API refuses."""

    def __init__(self, status: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"kind": "Status", "code": status, "reason": reason, "message": message, "details": details}


def stamp(epoch: float) -> str:
    """Return a time as the API writes it, in whole seconds."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def merge(target: JSON, patch: JSON) -> JSON:
    """Return what a JSON merge patch makes of an object."""
    merged = dict(target)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            found = merged.get(key)
            merged[key] = merge(found if isinstance(found, dict) else {}, value)
        else:
            merged[key] = value
    return merged


class Kubernetes:
    """The objects of a cluster, and what the API does with requests.

    Objects are never changed in place: whoever has one keeps what it was.
    """

    def __init__(self, time: Time) -> None:
        self._time = time
        self._version = 0
        self._numbers = 0
        self.objects: dict[str, dict[Key, JSON]] = {}
        """By resource."""
        self.changes: dict[str, list[tuple[float, Key, JSON | None]]] = {}
        """By resource: when an object became what; nothing for its end."""
        self.is_up = True
        self.last_up = time.now
        self.listeners: list[Callable[[str, JSON | None, JSON | None], None]] = []
        """Called with a resource and an object as it was and is, after each change."""
        self.by_us: list[Callable[[str, str, JSON | None, JSON | None], None]] = []
        """Called before a change that a client of ours asks for, with the verb, the resource, and both objects."""

    # Objects, for the world's own components.

    def number(self) -> int:
        """Return a number that was never used."""
        self._numbers += 1
        return self._numbers

    def all(self, resource: str) -> list[JSON]:
        return list(self.objects.get(resource, {}).values())

    def find(self, resource: str, name: str, namespace: str = "") -> JSON | None:
        return self.objects.get(resource, {}).get((namespace, name))

    def put(self, resource: str, item: JSON) -> JSON:
        """Create or change an object."""
        self._version += 1
        metadata = item["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        before = self.objects.setdefault(resource, {}).get(key)
        uid = metadata.get("uid") or f"u{self.number()}"
        after = {**item, "metadata": {**metadata, "uid": uid, "resourceVersion": str(self._version)}}
        self.objects[resource][key] = after
        self.changes.setdefault(resource, []).append((self._time.now, key, after))
        for listener in self.listeners:
            listener(resource, before, after)
        return after

    def patch(self, resource: str, name: str, patch: JSON, namespace: str = "") -> None:
        """Change an object that may have gone meanwhile."""
        if (found := self.find(resource, name, namespace)) is not None:
            self.put(resource, merge(found, patch))

    def remove(self, resource: str, name: str, namespace: str = "") -> None:
        before = self.objects.get(resource, {}).pop((namespace, name), None)
        if before is not None:
            self.changes.setdefault(resource, []).append((self._time.now, (namespace, name), None))
            for listener in self.listeners:
                listener(resource, before, None)

    def end_pod(self, pod: JSON) -> None:
        """Let a pod go, once its finalizers are gone."""
        metadata = pod["metadata"]
        now = self.find(PODS, metadata["name"], metadata["namespace"])
        if now is None or now["metadata"]["uid"] != metadata["uid"]:
            return
        if now["metadata"].get("finalizers"):
            self.patch(PODS, metadata["name"], {"metadata": {"deletionGracePeriodSeconds": 0}}, metadata["namespace"])
        else:
            self.remove(PODS, metadata["name"], metadata["namespace"])

    def delete_pod(self, pod: JSON) -> None:
        """Ask for a pod's end, as an eviction or anybody else does."""
        metadata = pod["metadata"]
        if "deletionTimestamp" not in metadata:
            grace = {"deletionTimestamp": stamp(self._time.now + 30), "deletionGracePeriodSeconds": 30}
            self.patch(PODS, metadata["name"], {"metadata": grace}, metadata["namespace"])

    # Requests.

    def client(self, gate: Callable[[str, str], None], *, server: str = official.SERVER) -> Api:
        """Return a client of the API.

        Args:
            gate: called before and after each request with its method and path; what it raises ends the request.
            server: the API's URL.
        """

        def request(method: str, url: str, body: bytes | None) -> urllib3.HTTPResponse:
            parts = urllib.parse.urlsplit(url)
            gate(method, parts.path)
            if not self.is_up:
                raise urllib3.exceptions.ProtocolError("Connection aborted.")
            query = dict(urllib.parse.parse_qsl(parts.query))
            answer = self._answer(method, parts.path, query, json.loads(body) if body else {})
            gate(method, parts.path)
            return answer

        return Api(official.client(request, server=server), timeout=5.0, patience=2.0, clock=self._time)

    def _answer(self, method: str, path: str, query: dict[str, str], body: JSON) -> urllib3.HTTPResponse:
        try:
            return official.answer(200, json.dumps(self._handle(method, path, query, body)).encode())
        except Refusal as error:
            return official.answer(error.status, json.dumps(error.body).encode())

    def _handle(self, method: str, path: str, query: dict[str, str], body: JSON) -> JSON:
        fixed: dict[str, JSON] = {
            "/version": {"gitVersion": "v1.30.0"},
            "/readyz": {},
            "/api/v1": {"resources": [{"name": "pods/eviction", "group": "policy", "version": "v1"}]},
            "/apis/policy/v1": {"resources": []},
        }
        if path in fixed:
            return fixed[path]
        words = path.strip("/").split("/")
        words = words[2:] if words[0] == "api" else words[3:]
        namespace = ""
        if words[0] == "namespaces" and len(words) > 2:
            namespace, words = words[1], words[2:]
        resource, name, sub = (*words, "", "")[:3]
        if resource == "selfsubjectaccessreviews":
            return {"status": {"allowed": True}}
        if sub == "eviction":
            return self._evict(namespace, name, body)
        match method, bool(name):
            case "GET", False:
                items = list(self._selected(resource, namespace, query))
                return {"metadata": {"resourceVersion": str(self._version)}, "items": items}
            case "GET", True:
                return self._existing(resource, namespace, name)
            case "POST", False:
                return self._create(resource, namespace, body)
            case (("PUT" | "PATCH" | "DELETE"), True):
                return self._change(method, resource, namespace, name, body)
        raise Refusal(405, "MethodNotAllowed", f"{method} {path}")

    def _selected(self, resource: str, namespace: str, query: dict[str, str]) -> Iterator[JSON]:
        wanted = [pair.split("=", 1) for pair in query.get("fieldSelector", "").split(",") if pair]
        labels = [pair.split("=", 1) for pair in query.get("labelSelector", "").split(",") if pair]
        for (of, _), item in self.objects.get(resource, {}).items():
            if namespace in ("", of) and all(_field(item, path) == value for path, value in wanted):
                own = item["metadata"].get("labels", {})
                if all(own.get(key) == value for key, value in labels):
                    yield item

    def _existing(self, resource: str, namespace: str, name: str) -> JSON:
        found = self.find(resource, name, namespace)
        if found is None:
            raise Refusal(404, "NotFound", f'{resource} "{name}" not found')
        return found

    def _create(self, resource: str, namespace: str, body: JSON) -> JSON:
        metadata = {**body["metadata"], **({"namespace": namespace} if namespace else {})}
        if self.find(resource, metadata["name"], namespace) is not None:
            raise Refusal(409, "AlreadyExists", f'{resource} "{metadata["name"]}" already exists')
        self._ask("create", resource, None, body)
        return self.put(resource, {**body, "metadata": metadata})

    def _change(self, method: str, resource: str, namespace: str, name: str, body: JSON) -> JSON:
        before = self._existing(resource, namespace, name)
        version = body.get("metadata", {}).get("resourceVersion")
        if version and version != before["metadata"]["resourceVersion"]:
            raise Refusal(409, "Conflict", "the object has been modified; please try again")
        if method == "DELETE":
            self._ask("delete", resource, before, None)
            self.remove(resource, name, namespace)
            return {"kind": "Status", "status": "Success"}
        after = merge(before, body) if method == "PATCH" else copy.deepcopy(body)
        self._ask("change", resource, before, after)
        return self.put(resource, after)

    def _ask(self, verb: str, resource: str, before: JSON | None, after: JSON | None) -> None:
        for listener in self.by_us:
            listener(verb, resource, before, after)

    def _evict(self, namespace: str, name: str, body: JSON) -> JSON:
        pod = self._existing(PODS, namespace, name)
        metadata = pod["metadata"]
        if (uid := body["deleteOptions"].get("preconditions", {}).get("uid")) not in (None, metadata["uid"]):
            raise Refusal(409, "Conflict", f"the UID in the precondition ({uid}) does not match the UID in record")
        self._ask("evict", PODS, pod, None)
        if "deletionTimestamp" not in metadata and pod["status"]["phase"] == "Running":
            covering = [budget for budget in self.all(BUDGETS) if covers(budget, pod)]
            if len(covering) > 1:
                raise Refusal(
                    500,
                    "InternalError",
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                )
            for budget in covering:
                self._spend(budget, pod)
        self.delete_pod(pod)
        return {"kind": "Status", "status": "Success"}

    def _spend(self, budget: JSON, pod: JSON) -> None:
        name, status = budget["metadata"]["name"], budget["status"]
        if not is_ready(pod) and status["currentHealthy"] >= status["desiredHealthy"] > 0:
            return  # IfHealthyBudget: what does not count as healthy takes nothing from it.
        if status["disruptionsAllowed"] <= 0:
            cause = {"reason": "DisruptionBudget", "message": f"The disruption budget {name} needs more healthy pods"}
            raise Refusal(
                429,
                "TooManyRequests",
                "Cannot evict pod as it would violate its budget.",
                causes=[cause],
            )
        spent = {"status": {"disruptionsAllowed": status["disruptionsAllowed"] - 1}}
        self.patch(BUDGETS, name, spent, budget["metadata"]["namespace"])


def covers(budget: JSON, pod: JSON) -> bool:
    """Return whether a budget is about a pod."""
    labels, wanted = pod["metadata"].get("labels", {}), budget["spec"]["selector"]["matchLabels"]
    same = budget["metadata"]["namespace"] == pod["metadata"]["namespace"]
    return same and all(labels.get(key) == value for key, value in wanted.items())


def is_ready(item: JSON) -> bool:
    """Return whether a pod or a node is Ready."""
    conditions = item.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _field(item: JSON, path: str) -> str:
    value: Any = item
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return str(value)
