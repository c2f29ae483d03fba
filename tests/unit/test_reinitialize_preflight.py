"""The preflight of a re-initialisation in a world in memory: one thing is wrong at a time, and it is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleet.calico import contents
from fleet.procedures.maintenance import Refused
from fleet.procedures.reinitialize.runs import Wish
from fleet.session import DONE
from reinitialize_hosts import API, BY_HAND, CALICO, CALICO_FILE, DEFAULTS, KUBELET, NEW, OLD
from reinitialize_sessions import Play
from reinitialize_world import ALL_CALICO, World, config

Change = Callable[[World], None]


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


def wish(**options: Any) -> Wish:
    return Wish("new", "change-1", **options)


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
        (_attribute("ill", NEW, "etcd5 does not answer"), "new is not well: etcd5 does not answer."),
        (_attribute("ill", OLD, "no leader"), "The old etcd is not well: no leader."),
        (_attribute("unreached", "cp2", "refused"), "cp2, with kube-apiserver's certificates: refused."),
        (_attribute("unreached", "w1", "refused"), "w1, with Calico's certificates: refused."),
        (_there("/registry/a"), "new is not empty: 1 keys, such as /registry/a."),
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
        (_away("w2"), {"wish": wish(max_failed=1)}, "No answer over SSH from w2."),
        (_there("/registry/a"), {"wish": wish(reuse="new")}, "new is not empty: 1 keys, such as /registry/a."),
        (_depooled, {}, "No service is pooled in here."),
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
            "new has 1 hosts and 2 endpoints.",
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
        ({"wish": wish(from_stage=4), "merged": True}, "The Puppet change change-1 is merged before stage 4."),
    ],
)
def test_what_the_configuration_has_wrong_keeps_the_run_from_starting(tmp_path, options, finding):
    world = World()
    world.merged = options.pop("merged", False)
    stops = findings(said(world, tmp_path, **options), "stop")
    assert any(stop.startswith(finding) for stop in stops), stops


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
    text = said(world, tmp_path, wish=wish(from_stage=first))
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
    assert findings(said(world, tmp_path, wish=wish(from_stage=first)), "stop") == []


def test_an_etcd_that_is_said_to_be_lost_and_is_well_is_not_given_up(tmp_path):
    export = tmp_path / "calico.json"
    export.write_text(contents.to_json(ALL_CALICO), encoding="utf-8")
    world = World()
    lost = {"wish": wish(calico_export=str(export))}
    assert findings(said(world, tmp_path, **lost), "stop") == ["The old etcd is well."]
    world.ill[OLD] = "no leader"
    again = World()
    again.ill[OLD] = "no leader"
    text = said(again, tmp_path, **lost)
    assert findings(text, "stop") == []
    assert "There will be no way back: the old etcd is taken for lost (--calico-export)." in findings(text, "ask")
