"""The cluster's Lease: taken, kept from others, held without an API, and taken again in another one."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.adapters.k8s import client
from fleet.adapters.k8s.errors import ApiError, ApiUnreachable
from fleet.adapters.k8s.lease import Sightings
from fleet.adapters.k8s.lock import ClusterLock, LockTaken, taken_by
from fleet.config.model import LeaseConfig
from fleet.engine.protocols import Holder

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
LEASE = f"{LEASES}/fleet-maintenance"
OURS = Holder("r1", "here", "ann@here", "why")
THEIRS = Holder("r2", "there", "bob@there", "other")
DURATION = 60.0
T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Repeat:
    """A call that is repeated."""

    call: Callable[[], bool]
    pause: float
    due: float
    on: bool = True

    def stop(self, *, wait: float = 0.0) -> None:
        self.on = False


@dataclass
class Time:
    """Simulated time, and whatever is repeated in it."""

    now: float = 1000.0
    repeats: list[Repeat] = field(default_factory=list)

    def pass_by(self, seconds: float) -> None:
        """Let time pass, and make the calls that are due meanwhile."""
        end = self.now + seconds
        while due := [one for one in self.repeats if one.on and one.due <= end]:
            first = min(due, key=lambda one: one.due)
            self.now = max(self.now, first.due)
            first.due = float("inf")  # its call may let time pass itself
            first.on = first.call() and first.on
            first.due = self.now + first.pause
        self.now = max(self.now, end)


@dataclass
class Process:
    """The clock and the threads of one process; its wall clock is wrong by some seconds."""

    world: Time
    wrong: float = 0.0
    slept: float = 0.0
    repeats: list[Repeat] = field(default_factory=list)

    def die(self) -> None:
        """End, without a word."""
        for one in self.repeats:
            one.stop()

    def time(self) -> float:
        return 1_800_000_000 + self.world.now + self.wrong

    def monotonic(self) -> float:
        return self.world.now

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.world.pass_by(seconds)

    def start(self, call: Callable[[], None], name: str) -> None:
        call()

    def repeat(self, call: Callable[[], bool], pause: float, name: str) -> Repeat:
        self.repeats.append(Repeat(call, pause, self.world.now + pause))
        self.world.repeats.append(self.repeats[-1])
        return self.repeats[-1]

    def map(self, call: Callable[[T], R], items: Sequence[T], name: str, *, most: int = 16) -> list[R]:
        return [call(item) for item in items]


class Api:
    """Objects by their paths, which are gone with the API and are others in another one."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.is_away = False
        self.cut_off: set[str] = set()
        self.refuses = 0
        self.version = 0
        self.loses_answers = False

    find = client.Api.find

    def get(self, path: str) -> Any:
        self._answer(path)
        if path not in self.objects:
            raise ApiError(f"GET {path}", 404, "NotFound", "it is not there")
        return copy.deepcopy(self.objects[path])

    def create(self, path: str, body: Any) -> None:
        self._answer(path)
        self._write(f"{path}/{body['metadata']['name']}", body)

    def replace(self, path: str, body: Any) -> None:
        self._answer(path)
        self._write(path, body)

    def _write(self, path: str, body: Any) -> None:
        now = self.objects.get(path, {"metadata": {}})["metadata"].get("resourceVersion")
        if body["metadata"].get("resourceVersion") != now:
            raise ApiError(f"PUT {path}", 409, "Conflict", "it has changed")
        self.version += 1
        self.objects[path] = copy.deepcopy(body)
        self.objects[path]["metadata"]["resourceVersion"] = str(self.version)
        if self.loses_answers:
            raise ApiUnreachable("the connection broke")

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
def world() -> Time:
    return Time()


Make = Callable[..., ClusterLock]


@pytest.fixture
def make(api: Api, world: Time) -> Make:
    """Make locks, each of a process of its own."""

    def lock(
        holder: Holder = OURS,
        *,
        wrong: float = 0.0,
        on_change: Callable[[], None] = nothing,
        seen: Sightings | None = None,
    ) -> ClusterLock:
        process = Process(world, wrong)
        fake = cast("Any", api)
        return ClusterLock(fake, config(), holder, on_change, clock=process, threads=process, seen=seen)

    return lock


def config() -> LeaseConfig:
    return LeaseConfig.model_validate({"duration": f"{DURATION:.0f}s"})


def others(api: Api, *, renewed: str = "2026-01-31T03:00:00.000000Z", duration: Any = 60) -> None:
    """Let another run hold the Lease, which nobody renews."""
    spec = {"holderIdentity": "r2@there", "leaseDurationSeconds": duration, "renewTime": renewed}
    api.objects[LEASE] = {"metadata": {"name": "fleet-maintenance", "resourceVersion": "r2"}, "spec": spec}


