"""``fleet config check``: the examples of this repository, installed in a folder, and mistakes in each of them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.cli.main import main
from support.places import CONFIG

KUBECONFIG = {"kind": "Config", "clusters": [{"name": "lab"}], "current-context": "lab"}


class Installation:
    """The files of an operator in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = folder / "fleet" / "config.yaml"
        self.spicerack = folder / "config.yaml"
        self.alertmanager = folder / "alertmanager" / "config.yaml"
        self.cumin = folder / "cumin" / "config.yaml"
        self.aliases = folder / "cumin" / "aliases.yaml"
        self.locks = folder / "etcd.yaml"
        self.kubeconfig = folder / "kubeconfig"
        self.admin_kubeconfig = folder / "admin.kubeconfig"
        self.ssh_key = folder / "netconf_ed25519"
        self.conftool = folder / "conftool.yaml"
        self.conftool_schema = folder / "conftool-schema.yaml"
        self.domains = folder / "fleet" / "domains.yaml"
        self.known_hosts = folder / "netconf_known_hosts"
        self.state_dir = folder / "state"
        for path, example in (
            (self.fleet, "fleet"),
            (self.spicerack, "spicerack"),
            (self.alertmanager, "alertmanager"),
            (self.cumin, "cumin"),
            (self.aliases, "cumin-aliases"),
            (self.locks, "etcd-lock"),
            (self.conftool, "conftool"),
            (self.conftool_schema, "conftool-schema"),
            (self.domains, "domains"),
        ):
            path.parent.mkdir(exist_ok=True)
            path.write_text((CONFIG / f"{example}.yaml").read_text())
        self.kubeconfig.write_text(yaml.safe_dump(KUBECONFIG))
        self.kubeconfig.chmod(0o600)
        self.admin_kubeconfig.write_text(yaml.safe_dump(KUBECONFIG))
        self.admin_kubeconfig.chmod(0o600)
        self.ssh_key.write_text("a key")
        self.ssh_key.chmod(0o600)
        key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINvAfvRPfQsgAyJr8zGP0EUZzqOWXz0RSRlxqYi5qOK7"
        self.known_hosts.write_text("".join(f"[cr{n}.example.org]:830 {key}\n" for n in (1, 2)))
        (folder / "repository" / "cookbooks").mkdir(parents=True)
        self.edit(self.conftool, lambda data: data.update(driver_options={"etcd_config_file": str(self.locks)}))
        self.edit(self.fleet, self._localize)
        self.edit(self.spicerack, self._localize_spicerack)

    def _localize(self, data: dict[str, Any]) -> None:
        data["state_dir"] = str(self.state_dir)
        data["groups"]["web"]["domains"] = str(self.domains)
        data["clusters"]["lab"]["kubeconfig"] = str(self.kubeconfig)
        conftool = {"config_file": str(self.conftool), "schema_file": str(self.conftool_schema)}
        data["clusters"]["lab"]["reinitialize"]["kubeconfig"] = str(self.admin_kubeconfig)
        data["clusters"]["lab"]["reinitialize"]["discovery"] |= conftool
        data["clusters"]["lab"]["bgp"] |= {"ssh_key": str(self.ssh_key), "known_hosts": str(self.known_hosts)}

    def _localize_spicerack(self, data: dict[str, Any]) -> None:
        data["cookbooks_base_dirs"] = [str(self.folder / "repository")]
        data["instance_params"] = {
            "cumin_config": str(self.cumin),
            "spicerack_config_dir": str(self.folder),
            "etcd_config": str(self.locks),
        }

    def edit(self, path: Path, change: Callable[[dict[str, Any]], object]) -> None:
        data = yaml.safe_load(path.read_text())
        change(data)
        path.write_text(yaml.safe_dump(data))


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def check(installation: Installation, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    code = main(["config", "check", str(installation.fleet), *arguments])
    captured = capsys.readouterr()
    return code, (captured.err or captured.out).splitlines()


def test_the_examples_are_right(installation: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(installation, capsys) == (0, [f"{installation.fleet}: no mistakes; clusters: lab; groups: web."])
    assert not installation.state_dir.exists()


def test_mistakes_in_all_files_are_named_at_once(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    files = installation
    files.state_dir.mkdir(mode=0o755)
    files.kubeconfig.chmod(0o604)
    files.edit(files.fleet, lambda data: data["clusters"]["lab"]["alerts"].update(instance="other"))
    files.edit(files.fleet, lambda data: data["clusters"]["lab"]["hosts"].update(workers="A:nobody"))
    files.edit(files.aliases, lambda data: data.update(broken="D{a", circle="A:circle"))
    files.edit(files.locks, lambda data: data.update(hots="x"))
    files.edit(files.spicerack, lambda data: data["instance_params"].update(cumin_confg="x"))
    files.edit(files.spicerack, lambda data: data.update(cookbooks_base_dirs=["/nowhere"]))

    code, lines = check(installation, capsys)

    assert code == 1
    assert lines[-1] == "10 mistakes."
    for path, key, words in (
        (files.fleet, "clusters.lab.reinitialize.discovery.config_file", f"{files.locks}: hots: there is no such key"),
        (files.fleet, "state_dir", "chmod 0700"),
        (files.fleet, "clusters.lab.kubeconfig", "chmod o-rwx"),
        (files.fleet, "clusters.lab.hosts.workers", "nobody"),
        (files.aliases, "broken", ""),
        (files.aliases, "circle", ""),
        (files.locks, "hots", "no such key"),
        (files.spicerack, "instance_params.cumin_confg", "no such key"),
        (files.spicerack, "cookbooks_base_dirs", "/nowhere has no folder cookbooks"),
        (files.alertmanager, "instances.other", "clusters.lab.alerts.instance"),
    ):
        assert any(line.startswith(f"{path}: {key}") and words in line for line in lines), (key, lines)


def test_a_broken_configuration_does_not_hide_the_other_files(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    installation.fleet.write_text("clusters: {}")
    installation.alertmanager.unlink()

    code, lines = check(installation, capsys)

    assert code == 1
    assert lines == [
        f"{installation.fleet}: state_dir: is missing",
        f"{installation.alertmanager}: cannot be read: No such file or directory",
        "2 mistakes.",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("[", "is no YAML"),
        ("{}", "must be a mapping|has no clusters"),
        ("clusters: [{name: a}]", "has no current-context"),
    ],
)
def test_kubeconfigs(
    installation: Installation, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    if content is None:
        installation.kubeconfig.unlink()
    else:
        installation.kubeconfig.write_text(content)

    code, lines = check(installation, capsys)

    assert (code, lines[-1]) == (1, "1 mistake.")
    assert any(part in lines[0] for part in message.split("|"))


def test_a_state_dir_that_cannot_be(installation: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    installation.edit(installation.fleet, lambda data: data.update(state_dir=str(installation.kubeconfig / "x")))

    assert "is no folder" in check(installation, capsys)[1][0]


def test_a_state_dir_that_may_not_be_written(
    installation: Installation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere

    assert "cannot create it" in check(installation, capsys)[1][0]
    installation.state_dir.mkdir(mode=0o700)
    assert "cannot be written to" in check(installation, capsys)[1][0]


def test_hosts_that_cumin_does_not_find(installation: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    installation.edit(
        installation.fleet, lambda data: data["clusters"]["lab"]["hosts"].update(workers="worker1 and worker2")
    )

    assert "finds no host" in check(installation, capsys)[1][0]


def test_spicerack_may_be_elsewhere(installation: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = check(installation, capsys, "--spicerack", str(installation.folder / "none"))

    assert (code, lines[0]) == (1, f"{installation.folder}/none: cannot be read: No such file or directory")


def test_without_spicerack_only_the_own_file_is_read(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    installation.spicerack.unlink()
    installation.aliases.write_text("[")

    assert check(installation, capsys)[0] == 0


@pytest.mark.parametrize("arguments", [[], ["config"], ["config", "check", "a", "b"], ["nonsense"]])
def test_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_it_runs_as_a_program(installation: Installation) -> None:
    command = [sys.executable, "-m", "fleet.cli.main", "config", "check"]
    environment = os.environ | {"FLEET_CONFIG": str(installation.fleet), "PYTHONPATH": str(CONFIG.parent / "lib")}

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert done.stdout == f"{installation.fleet}: no mistakes; clusters: lab; groups: web.\n"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda i: i.ssh_key.unlink(), "ssh_key: {i.ssh_key} cannot be read: No such file or directory"),
        (lambda i: i.ssh_key.chmod(0o640), "ssh_key: {i.ssh_key} can be read by others (mode 0640): chmod 0600 "),
        (lambda i: i.ssh_key.write_text(""), "ssh_key: the first line of {i.ssh_key} is empty"),
        (lambda i: i.known_hosts.unlink(), "known_hosts: {i.known_hosts}: No such file or directory"),
        (
            lambda i: i.known_hosts.write_text(i.known_hosts.read_text().replace("cr2", "cr3")),
            "known_hosts: {i.known_hosts} has no key of cr2: ssh-keyscan -p 830 cr2.example.org",
        ),
        (
            lambda i: i.known_hosts.write_text(i.known_hosts.read_text()[:-30]),
            "known_hosts: {i.known_hosts}: this line has no key: [cr2.example.org]:830 ssh-ed25519 ",
        ),
        (lambda i: i.known_hosts.write_bytes(b"\xff\xfe\n"), "known_hosts: {i.known_hosts} is no list of keys"),
    ],
)
def test_what_routers_are_asked_with_is_looked_at(
    installation: Installation,
    capsys: pytest.CaptureFixture[str],
    break_it: Callable[[Installation], object],
    message: str,
) -> None:
    break_it(installation)
    code, lines = check(installation, capsys)
    assert code == 1
    assert len(lines) == 2, lines
    assert lines[0].startswith(f"{installation.fleet}: clusters.lab.bgp.{message.format(i=installation)}")


def test_load_balancers_and_members_of_etcd_are_looked_for(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(data: dict[str, Any]) -> None:
        cluster = data["clusters"]["lab"]
        cluster["control_plane"]["load_balancer"]["haproxy"]["hosts"] = "A:none"
        cluster["etcd"]["hosts"] = "etcd1 and etcd2"

    installation.edit(installation.fleet, change)
    _, lines = check(installation, capsys)
    places = [line.removeprefix(f"{installation.fleet}: clusters.lab.").split(": ")[0] for line in lines[:-1]]
    assert places == ["control_plane.load_balancer.haproxy.hosts", "etcd.hosts"]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda i: None, ""),
        (lambda i: i.conftool.unlink(), "config_file: {i.conftool}: cannot be read: No such file or directory"),
        (lambda i: i.conftool_schema.write_text("[]"), "schema_file: {i.conftool_schema}: must be a mapping"),
        (
            lambda i: i.locks.unlink(),
            "config_file: driver_options.etcd_config_file: {i.locks}: cannot be read: No such file or directory",
        ),
        (
            lambda i: i.edit(i.locks, lambda data: data.update(hots="x")),
            "config_file: {i.locks}: hots: there is no such key",
        ),
    ],
)
def test_what_conftool_reads_is_looked_at(
    installation: Installation,
    capsys: pytest.CaptureFixture[str],
    break_it: Callable[[Installation], object],
    message: str,
) -> None:
    conftool = {
        "config_file": str(installation.conftool),
        "schema_file": str(installation.conftool_schema),
        "selector": {"service": "kubemaster"},
    }
    balancers = {"load_balancer": {"conftool": conftool}}
    installation.edit(installation.fleet, lambda data: data["clusters"]["lab"].update(control_plane=balancers))
    options = {"etcd_config_file": str(installation.locks)}
    installation.edit(installation.conftool, lambda data: data.update(driver_options=options))
    break_it(installation)

    code, lines = check(installation, capsys)

    key = f"{installation.fleet}: clusters.lab.control_plane.load_balancer.conftool."
    expected = [key + message.format(i=installation)] if message else []
    found = [line for line in lines if line.startswith(key)]
    assert code == bool(expected)
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: c["hosts"].update(control_plane="D{worker1}"),
            "hosts.control_plane: worker1 is among those of hosts.workers as well",
        ),
        (
            lambda c: c["etcd"].update(hosts="D{worker[1-3]}"),
            "etcd.hosts: worker1, worker2, worker3 are among those of hosts.workers",
        ),
        (lambda c: c["limits"].update(max_unavailable=99), "limits.max_unavailable: 99 is more than the "),
        (lambda c: c["hosts"].update(workers="D{a"), "hosts.workers: Cumin does not find hosts with 'D{a': "),
    ],
)
def test_what_only_cumin_can_tell(
    installation: Installation, capsys: pytest.CaptureFixture[str], change: Callable[[Any], object], said: str
) -> None:
    installation.edit(installation.fleet, lambda data: change(data["clusters"]["lab"]))

    code, lines = check(installation, capsys)

    assert code == 1
    assert any(line.startswith(f"{installation.fleet}: clusters.lab.{said}") for line in lines), lines


def test_two_clusters_with_one_api(installation: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    kubeconfig = {
        **KUBECONFIG,
        "clusters": [{"name": "lab", "cluster": {"server": "https://api:6443"}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "a"}}],
    }
    second = installation.folder / "second"
    for path in (installation.kubeconfig, installation.admin_kubeconfig, second):
        path.write_text(yaml.safe_dump(kubeconfig))
        path.chmod(0o600)

    def add(data: dict[str, Any]) -> None:
        hosts = {"workers": "a1", "control_plane": "b1"}
        data["clusters"]["second"] = {"kubeconfig": str(second), "hosts": hosts}

    installation.edit(installation.fleet, add)
    code, lines = check(installation, capsys)

    assert code == 1
    assert lines[:-1] == [
        f"{installation.fleet}: clusters.second.kubeconfig: leads to https://api:6443, as clusters.lab.kubeconfig does:"
        " each cluster has its own API"
    ]
