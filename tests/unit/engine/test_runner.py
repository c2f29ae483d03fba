"""The runner: it carries decisions out, survives whatever effects do, and leaves when told to."""

import os
import queue
import signal
import threading
import time
from contextlib import contextmanager
from typing import Any

import pytest

from fleet.clock import CLOCK, SystemClock
from fleet.engine import journal as j
from fleet.engine import model as m
from fleet.engine.report import LogView
from fleet.engine.runner import WAITING_TOLD, Interrupted, Runner
from fleet.errors import FleetError
from worlds.timeline import AtOnce, Events, Time

AGAIN = "^C again leaves at once"


class Fake:
    """A step whose promise becomes true some time after it was applied."""

    def __init__(self, log, name, *, delay=0.0, broken=None):
        self.log, self.name, self.delay, self.broken = log, name, delay, broken
        self.true = {}

    def finish(self, unit):
        """Make the promise true."""
        self.true[unit] = 0.0

    def check(self, units):
        now = time.monotonic()
        return {
            s.target.name: m.done() if self.true.get(s.target.name, 1e18) <= now else m.pending("not yet")
            for s in units
        }

    def apply(self, units, tell):
        for state in units:
            tell(state.target.name, "working")
            if state.target.name in self.true:
                continue  # An order that is given again finds nothing to do, as on a host that has rebooted.
            self.log.append((self.name, state.target.name))
            if self.broken:
                raise self.broken
            self.true[state.target.name] = time.monotonic() + self.delay
        return {state.target.name: m.done() for state in units}


class FakeProcedure:
    def __init__(self, names, effects, *, deadline=30.0, **limits):
        specs = tuple(m.StepSpec(name, deadline, poll=0.01, pivot=name == "reboot") for name in effects)
        work = m.Stage("nodes", tuple(m.Target(name) for name in names), specs, m.Limits(**limits))
        end = m.Stage("end", (m.Target("all"),), (m.StepSpec("tidy", deadline, poll=0.01),), when=m.When.END)
        self.stages = (work, end)
        self.log = next(iter(effects.values())).log
        self._effects = {("nodes", name): effect for name, effect in effects.items()}
        self._effects["end", "tidy"] = Fake(self.log, "tidy")

    def effects(self, stage, step):
        return self._effects[stage, step]

    def observe(self):
        return m.Observation()

    def renew(self, stage, units):
        return {}


