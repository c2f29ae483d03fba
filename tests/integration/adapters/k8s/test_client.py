"""The API client against a real API server: paging, watches, timeouts, errors, restarts."""

import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.errors import ApiError, ApiUnreachable, KubernetesError
from fleet.adapters.k8s.reflector import Reflector
from support.apiserver import Cluster, World, eventually


@pytest.fixture
def maps(world: World) -> str:
    """A collection of five config maps."""
    path = f"/api/v1/namespaces/{world.namespace}/configmaps"
    for index in range(5):
        world.api.create(path, {"metadata": {"name": f"m{index}"}})
    return path


def name(item: dict[str, Any]) -> str:
    return str(item["metadata"]["name"])


def own(names: Any) -> list[str]:
    """Leave out what newer API servers put into every namespace."""
    return sorted(each for each in names if each.startswith("m"))


def test_version_and_discovery(api: Api) -> None:
    assert api.version().startswith("v")
    assert api.serves("v1")
    assert api.serves("apps/v1")
    assert not api.serves("apps/v9")
    assert not api.serves("example.org/v1")
    eventually(lambda: api.not_ready() == "", 60)  # Its first answers come before its hooks are through.


def test_refusals_carry_what_the_api_said(api: Api, maps: str) -> None:
    with pytest.raises(ApiError) as error:
        api.get(f"{maps}/absent")
    assert (error.value.status, error.value.reason) == (404, "NotFound")
    assert f'GET {maps}/absent with 404 NotFound: configmaps "absent" not found' in str(error.value)
    with pytest.raises(ApiError) as error:
        api.create(maps, {"metadata": {"name": "m1"}})
    assert (error.value.status, error.value.reason) == (409, "AlreadyExists")
    with pytest.raises(ApiError) as error:
        api.create(maps, {"metadata": {"name": "Not Valid"}})
    assert error.value.status == 422
    assert error.value.causes[0].reason == "FieldValueInvalid"


def test_changes(api: Api, maps: str) -> None:
    path = f"{maps}/m0"
    old = api.patch(path, {"data": {"a": "1", "b": "2"}})
    assert api.patch(path, {"data": {"a": None}})["data"] == {"b": "2"}
    with pytest.raises(ApiError) as error:
        api.replace(path, old)
    assert error.value.status == 409
    with pytest.raises(ApiError) as error:
        api.delete(path, {"preconditions": {"uid": "another"}})
    assert error.value.status == 409
    api.delete(path)
    with pytest.raises(ApiError):
        api.get(path)


def test_paging(cluster: Cluster, maps: str) -> None:
    api = cluster.api(page=2)
    items, version = api.list_all(maps)
    assert own(map(name, items)) == ["m0", "m1", "m2", "m3", "m4"]
    assert int(version) > 0
    names, _ = api.list_all(maps, convert=name, fieldSelector="metadata.name!=m3")
    assert own(names) == ["m0", "m1", "m2", "m4"]


def test_list_that_expires_between_two_pages_starts_again(cluster: Cluster, maps: str) -> None:
    api = cluster.api(page=2)
    compacted: list[object] = []

    def convert(item: dict[str, Any]) -> str:
        if len(compacted) < 1:
            api.create(maps, {"metadata": {"name": "m5"}})
            cluster.expire()
            compacted.append(item)
        return name(item)

    names, _ = api.list_all(maps, convert=convert)
    assert own(names) == ["m0", "m1", "m2", "m3", "m4", "m5"]


def test_watch_reports_changes_until_its_window_ends(api: Api, maps: str) -> None:
    _, version = api.list_all(maps)
    api.create(maps, {"metadata": {"name": "m5"}})
    api.patch(f"{maps}/m5", {"data": {"a": "ü"}})
    api.delete(f"{maps}/m5")
    started = time.monotonic()
    events = [
        (kind, item) for kind, item in api.watch(maps, version, threading.Event(), window=2) if kind != "BOOKMARK"
    ]
    assert 1 <= time.monotonic() - started < 20
    assert [(kind, name(item)) for kind, item in events] == [("ADDED", "m5"), ("MODIFIED", "m5"), ("DELETED", "m5")]
    assert events[1][1]["data"] == {"a": "ü"}


