"""The cluster's Lease: taken, kept from others, held without an API, and taken again in another one."""

import copy
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fleet.config import LeaseConfig
from fleet.k8s.client import ApiError, ApiUnreachable
from fleet.maintenance.lock import ClusterLock, Holder, LockTaken, taken_by

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
LEASE = f"{LEASES}/fleet-maintenance"
OURS = Holder("r1", "here", "ann@here", "why")


class Api:
    """Objects by their paths, which are gone with the API and are others in another one."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.is_away = False
        self.refuses = 0

    def get(self, path: str) -> Any:
        self._answer(path)
        if path not in self.objects:
            raise ApiError(f"GET {path}", 404, "NotFound", "it is not there")
        return copy.deepcopy(self.objects[path])

    def create(self, path: str, body: Any) -> None:
        self._answer(path)
        self.objects[f"{path}/{body['metadata']['name']}"] = copy.deepcopy(body)

    def replace(self, path: str, body: Any) -> None:
        self._answer(path)
        self.objects[path] = copy.deepcopy(body)

    def _answer(self, path: str) -> None:
        if self.is_away:
            raise ApiUnreachable("connection refused")
        if self.refuses:
            raise ApiError(f"GET {path}", self.refuses, "Refused", "no")

    def holder(self) -> str:
        """Return who holds the Lease."""
        return str(self.objects[LEASE]["spec"]["holderIdentity"]) if LEASE in self.objects else ""


def nothing() -> None:
    """Take no note."""


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def make(api: Api) -> Iterator[Callable[..., ClusterLock]]:
    """Make locks, which are given back in the end."""
    made = []

    def lock(holder: Holder = OURS, *, duration: str = "60s", on_change: Callable[[], None] = nothing) -> ClusterLock:
        fake: Any = api
        made.append(ClusterLock(fake, LeaseConfig.model_validate({"duration": duration}), holder, on_change))
        return made[-1]

    yield lock
    api.is_away, api.refuses = False, 0
    for each in made:
        each.release()


def others(api: Api, *, age: float = 0) -> None:
    """Let another run hold the Lease, renewed some seconds ago."""
    renewed = (datetime.now(UTC) - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": "r2@there", "leaseDurationSeconds": 60, "renewTime": renewed}
    api.objects[LEASE] = {"metadata": {"name": "fleet-maintenance"}, "spec": spec}


def test_it_is_taken_and_given_back(api: Api, make: Callable[..., ClusterLock]) -> None:
    lock = make()
    lock.acquire()

    assert (api.holder(), lock.problem(), lock.is_suspended) == ("r1@here", "", False)
    lock.release()
    assert api.holder() == ""


def test_another_run_keeps_it_until_it_expires(api: Api, make: Callable[..., ClusterLock]) -> None:
    others(api)
    fake: Any = api
    assert "run r2@there" in taken_by(fake, LeaseConfig())
    with pytest.raises(LockTaken, match=r"being worked on by run r2@there"):
        make().acquire()
    assert api.holder() == "r2@there"

    others(api, age=600)
    make().acquire()
    assert api.holder() == "r1@here"


def test_no_patience_leads_past_another_run(api: Api, make: Callable[..., ClusterLock]) -> None:
    others(api)
    with pytest.raises(LockTaken):
        make().acquire(patient=True)


def test_it_is_held_without_an_api_and_taken_again_in_another_one(api: Api, make: Callable[..., ClusterLock]) -> None:
    lock = make()
    lock.acquire()
    lock.suspend()
    api.is_away = True

    assert (lock.is_suspended, lock.problem(), lock.lost) == (True, "", False)
    api.is_away = False
    api.objects.clear()
    lock.acquire()
    assert (lock.is_suspended, api.holder()) == (False, "r1@here")


def test_it_stays_suspended_while_the_api_cannot_be_asked(api: Api, make: Callable[..., ClusterLock]) -> None:
    lock = make()
    lock.suspend()
    api.is_away = True

    with pytest.raises(ApiUnreachable):
        lock.acquire()
    assert lock.is_suspended


def test_what_is_suspended_is_not_renewed_nor_given_back(api: Api, make: Callable[..., ClusterLock]) -> None:
    """In the API that goes away it is somebody else's, or nobody's."""
    lock = make(duration="100ms")
    lock.acquire()
    lock.suspend()
    others(api)
    threading.Event().wait(0.3)

    assert (lock.problem(), api.holder()) == ("", "r2@there")
    lock.release()
    assert api.holder() == "r2@there"


@pytest.mark.parametrize("trouble", ["is_away", "refuses"])
def test_who_is_patient_has_it_as_soon_as_the_api_can_be_asked(
    api: Api, make: Callable[..., ClusterLock], trouble: str
) -> None:
    setattr(api, trouble, 503)
    lock = make(duration="200ms")
    lock.acquire(patient=True)
    assert lock.is_suspended

    setattr(api, trouble, 0)
    for _ in range(100):
        if not lock.is_suspended:
            break
        threading.Event().wait(0.05)
    assert (lock.is_suspended, api.holder()) == (False, "r1@here")


def test_who_is_patient_learns_that_another_run_was_quicker(api: Api, make: Callable[..., ClusterLock]) -> None:
    told = threading.Event()
    api.is_away = True
    lock = make(duration="200ms", on_change=told.set)
    lock.acquire(patient=True)
    others(api)
    api.is_away = False

    assert told.wait(5)
    assert lock.lost
    assert "run r2@there" in lock.problem()
    assert api.holder() == "r2@there"


def test_who_is_suspended_on_purpose_does_not_try(api: Api, make: Callable[..., ClusterLock]) -> None:
    """The API that still answers is the one that is about to go."""
    lock = make(duration="100ms")
    lock.suspend()
    threading.Event().wait(0.3)

    assert (lock.is_suspended, api.objects) == (True, {})
