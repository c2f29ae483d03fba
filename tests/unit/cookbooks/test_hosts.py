"""The downtime cookbooks' command line: their examples, and what is refused before anything is asked."""

import pytest

from fleet.adapters.alertmanager import downtime
from support.cookbook_help import cookbook, examples


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.syspath_prepend(str(request.config.rootpath))


@pytest.mark.parametrize("name", ["sre.hosts.downtime", "sre.hosts.remove-downtime"])
def test_the_examples_in_the_help_are_right(name: str) -> None:
    parser = cookbook(name).argument_parser()

    assert examples(name)
    for example in examples(name):
        parser.parse_args(example)


def test_the_runner_is_named_in_the_log() -> None:
    instance = cookbook("sre.hosts.downtime")
    args = instance.argument_parser().parse_args(["-r", "disk", "-t", "T123", "-H", "1.5", "worker1"])

    assert instance.get_runner(args).runtime_description == "for 1.5 h on worker1: disk - T123"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-H", "1", "worker1"],
        ["-r", "", "-H", "1", "worker1"],
        ["-r", "r", "worker1"],
        ["-r", "r", "-H", "1"],
        ["-r", "r", "-H", "1", "-t", "ticket", "worker1"],
        *(["-r", "r", "-H", hours, "worker1"] for hours in ("0", "-1", "745", "nan", "inf", "1h", "")),
    ],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cookbook("sre.hosts.downtime").argument_parser().parse_args(arguments)

    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "is_id"),
    [
        ("0c54ca8f-9171-4bb2-b9b5-2d3f3b4f0b8e", True),
        ("worker1", False),
        ("0c54ca8f-9171-4bb2-b9b5-2d3f3b4f0b8e,worker1", False),
        ("", False),
    ],
)
def test_ids_are_told_from_queries(text: str, is_id: bool) -> None:
    assert downtime.is_silence_id(text) is is_id
