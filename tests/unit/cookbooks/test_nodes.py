"""What the cookbooks of node maintenance refuse before they ask anybody anything."""

from pathlib import Path
from typing import Any

import pytest

from fleet.errors import FleetError
from support.cookbook_help import cookbook
from support.spicerack import Ann

NODES = ("sre.k8s.reboot-nodes", "sre.k8s.restart-calico")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.syspath_prepend(str(request.config.rootpath))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-unavailable", "0"], "would let nothing be done"),
        (["--max-unavailable", "101%"], "is above 100%"),
        (["--max-failed", "-1"], "is no number: write 0 or more"),
        (["--resume", "a", "--abort", "b"], "not allowed with"),
    ],
)
@pytest.mark.parametrize("name", NODES)
def test_wrong_arguments(name: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cookbook(name).argument_parser().parse_args(["--cluster", "lab", "-r", "x", *arguments])

    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", NODES)
def test_an_unknown_cluster_is_named_with_those_that_there_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "fleet.yaml"
    hosts = "{workers: A:workers, control_plane: A:control-plane}"
    config.write_text(f"state_dir: {tmp_path}/runs\nclusters: {{lab: {{kubeconfig: /k, hosts: {hosts}}}}}\n")
    monkeypatch.setenv("FLEET_CONFIG", str(config))
    instance = cookbook(name, Ann(tmp_path, dry_run=True))

    runner: Any = instance.get_runner(instance.argument_parser().parse_args(["--cluster", "nope", "-r", "x"]))
    with pytest.raises(FleetError) as caught:
        runner.act()

    assert str(caught.value) == "There is no cluster 'nope' in the configuration. It has: lab."
