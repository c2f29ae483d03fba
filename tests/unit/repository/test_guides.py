"""The guides: the code that they show works, over a fleet in memory, and what they name exists."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fleet.engine.model import Kind, Status, Target, TargetState
from fleet.execution import Result
from fleet.procedures.nodes import Selection
from support import guides
from support.places import REPOSITORY
from worlds.machines import Machine, Machines
from worlds.nodes import NAMES, World
from worlds.timeline import rule

DONE, INCOMPLETE, REFUSED = 0, 1, 2
UNIT = "log-shipper.service"
ALL = (guides.ARCHITECTURE, guides.PROCEDURE, guides.GATE)


class Marked(Machines):
    """Hosts on which somebody may have left a file."""

    def __init__(self, *values: Any) -> None:
        super().__init__(*values)
        self.marked: set[str] = set()

    def _run(self, machine: Machine, command: str) -> Result:
        if command == "test ! -e /run/hands-off":
            return Result(int(machine.name in self.marked), "")
        return super()._run(machine, command)


class Nodes(World):
    """A cluster whose nodes have a unit that pods can do without."""

    def __init__(self, folder: Path, procedure: Any) -> None:
        super().__init__(folder, calico=True)
        self.procedure = procedure
        self.options = {"unit": UNIT}
        self.on_act: Callable[[], None] = lambda: None
        m = self.machines
        self.machines = self.marked = Marked(
            self, m.machines, m.moment, self.judge, m.on_down, m.on_up, lambda _host, _is_up: None
        )

    def judge(self, host: str) -> None:
        """Judge the moment at which a host obeys."""
        self.on_act()
        rule(f"{host} is acted on twice", holds=not self.machines.acts[host])
        rule(f"{host} is not silenced", holds=not self.alertmanagers.loud(host))
        rule(f"{host} is acted on while it is NotReady", holds=host not in self.rules.down_since)
        moving = [name for name, machine in self.machines.machines.items() if machine.is_moving]
        rule(f"{host} is acted on beside {moving}", holds=len(moving) < self.most)
        rule("the lock is lost", holds=self.rules.lease_gone is None)


@pytest.fixture(scope="module", params=[False, True], ids=["alone", "with the gate"])
def procedure(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("guides")
    guides.write(folder, guides.PROCEDURE, *([guides.GATE] if request.param else []))
    with guides.importable(folder):
        from fleet.procedures import restart_unit  # type: ignore[attr-defined]

        yield restart_unit.RestartUnit


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """All files of both guides."""
    guides.write(tmp_path, guides.PROCEDURE, guides.GATE)
    with guides.importable(tmp_path):
        yield tmp_path


@pytest.fixture
def gated(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Nodes:
    from fleet.procedures import restart_unit  # type: ignore[attr-defined]

    return Nodes(tmp_path_factory.mktemp("runs"), restart_unit.RestartUnit)


def test_each_node_is_restarted_once_and_nothing_is_left(procedure: Any, tmp_path: Path) -> None:
    world = Nodes(tmp_path, procedure)
    assert world.start() == DONE
    assert dict(world.machines.acts) == dict.fromkeys(NAMES, 1)
    world.rules.is_clean("done")


def test_a_dry_run_touches_nothing(procedure: Any, tmp_path: Path) -> None:
    world = Nodes(tmp_path, procedure)
    assert world.start(dry_run=True) == DONE
    assert not world.machines.acts
    world.rules.is_clean("dry run")


def test_a_run_without_a_unit_is_refused(procedure: Any, tmp_path: Path) -> None:
    world = Nodes(tmp_path, procedure)
    world.options = {}
    assert world.start() == REFUSED
    assert not world.machines.acts


@pytest.mark.parametrize("moment", range(1, 20))
@pytest.mark.parametrize("verb", ["resume", "abort"])
def test_a_run_that_is_killed_anywhere_is_resumed_or_aborted(
    procedure: Any, tmp_path: Path, moment: int, verb: str
) -> None:
    world = Nodes(tmp_path, procedure)
    assert world.start(kill=moment) is None
    world.advance(5.0)
    if verb == "resume" or not world.run:
        assert world.resume() == DONE
        assert dict(world.machines.acts) == dict.fromkeys(NAMES, 1)
    else:
        assert world.abort() == DONE
    world.rules.is_clean(verb)


def test_a_node_that_fails_is_held_until_it_is_mended(procedure: Any, tmp_path: Path) -> None:
    world = Nodes(tmp_path, procedure)
    world.machines.machines["w1"].refuses = True
    assert world.start() == INCOMPLETE
    assert "the host refused" in world.held()["w1"]
    assert {silence.host for silence in world.alertmanagers.ours()} == {"w1"}
    world.machines.machines["w1"].refuses = False
    assert world.resume() == DONE
    assert dict(world.machines.acts) == dict.fromkeys(NAMES, 1)
    world.rules.is_clean("resumed")


def test_a_node_that_is_not_ready_is_waited_for(procedure: Any, tmp_path: Path) -> None:
    world = Nodes(tmp_path, procedure)
    acted: list[float] = []
    silenced: list[set[str]] = []
    world.at(2.5, lambda: silenced.append({silence.host for silence in world.alertmanagers.ours()}))
    world.on_act = lambda: acted.append(world.now - world.began)
    world.at(1.0, lambda: world.components.kubelet_begins("w2"))  # NotReady for a while; its turn comes meanwhile.
    assert world.start() == DONE
    assert len(acted) == len(NAMES)
    assert max(acted) > 7.0
    assert silenced == [set()], "something was taken from it before its gate was open"


def test_the_guard_is_asked_at_the_moment_of_the_order(procedure: Any, tmp_path: Path) -> None:
    world = Nodes(tmp_path, procedure)
    scope = world.cluster("w1")
    stage = procedure(Selection()).stage(replace(scope, run=replace(scope.run, options=world.options)))
    state = TargetState(Target("w1"))
    assert stage.act.safe(state).kind is Kind.DONE
    world.components.kubelet_begins("w1")
    world.advance(0.5)
    assert stage.act.safe(state).detail == "not now: w1 is NotReady: leave it to whoever repairs it"


def test_a_host_with_the_file_stops_the_run_before_it_starts(gated: Nodes) -> None:
    gated.marked.marked.add("w2")
    assert gated.start() == REFUSED
    assert not gated.machines.acts


def test_a_file_that_comes_later_keeps_its_host_in_service(gated: Nodes) -> None:
    gated.at(1.0, lambda: gated.marked.marked.add("w2"))  # It comes after the two of the other row.
    assert gated.start() == INCOMPLETE
    assert dict(gated.machines.acts) == {"w1": 1, "w3": 1}
    assert "somebody has left /run/hands-off there" in gated.held()["w2"]
    gated.marked.marked.clear()
    assert gated.resume() == DONE
    assert {state.status for state in gated.states().values()} == {Status.DONE}


def test_the_test_of_the_gate_passes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = guides.tests(guides.load(folder / "tests/unit/steps/test_hands_off.py"))
    assert len(found) == 2
    for test in found.values():
        test(tmp_path_factory.mktemp("test"))  # type: ignore[operator]


def test_the_cookbook_has_its_arguments(folder: Path) -> None:
    module = guides.load(folder / "cookbooks/sre/k8s/restart-unit.py")
    cookbook = module.RestartUnit(None)
    args = cookbook.argument_parser().parse_args(["--cluster", "lab", "-r", "x", "--unit", UNIT])
    assert cookbook.options(args) == {"unit": UNIT}
    assert cookbook.procedure(args).name == "sre.k8s.restart-unit"


def test_the_code_is_as_tidy_as_the_rest(folder: Path) -> None:
    src = [str(root) for root in (REPOSITORY / "lib", REPOSITORY / "tests", folder / "lib")]
    ruff = str(Path(sys.executable).with_name("ruff"))
    settings = ["--no-cache", "--config", str(REPOSITORY / "pyproject.toml"), "--config", f"src = {src}"]
    paths = [str(path.relative_to(folder)) for path in folder.rglob("*.py")]
    for command in (["check", "-q"], ["format", "-q", "--check"]):
        subprocess.run([ruff, *command, *settings, *paths], check=True, cwd=folder)


@pytest.mark.parametrize("guide", [guides.PROCEDURE, guides.GATE], ids=lambda path: path.stem)
def test_every_block_of_code_is_used(guide: Path) -> None:
    found = guides.blocks(guide.read_text(encoding="utf-8"))
    assert guide.read_text(encoding="utf-8").count("\n```") == 2 * len(found)
    assert all(block.path for block in found)
    assert {block.language for block in found} <= {"python", "diff"}


@pytest.mark.parametrize("guide", ALL, ids=lambda path: path.stem)
def test_what_the_prose_names_exists(guide: Path) -> None:
    assert unknown(guide.read_text(encoding="utf-8")) == set()


def test_what_does_not_exist_is_found() -> None:
    text = "`Stage` `units.Active` `--resume` `docs/rules.md` `Stages` `units.Passive` `--continue` `docs/rulez.md`"
    assert unknown(text) == {"Stages", "units.Passive", "--continue", "docs/rulez.md"}


def unknown(text: str) -> set[str]:
    """Return what a text has in backticks and is not there."""
    own = guides.files(*(guide.read_text(encoding="utf-8") for guide in (guides.PROCEDURE, guides.GATE)))
    known = guides.sources("lib/fleet", "cookbooks")
    words = guides.vocabulary(*known.values(), *own.values())
    names = {path.removesuffix(".py").replace("/", ".") for path in own}
    return {name for name in guides.named(text) if not guides.exists(name, words | set(own), set(known) | names)}


def test_a_change_that_does_not_fit_is_found() -> None:
    text = "`a.py`:\n\n```python\none\ntwo\n```\n\n`a.py`:\n\n```diff\n-{}\n+three\n```\n"
    assert guides.files(text.replace("{}", "two")) == {"a.py": "one\nthree\n"}
    with pytest.raises(ValueError, match="0 places"):
        guides.files(text.replace("{}", "four"))
