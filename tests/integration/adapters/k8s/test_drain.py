"""Drains against a real API server: budgets, races, restarts."""

import base64
import contextlib
import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fleet.adapters.k8s.client import JSON, Api
from fleet.adapters.k8s.errors import ApiError, KubernetesError
from fleet.adapters.k8s.leftover import pods_left
from fleet.adapters.k8s.policy import DrainPolicy
from support.apiserver import Address, Cluster, FakeKubelet, World, eventually
from support.draining import Drained, drain
from support.ports import free_port

POLICY = DrainPolicy()


class Draining:
    """A drain that runs in a thread of its own."""

    def __init__(self, api: Api, node: str, policy: DrainPolicy = POLICY, *, deadline: float = 180.0) -> None:
        self.messages: list[str] = []
        self.cancel = threading.Event()
        self._result: list[Drained] = []

        def run() -> None:
            progress = self.messages.append
            self._result.append(drain(api, node, policy, deadline=deadline, cancel=self.cancel, progress=progress))

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def result(self, seconds: float = 240.0) -> Drained:
        self.thread.join(seconds)
        assert self._result, f"the drain does not end: {self.messages}"
        return self._result[0]

    def says(self, *parts: str) -> bool:
        return any(all(part in message for part in parts) for message in self.messages)


def drained(api: Api, node: str, policy: DrainPolicy = POLICY, *, deadline: float = 30.0) -> Drained:
    return Draining(api, node, policy, deadline=deadline).result()


def names(result: Any) -> list[str]:
    return sorted(getattr(item, "pod", item).name for item in result)


def test_all_pods_go_and_others_stay(api: Api, world: World, kubelet: FakeKubelet) -> None:
    node, other = world.node(), world.node()
    world.web_pods(node, 5)
    daemonset = world.controller("DaemonSet", "agent")
    world.pod("agent-1", node, owner=daemonset)
    world.pod("static", node, annotations={"kubernetes.io/config.mirror": "x"})
    world.pod("finished", node, phase="Succeeded")
    world.pod("elsewhere", other, owner=world.controller())
    result = drained(api, node)
    assert result.done, result
    assert names(result.evicted) == sorted(kubelet.deleted) == [f"web-{index}" for index in range(5)]
    assert not result.remaining
    assert result.reason == "drained"
    assert result.seconds < 15
    assert not pods_left(api, node, POLICY)


def test_empty_and_unknown_nodes_are_drained(api: Api, world: World) -> None:
    assert drained(api, world.node()).done
    assert drained(api, "no-such-node").done


def test_pods_left_names_pods_that_arrived_since(api: Api, world: World, kubelet: FakeKubelet) -> None:
    node = world.node()
    assert drained(api, node).done
    world.web_pods(node, 1)
    assert [str(left) for left in pods_left(api, node, POLICY)] == [f"{world.namespace}/web-0 is still running"]


def test_budget_that_opens_later(api: Api, world: World, kubelet: FakeKubelet) -> None:
    node = world.node()
    world.web_pods(node, 3)
    world.budget("web-budget", 0)
    draining = Draining(api, node)
    eventually(lambda: draining.says("web-0", "web-2", f"budget {world.namespace}/web-budget"))
    assert not kubelet.deleted
    opened = time.monotonic()
    world.allow("web-budget", 1)
    eventually(lambda: kubelet.deleted)
    assert time.monotonic() - opened < 4, "an opened budget is to be noticed at once"
    time.sleep(0.5)
    assert len(kubelet.deleted) == 1, "a budget that allows one disruption is good for one"
    world.allow("web-budget", 2)
    result = draining.result()
    assert result.done
    assert len(result.evicted) == 3


def test_budget_that_never_opens(api: Api, world: World, kubelet: FakeKubelet) -> None:
    node = world.node()
    world.web_pods(node, 2)
    world.pod("free-1", node, owner=world.controller(name="free"), labels={"app": "free"})
    world.budget("web-budget", 0)
    result = drained(api, node, deadline=4)
    assert not result.done
    assert result.reason == "not drained within 4 s"
    assert names(result.evicted) == kubelet.deleted == ["free-1"]
    assert names(result.remaining) == ["web-0", "web-1"]
    assert f"{world.namespace}/web-budget" in result.remaining[0].why
    assert "healthy" in result.remaining[0].why
    assert 4 <= result.seconds < 15
    assert len(pods_left(api, node, POLICY)) == 2