def test_stop_ends_a_silent_watch_at_once(api: Api, maps: str) -> None:
    _, version = api.list_all(maps)
    stop = threading.Event()
    thread = threading.Thread(target=lambda: list(api.watch(maps, version, stop, window=60)))
    thread.start()
    time.sleep(0.5)
    stopped = time.monotonic()
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert time.monotonic() - stopped < 8


def test_watch_from_a_forgotten_version_says_gone(cluster: Cluster, api: Api, maps: str) -> None:
    api.patch(f"{maps}/m0", {"data": {"a": "1"}})
    cluster.compact()
    cluster.kill_apiserver()  # which has kept all changes since its start in memory
    cluster.start_apiserver()
    cluster.wait_ready()
    with pytest.raises(ApiError) as error:
        list(api.watch(maps, "1", threading.Event(), window=2))
    assert error.value.status == 410


def test_watch_says_when_the_connection_breaks(cluster: Cluster, api: Api, maps: str) -> None:
    _, version = api.list_all(maps)
    broken: list[Exception] = []

    def follow() -> None:
        try:
            list(api.watch(maps, version, threading.Event(), window=60))
        except ApiUnreachable as error:
            broken.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    time.sleep(0.5)
    cluster.kill_apiserver()
    thread.join(30)
    assert broken
    cluster.start_apiserver()
    cluster.wait_ready()


def test_calls_go_on_after_a_restart(cluster: Cluster, api: Api, maps: str) -> None:
    api.get(f"{maps}/m0")  # leaves a connection open, which will be dead
    cluster.kill_apiserver()
    timer = threading.Timer(0.5, cluster.start_apiserver)
    timer.start()
    assert api.patch(f"{maps}/m0", {"data": {"a": "1"}})["data"] == {"a": "1"}
    timer.join()
    cluster.wait_ready()


def test_creation_is_not_repeated_once_it_may_have_arrived(cluster: Cluster, api: Api, maps: str) -> None:
    impatient = cluster.api(timeout=2)
    impatient.get("/version")
    with cluster.frozen_apiserver():
        started = time.monotonic()
        with pytest.raises(ApiUnreachable):
            impatient.create(maps, {"metadata": {"name": "m5"}})
        assert time.monotonic() - started < 8, "it is asked once, for two seconds"


def test_calls_time_out(cluster: Cluster, api: Api) -> None:
    impatient = cluster.api(timeout=2, patience=0)
    eventually(lambda: answers(impatient))
    with cluster.frozen_apiserver():
        started = time.monotonic()
        with pytest.raises(ApiUnreachable, match="did not answer GET /version"):
            impatient.get("/version")
        assert time.monotonic() - started < 8, "it is asked once, for two seconds"
    eventually(lambda: answers(impatient))


def answers(impatient: Api) -> bool:
    try:
        return bool(impatient.version())
    except ApiUnreachable:  # on a machine that is busy
        return False


def test_many_threads_share_a_client(api: Api, maps: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda index: name(api.get(f"{maps}/m{index % 5}")), range(500)))
    assert found == [f"m{index % 5}" for index in range(500)]


def kubeconfig(cluster: Cluster, path: Path, **changes: Any) -> Path:
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["clusters"][0]["cluster"].update(changes)
    path.write_text(yaml.safe_dump(config))
    return path


