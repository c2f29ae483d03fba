"""The lab's stand-in for calicoctl: what it takes, what it prints, what it refuses."""

import io
import json
import sys
from typing import Any

import pytest
import yaml

from fleet_lab.guest import calicoctl
from fleet_lab.roles.calico_datastore import contents
from fleet_lab.topology import DEFAULT, load


class Store(calicoctl.Datastore):
    """A datastore in memory."""

    def __init__(self) -> None:
        super().__init__({})
        self.keys: dict[str, str] = {}

    def _etcdctl(self, *words: str, given: str = "") -> dict[str, Any]:
        raise AssertionError("etcd is not to be asked")

    def read(self, kind: str, name: str = "") -> list[dict[str, Any]]:
        prefix = f"{calicoctl.PREFIX}/{calicoctl.KINDS[kind][0]}/{name}"
        return [json.loads(text) for key, text in self.keys.items() if key.startswith(prefix)]

    def create(self, resource: dict[str, Any]) -> bool:
        new = self._key(resource) not in self.keys
        return bool(new and self.keys.setdefault(self._key(resource), json.dumps(resource)))

    def replace(self, resource: dict[str, Any]) -> None:
        self.keys[self._key(resource)] = json.dumps(resource)

    def delete(self, kind: str, name: str) -> bool:
        key = self._key({"kind": kind, "metadata": {"name": name}})
        return self.keys.pop(key, None) is not None


@pytest.fixture
def store() -> Store:
    return Store()


def run(store: Store, monkeypatch: pytest.MonkeyPatch, words: str, given: object = None) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(given if isinstance(given, str) else yaml.safe_dump(given)))
    options = calicoctl.parser().parse_args(words.split())
    (calicoctl.show if options.command == "get" else calicoctl.change)(store, options)


LAB = contents(load(DEFAULT))
POOL = {"apiVersion": calicoctl.VERSION, "kind": "IPPool", "metadata": {"name": "a"}, "spec": {"cidr": "10.0.0.0/16"}}


def test_the_labs_datastore_is_that_of_its_routers_and_networks() -> None:
    found = {(item["kind"], item["metadata"]["name"]): item["spec"] for item in LAB}
    assert found["BGPConfiguration", "default"]["asNumber"] == 64601
    assert found["BGPConfiguration", "default"]["nodeToNodeMeshEnabled"] is False
    assert found["BGPPeer", "cr2-ipv6"] == {"peerIP": "fd00:77::1a", "asNumber": 65000}
    assert found["IPPool", "default-ipv4-ippool"]["cidr"] == "10.78.0.0/16"
    assert ("Profile", "kns.kube-system") in found
    assert len([kind for kind, _ in found if kind == "BGPPeer"]) == 4


def test_what_get_prints_can_be_created_elsewhere(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(store, monkeypatch, "create -f -", LAB)
    assert capsys.readouterr().out == f"Successfully created {len(LAB)} resource(s)\n"
    assert "/calico/resources/v3/projectcalico.org/bgppeers/cr1-ipv4" in store.keys
    other = Store()
    for kind in ("bgpConfig", "bgppeers", "ipPool", "profile"):
        for output in ("yaml", "json"):
            run(store, monkeypatch, f"get {kind} --output={output}")
            run(other, monkeypatch, "create --skip-exists -f -", capsys.readouterr().out)
            capsys.readouterr()
    assert {key: json.loads(text) for key, text in other.keys.items()} == {
        key: json.loads(text) for key, text in store.keys.items()
    }


def test_one_that_is_named_is_printed_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(store, monkeypatch, "apply -f -", POOL)
    capsys.readouterr()
    run(store, monkeypatch, "get ippool a -o yaml")
    assert yaml.safe_load(capsys.readouterr().out)["spec"] == POOL["spec"]
    run(store, monkeypatch, "get ippool -o yaml")
    assert yaml.safe_load(capsys.readouterr().out)["kind"] == "IPPoolList"
    run(store, monkeypatch, "get ippools")
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["NAME", "CIDR", "SELECTOR"],
        ["a", "10.0.0.0/16"],
    ]


def test_what_is_there_is_applied_and_not_created(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run(store, monkeypatch, "create -f -", POOL)
    before = store.read("IPPool", "a")[0]
    changed = POOL | {"spec": {"cidr": "10.1.0.0/16"}}
    with pytest.raises(calicoctl.Failure, match=r"Failed to create 'IPPool' .*already exists: IPPool\(a\)"):
        run(store, monkeypatch, "create -f -", changed)
    run(store, monkeypatch, "create --skip-exists -f -", changed)
    assert store.read("IPPool", "a") == [before]
    run(store, monkeypatch, "apply -f -", changed)
    assert store.read("IPPool", "a") == [before | {"spec": {"cidr": "10.1.0.0/16"}}]
    run(store, monkeypatch, "delete ippool a")
    with pytest.raises(calicoctl.Failure, match="resource does not exist"):
        run(store, monkeypatch, "delete ippool a")


@pytest.mark.parametrize(
    ("words", "given", "message"),
    [
        ("create -f -", {**POOL, "metadata": {"name": "a", "resourceVersion": "5"}}, "ResourceVersion = '5'"),
        ("create -f -", {**POOL, "kind": "Tier"}, r"Unknown resource type \(Tier\)"),
        ("create -f -", {**POOL, "apiVersion": "v1"}, r"and/or version \(v1\)"),
        ("create -f -", "", "No resources specified"),
        ("get node", None, "'node' is not supported"),
        ("get profile a", None, r"resource does not exist: Profile\(a\)"),
        ("create -f -", [POOL, POOL], r"Hit error: \[resource already exists"),
    ],
)
def test_what_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, words: str, given: object, message: str
) -> None:
    with pytest.raises(calicoctl.Failure, match=message):
        run(store, monkeypatch, words, given)