def holder_in(api: Api, process: Process, seen: Sightings | None = None, **options: Any) -> str:
    """Look who holds the Lease, as the preflight does."""
    return taken_by(cast("Any", api), config(), seen=seen, clock=process, **options)


def test_it_is_taken_renewed_and_given_back(api: Api, world: Time, make: Make) -> None:
    lock = make()
    lock.acquire()
    first = copy.deepcopy(api.objects[LEASE]["spec"])
    assert (first["holderIdentity"], first["leaseDurationSeconds"], first["leaseTransitions"]) == ("r1@here", 60, 1)
    assert api.objects[LEASE]["metadata"]["annotations"] == {"fleet-cookbooks/maintenance": "ann@here: why"}

    world.pass_by(600)
    later = api.objects[LEASE]["spec"]
    assert (lock.problem(), lock.is_suspended, lock.lost) == ("", False, False)
    assert later["renewTime"] > first["renewTime"]
    assert {**later, "renewTime": ""} == {**first, "renewTime": ""}
    lock.release()
    assert api.holder() == ""
    world.pass_by(600)
    assert api.holder() == "", "it was renewed after it was given back"


@pytest.mark.parametrize("wrong", [-3 * 3600, 0, 3 * 3600, 86400 * 365])
def test_a_run_that_is_alive_keeps_it_whatever_its_clock_says(api: Api, world: Time, make: Make, wrong: float) -> None:
    """Its Lease looks expired to whoever compares times, and it is renewed all the same."""
    first = make(THEIRS, wrong=wrong)
    first.acquire()
    world.pass_by(100)
    began = world.now

    with pytest.raises(LockTaken, match=r"worked on by run r2@there \(bob@there: other\), which was seen to renew"):
        make().acquire()
    assert world.now - began <= DURATION / 4 + 1, "one that is alive is seen to renew within a quarter of its Lease"
    assert (api.holder(), first.problem()) == ("r2@there", "")


@pytest.mark.parametrize("renewed", ["2001-01-01T00:00:00.000000Z", "2100-01-01T00:00:00.000000Z", None, "soon"])
def test_the_lease_of_a_dead_run_is_taken_when_it_has_not_changed_for_its_duration(
    api: Api, world: Time, make: Make, renewed: Any
) -> None:
    others(api, renewed=renewed)
    began = world.now
    make().acquire()

    assert api.holder() == "r1@here"
    assert DURATION < world.now - began < DURATION * 1.2


def test_what_counts_is_how_long_its_holder_wants_it(api: Api, world: Time, make: Make) -> None:
    others(api, duration=300)
    began = world.now
    make().acquire()
    assert 300 < world.now - began < 360

    others(api, duration=None)
    began = world.now
    make().acquire()
    assert DURATION < world.now - began < DURATION * 1.2, "one that does not say lasts as long as is configured here"


def test_one_that_nobody_holds_or_this_run_does_is_taken_at_once(api: Api, world: Time, make: Make) -> None:
    others(api)
    api.objects[LEASE]["spec"]["holderIdentity"] = ""
    lock = make()
    lock.acquire()
    again = make()
    again.acquire()
    assert (world.now, api.holder()) == (1000.0, "r1@here")


def test_the_same_run_on_another_host_is_another_holder(api: Api, world: Time, make: Make) -> None:
    make(Holder("r1", "there", "bob@there", "why")).acquire()
    with pytest.raises(LockTaken, match="r1@there"):
        make().acquire()


def test_what_the_preflight_has_seen_is_not_waited_for_twice(api: Api, world: Time, make: Make) -> None:
    others(api)
    process, seen = Process(world), Sightings()
    assert holder_in(api, process, seen) == ""
    waited, began = process.slept, world.now
    assert waited > DURATION

    world.pass_by(1000)  # the operator reads the plan
    make(seen=seen).acquire()
    assert (world.now - began, api.holder()) == (1000, "r1@here")


def test_who_comes_while_the_operator_reads_is_watched_anew(api: Api, world: Time, make: Make) -> None:
    """A change that nobody looked at for a long time is no sign of life: its holder may have died since."""
    others(api)
    seen = Sightings()
    assert holder_in(api, Process(world), seen) == ""
    others(api, renewed="2026-01-31T03:00:15.000000Z")
    world.pass_by(1000)

    began = world.now
    make(seen=seen).acquire()
    assert (api.holder(), world.now - began > DURATION) == ("r1@here", True)


def test_one_that_is_given_back_meanwhile_is_free_at_once(api: Api, world: Time, make: Make) -> None:
    first = make(THEIRS)
    first.acquire()

    def give_back() -> bool:
        first.release()
        return False

    world.repeats.append(Repeat(give_back, 5, world.now + 5))
    make().acquire()
    assert (api.holder(), world.now < 1010) == ("r1@here", True)


