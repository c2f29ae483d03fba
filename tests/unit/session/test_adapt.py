"""A run whose configuration was changed meanwhile: what it took can still be given back, or it does not continue."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fleet.config.model import Config
from fleet.engine.declaration import Bracket, Specified, Stage, Tell, Verdicts
from fleet.engine.journal import Journal
from fleet.engine.model import Status, StepSpec, Target, TargetState, done
from fleet.procedures.procedure import ClusterProcedure, Proposal, Refused
from fleet.session import Session
from fleet.steps.cluster import Cluster
from support.spicerack import Ann
from worlds.nodes import World
from worlds.reinitialize import CONFIG

TAKEN = TargetState(Target("w1"), Status.HELD, step=3, facts={"taken": True})


class Nothing:
    """Effects that do nothing."""

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        return {state.target.name: done() for state in targets}

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:
        return self.check(targets)


def step(name: str) -> Specified:
    return Specified(StepSpec(name, 60.0), Nothing())


def stage(*, unplugs: bool = True, asks: bool = True) -> Stage:
    """Return a stage whose configuration may want a bracket, and a gate."""
    plug = [Bracket(take=step("unplug"), back=step("plug in"))] if unplugs else []
    gate = [step("asked")] if asks else []
    quiet = Bracket(take=step("hush"), back=step("speak"))
    return Stage("s", list, before=gate, holding=[quiet, *plug, Bracket(take=step("empty"))])


def test_only_what_has_a_way_back_is_owned() -> None:
    assert stage().owning == ["hush", "speak", "unplug", "plug in"]


class OneStage(ClusterProcedure):
    """A maintenance of one stage, which is only asked for that."""

    name = "sre.k8s.one-stage"

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def propose(self, scope: Cluster, state_dir: Path) -> Proposal:
        raise AssertionError(scope)

    def stages(self, scope: Cluster) -> Sequence[Stage]:
        return [self._stage]

    def left_on(self, scope: Cluster, state: TargetState) -> Sequence[str]:
        raise AssertionError(state)


@pytest.fixture
def adapt(tmp_path: Path) -> Callable[..., Mapping[str, Any]]:
    """Begin a run with the whole stage, and return what goes on with it by another configuration."""
    cluster = World(tmp_path, lag=0.0).cluster("w1")

    def session(now: Stage) -> Session:
        config = Config(state_dir=tmp_path, clusters={"lab": CONFIG})
        return Session(Ann(), config, OneStage(now), unattended=True)

    def play(now: Stage, state: TargetState = TAKEN, *, is_old: bool = False) -> Mapping[str, Any]:
        run = session(stage())._with_steps(cluster).run
        if is_old:
            run = replace(run, options={"steps": run.options["steps"]})
        with closing(Journal.create(tmp_path / "runs", run, {"s": [state]})) as book:
            session(now)._adapt(book, cluster)
            return book.info().options

    return play


def test_a_run_does_not_go_on_without_the_steps_that_give_back(adapt: Callable[..., Mapping[str, Any]]) -> None:
    with pytest.raises(
        Refused, match="has started with the steps unplug, plug in, which the configuration has no more"
    ):
        adapt(stage(unplugs=False))


def test_a_gate_may_go(adapt: Callable[..., Mapping[str, Any]]) -> None:
    options = adapt(stage(asks=False))
    assert options["steps"] == {"s": ["hush", "unplug", "empty", "plug in", "speak"]}
    assert options["owning"] == {"s": ["hush", "speak", "unplug", "plug in"]}


def test_what_was_never_taken_may_go(adapt: Callable[..., Mapping[str, Any]]) -> None:
    options = adapt(stage(unplugs=False), TargetState(Target("w1")))
    assert options["owning"] == {"s": ["hush", "speak"]}


def test_of_an_older_run_each_step_may_be_one_that_gives_back(adapt: Callable[..., Mapping[str, Any]]) -> None:
    with pytest.raises(Refused, match="the steps asked, which"):
        adapt(stage(asks=False), is_old=True)
