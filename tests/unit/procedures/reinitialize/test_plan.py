"""What an operator is shown before a re-initialisation, and in a dry-run what is left of one."""

from functools import partial
from io import StringIO

import pytest
from rich.console import Console

from fleet.engine.declaration import Specified
from fleet.engine.findings import Finding, ask, stop
from fleet.engine.model import StepSpec
from fleet.procedures.reinitialize.parts import stage
from fleet.procedures.reinitialize.runs import ReinitializePlan
from fleet.session import DONE
from worlds.reinitialize import World
from worlds.reinitialize_sessions import Play

STEPS = tuple(Specified(StepSpec(name, 1.0), effects=None) for name in ("depool", "traffic gone"))  # type: ignore[arg-type]
PARTS = (
    stage("0 keep", ["a snapshot"], lambda: ["cluster"], STEPS[:1]),
    stage("4 depool", ["records [out] of {here}", "x" * 300], lambda: ["shop", "[bold]search"], STEPS),
)


def shown(first: int, findings: list[Finding]) -> str:
    """Return what is printed of a plan."""
    file = StringIO()
    ReinitializePlan("move lab: why (T1)", PARTS, first, findings).render(Console(file=file, width=100))
    return file.getvalue()


def test_a_plan_has_stages_with_units_steps_and_what_they_do() -> None:
    assert shown(0, []).startswith(
        "\nmove lab: why (T1)\n"
        "0 keep\n   depool\n   - a snapshot\n"
        "4 depool: shop, [bold]search\n   depool → traffic gone\n"
        f"   - records [out] of {{here}}\n   - {'x' * 300}\n"
    )


def test_stages_that_are_left_out_say_so() -> None:
    text = shown(4, [])
    assert "0 keep: left out (--from-stage)\n" in text
    assert "a snapshot" not in text
    assert "4 depool: shop" in text


def test_findings_come_last() -> None:
    text = shown(0, [stop("The old etcd is [not] well.", "Repair it."), ask("w1 is NotReady.", "Repair it.")])
    assert text.index("Before stage 5 the cluster's name has to be typed.") < text.index("[stop]") < text.index("[ask]")
    assert "The old etcd is [not] well." in text


@pytest.fixture
def said(tmp_path) -> str:
    """Return the plan of a run that is not carried out."""
    world = World()
    world.declines = {"lab"}
    Play(world, tmp_path).start()
    return world.said.getvalue()


@pytest.mark.parametrize(
    "line",
    [
        "0 keep",
        "5 delete namespaces: shop, search",
        "7 stop: cp1, cp2, w1, w2",
        "   - merge change-1",
        "   - initialize lab",
        "   - /etc/default/kube-apiserver and /etc/calico/calicoctl.cfg have to name new then",
        "10 first Puppet: cp1",
        "16 control plane: cp2, cp1",
        '   - alerts of all hosts; {team="sre"}',
    ],
)
def test_the_plan_of_a_run_has_hosts_commands_and_files(said: str, line: str) -> None:
    assert f"\n{line}\n" in said


@pytest.mark.parametrize(
    ("verb", "lines"),
    [
        ("resume", ["9 Puppet on nodes: w1, w2: Puppet", "19 verify: cluster: nodes → services → pool → old etcd"]),
        ("abort", ["abort stop: cp1, cp2, w1, w2: stop", "abort services: shop, search: deploy → check"]),
    ],
)
def test_a_dry_run_says_what_is_left_and_changes_nothing(tmp_path, verb, lines) -> None:
    world = World()
    world.at_begin(9, partial(setattr, world, "moments_left", 2))
    assert Play(world, tmp_path).start() is None
    before = (world.now, world.old.revision, world.new.revision, dict(world.pooled), dict(world.ran))
    world.said.truncate(world.said.seek(0))
    world.said.write("\n")

    assert getattr(Play(world, tmp_path, dry_run=True), verb)() == DONE
    for line in lines:
        assert f"\n{line}" in world.said.getvalue()
    assert "\n8 merge: " not in world.said.getvalue(), "that is done"
    assert (world.now, world.old.revision, world.new.revision, dict(world.pooled), dict(world.ran)) == before


def test_a_dry_run_of_a_new_run_begins_none(tmp_path) -> None:
    world = World()
    assert Play(world, tmp_path, dry_run=True).start() == DONE
    assert "Dry run: this is what a real run would do. Nothing was touched." in world.said.getvalue()
    assert (world.begun, list(tmp_path.iterdir())) == (-1, [])
