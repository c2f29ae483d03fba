"""The preflight of a re-initialisation in a world in memory: one thing is wrong at a time, and it is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleet.adapters.alertmanager.silence_model import Alert
from fleet.adapters.calico import contents
from fleet.adapters.k8s.apiserver import Health, Strange
from fleet.config.certificates import Certificates
from fleet.config.model import ClusterConfig
from fleet.procedures.procedure import Refused
from fleet.procedures.reinitialize.runs import Options
from fleet.procedures.reinitialize.site import programs_of
from fleet.session import DONE
from worlds.reinitialize import ALL_CALICO, CONFIG, World, config
from worlds.reinitialize_hosts import API, BY_HAND, CALICO, CALICO_FILE, DEFAULTS, KUBELET, NEW, OLD, PLUGIN
from worlds.reinitialize_sessions import Play

Change = Callable[[World], None]
NONE = "1 of 1 members of etcd could not be asked:"


def said(world: World, folder: Path, **options: Any) -> str:
    """Return the plan with its findings, of a dry-run."""
    try:
        assert Play(world, folder, dry_run=True, preflight=True, **options).start() == DONE
    except Refused:
        assert "[stop]" in world.said.getvalue()
    else:
        assert "[stop]" not in world.said.getvalue()
    return world.said.getvalue()


def findings(text: str, level: str) -> list[str]:
    return [line.partition("] ")[2] for line in text.splitlines() if line.strip().startswith(f"[{level}]")]


def asked(**options: Any) -> Options:
    return Options("new", "change-1", **options)


def test_where_all_is_well_nothing_is_asked(tmp_path):
    text = said(World(), tmp_path)
    assert (findings(text, "stop"), findings(text, "ask")) == ([], [])
    assert "new is empty." in text
    assert "All hosts reach new with their own certificates." in text
    assert "Namespaces that are deleted: search, shop." in text
    assert "Not managed, so only in the export: default, kube-system, others." in text


def _attribute(name: str, key: str, value: Any) -> Change:
    return lambda world: getattr(world, name).__setitem__(key, value)


def _file(host: str, path: str, text: str) -> Change:
    return lambda world: world.hosts[host].files.__setitem__(path, text)


def _no_unit(host: str, unit: str) -> Change:
    return lambda world: setattr(world.hosts[host].services[unit], "loaded", False)


def _there(*keys: str) -> Change:
    return lambda world: world.new.keys.update(keys)


def _away(*hosts: str) -> Change:
    def act(world: World) -> None:
        for host in hosts:
            world.hosts[host].reachable = False

    return act


def _puppet(host: str, reason: str | None) -> Change:
    return lambda world: setattr(world.hosts[host], "puppet", reason)


def _everywhere_disabled(world: World) -> None:
    for host in world.hosts.values():
        host.puppet = BY_HAND


def _merged(world: World) -> None:
    world.merged = True


def _alert(world: World) -> None:
    world.firing.append(Alert("w1", "Down", "w1", "critical", 0.0, False))


def _moved(world: World) -> None:
    for host in world.hosts.values():
        host.files |= {path: world.file_of(path) for path in host.files}


def _depooled(world: World) -> None:
    world.pooled = dict.fromkeys(world.pooled, False)


def _all(*changes: Change) -> Change:
    def act(world: World) -> None:
        for change in changes:
            change(world)

    return act


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (_attribute("ill", NEW, "refused"), f"new is not well: {NONE} new1 does not answer: refused."),
        (_attribute("ill", OLD, "refused"), f"The old etcd is not well: {NONE} old1 does not answer: refused."),
        (_attribute("unreached", "cp2", "refused"), "cp2, with kube-apiserver's certificates: refused."),
        (_attribute("unreached", "w1", "refused"), "w1, with Calico's certificates: refused."),
        (_there("/registry/a"), "new is not empty: 1 key, such as /registry/a."),
        (_away("cp2"), "No answer over SSH from cp2: no route to host"),
        (_away("w1", "w2"), "No answer over SSH from w2: no route to host"),
        (_puppet("w1", BY_HAND), f"Puppet is disabled on w1: '{BY_HAND}'"),
        (_file("w2", CALICO_FILE, f"kind: CalicoAPIConfig\nspec: {{etcdEndpoints: '{NEW}'}}\n"), "names new."),
        (_file("cp2", DEFAULTS, 'DAEMON_ARGS="--etcd-servers=https://x:1"'), f"{DEFAULTS} names https://x:1."),
        (_no_unit("w1", CALICO), f"w1 has no {CALICO}."),
        (_no_unit("cp2", API), f"cp2 has no {API}."),
        (_no_unit("w2", KUBELET), f"w2 has no {KUBELET}."),
        (lambda world: world.programs.remove("calicoctl"), "cp1 has no calicoctl in its PATH."),
        (
            lambda world: world.programs.remove("deploy"),
            "reinitialize.services.deploy: there is no deploy on this host.",
        ),
        (_merged, "The Puppet change change-1 is merged already."),
        (lambda world: world.broken.update(merged=1), "Is change-1 merged? `merged change-1`: exit code 7."),
        (lambda world: setattr(world, "holder", "run r0"), "lab is being worked on by run r0."),
        (_attribute("answering", "cp2", Strange("not for cp2")), "kube-apiserver on cp2: not for cp2."),
        (_attribute("answering", "cp2", Health(False, ("etcd",), False)), "kube-apiserver on cp2 is not ready: etcd."),
        (lambda world: world.strangers.add("cp9"), "served by cp1, cp2, cp9, and hosts.control_plane has cp1, cp2."),
        (lambda world: world.old.keys.add("/registry/api/v1/nodes/w9"), "would stay on the old etcd: w9."),
        (
            _file("cp1", DEFAULTS, f'DAEMON_ARGS="--etcd-servers={OLD} --etcd-prefix=kubernetes"'),
            "kube-apiserver's --etcd-prefix is /kubernetes, and not /registry.",
        ),
        (_attribute("elsewhere", "shop", False), "Pooled nowhere but in here: shop."),
    ],
)
def test_what_cannot_go_well_keeps_the_run_from_starting(tmp_path, change, finding):
    world = World()
    change(world)
    stops = findings(said(world, tmp_path), "stop")
    assert any(stop.startswith(finding) or stop.endswith(finding) for stop in stops), stops


@pytest.mark.parametrize(
    ("change", "options", "finding"),
    [
        (_away("w2"), {"options": asked(max_failed=1)}, "No answer over SSH from w2."),
        (_there("/registry/a"), {"options": asked(reuse="new")}, "new is not empty: 1 key, such as /registry/a."),
        (_depooled, {}, "No service is pooled in here."),
        (_alert, {}, "The alert Down is firing for w1."),
        (
            lambda world: world.old.keys.add("/registry/api/v1/nodes/cp1"),
            {},
            "Control-plane hosts that are nodes as well",
        ),
        (lambda world: world.old.keys.discard("/registry/api/v1/namespaces/shop"), {}, "Managed namespaces that are"),
        (lambda world: world.old.keys.discard("/registry/api/v1/nodes/w2"), {}, "Kubernetes has no node for w2."),
        (lambda world: setattr(world.hosts["w2"].services[KUBELET], "registered", NEW), {}, "NotReady: w2."),
        (
            lambda world: None,
            {"config": config(admission_plugins=["Other"])},
            "Not among the flags of kube-apiserver, and so not taken out: Other.",
        ),
        (
            lambda world: None,
            {"config": config(etcds={"new": {"hosts": "new", "endpoints": [NEW, "https://new2:2379"]}})},
            "new has 1 host and 2 endpoints.",
        ),
    ],
)
def test_what_an_operator_may_overrule_is_asked(tmp_path, change, options, finding):
    world = World()
    change(world)
    text = said(world, tmp_path, **options)
    assert findings(text, "stop") == []
    assert any(ask.startswith(finding) for ask in findings(text, "ask")), text
    with pytest.raises(Refused, match="unattended"):
        Play(world, tmp_path, preflight=True, unattended=True, **options).start()


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        ({"config": config(etcds={"new": {"hosts": "new", "endpoints": [OLD]}})}, "new is the etcd of today"),
        ({"config": config(etcds={"new": {"hosts": "old", "endpoints": [NEW]}})}, "new is the etcd of today"),
        (
            {"config": config(discovery={"datacenter": "hear", "services": ["shop"], "traffic": "idle {service}"})},
            "There is no record of the datacenter hear of shop.",
        ),
        ({"config": config(initialize="initialize 'x")}, "reinitialize.initialize: it is no command for bash"),
        ({"config": config(node_watchers=["proxy.service"])}, "w1 has no proxy.service."),
        ({"options": asked(from_stage=4), "merged": True}, "The Puppet change change-1 is merged before stage 4."),
    ],
)
def test_what_the_configuration_has_wrong_keeps_the_run_from_starting(tmp_path, options, finding):
    world = World()
    world.merged = options.pop("merged", False)
    stops = findings(said(world, tmp_path, **options), "stop")
    assert any(stop.startswith(finding) for stop in stops), stops


@pytest.mark.parametrize("first", [1, 7])
@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (_attribute("ill", OLD, "refused"), f"The old etcd is not well: {NONE} old1 does not answer: refused."),
        (_file("cp2", DEFAULTS, 'DAEMON_ARGS="--etcd-servers=https://x:1"'), f"{DEFAULTS} names https://x:1."),
    ],
)
def test_what_there_is_to_go_back_to_is_looked_at_for_as_long_as_it_serves(tmp_path, first, change, finding):
    world = World()
    change(world)
    if first == 7:
        _all(_depooled, _everywhere_disabled)(world)
    text = said(world, tmp_path, options=asked(from_stage=first))
    assert f"Stages 0 to {first - 1} are taken as done by hand." in text
    assert any(stop.endswith(finding) for stop in findings(text, "stop")), text


def test_addresses_of_apiservers_are_their_hosts_own(tmp_path):
    def addressed(**addresses: str) -> ClusterConfig:
        plane = CONFIG.control_plane.model_validate({"addresses": addresses})
        return CONFIG.model_copy(update={"control_plane": plane})

    well = addressed(cp1="10.0.0.10", cp2="fd00:0::2")
    assert findings(said(World(), tmp_path, config=well), "stop") == []
    swapped = addressed(cp1="10.0.0.11", cp2="10.0.0.10")
    assert findings(said(World(), tmp_path, config=swapped), "stop") == [
        "10.0.0.11 is no address of cp1, which has 10.0.0.10, fd00::1.",
        "10.0.0.10 is no address of cp2, which has 10.0.0.11, fd00::2.",
    ]


@pytest.mark.parametrize("key", ["initialize", "components", "services", "puppet_change", "discovery", "managed"])
def test_every_command_is_looked_for(tmp_path, key):
    nothing = {
        "initialize": "cd / && nothere {cluster}",
        "components": {"command": "A=1 nothere", "namespaces": ["kube-system"]},
        "services": {"names": ["shop"], "deploy": "deploy {service} | nothere", "check": "check {service}"},
        "puppet_change": {"merged": "merged {change}", "merge": "nothere {change}", "revert": "revert {change}"},
        "discovery": {"datacenter": "here", "services": ["shop"], "traffic": "nothere {service}"},
        "managed": ["shop"],
    }
    text = said(World(), tmp_path, config=config(**{key: nothing[key]}))
    stops = [stop for stop in findings(text, "stop") if stop.startswith(f"reinitialize.{key}")]
    assert [stop.partition(": ")[2] for stop in stops] == (
        [] if key == "managed" else ["there is no nothere on this host."]
    )


@pytest.mark.parametrize(
    ("command", "programs"),
    [
        ("helmfile sync", ["helmfile"]),
        ("cd /srv/charts && helmfile -e lab sync", ["cd", "helmfile"]),
        ("A=1 B=2 /usr/bin/x --y; z", ["/usr/bin/x", "z"]),
        ("cd /srv && ./initialize lab", ["cd"]),
        ("a | b || (c; d) > e", ["a", "b", "c", "d"]),
        ("'a b' && \"$HOME\"/bin/c", []),
        ("echo 'a && b'", ["echo"]),
    ],
)
def test_programs_are_found_in_commands(command, programs):
    assert programs_of(command) == programs


def test_hosts_reach_the_new_etcd_with_what_they_use_themselves(tmp_path):
    files = "--etcd-cafile=/ca --etcd-certfile=/cert --etcd-keyfile=/key"
    spec = "etcdEndpoints: '{}', etcdCACertFile: /a, etcdCertFile: /b, etcdKeyFile: /c"
    world = World()
    for name, host in world.hosts.items():
        host.files[CALICO_FILE] = f"kind: CalicoAPIConfig\nspec: {{datastoreType: etcdv3, {spec.format(OLD)}}}\n"
        if name in world.planes:
            host.files[DEFAULTS] = host.files[DEFAULTS].replace('="', f'="{files} ')
    world.hosts["w2"].reachable = False
    assert findings(said(world, tmp_path, options=asked(max_failed=1)), "stop") == []
    assert sorted(world.reached_with) == [
        (("cp1", "cp2"), Certificates(Path("/ca"), Path("/cert"), Path("/key"))),
        (("cp1", "cp2", "w1"), Certificates(Path("/a"), Path("/b"), Path("/c"))),
    ]


@pytest.mark.parametrize("first", [8, 13])
def test_where_there_is_no_api_it_is_not_asked(tmp_path, first):
    world = World()
    for name in world.planes:
        world.hosts[name].services[API].active = False
    _all(_depooled, _everywhere_disabled, *([_merged, _moved] if first == 13 else []))(world)
    for name in world.planes if first == 13 else ():
        world.hosts[name].files[DEFAULTS] = world.hosts[name].files[DEFAULTS].replace(f",{PLUGIN}", "")
    text = said(world, tmp_path, options=asked(from_stage=first))
    assert findings(text, "stop") == []
    assert "not taken out" not in text


def test_a_run_that_is_not_over_keeps_another_one_from_starting(tmp_path):
    world = World()
    world.declines = {"lab"}
    Play(world, tmp_path).start()
    text = said(world, tmp_path)
    assert "Run r1 is not over." in findings(text, "stop")
    assert "cookbook sre.k8s.reinitialize-cluster --resume r1" in text


@pytest.mark.parametrize(
    ("first", "change", "finding"),
    [
        (3, _merged, "The Puppet change change-1 is merged before stage 3."),
        (5, lambda world: None, "Still pooled in here: search, shop."),
        (7, _depooled, "Puppet is enabled on cp1, cp2, w1, w2."),
        (9, _all(_depooled, _everywhere_disabled), "The Puppet change change-1 is not merged before stage 9."),
        (14, _all(_depooled, _merged), "names the old etcd."),
    ],
)
def test_what_is_said_to_be_done_by_hand_is_not_believed(tmp_path, first, change, finding):
    world = World()
    change(world)
    text = said(world, tmp_path, options=asked(from_stage=first))
    assert f"Stages 0 to {first - 1} are taken as done by hand." in text
    stops = findings(text, "stop")
    assert any(stop.startswith(finding) or stop.endswith(finding) for stop in stops), stops


@pytest.mark.parametrize(
    ("first", "change"),
    [(7, _all(_depooled, _everywhere_disabled)), (9, _all(_depooled, _everywhere_disabled, _merged))],
)
def test_what_was_done_by_hand_is_taken_for_done(tmp_path, first, change):
    world = World()
    change(world)
    assert findings(said(world, tmp_path, options=asked(from_stage=first)), "stop") == []


def test_an_etcd_that_is_said_to_be_lost_and_is_well_is_not_given_up(tmp_path):
    export = tmp_path / "calico.json"
    export.write_text(contents.to_json(ALL_CALICO), encoding="utf-8")
    world = World()
    lost = {"options": asked(calico_export=str(export))}
    assert findings(said(world, tmp_path, **lost), "stop") == ["The old etcd is well."]
    world.ill[OLD] = "no leader"
    again = World()
    again.ill[OLD] = "no leader"
    text = said(again, tmp_path, **lost)
    assert findings(text, "stop") == []
    assert "There will be no rollback: the old etcd is taken for lost (--calico-export)." in findings(text, "ask")
