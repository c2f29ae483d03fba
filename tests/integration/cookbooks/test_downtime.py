"""The downtime cookbooks, run by spicerack's own runner against a real Alertmanager."""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from spicerack._cookbook import main

from fleet.adapters.alertmanager.silences import Silences
from fleet.config.matchers import Matcher
from support.alertmanager import fire, running_alertmanager
from support.places import REPOSITORY
from support.ports import free_port

Cookbook = Callable[..., int]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_alertmanager(tmp_path_factory.mktemp("alertmanager")) as url:
        yield url


@pytest.fixture
def silences(url: str) -> Iterator[Silences]:
    silences = Silences([url])
    yield silences
    for silence in silences.find(comment_contains=""):
        silences.expire(silence.id)


@pytest.fixture
def folder(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an operator's configuration into a folder."""
    monkeypatch.delenv("FLEET_CONFIG", raising=False)
    monkeypatch.setenv("USER", "anna")
    fleet = yaml.safe_load((REPOSITORY / "config" / "fleet.yaml").read_text())
    fleet["clusters"]["lab"]["alerts"].update(instance="second", label="host", matchers=['site="a"'])
    files = {
        "config.yaml": {
            "cookbooks_base_dirs": [str(REPOSITORY)],
            "logs_base_dir": str(tmp_path / "logs"),
            "instance_params": {
                "cumin_config": str(tmp_path / "cumin" / "config.yaml"),
                "spicerack_config_dir": str(tmp_path),
            },
        },
        "cumin/config.yaml": {
            "transport": "clustershell",
            "default_backend": "direct",
            "log_file": str(tmp_path / "cumin.log"),
        },
        "cumin/aliases.yaml": {"lab-workers": "D{worker[1-6]}"},
        "alertmanager/config.yaml": {
            "default_instance": "main",
            "instances": {"main": {"urls": [url]}, "second": {"urls": [url]}},
        },
        "fleet/config.yaml": fleet,
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    return tmp_path


@pytest.fixture
def cookbook(folder: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Cookbook]:
    caplog.set_level(logging.INFO)
    root = logging.getLogger()
    handlers = list(root.handlers)

    def run(*arguments: str) -> int:
        caplog.clear()
        code = main(["-c", str(folder / "config.yaml"), *arguments])
        for handler in set(root.handlers) - set(handlers):  # spicerack adds its own with every run
            root.removeHandler(handler)
        assert not [record for record in caplog.records if record.exc_info], caplog.text
        return int(code or 0)

    yield run
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)


def test_a_downtime_and_its_end(
    cookbook: Cookbook, silences: Silences, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert cookbook("sre.hosts.downtime", "-r", "$(disk) `swap`", "-t", "T123", "-H", "0.5", "A:lab-workers") == 0
    silence_id = capsys.readouterr().out.strip()
    silence = silences.get(silence_id)

    assert silence.state == "active"
    assert silence.ends_at - silence.starts_at == pytest.approx(1800, abs=5)
    assert re.fullmatch(r"\$\(disk\) `swap` - anna@\S+ - T123", silence.comment)
    assert silence.author.startswith("anna@")

    assert cookbook("sre.hosts.remove-downtime", silence_id) == 0
    assert silences.get(silence_id).state == "expired"
    assert cookbook("sre.hosts.remove-downtime", silence_id) == 0
    assert "has ended before" in caplog.text


def test_a_dry_run_tells_and_does_nothing(
    cookbook: Cookbook,
    url: str,
    silences: Silences,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    fire(url, "worker1:9100", name="DiskBroken")

    assert cookbook("--dry-run", "sre.hosts.downtime", "-r", "r", "-H", "1", "worker[1-2]") == 0

    assert "Would silence 2 hosts (worker[1-2]) for 1 h: r - anna@" in caplog.text
    assert "DiskBroken on worker1:9100" in caplog.text
    assert not silences.find(comment_contains="")
    silence_id = silences.create(["worker1"], comment="c", author="a", duration=60)
    assert cookbook("--dry-run", "sre.hosts.remove-downtime", "worker1") == 0
    assert f"Would end silence {silence_id}" in caplog.text
    assert silences.get(silence_id).state == "active"
    assert not capsys.readouterr().out


def test_a_query_ends_the_silences_of_just_its_hosts(
    cookbook: Cookbook, silences: Silences, caplog: pytest.LogCaptureFixture
) -> None:
    def create(*hosts: str, matchers: tuple[Matcher, ...] = ()) -> str:
        return silences.create(hosts, comment="c", author="a", duration=600, matchers=matchers)

    ends = [create("worker1"), create("worker2", "worker1")]
    wider = create("worker2", "worker3")
    others = [create("worker4"), create("worker1", matchers=(Matcher("alertname", "DiskFull"),))]

    assert cookbook("sre.hosts.remove-downtime", "worker[1-2]") == 0

    assert {silence.id for silence in silences.find(comment_contains="")} == {wider, *others}
    assert [silences.get(silence_id).state for silence_id in ends] == ["expired", "expired"]
    assert f"Stays, as it covers other hosts as well; end it by its id: silence {wider}" in caplog.text
    assert cookbook("sre.hosts.remove-downtime", "worker[1-2]") == 0
    assert "There is no silence to end for worker[1-2]" in caplog.text


def test_a_cluster_has_its_own_label_and_matchers(cookbook: Cookbook, silences: Silences) -> None:
    assert cookbook("sre.hosts.downtime", "--cluster", "lab", "-r", "r", "-H", "1", "worker1") == 0

    (silence,) = silences.find(comment_contains="r - anna@")
    assert {matcher.name: matcher.value for matcher in silence.matchers} == {
        "host": r"^(worker1(\..+)?)(:[0-9]+)?$",
        "site": "a",
    }
    assert cookbook("sre.hosts.remove-downtime", "worker1") == 0
    assert silences.get(silence.id).state == "active"
    assert cookbook("sre.hosts.remove-downtime", "--cluster", "lab", "worker1") == 0
    assert silences.get(silence.id).state == "expired"


@pytest.mark.parametrize(
    "arguments", [("sre.hosts.downtime", "-r", "r", "-H", "1", ""), ("sre.hosts.remove-downtime", "")]
)
def test_an_empty_query_is_told_as_such(
    cookbook: Cookbook, silences: Silences, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert cookbook(*arguments) == 2

    assert "QUERY: it is empty: is a variable of the shell not set?" in capfd.readouterr().err
    assert not silences.find(comment_contains="")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sre.hosts.downtime", "-r", "r", "-H", "1", "A:nobody"), "'A:nobody' cannot be used"),
        (("sre.hosts.downtime", "-r", "r", "-H", "1", "a and b"), "finds no host"),
        (("sre.hosts.downtime", "-r", "r", "-H", "1", "--cluster", "x", "a"), "There is no cluster 'x'"),
        (
            ("sre.hosts.downtime", "-r", "r", "-H", "1", "worker6,nope[1,99]"),
            "Nobody knows nope1, nope99: ",
        ),
        (("sre.hosts.downtime", "-r", "r", "-H", "1", "worker[6-7]"), "Nobody knows worker7: "),
        (("sre.hosts.remove-downtime", "nope"), "Nobody knows nope: the name does not resolve"),
        (("sre.hosts.remove-downtime", "0c54ca8f-9171-4bb2-b9b5-2d3f3b4f0b8e"), "No Alertmanager knows silence 0c54"),
    ],
)
def test_bad_input_is_a_line_and_changes_nothing(
    cookbook: Cookbook,
    silences: Silences,
    caplog: pytest.LogCaptureFixture,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert cookbook(*arguments) == 2

    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert message in errors[0]
    assert not silences.find(comment_contains="")


def test_hosts_that_nobody_knows_are_silenced_if_that_is_meant(
    cookbook: Cookbook, silences: Silences, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ("sre.hosts.downtime", "-r", "r", "-H", "1")
    assert cookbook(*arguments, "--unknown", "nope") == 0
    assert "Silenced 1 host (nope) for 1 h: r - anna@" in caplog.text

    assert cookbook("sre.hosts.remove-downtime", "nope") == 0, "its silence makes it known"
    assert not silences.find(comment_contains="")
    assert cookbook("sre.hosts.remove-downtime", "nope") == 2
    assert cookbook("sre.hosts.remove-downtime", "--unknown", "nope") == 0


def test_a_host_with_an_alert_is_known(cookbook: Cookbook, url: str, silences: Silences) -> None:
    fire(url, "gone7:9100")

    assert cookbook("sre.hosts.downtime", "-r", "r", "-H", "1", "gone7") == 0
    assert silences.find(comment_contains="")


def test_a_member_that_is_away_is_named_and_the_others_are_told(
    cookbook: Cookbook, folder: Path, url: str, silences: Silences, caplog: pytest.LogCaptureFixture
) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    config = {"default_instance": "main", "instances": {"main": {"urls": [away, url]}}}
    (folder / "alertmanager" / "config.yaml").write_text(yaml.safe_dump(config))
    told = f"1 of 2 members of Alertmanager could not be asked: {away}: connection refused"

    assert cookbook("sre.hosts.downtime", "-r", "r", "-H", "1", "worker1") == 1
    assert caplog.text.count(told) == 1
    (silence,) = silences.find(comment_contains="")
    assert cookbook("sre.hosts.remove-downtime", "worker1") == 1
    assert told in caplog.text
    assert silences.get(silence.id).state == "expired"


@pytest.mark.parametrize("what", ["worker1", "0c54ca8f-9171-4bb2-b9b5-2d3f3b4f0b8e"])
def test_an_alertmanager_that_cannot_be_reached(
    cookbook: Cookbook, folder: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    config = {"default_instance": "main", "instances": {"main": {"urls": [nobody]}}}
    (folder / "alertmanager" / "config.yaml").write_text(yaml.safe_dump(config))

    for arguments in (("sre.hosts.downtime", "-r", "r", "-H", "1", "worker1"), ("sre.hosts.remove-downtime", what)):
        assert cookbook(*arguments) == 2
        errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(errors) == 1
        assert nobody in errors[0]
