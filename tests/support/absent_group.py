"""A group of the API that another server is responsible for, which is not there."""

import contextlib
from collections.abc import Iterator

from fleet.adapters.k8s.client import Api
from support.apiserver import eventually

GROUP = "absent.example.org"
_PATH = "/apis/apiregistration.k8s.io/v1/apiservices"


@contextlib.contextmanager
def absent_group(api: Api) -> Iterator[None]:
    """Let the API have such a group for a while."""
    name = f"v1.{GROUP}"
    spec = {
        "group": GROUP,
        "version": "v1",
        "service": {"namespace": "default", "name": "nobody"},
        "insecureSkipTLSVerify": True,
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
    }
    api.create(_PATH, {"metadata": {"name": name}, "spec": spec})
    try:
        # The server lists the group once it has looked for what is responsible for it.
        eventually(lambda: api.get(f"{_PATH}/{name}").get("status", {}).get("conditions"))
        eventually(lambda: GROUP in [group["name"] for group in api.get("/apis")["groups"]])
        yield
    finally:
        api.delete(f"{_PATH}/{name}")
        eventually(lambda: GROUP not in [group["name"] for group in api.get("/apis")["groups"]])
