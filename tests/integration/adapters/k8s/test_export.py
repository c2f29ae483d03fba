"""What is exported of a real API server's objects, and what cannot be asked."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from fleet.adapters.k8s import resources
from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.errors import KubernetesError
from fleet.adapters.k8s.export import export
from support.absent_group import GROUP, absent_group
from support.apiserver import Cluster, World


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_object_is_there_once_and_can_be_created_again(world: World, tmp_path: Path) -> None:
    api, path = world.api, tmp_path / "objects.jsonl"
    path.write_text("an older one")
    base = f"/api/v1/namespaces/{world.namespace}"
    api.create(f"{base}/secrets", {"metadata": {"name": "key"}, "stringData": {"token": "hush"}})
    job = {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}
    spec = {"schedule": "0 0 * * *", "jobTemplate": job}
    # Kubernetes 1.20 prefers batch/v1, and has none of them in it.
    stable = any(each["kind"] == "CronJob" for each in api.get("/apis/batch/v1")["resources"])
    batch = "batch/v1" if stable else "batch/v1beta1"
    cronjobs = f"/apis/{batch}/namespaces/{world.namespace}/cronjobs"
    api.create(cronjobs, {"metadata": {"name": "nightly"}, "spec": spec})
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    api.create(
        f"/apis/networking.k8s.io/v1/namespaces/{world.namespace}/ingresses",
        {"metadata": {"name": "web"}, "spec": {"defaultBackend": backend}},
    )
    event = {"metadata": {"name": "e"}, "involvedObject": {"namespace": world.namespace}}
    api.create(f"{base}/events", event)
    other = f"{world.namespace}-managed"
    api.create("/api/v1/namespaces", {"metadata": {"name": other}})
    api.create(f"/api/v1/namespaces/{other}/configmaps", {"metadata": {"name": "left-out"}})

    exported = export(api, path, without=[other])

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["objects.jsonl"]
    assert exported.problems == ()
    objects = read(path)
    assert len(objects) == exported.objects
    assert len({item["metadata"]["uid"] for item in objects}) == exported.objects
    assert len({(item["apiVersion"], item["kind"]) for item in objects}) == exported.kinds
    own = {
        (item["apiVersion"], item["kind"], item["metadata"]["name"])
        for item in objects
        if item["metadata"].get("namespace") == world.namespace
    }
    assert own >= {
        ("v1", "Secret", "key"),
        (batch, "CronJob", "nightly"),
        ("networking.k8s.io/v1", "Ingress", "web"),  # not that of the group extensions as well
    }
    assert not [item for item in objects if item["kind"] == "Event"]
    assert not [item for item in objects if item["metadata"].get("namespace") == other]
    assert [item for item in objects if item["kind"] == "Namespace" and item["metadata"]["name"] == other]

    secret = next(item for item in objects if item["kind"] == "Secret" and item["metadata"]["name"] == "key")
    api.delete(f"{base}/secrets/key")
    del secret["metadata"]["resourceVersion"]
    again = api.create(f"{base}/secrets", secret)
    assert again["data"] == {"token": "aHVzaA=="}
    api.delete(f"/api/v1/namespaces/{other}")


def test_a_list_that_expires_between_two_pages_writes_nothing_twice(
    world: World, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/api/v1/namespaces/{world.namespace}/configmaps"
    for index in range(5):
        world.api.create(path, {"metadata": {"name": f"m{index}"}})
    api = cluster.api(page=2)
    connection, limits = api._connection, []
    call = connection.call

    def compact_after_a_page(method: str, path: str, query: Any, body: Any = None) -> Any:
        answer = call(method, path, query, body)
        if path == "/api/v1/configmaps":
            limits.append(query["limit"])
            if limits == [2]:
                call("PATCH", f"/api/v1/namespaces/{world.namespace}", {}, {"metadata": {"labels": {"a": "b"}}})
                cluster.expire()
        return answer

    monkeypatch.setattr(connection, "call", compact_after_a_page)

    exported = export(api, tmp_path / "objects", without=())

    assert limits == [2, 0]  # the second page had expired: all at once
    assert exported.problems == ()
    names = [
        item["metadata"]["name"]
        for item in read(tmp_path / "objects")
        if item["kind"] == "ConfigMap" and item["metadata"]["namespace"] == world.namespace
    ]
    assert sorted(name for name in names if name.startswith("m")) == ["m0", "m1", "m2", "m3", "m4"]


def test_a_group_that_does_not_answer_is_a_problem_and_the_rest_is_exported(
    world: World, cluster: Cluster, tmp_path: Path
) -> None:
    impatient = cluster.api(patience=0)
    with absent_group(world.api):
        exported = export(impatient, tmp_path / "objects", without=())
        assert resources.listable(impatient, groups=["", "apps"])[1] == []

    assert len(exported.problems) == 1
    assert GROUP in exported.problems[0]
    assert exported.objects == len(read(tmp_path / "objects")) > 0


def test_a_file_that_cannot_be_written_is_said_and_leaves_nothing(api: Api, tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    with pytest.raises(KubernetesError, match=r"cannot be written to .*objects"):
        export(api, tmp_path / "objects", without=())
    assert [entry.name for entry in tmp_path.iterdir()] == ["objects"]


def test_resources_are_found_once_and_without_subresources(api: Api) -> None:
    found, problems = resources.listable(api)
    assert problems == []
    assert len({(each.group, each.name) for each in found}) == len(found)
    deployments = next(each for each in found if str(each) == "deployments.apps")
    assert deployments.path("web") == "/apis/apps/v1/namespaces/web/deployments"
    assert next(each for each in found if str(each) == "nodes").path() == "/api/v1/nodes"
    assert not [each for each in found if "/" in each.name]