def test_unreachable_api(cluster: Cluster, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        server = f"https://127.0.0.1:{unused.getsockname()[1]}"
        path = kubeconfig(cluster, tmp_path / "config", server=server)
        with pytest.raises(ApiUnreachable, match=f"The Kubernetes API at {server} did not answer.*refused"):
            Api.from_kubeconfig(path, patience=0.2).version()


def test_host_without_address(cluster: Cluster, tmp_path: Path) -> None:
    path = kubeconfig(cluster, tmp_path / "config", server="https://no-such-host.invalid:6443")
    with pytest.raises(ApiUnreachable, match=r"no-such-host\.invalid"):
        Api.from_kubeconfig(path, patience=0.2).version()


def test_untrusted_certificate_is_no_matter_of_patience(cluster: Cluster, api: Api, tmp_path: Path) -> None:
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    del config["clusters"][0]["cluster"]["certificate-authority-data"]
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    started = time.monotonic()
    with pytest.raises(KubernetesError, match=r"certificate .* cannot be trusted"):
        Api.from_kubeconfig(path).version()
    assert time.monotonic() - started < 8


def test_no_key_is_left_in_temporary_files(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    api = Api.from_kubeconfig(cluster.kubeconfig)
    assert list(tmp_path.iterdir()) == []
    assert api.version()


def test_wrong_token(cluster: Cluster, api: Api, tmp_path: Path) -> None:
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["users"][0]["user"]["token"] = "wrong"
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(ApiError, match="401 Unauthorized"):
        Api.from_kubeconfig(path).get("/api/v1/nodes")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("", "no usable kubeconfig"),
        ("{", "no usable kubeconfig"),
        ("[1, 2]", "no usable kubeconfig"),
        ("plain text", "no usable kubeconfig"),
        ("\x00\x01", "no usable kubeconfig"),
        ("current-context: x\nclusters: []\ncontexts: []\nusers: []", "no usable kubeconfig"),
        (
            "current-context: x\ncontexts: [{name: x, context: {cluster: x, user: x}}]\nusers: [{name: x, user: {}}]\n"
            "clusters: [{name: x, cluster: {server: 'https://x', certificate-authority: /no/such/file}}]",
            "no usable kubeconfig",
        ),
        (
            "current-context: x\ncontexts: [{name: x, context: {cluster: x, user: x}}]\nusers: [{name: x, user: {}}]\n"
            "clusters: [{name: x, cluster: {server: 'https://x', certificate-authority-data: YWJj}}]",
            "no usable kubeconfig",
        ),
    ],
)
def test_unusable_kubeconfig(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(KubernetesError, match=message) as error:
        Api.from_kubeconfig(path)
    assert str(path) in str(error.value)


def test_something_else_answers(cluster: Cluster, tmp_path: Path) -> None:
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = kubeconfig(cluster, tmp_path / "config", server=f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(KubernetesError, match="no Kubernetes API"):
            Api.from_kubeconfig(path).version()
        server.shutdown()


class TestReflector:
    def test_follows_through_restart_compaction_and_expiry(self, cluster: Cluster, api: Api, maps: str) -> None:
        woken = threading.Event()
        with Reflector(api, maps, name, key=name, on_change=woken.set) as reflector:
            assert own(reflector.snapshot()) == ["m0", "m1", "m2", "m3", "m4"]
            api.delete(f"{maps}/m0")
            eventually(lambda: "m0" not in reflector.snapshot())
            assert woken.is_set()
            cluster.kill_apiserver()
            eventually(lambda: reflector.age() > 0.5)
            cluster.start_apiserver()
            cluster.wait_ready()
            api.delete(f"{maps}/m1")
            cluster.compact()
            eventually(lambda: own(reflector.snapshot()) == ["m2", "m3", "m4"])
            eventually(lambda: reflector.age() < 0.5)

    def test_age_stays_low_while_nothing_happens(self, api: Api, maps: str) -> None:
        with Reflector(api, maps, name, key=name, window=1.0) as reflector:
            ages = []
            for _ in range(40):
                time.sleep(0.1)
                ages.append(reflector.age())
        assert max(ages) < 3.5, "each window of a second renews it"

    def test_snapshots_do_not_change(self, api: Api, maps: str) -> None:
        with Reflector(api, maps, name, key=name) as reflector:
            before = reflector.snapshot()
            api.delete(f"{maps}/m0")
            eventually(lambda: "m0" not in reflector.snapshot())
            assert "m0" in before

    def test_object_that_cannot_be_read_does_not_end_it(self, api: Api, maps: str) -> None:
        def convert(item: dict[str, Any]) -> str:
            if item.get("data") == {"bad": "yes"}:
                raise ValueError("bad")
            return str(item.get("data"))

        with Reflector(api, maps, convert, key=name) as reflector:
            api.patch(f"{maps}/m0", {"data": {"bad": "yes"}})
            time.sleep(0.5)
            api.patch(f"{maps}/m0", {"data": {"bad": "no"}})
            eventually(lambda: reflector.snapshot()["m0"] == "{'bad': 'no'}")
            api.patch(f"{maps}/m1", {"data": {"a": "1"}})
            eventually(lambda: reflector.snapshot()["m1"] == "{'a': '1'}")