@contextmanager
def meanwhile(*acts):
    """Act beside the test: each act is a condition that is waited for, and what is done then; one after the other."""
    over = threading.Event()

    def work():
        for condition, act in acts:
            while not condition():
                if over.wait(0.01):
                    return
            act()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def send(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def as_a_terminal_starts_it():
    """What has started the tests may have had them ignore signals, which a run that is started so ignores as well."""
    default: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGTERM: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in default.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def book(tmp_path):
    book = j.Journal.create(tmp_path, j.RunInfo("r1", "p", "c", "o", "r", "", time.time(), {}), {"nodes": []})
    yield book
    book.close()


def run(procedure, book, cancel=None, clock=CLOCK):
    return Runner(procedure, book, LogView(), cancel or threading.Event(), queue.SimpleQueue(), clock=clock).run()


class Hasty(SystemClock):
    """A clock on which half a minute passes in a tenth of a second."""

    def monotonic(self) -> float:
        return super().monotonic() * WAITING_TOLD / 0.1


def test_every_unit_goes_through_every_step_in_order(book):
    log: list[tuple[str, str]] = []
    procedure = FakeProcedure(["a", "b", "c"], {"drain": Fake(log, "drain"), "reboot": Fake(log, "reboot", delay=0.05)})
    assert run(procedure, book) == ""
    assert log == [*((step, unit) for unit in "abc" for step in ("drain", "reboot")), ("tidy", "all")]
    assert {state.status for state in book.states("nodes").values()} == {m.Status.DONE}
    kinds = [event.kind for event in book.events() if event.target == "a" and event.step == "reboot"]
    assert kinds == ["pending", "intent", "applied", "done"]


def test_an_effect_that_breaks_holds_its_unit_and_stops_the_run(book):
    log: list[tuple[str, str]] = []
    procedure = FakeProcedure(["a", "b"], {"drain": Fake(log, "drain", broken=RuntimeError("boom"))})
    assert run(procedure, book) == "1 held, and no more than 0 may fail"
    assert log == [("drain", "a"), ("tidy", "all")]
    state = book.states("nodes")["a"]
    assert state.status is m.Status.HELD
    assert "RuntimeError: boom" in state.detail


def test_an_effect_that_cannot_be_done_is_tried_until_its_deadline(book):
    log: list[tuple[str, str]] = []
    procedure = FakeProcedure(["a"], {"drain": Fake(log, "drain", broken=FleetError("no answer"))}, deadline=2.0)
    begin = time.monotonic()
    assert run(procedure, book) == "1 held"
    assert 2.0 <= time.monotonic() - begin < 15
    assert log.count(("drain", "a")) > 2
    assert book.states("nodes")["a"].detail == "drain: not within 2 s: no answer"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_at_once_and_a_second_session_finishes(book, number):
    log: list[tuple[str, str]] = []
    reboot = Fake(log, "reboot", delay=1e9)
    procedure = FakeProcedure(["a", "b"], {"drain": Fake(log, "drain"), "reboot": reboot})
    begin = time.monotonic()
    rebooting = (lambda: ("reboot", "a") in log, send(number))
    with meanwhile(rebooting), pytest.raises(Interrupted, match="in flight: a"):
        run(procedure, book)
    assert time.monotonic() - begin < 15, "it waited for the reboot's deadline"
    assert book.states("nodes")["a"].step == 1
    reboot.delay = 0.1
    reboot.finish("a")
    assert run(procedure, book) == ""
    assert log == [*((step, unit) for unit in "ab" for step in ("drain", "reboot")), ("tidy", "all")]


def test_an_operator_reads_what_begins_why_it_waits_and_what_an_interrupt_does(book, caplog):
    caplog.set_level("INFO")
    log: list[tuple[str, str]] = []
    reboot = Fake(log, "reboot", delay=1e9)
    procedure = FakeProcedure(["a", "b"], {"reboot": reboot}, deadline=1e6)

    begin = time.monotonic()
    waiting = (lambda: caplog.messages.count("a: reboot: not yet") > 1, send(signal.SIGINT))
    with meanwhile(waiting, (lambda: any(AGAIN in line for line in caplog.messages), lambda: reboot.finish("a"))):
        assert run(procedure, book, clock=Hasty()) == "interrupted by the operator"
    assert caplog.messages[0] == "Stage nodes: a, b"
    assert 2 <= caplog.messages.count("a: reboot: not yet") <= (time.monotonic() - begin) / 0.1 + 1
    assert [line for line in caplog.messages if AGAIN in line] == [
        "interrupted by the operator: nothing new is started, what is in flight continues; ^C again leaves at once"
    ]


def test_an_order_that_got_lost_is_told_and_not_taken_for_done(book, caplog):
    class Lost(Fake):
        lost = False

        def apply(self, units, tell):
            if self.lost:
                return super().apply(units, tell)
            self.lost = True
            os.kill(os.getpid(), signal.SIGTERM)
            return {}

    log: list[tuple[str, str]] = []
    procedure = FakeProcedure(["a"], {"drain": Fake(log, "drain"), "reboot": Lost(log, "reboot")})
    with pytest.raises(Interrupted, match="in flight: a"):
        run(procedure, book)
    caplog.set_level("INFO")
    assert run(procedure, book) == ""
    assert "a: reboot: not yet: starting over" in caplog.messages
    kinds = [event.kind for event in book.events() if (event.target, event.step) == ("a", "reboot")]
    assert kinds.index("over") < kinds.index("done")
    assert kinds.count("done") == 1


def test_the_first_interrupt_finishes_what_is_in_flight(book, caplog):
    caplog.set_level("INFO")
    log: list[tuple[str, str]] = []
    drain = Fake(log, "drain", delay=1e9)
    procedure = FakeProcedure(["a", "b"], {"drain": drain})

    begun = (lambda: "a" in drain.true, send(signal.SIGINT))
    with meanwhile(begun, (lambda: any(AGAIN in line for line in caplog.messages), lambda: drain.finish("a"))):
        assert run(procedure, book) == "interrupted by the operator"
    states = book.states("nodes")
    assert (states["a"].status, states["b"].status) == (m.Status.DONE, m.Status.PENDING)
    assert log[-1] == ("tidy", "all")


def test_the_second_interrupt_leaves(book, caplog):
    caplog.set_level("INFO")
    log: list[tuple[str, str]] = []
    procedure = FakeProcedure(["a"], {"drain": Fake(log, "drain", delay=1e9)})
    first = (lambda: bool(log), send(signal.SIGINT))
    second = (lambda: any(AGAIN in line for line in caplog.messages), send(signal.SIGINT))
    with meanwhile(first, second), pytest.raises(Interrupted, match="interrupted twice"):
        run(procedure, book)


def test_a_stage_with_other_steps_than_before_goes_on_where_it_was(book):
    """Also one of an abort, whose steps no configuration names: what was ordered is asked for, not ordered again."""
    ordered = m.TargetState(m.Target("a"), m.Status.RUNNING, 1, m.Phase.APPLY)
    book.put("nodes", [ordered, m.TargetState(m.Target("gone"), m.Status.RUNNING, 1)], ["drain", "reboot"])
    log: list[tuple[str, str]] = []
    names = ("volumes", "drain", "reboot", "ready")
    procedure = FakeProcedure(["a"], {name: Fake(log, name) for name in names})
    procedure._effects["nodes", "reboot"].true["a"] = 0.0
    assert run(procedure, book) == ""
    assert log == [("ready", "a"), ("tidy", "all")]
    assert book.steps("nodes") == list(names)
    assert {name: state.step for name, state in book.states("nodes").items()} == {"a": 4, "gone": 2}


def test_a_stage_that_had_no_such_act_before_starts_over(book):
    book.put("nodes", [m.TargetState(m.Target("a"), m.Status.RUNNING, 1)], ["drain", "uncordon"])
    log: list[tuple[str, str]] = []
    procedure = FakeProcedure(["a"], {name: Fake(log, name) for name in ("drain", "reboot")})
    assert run(procedure, book) == ""
    assert log == [("drain", "a"), ("reboot", "a"), ("tidy", "all")]


class Stubborn(Fake):
    """A step that has to act again and again, as a drain whose budgets allow one eviction after the other."""

    def check(self, units):
        again = {s.target.name: m.undone("more to do") for s in units}
        return again if len(self.log) < 20 else {s.target.name: m.done() for s in units}

    def apply(self, units, tell):
        self.log += [(self.name, s.target.name) for s in units]
        return {s.target.name: m.done() for s in units}


def test_a_step_that_acts_again_and_again_is_written_down_once(book):
    log: list[tuple[str, str]] = []
    assert run(FakeProcedure(["a"], {"drain": Stubborn(log, "drain")}), book) == ""
    assert log.count(("drain", "a")) == 20
    kinds = [event.kind for event in book.events() if (event.target, event.step) == ("a", "drain")]
    assert kinds.count("intent") == 1
    assert len(kinds) < 6, kinds


class Slow(AtOnce):
    """Threads of which the first one hangs for a while."""

    def __init__(self, clock, seconds):
        super().__init__(clock)
        self._seconds, self._clock = seconds, clock

    def start(self, call, name):
        if seconds := self._seconds:
            self._seconds = 0.0
            self._clock.at(seconds, call)
        else:
            call()


class Gate:
    def __init__(self, is_true):
        self._is_true = is_true

    def check(self, units):
        return {state.target.name: m.done() if self._is_true() else m.pending("not yet") for state in units}

    def apply(self, units, tell):
        return {}


class Gates:
    """Two steps that ask about one unit at a time; the second one is true after a while."""

    def __init__(self, clock):
        self._clock, self._true = clock, clock.now + 300.0
        steps = (m.StepSpec("ask", 10.0, batch=False), m.StepSpec("wait", 1000.0, batch=False, gate=True))
        self.stages = (m.Stage("nodes", (m.Target("a"), m.Target("b")), steps, m.Limits(2, 2, 2)),)

    def effects(self, stage, step):
        return Gate(lambda: step == "ask" or self._clock.now > self._true)

    def observe(self):
        return m.Observation()

    def renew(self, stage, units):
        return {}


def test_an_answer_that_comes_too_late_is_none(book):
    clock = Time()
    procedure = Gates(clock)
    events: Any = Events(clock)
    runner = Runner(procedure, book, LogView(), threading.Event(), events, clock=clock, threads=Slow(clock, 200.0))

    assert runner.run() == "1 held"

    states = book.states("nodes")
    assert [states[name].status for name in "ab"] == [m.Status.HELD, m.Status.DONE]
