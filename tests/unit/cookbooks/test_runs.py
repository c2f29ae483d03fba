"""The command line of the cookbooks whose work is a run: examples, what is refused, and what components there are."""

from pathlib import Path
from typing import Any

import pytest

from fleet.config.model import COMPONENTS
from fleet.errors import FleetError
from fleet.procedures.restart_control_plane import RestartControlPlane
from support.clusters import cluster
from support.cookbook_help import cookbook, examples
from support.spicerack import Ann

RESTART_CONTROL_PLANE, RESTART_ETCD = "sre.k8s.restart-control-plane", "sre.etcd.restart"
NODES = ("sre.k8s.reboot-nodes", "sre.k8s.restart-calico")
REINITIALIZE = "sre.k8s.reinitialize-cluster"
RUNS = (*NODES, RESTART_CONTROL_PLANE, RESTART_ETCD, REINITIALIZE)

OF_NODES = ["--query", "A:x", "--exclude", "w1", "--max-unavailable", "2", "--max-failed", "1"]
NEW = {
    "sre.k8s.reboot-nodes": [*OF_NODES, "--only-if-required"],
    "sre.k8s.restart-calico": [*OF_NODES, "--no-drain"],
    RESTART_CONTROL_PLANE: ["--components", "kube-scheduler", "--hosts", "A:x", "--allow-outage"],
    RESTART_ETCD: ["--hosts", "A:x"],
    REINITIALIZE: [
        *("--new-etcd", "b", "--puppet-change", "1", "--reuse", "b"),
        *("--from-stage", "2", "--calico-export", "/f", "--max-failed", "1"),
    ],
}
"""All arguments that say what a new run is about."""
CHANGEABLE = {REINITIALIZE: {"--max-failed"}}
"""Those among them that may be given anew with a run."""


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.syspath_prepend(str(request.config.rootpath))


@pytest.fixture
def spicerack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ann:
    """What a runner needs of spicerack before it asks anything: where the configuration is, and a dry-run."""
    config = tmp_path / "fleet.yaml"
    hosts = "{workers: A:workers, control_plane: A:control-plane}"
    config.write_text(f"state_dir: {tmp_path}/runs\nclusters: {{lab: {{kubeconfig: /k, hosts: {hosts}}}}}\n")
    monkeypatch.setenv("FLEET_CONFIG", str(config))
    return Ann(tmp_path, dry_run=True)


def refusal(name: str, spicerack: Ann, arguments: list[str]) -> str:
    """Return why a cookbook does nothing."""
    instance = cookbook(name, spicerack)
    runner: Any = instance.get_runner(instance.argument_parser().parse_args(arguments))
    with pytest.raises(FleetError) as caught:
        runner.act()
    return str(caught.value)


@pytest.mark.parametrize("name", RUNS)
def test_the_examples_in_the_help_are_right(name: str) -> None:
    parser = cookbook(name).argument_parser()
    parsed = [parser.parse_args(example) for example in examples(name)]

    assert any(args.resume for args in parsed)
    assert any(args.scope for args in parsed)
    assert all(args.resume or (args.scope and args.reason) for args in parsed)


@pytest.mark.parametrize("name", RUNS)
def test_all_arguments_of_a_new_run_are_tried_here(name: str) -> None:
    instance: Any = cookbook(name)
    parser = instance.argument_parser()
    (group,) = [group for group in parser._action_groups if group.title == "a new run"]

    options = [action.option_strings[0] for action in group._group_actions]

    assert options == [word for word in NEW[name] if word.startswith("--")]


@pytest.mark.parametrize("again", ["--resume", "--abort"])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_gone_on_with_as_it_was_begun(name: str, again: str, spicerack: Any) -> None:
    fixed = [word for word in NEW[name] if word.startswith("--") and word not in CHANGEABLE.get(name, ())]
    told = ", ".join(fixed)

    assert refusal(name, spicerack, [again, "r1", *NEW[name]]) == (
        f"A run is resumed as it was started: leave out {told}."
    )


@pytest.mark.parametrize("again", ["--resume", "--abort"])
def test_how_many_workers_may_be_away_can_be_changed_while_it_lasts(again: str, spicerack: Any) -> None:
    assert refusal(REINITIALIZE, spicerack, [again, "r1", "--max-failed", "2"]).startswith("There is no run 'r1' in ")


@pytest.mark.parametrize("name", RUNS)
def test_the_cluster_may_be_named_with_a_run(name: str, spicerack: Any) -> None:
    assert refusal(name, spicerack, ["--resume", "r1", "--cluster", "lab"]).startswith("There is no run 'r1' in ")


@pytest.mark.parametrize("name", RUNS)
def test_a_new_run_needs_a_cluster_and_a_reason(name: str, spicerack: Any) -> None:
    assert refusal(name, spicerack, []) == "A new run needs --cluster and -r/--reason."
    assert refusal(name, spicerack, ["--cluster", "lab"]) == "A new run needs -r/--reason."


def test_nothing_is_both_resumed_and_aborted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cookbook(RESTART_ETCD).argument_parser().parse_args(["--resume", "r1", "--abort", "r1"])

    assert "not allowed with argument --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "components"),
    [
        ([], COMPONENTS),
        (["--components", "kube-scheduler"], ("kube-scheduler",)),
        (["--components", " kube-scheduler, kube-apiserver ,"], ("kube-scheduler", "kube-apiserver")),
    ],
)
def test_components_stand_with_commas_between_them(arguments: list[str], components: tuple[str, ...]) -> None:
    args = cookbook(RESTART_CONTROL_PLANE).argument_parser().parse_args(arguments)

    assert args.components == components


def chosen(*components: str) -> Any:
    """Return what a run over these components remembers; kube-proxy is one that the configuration adds."""
    known = cluster({"cp1": "cp1"}, control_plane={"components": {"kube-proxy": {"check": "true"}}})
    nothing: Any = None
    return RestartControlPlane(nothing, components=components).options(known)["components"]


def test_components_are_restarted_in_a_fixed_order() -> None:
    assert chosen("kube-proxy", "kube-scheduler", "kube-apiserver") == [
        "kube-apiserver",
        "kube-scheduler",
        "kube-proxy",
    ]


def test_an_unknown_component_is_named_with_those_that_there_are() -> None:
    with pytest.raises(FleetError) as caught:
        chosen("kube-scheduler", "kube-sheduler", "confd")

    assert str(caught.value) == (
        "--components: there is no kube-sheduler, confd."
        " There are kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy;"
        " others stand in control_plane.components of the configuration, each with a check."
    )