def test_overlapping_budgets_are_named_and_not_waited_for(api: Api, world: World, kubelet: FakeKubelet) -> None:
    node = world.node()
    world.web_pods(node, 1)
    world.pod("free-1", node, owner=world.controller(name="free"), labels={"app": "free"})
    world.budget("one", 5)
    world.budget("two", 5)
    result = drained(api, node)
    assert not result.done
    assert result.seconds < 20
    assert names(result.evicted) == ["free-1"]
    (left,) = result.remaining
    assert f"more than one budget ({world.namespace}/one, {world.namespace}/two)" in left.why
    assert not result.refused


class Gatekeeper(http.server.ThreadingHTTPServer):
    """An admission webhook that is asked about evictions, and refuses them with a status of the test's choice.

    Attributes:
        refuse: the status to refuse with; None lets evictions pass.
        asked: when it was asked about which pod.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.refuse: JSON | None = {"code": 429}
        self.asked: list[tuple[str, float]] = []
        super().__init__(("127.0.0.1", 0), _Gate)
        certificates = cluster.directory / "certificates"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "apiserver.crt", certificates / "apiserver.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.authority = base64.b64encode((certificates / "apiserver.crt").read_bytes()).decode()


class _Gate(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        gatekeeper = self.server
        assert isinstance(gatekeeper, Gatekeeper)
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        gatekeeper.asked.append((request["name"], time.monotonic()))
        response: JSON = {"uid": request["uid"], "allowed": gatekeeper.refuse is None}
        if gatekeeper.refuse:
            response["status"] = gatekeeper.refuse
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def gatekeeper(cluster: Cluster, api: Api, world: World) -> Iterator[Gatekeeper]:
    path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    with Gatekeeper(cluster) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        webhook = {
            "name": "gate.example.org",
            "clientConfig": {"url": f"https://127.0.0.1:{server.server_port}/", "caBundle": server.authority},
            "rules": [
                {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/eviction"]}
            ],
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
        }
        api.create(path, {"metadata": {"name": world.namespace}, "webhooks": [webhook]})
        world.pod("probe", world.node())
        body = {"metadata": {"name": "probe", "namespace": world.namespace}}

        def is_asked() -> bool:
            with contextlib.suppress(ApiError):
                api.create(f"{world.pods}/probe/eviction", body, dryRun="All")
            return bool(server.asked)

        eventually(is_asked)
        server.asked.clear()
        yield server
        api.delete(f"{path}/{world.namespace}")
        server.shutdown()
        thread.join()


def test_retry_after_is_honoured(api: Api, world: World, kubelet: FakeKubelet, gatekeeper: Gatekeeper) -> None:
    node = world.node()
    world.web_pods(node, 2)
    gatekeeper.refuse = {"code": 429, "reason": "TooManyRequests", "details": {"retryAfterSeconds": 3}}
    draining = Draining(api, node)
    eventually(lambda: len(gatekeeper.asked) == 2)
    gatekeeper.refuse = None
    assert draining.result().done
    for pod in ("web-0", "web-1"):
        first, second = [when for name, when in gatekeeper.asked if name == pod]
        assert 3 <= second - first < 10


@pytest.mark.parametrize("code", [403, 500, 503])
def test_other_refusals_are_said_and_tried_again(
    api: Api, world: World, kubelet: FakeKubelet, gatekeeper: Gatekeeper, code: int
) -> None:
    node = world.node()
    world.web_pods(node, 2)
    gatekeeper.refuse = {"code": code, "message": "data is not moved yet"}
    draining = Draining(api, node)
    eventually(lambda: draining.says("web-0", "could not be evicted", "data is not moved yet"))
    gatekeeper.refuse = None
    result = draining.result()
    assert result.done
    assert result.seconds < 30


def test_pods_deleted_by_others_meanwhile(api: Api, world: World, kubelet: FakeKubelet) -> None:
    node = world.node()
    world.web_pods(node, 4)
    world.budget("web-budget", 0)
    draining = Draining(api, node)
    eventually(lambda: draining.says("web-budget"))
    for index in range(4):
        api.delete(f"{world.pods}/web-{index}")
    result = draining.result()
    assert result.done
    assert not result.evicted


def test_recreated_pod_of_the_same_name_elsewhere_is_not_evicted(api: Api, world: World, kubelet: FakeKubelet) -> None:
    node, other = world.node(), world.node()
    owner = world.controller("StatefulSet", "db")
    old = world.pod("db-0", node, owner=owner, labels={"app": "db"})
    world.budget("db-budget", 0, app="db")
    draining = Draining(api, node)
    eventually(lambda: draining.says("db-budget"))
    api.delete(f"{world.pods}/db-0", gracePeriodSeconds=0)
    new = world.pod("db-0", other, owner=owner, labels={"app": "db"})
    world.allow("db-budget", 1)
    assert draining.result().done
    assert old != new
    now = api.get(f"{world.pods}/db-0")["metadata"]
    assert now["uid"] == new
    assert "deletionTimestamp" not in now


def test_eviction_of_an_old_uid_leaves_the_new_pod_alone(api: Api, world: World) -> None:
    from fleet.adapters.k8s.eviction import Answer, Evictor
    from fleet.adapters.k8s.pods import parse_pod

    node = world.node()
    owner = world.controller("StatefulSet", "db")
    world.pod("db-0", node, owner=owner)
    old = parse_pod(api.get(f"{world.pods}/db-0"))
    api.delete(f"{world.pods}/db-0", gracePeriodSeconds=0)
    assert Evictor(api).evict(old).answer is Answer.GONE
    world.pod("db-0", node, owner=owner)
    assert Evictor(api).evict(old).answer is Answer.GONE
    assert "deletionTimestamp" not in api.get(f"{world.pods}/db-0")["metadata"]


def test_recreated_pod_on_the_same_node_is_evicted_too(api: Api, world: World, kubelet: FakeKubelet) -> None:
    node = world.node()
    owner = world.controller()
    world.pod("web-0", node, owner=owner)
    world.pod("slow", node, owner=owner)
    kubelet.keep.add("slow")
    draining = Draining(api, node)
    eventually(lambda: kubelet.deleted == ["web-0"])
    world.pod("web-0", node, owner=owner)
    eventually(lambda: kubelet.deleted == ["web-0", "web-0"])
    kubelet.keep.clear()
    result = draining.result()
    assert result.done
    assert names(result.evicted) == ["slow", "web-0", "web-0"]


def test_pods_that_keep_coming_are_not_evicted_for_ever(api: Api, world: World, kubelet: FakeKubelet) -> None:
    node = world.node()
    owner = world.controller()
    world.pod("slow", node, owner=world.controller(name="other"))
    kubelet.keep.add("slow")
    draining = Draining(api, node)
    eventually(lambda: draining.says("/slow is "))  # What comes from now on is new.
    for index in range(3):
        world.pod(f"web-{index}", node, owner=owner)
        eventually(lambda: f"web-{index}" in kubelet.deleted)  # noqa: B023 (called at once)
    world.pod("web-3", node, owner=owner)
    eventually(lambda: draining.says("web-3", "they tolerate the cordon"))
    kubelet.keep.clear()
    result = draining.result()
    assert result.reason == "what remains on the node cannot be evicted"
    assert names(result.evicted) == ["slow", "web-0", "web-1", "web-2"]
    assert names(result.remaining) == ["web-3"]


def test_refusals_are_decided_before_the_first_eviction(api: Api, world: World, kubelet: FakeKubelet) -> None:
    node = world.node()
    world.web_pods(node, 2)
    world.pod("bare-1", node)
    world.pod("bare-2", node)
    world.pod("orphan", node, owner=world.controller("DaemonSet", "removed", exists=False))
    world.pod("scratch", node, owner=world.controller(), volumes=[{"name": "v", "emptyDir": {}}])
    result = drained(api, node, DrainPolicy(empty_dir="refuse"))
    assert not result.done
    assert not result.evicted
    assert names(result.refused) == ["bare-1", "bare-2", "orphan", "scratch"]
    assert len(result.remaining) == 6
    assert "no controller" in result.refused[0].why
    time.sleep(0.3)
    assert not kubelet.deleted
    result = drained(api, node, DrainPolicy(bare_pods="evict", empty_dir="evict"))
    assert result.done
    assert len(result.evicted) == 6


def test_bare_pod_that_arrives_during_the_drain_is_not_evicted(api: Api, world: World, kubelet: FakeKubelet) -> None:
    node = world.node()
    world.web_pods(node, 1)
    kubelet.keep.add("web-0")
    draining = Draining(api, node)
    eventually(lambda: draining.messages)
    world.pod("bare-1", node)
    eventually(lambda: draining.says("bare-1", "no controller"))
    kubelet.keep.clear()
    result = draining.result()
    assert not result.done
    assert names(result.refused) == names(result.remaining) == ["bare-1"]


def test_finalizers_are_waited_for_or_skipped(api: Api, world: World, kubelet: FakeKubelet) -> None:
    node = world.node()
    world.pod("web-0", node, owner=world.controller(), finalizers=["example.org/hold"])
    result = drained(api, node, deadline=2)
    assert not result.done
    assert "kept by the finalizers example.org/hold" in result.remaining[0].why
    skip = DrainPolicy(finalizers="skip")
    assert drained(api, node, skip).done
    assert not pods_left(api, node, skip)
    assert pods_left(api, node, POLICY)
    draining = Draining(api, node)
    eventually(lambda: draining.messages)
    api.patch(f"{world.pods}/web-0", {"metadata": {"finalizers": None}})
    assert draining.result().done


def test_cancel_ends_the_drain_at_once(api: Api, world: World, kubelet: FakeKubelet) -> None:
    node = world.node()
    world.web_pods(node, 3)
    world.budget("web-budget", 1)
    draining = Draining(api, node)
    # Until then an answer may be outstanding: the API server sleeps half a second when evictions collide.
    eventually(lambda: sum(draining.says(f"web-{index}", "web-budget") for index in range(3)) == 2)
    cancelled = time.monotonic()
    draining.cancel.set()
    result = draining.result()
    assert time.monotonic() - cancelled < 5
    assert result.reason == "cancelled"
    assert len(result.evicted) == 1
    assert len({*names(result.evicted), *names(result.remaining)}) == 3
    world.allow("web-budget", 3)
    time.sleep(1.5)
    assert len(kubelet.deleted) == 1, "nothing is evicted after a cancellation"


def test_cancel_ends_the_drain_although_the_api_hangs(
    cluster: Cluster, api: Api, world: World, kubelet: FakeKubelet
) -> None:
    node = world.node()
    world.web_pods(node, 3)
    world.budget("web-budget", 0)
    draining = Draining(cluster.api(timeout=3, patience=3), node)
    eventually(lambda: draining.says("web-budget"))
    with cluster.frozen_apiserver():
        time.sleep(2)
        cancelled = time.monotonic()
        draining.cancel.set()
        result = draining.result()
        assert time.monotonic() - cancelled < 15, "it waits for the call that is under way, and for nothing else"
    assert len(result.remaining) == 3


@pytest.fixture
def restarted(cluster: Cluster) -> Iterator[Cluster]:
    yield cluster
    cluster.wait_ready()


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_apiserver_restarted_in_the_middle(
    restarted: Cluster, api: Api, world: World, kubelet: FakeKubelet, how: str
) -> None:
    node = world.node()
    world.web_pods(node, 6)
    world.budget("web-budget", 2)
    draining = Draining(api, node)
    eventually(lambda: len(kubelet.deleted) == 2)
    restarted.kill_apiserver() if how == "kill" else restarted.stop_apiserver()
    time.sleep(1)
    restarted.start_apiserver()
    restarted.wait_ready()
    world.allow("web-budget", 4)
    result = draining.result()
    assert result.done, (result, draining.messages)
    assert len(result.evicted) == len(set(result.evicted)) == 6


def test_drain_starts_while_the_api_is_away(restarted: Cluster, api: Api, world: World, kubelet: FakeKubelet) -> None:
    node = world.node()
    world.web_pods(node, 2)
    restarted.kill_apiserver()
    draining = Draining(restarted.api(patience=0.5), node)
    eventually(lambda: draining.says("did not answer"))
    restarted.start_apiserver()
    assert draining.result().done


def test_unreachable_api_is_a_result(restarted: Cluster, api: Api) -> None:
    restarted.kill_apiserver()
    result = drained(restarted.api(patience=0.2), "node", deadline=1)
    restarted.start_apiserver()
    assert not result.done
    assert result.reason == "not drained within 1 s"


@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_address_changes_over_to_another_apiserver(cluster: Cluster, api: Api, world: World, how: str) -> None:
    """A hanging server is the worse one: its connections stay open and silent, as those of a machine without power."""
    spare = free_port()
    process = cluster.spawn_apiserver(spare)
    address = Address(cluster.port)
    try:
        direct = cluster.api(port=spare)
        eventually(lambda: serves(direct), 60)
        world.kubelet = FakeKubelet(direct)
        node = world.node()
        world.web_pods(node, 6)
        world.budget("web-budget", 2)
        draining = Draining(cluster.api(port=address.port, timeout=2), node)
        eventually(lambda: world.kubelet and len(world.kubelet.deleted) == 2)
        with cluster.frozen_apiserver() if how == "hangs" else contextlib.nullcontext():
            if how == "dies":
                cluster.kill_apiserver()
            address.target = spare
            world.api = direct
            world.allow("web-budget", 4)
            result = draining.result()
        assert result.done, (result, draining.messages)
        assert len(result.evicted) == 6
        assert result.seconds < 50
    finally:
        if world.kubelet:
            world.kubelet.stop()
        world.kubelet, world.api = None, api
        process.kill()
        process.wait()
        address.close()
        if how == "dies":
            cluster.start_apiserver()
            cluster.wait_ready()


def serves(api: Api) -> bool:
    try:
        return bool(api.version())
    except KubernetesError:
        return False
