"""Readers of the control plane's health, leader elections and the watchdog, against a control plane of two hosts."""

import dataclasses
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from fleet.adapters.k8s import leader, tally, watchdog
from fleet.adapters.k8s.apiserver import TIMEOUT, Apiservers, Health, Strange, url
from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.errors import ApiError, KubernetesError
from fleet.adapters.k8s.leader import Election, Judgement
from fleet.adapters.k8s.watchdog import Watchdog
from fleet.config.model import ControlPlaneConfig, LeaseConfig
from fleet.execution import Unreachable
from fleet_lab import kubeconfig
from fleet_lab.pki import Authority
from support.apiserver import Address, Cluster, World, eventually
from support.ports import free_port
from support.processes import pause, paused

ADDRESSES = {"cp1": "127.0.0.2", "cp2": "127.0.0.3"}
_DURATION = 4.0  # seconds of a Lease of the tests' schedulers


class ControlPlane:
    """Two API servers over one etcd, each on an address of its own, and an address before them."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.port = free_port()
        self.authority = Authority(folder / "pki", "control-plane")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.before = Address(self.port, ADDRESSES["cp1"])
        self.config = ControlPlaneConfig.model_validate({"port": self.port, "addresses": ADDRESSES})
        for host, address in ADDRESSES.items():
            self.authority.issue(host, addresses=[ip_address(address), ip_address("127.0.0.1")])
        self.kubeconfig = self.write_kubeconfig("kubeconfig", self.authority)

    def write_kubeconfig(self, name: str, authority: Authority) -> Path:
        admin = self.authority.issue("admin", organization="system:masters")
        path = self.folder / name
        path.write_text(kubeconfig.render(f"https://127.0.0.1:{self.before.port}", authority, admin, "admin"))
        return path

    def start(self, host: str) -> None:
        """Start the API server of a host unless it runs."""
        if host in self.processes and self.processes[host].poll() is None:
            return
        pki = self.folder / "pki"
        self.processes[host] = self.cluster.spawn_apiserver(
            self.port,
            address=ADDRESSES[host],
            flags=[
                f"--tls-cert-file={pki / f'{host}.pem'}",
                f"--tls-private-key-file={pki / f'{host}.key'}",
                f"--client-ca-file={self.authority.path}",
            ],
        )

    def wait_ready(self, *hosts: str) -> None:
        apiservers = self.apiservers()

        def ready() -> bool:
            time.sleep(0.2)
            return all(_is_ready(health) for health in apiservers.examine(hosts).values())

        eventually(ready, 180)

    def apiservers(self, *, config: ControlPlaneConfig | None = None, path: Path | None = None) -> Apiservers:
        return Apiservers(path or self.kubeconfig, config or self.config, list(ADDRESSES), LeaseConfig())

    def lead_to(self, host: str) -> None:
        """Lead new connections to a host."""
        self.before.host = ADDRESSES[host]

    def kill(self, host: str) -> None:
        self.processes[host].kill()
        self.processes[host].wait()


@pytest.fixture(scope="module")
def started(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    found = ControlPlane(cluster, tmp_path_factory.mktemp("control-plane"))
    try:
        yield found
    finally:
        found.before.close()
        for host in found.processes:
            found.kill(host)


@pytest.fixture
def plane(started: ControlPlane) -> ControlPlane:
    """The control plane, with both API servers ready and the first one in use."""
    for host in ADDRESSES:
        started.start(host)
    started.wait_ready(*ADDRESSES)
    started.lead_to("cp1")
    return started


def _is_ready(health: Health | Unreachable) -> bool:
    return isinstance(health, Health) and health.ready


def test_each_apiserver_is_asked_on_its_own_address(plane: ControlPlane) -> None:
    apiservers = plane.apiservers()
    well = Health(ready=True, failing=(), etcd=True)
    assert apiservers.examine(["cp1", "cp2"]) == {"cp1": well, "cp2": well}

    plane.kill("cp2")
    answers = apiservers.examine(["cp1", "cp2"])
    assert answers["cp1"] == well
    assert isinstance(answers["cp2"], Unreachable)
    assert not isinstance(answers["cp2"], Strange), "nothing answers"
    assert answers["cp2"].reason.startswith(f"https://127.0.0.3:{plane.port} does not answer: ")
    assert "refused" in answers["cp2"].reason


def test_a_frozen_apiserver_is_no_answer(plane: ControlPlane) -> None:
    apiservers = plane.apiservers()
    with paused(plane.processes["cp1"]):
        started = time.monotonic()
        answer = apiservers.examine(["cp1"])["cp1"]
        assert time.monotonic() - started < TIMEOUT + 7
    assert isinstance(answer, Unreachable)
    assert not isinstance(answer, Strange)
    assert "timed out" in answer.reason


def test_an_etcd_that_does_not_answer(plane: ControlPlane) -> None:
    assert plane.cluster.etcd
    apiservers = plane.apiservers()
    with paused(plane.cluster.etcd):
        # Newer API servers answer with the last result of the check if they are asked more than once in a second.
        eventually(lambda: not any(map(_is_ready, apiservers.examine(["cp1", "cp2"]).values())), 60)
        answers = apiservers.examine(["cp1", "cp2"])
    for health in answers.values():
        assert isinstance(health, Health)
        assert not health.ready
        assert not health.etcd
        assert any(check.startswith("etcd") for check in health.failing)
    plane.wait_ready(*ADDRESSES)


def test_an_etcd_that_went_away_just_now_makes_nobody_ready(plane: ControlPlane) -> None:
    """Load balancers ask so often that newer versions answer /readyz from their last result."""
    assert plane.cluster.etcd
    etcd, stop = plane.cluster.etcd, threading.Event()
    remembered = Api.from_kubeconfig(plane.kubeconfig, server=url("cp1", plane.config), timeout=5.0, patience=0.0)
    said: list[int] = []

    def ask_often() -> None:
        while not stop.wait(0.05):
            with suppress(KubernetesError):
                said.append(remembered.readyz()[0])

    asking = [threading.Thread(target=ask_often, daemon=True) for _ in range(4)]
    for thread in asking:
        thread.start()
    apiservers = plane.apiservers()
    try:
        eventually(lambda: len(said) > 20)
        with paused(etcd):
            said.clear()
            answers = [apiservers.examine(["cp1"])["cp1"] for _ in range(3)]
            print(f"{said.count(200)} of {len(said)} answers of /readyz were ok meanwhile")
    finally:
        stop.set()
        for thread in asking:
            thread.join()
    assert [isinstance(answer, Health) and not answer.ready and not answer.etcd for answer in answers] == [True] * 3
    plane.wait_ready(*ADDRESSES)


def test_a_certificate_for_another_address_is_told_as_such(plane: ControlPlane) -> None:
    # The same server, by an address that its certificate does not name; IPv6, as far as TLS is concerned.
    config = ControlPlaneConfig.model_validate({"port": plane.port, "addresses": {"cp1": "::ffff:127.0.0.2"}})
    answer = plane.apiservers(config=config).examine(["cp1"])["cp1"]
    assert isinstance(answer, Strange)
    assert answer.reason.startswith(
        f"https://[::ffff:7f00:2]:{plane.port} has a certificate that is not for [::ffff:7f00:2]: "
        "name an address in control_plane.addresses"
    )
    config = config.model_copy(update={"port": plane.before.port})
    answer = Apiservers(plane.kubeconfig, config, ["localhost"], LeaseConfig()).examine(["localhost"])["localhost"]
    assert isinstance(answer, Strange)
    assert f"https://localhost:{plane.before.port} has a certificate that is not for localhost" in answer.reason


def test_a_certificate_of_another_authority_is_not_trusted(plane: ControlPlane) -> None:
    path = plane.write_kubeconfig("other", Authority(plane.folder / "other-pki", "other"))
    answer = plane.apiservers(path=path).examine(["cp1"])["cp1"]
    assert isinstance(answer, Strange)
    assert "has a certificate that the kubeconfig's authority does not vouch for" in answer.reason


class Election_:  # noqa: N801
    """Judges an election again and again, as a step does whose facts go through the journal."""

    def __init__(self, api: Api, component: str) -> None:
        self.api, self.component = api, component
        self.facts: dict[str, Any] | None = None

    def judge(self) -> Judgement:
        judgement = leader.judge(leader.read(self.api, self.component), self.facts, time.time())
        self.facts = json.loads(json.dumps(judgement.facts))
        return judgement

    def wait_for(self, election: Election) -> Judgement:
        def found() -> Judgement | None:
            time.sleep(0.2)
            judgement = self.judge()
            return judgement if judgement.election is election else None

        result = eventually(found, 60)
        assert isinstance(result, Judgement)
        return result


def test_leaders_are_seen_to_renew_to_die_and_to_be_replaced(plane: ControlPlane) -> None:
    api = Api.from_kubeconfig(plane.kubeconfig)
    flags = [f"--leader-elect-lease-duration={_DURATION:.0f}s", "--leader-elect-renew-deadline=3s"]
    flags.append("--leader-elect-retry-period=500ms")
    assert leader.read(api, "kube-scheduler") is None
    processes: dict[str, subprocess.Popen[bytes]] = {}

    def spawn(name: str, *more: str) -> "subprocess.Popen[bytes]":
        return plane.cluster.spawn_component(name, plane.kubeconfig, *flags, *more)

    try:
        processes["manager"] = spawn("kube-controller-manager", "--controllers=ttl")
        processes["first"] = spawn("kube-scheduler")
        scheduler = Election_(api, "kube-scheduler")
        scheduler.wait_for(Election.SETTLED)
        processes["second"] = spawn("kube-scheduler")
        hostname = subprocess.run(["hostname"], check=True, capture_output=True, text=True).stdout.strip()
        first = leader.read(api, "kube-scheduler")
        assert first
        assert leader.same_host(first.host, hostname)
        assert first.duration == _DURATION
        Election_(api, "kube-controller-manager").wait_for(Election.SETTLED)

        time.sleep(1)  # let the second one reach the election
        with paused(processes["second"]):  # or it would take over before the first one is seen to be dead
            pause(processes["first"])
            dead = scheduler.wait_for(Election.DEAD)
            assert f"held by {first.holder}, which has not renewed it for" in dead.detail
        taken = scheduler.wait_for(Election.SETTLED)
        assert taken.facts["holder"] != first.holder
        second = leader.read(api, "kube-scheduler")
        assert second
        assert second.acquired > first.acquired
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


class TestWatchdog:
    @pytest.fixture
    def dog(self, plane: ControlPlane, world: World) -> Iterator[Watchdog]:
        dog = Watchdog(plane.kubeconfig, world.namespace, "run-1")
        dog.start()
        try:
            yield dog
        finally:
            dog.stop()

    def test_nothing_fails_at_rest(self, plane: ControlPlane, dog: Watchdog) -> None:
        eventually(lambda: dog.clean_for() > 3)
        report = dog.report()
        assert report.failed == report.events_lost == report.reconnects == 0, report
        assert report.failures == ()
        assert report.requests > 10
        assert report.longest_gap < 2
        started = time.monotonic()
        dog.stop()
        assert time.monotonic() - started < 5
        after = dog.report()
        time.sleep(0.6)
        assert dog.report() == after

    def test_no_event_is_lost_when_the_watch_goes_on_at_another_apiserver(
        self, plane: ControlPlane, dog: Watchdog
    ) -> None:
        eventually(lambda: dog.report().requests > 10)
        plane.lead_to("cp2")
        time.sleep(0.5)  # lists go there now; the watch and the writer's connection are still at the first one
        plane.kill("cp1")
        eventually(lambda: dog.report().reconnects == 1)
        before = dog.report()
        eventually(lambda: dog.report().requests > before.requests + 10)
        report = dog.report()
        assert report.events_lost == 0, report
        assert report.failed <= 1, report  # the write that was in flight

    def test_an_outage_is_counted_and_survived(self, plane: ControlPlane, dog: Watchdog) -> None:
        eventually(lambda: dog.report().requests > 10)
        plane.kill("cp1")
        eventually(lambda: dog.report().failed > 5)
        assert dog.clean_for() < 1
        time.sleep(1)
        plane.start("cp1")
        plane.wait_ready("cp1")
        eventually(lambda: dog.clean_for() > 2, 30)
        report = dog.report()
        assert report.longest_gap > 1
        kinds = {text.split()[1] for text in report.failures}
        assert kinds <= {"list:", "write:", "watch:"}
        expected = ("refused", "reset", "closed", "EOF")  # the last from the load balancer, which has no server left
        assert any(word in text for text in report.failures for word in expected), report
        failed = report.failed
        time.sleep(1)
        assert dog.report().failed == failed

    def test_a_watch_that_shows_nothing_loses_events(
        self, plane: ControlPlane, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watchdog, "_TIMEOUT", 1.0)
        monkeypatch.setattr(tally, "SHOWN_WITHIN", 1.0)
        dog = Watchdog(plane.kubeconfig, world.namespace, "run-1")
        dog.start()
        try:
            eventually(lambda: dog.report().requests > 10)
            plane.lead_to("cp2")
            with paused(plane.processes["cp1"]):  # which keeps the watch open, and shows nothing
                eventually(lambda: dog.report().events_lost > 0)
                eventually(lambda: dog.report().reconnects == 1)
                eventually(lambda: dog.clean_for() > 2)
            assert any("was not shown within 1 s" in text for text in dog.report().failures)
        finally:
            dog.stop()

    def test_the_configmap_of_a_crashed_run_is_taken_over_and_removed(self, plane: ControlPlane, world: World) -> None:
        path = f"/api/v1/namespaces/{world.namespace}/configmaps/{watchdog.NAME}"
        crashed = Watchdog(plane.kubeconfig, world.namespace, "run-1")
        made = crashed._prepare(crashed._main)
        world.api.patch(path, {"data": {"write": "77"}})
        dog = Watchdog(plane.kubeconfig, world.namespace, "run-2")
        dog.start()
        assert world.api.get(path)["metadata"]["uid"] == made["metadata"]["uid"]
        eventually(lambda: int(world.api.get(path)["data"]["write"]) in range(1, 77))
        assert world.api.get(path)["data"]["run"] == "run-2"
        dog.stop()
        assert dataclasses.astuple(dog.report())[1:3] == (0, ())
        with pytest.raises(ApiError, match="404"):
            world.api.get(path)

    def test_the_configmap_of_others_is_left_alone(self, plane: ControlPlane, world: World) -> None:
        collection = f"/api/v1/namespaces/{world.namespace}/configmaps"
        made = world.api.create(collection, {"metadata": {"name": watchdog.NAME}, "data": {"a": "b"}})
        dog = Watchdog(plane.kubeconfig, world.namespace, "run-1")
        with pytest.raises(KubernetesError, match=r"is not the watchdog's.*Rename it"):
            dog.start()
        dog.stop()
        assert world.api.get(f"{collection}/{watchdog.NAME}") == made