def test_the_preflight_names_who_is_alive_and_tells_what_it_waits_for(
    api: Api, world: Time, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    make(THEIRS).acquire()
    process = Process(world)
    with caplog.at_level("INFO"):
        assert holder_in(api, process).startswith("run r2@there (bob@there: other)")
    assert "held by run r2@there (bob@there: other): watching for up to 66 s" in caplog.text
    assert api.holder() == "r2@there"


def test_the_preflight_does_not_watch_a_run_that_is_known_to_be_dead(api: Api, world: Time) -> None:
    others(api)
    assert holder_in(api, Process(world), dead=["r2"]) == ""
    assert world.now == 1000


def test_who_is_told_to_leave_does_not_watch_to_the_end(api: Api, world: Time) -> None:
    others(api)
    assert "not known whether it is alive" in holder_in(api, Process(world), is_over=lambda: world.now > 1005)
    assert world.now < 1010


def test_a_holder_that_cannot_renew_stops_before_others_may_take_it(api: Api, world: Time, make: Make) -> None:
    told: list[float] = []
    lock = make(on_change=lambda: told.append(world.now))
    lock.acquire()
    api.is_away = True
    world.pass_by(DURATION * 2 / 3)
    assert lock.problem() == ""
    world.pass_by(1)
    assert lock.problem() == "the lock of the cluster could not be renewed for 41 s"
    assert not lock.lost, "it may still have it: waiting is of use"
    world.pass_by(20)
    assert len(told) == 1

    api.is_away = False
    world.pass_by(15)
    assert (lock.problem(), len(told)) == ("", 2)


def test_the_time_of_a_request_counts(api: Api, world: Time, make: Make) -> None:
    """The Lease may have been renewed when the request was sent; that the answer came late makes it no younger."""
    lock = make()
    lock.acquire()
    replace = api.replace

    def slow(path: str, body: Any) -> None:
        replace(path, body)
        world.now += 45

    api.replace = slow  # type: ignore[method-assign]
    world.pass_by(15)
    assert "could not be renewed for 45 s" in lock.problem()


def test_an_answer_that_was_lost_is_none_of_another_run(api: Api, make: Make) -> None:
    others(api)
    api.objects[LEASE]["spec"]["holderIdentity"] = ""
    get, looks = api.get, iter([True])

    def late(path: str) -> Any:
        found = get(path)
        if next(looks, False):  # an earlier request of ours comes through between our look and our write
            api.objects[LEASE]["spec"]["holderIdentity"] = "r1@here"
            api.objects[LEASE]["metadata"]["resourceVersion"] = "earlier"
        return found

    api.get = late  # type: ignore[method-assign]
    make().acquire()
    assert api.holder() == "r1@here"


def test_who_was_quicker_has_it(api: Api, make: Make) -> None:
    get = api.get

    def late(path: str) -> Any:
        found = get(path) if LEASE in api.objects else None
        others(api)
        if found is None:
            raise ApiError(f"GET {path}", 404, "NotFound", "it is not there")
        return found

    api.get = late  # type: ignore[method-assign]
    with pytest.raises(LockTaken, match="r2@there"):
        make().acquire()
    assert api.holder() == "r2@there"


def test_it_is_lost_to_whoever_took_it(api: Api, world: Time, make: Make) -> None:
    told: list[float] = []
    lock = make(on_change=lambda: told.append(world.now))
    lock.acquire()
    others(api, renewed="2001-01-01T00:00:00.000000Z")
    world.pass_by(15)

    assert (lock.lost, len(told)) == (True, 1)
    assert "was lost: The cluster is being worked on by run r2@there" in lock.problem()
    lock.release()
    assert api.holder() == "r2@there"


def test_a_lease_that_cannot_be_understood_is_not_ours(api: Api, world: Time, make: Make) -> None:
    lock = make()
    lock.acquire()
    api.objects[LEASE]["spec"]["leaseTransitions"] = "many"
    world.pass_by(15)
    assert "cannot be understood" in lock.problem()


def test_it_is_held_without_an_api_and_taken_again_in_another_one(api: Api, world: Time, make: Make) -> None:
    lock = make()
    lock.acquire()
    lock.suspend()
    api.is_away = True
    world.pass_by(600)

    assert (lock.is_suspended, lock.problem(), lock.lost) == (True, "", False)
    api.is_away = False
    api.objects.clear()
    lock.acquire()
    assert (lock.is_suspended, lock.problem(), api.holder()) == (False, "", "r1@here")


def test_it_stays_suspended_while_the_api_cannot_be_asked(api: Api, make: Make) -> None:
    lock = make()
    lock.suspend()
    api.is_away = True

    with pytest.raises(ApiUnreachable):
        lock.acquire()
    assert lock.is_suspended


def test_what_is_suspended_is_not_renewed_nor_given_back(api: Api, world: Time, make: Make) -> None:
    """In the API that goes away it is somebody else's, or nobody's."""
    lock = make()
    lock.acquire()
    lock.suspend()
    others(api)
    world.pass_by(600)

    assert (lock.problem(), api.holder()) == ("", "r2@there")
    lock.release()
    assert api.holder() == "r2@there"


@pytest.mark.parametrize("trouble", ["is_away", "refuses"])
def test_who_is_patient_has_it_as_soon_as_the_api_can_be_asked(api: Api, world: Time, make: Make, trouble: str) -> None:
    setattr(api, trouble, 503)
    lock = make()
    lock.acquire(patient=True)
    world.pass_by(600)
    assert (lock.is_suspended, lock.problem()) == (True, "")

    setattr(api, trouble, 0)
    world.pass_by(15)
    assert (lock.is_suspended, lock.problem(), api.holder()) == (False, "", "r1@here")


def test_no_patience_leads_past_another_run(api: Api, make: Make) -> None:
    make(THEIRS).acquire()
    with pytest.raises(LockTaken):
        make().acquire(patient=True)


def test_who_is_patient_learns_that_another_run_was_quicker(api: Api, world: Time, make: Make) -> None:
    told: list[float] = []
    api.is_away = True
    lock = make(on_change=lambda: told.append(world.now))
    lock.acquire(patient=True)
    api.is_away = False
    make(THEIRS).acquire()
    world.pass_by(40)

    assert (lock.lost, len(told)) == (True, 1)
    assert "run r2@there" in lock.problem()
    assert api.holder() == "r2@there"


def test_who_is_patient_starts_nothing_while_another_run_may_be_alive(api: Api, world: Time, make: Make) -> None:
    api.is_away = True
    lock = make()
    lock.acquire(patient=True)
    others(api)
    api.is_away = False
    said: list[str] = []

    def listen() -> bool:
        said.append(lock.problem())
        return True

    world.repeats.append(Repeat(listen, 1, world.now + 20))
    world.pass_by(DURATION * 1.5)

    assert "the lock of the cluster may be held by run r2@there" in said
    assert (lock.problem(), api.holder()) == ("", "r1@here"), "a dead run's Lease is no trap"


def test_who_is_suspended_on_purpose_does_not_try(api: Api, world: Time, make: Make) -> None:
    """The API that still answers is the one that is about to go."""
    lock = make()
    lock.suspend()
    world.pass_by(600)
    assert (lock.is_suspended, api.objects) == (True, {})


@dataclass
class Run:
    """A process that wants the Lease: its link to the API may break, it may be killed, and its clock may jump."""

    api: Api
    process: Process
    name: str
    lock: ClusterLock = field(init=False)
    is_cut_off: bool = False
    has_it: bool = False

    def __post_init__(self) -> None:
        holder = Holder(self.name, self.name, self.name, "why")
        fake = cast("Any", self)
        self.lock = ClusterLock(fake, config(), holder, nothing, clock=self.process, threads=self.process)

    def __getattr__(self, name: str) -> Any:
        if self.is_cut_off:
            raise ApiUnreachable("no route")
        return getattr(self.api, name)

    def act(self, event: str, world: Time) -> None:
        """Play one event."""
        if event == "cut":
            self.is_cut_off = not self.is_cut_off
        elif event == "jump":
            self.process.wrong -= 10_000
        elif event == "release":
            self.lock.release()
            self.has_it = False
        elif event == "kill":
            self.process.die()
            self.has_it = False
        elif event == "start" and not self.has_it:
            self.__post_init__()
            try:
                self.lock.acquire()
                self.has_it = True
            except (LockTaken, ApiUnreachable):
                pass

    @property
    def may_act(self) -> bool:
        return self.has_it and not self.lock.problem()


EVENTS = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["start", "start", "cut", "jump", "release", "kill", "wait"]),
    st.integers(0, 90),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, min_size=2, max_size=25))
def test_never_do_two_runs_believe_that_they_hold_it(events: Sequence[tuple[str, str, int]]) -> None:
    """Whatever happens to their links, their clocks and themselves."""
    world, api = Time(), Api()
    runs = {name: Run(api, Process(world), name) for name in "abc"}

    def look() -> bool:
        acting = [run.name for run in runs.values() if run.may_act]
        assert len(acting) <= 1, ", ".join(acting)
        return True

    world.repeats.append(Repeat(look, 1, world.now))
    for name, event, pause in events:
        runs[name].act(event, world)
        look()
        world.pass_by(pause)
