"""Discovery records, with conftool as it is and a real etcd of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.discovery import Discovery, DiscoveryError, last_one
from fleet.config.reinitialize import DiscoveryConfig
from support.apiserver import eventually
from support.etcd_v2 import EtcdV2
from support.places import CONFIG
from support.ports import free_port

STATES = {"api": {"here": True, "there": True}, "web.x": {"here": True, "there": False}, "webxx": {"here": False}}


class Store(EtcdV2):
    """An etcd with the v2 API, and conftool's files that lead to it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.keys = f"{self.url}/v2/keys/conftool/v1/discovery"
        self.config = self.write("config", self.port)

    def write(self, name: str, port: int, schema: str = "conftool-schema.yaml") -> DiscoveryConfig:
        config = yaml.safe_load((CONFIG / "conftool.yaml").read_text())
        config["driver_options"]["etcd_config_file"] = str(self.folder / f"{name}.etcd")
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
        etcd = {"host": "127.0.0.1", "port": port, "protocol": "http", "read_timeout": 2}
        (self.folder / f"{name}.etcd").write_text(yaml.safe_dump(etcd))
        return DiscoveryConfig(
            config_file=self.folder / f"{name}.yaml",
            schema_file=CONFIG / schema,
            datacenter="here",
            services=("api",),
        )

    def fill(self) -> None:
        for service, states in STATES.items():
            for datacenter, pooled in states.items():
                value = json.dumps({"pooled": pooled, "references": ["x"], "ttl": 10})
                requests.put(f"{self.keys}/{service}/{datacenter}", {"value": value}, timeout=5).raise_for_status()

    def value(self, service: str, datacenter: str) -> dict[str, object]:
        answer = requests.get(f"{self.keys}/{service}/{datacenter}", timeout=5).json()
        found: dict[str, object] = json.loads(answer["node"]["value"])
        return found


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(tmp_path_factory.mktemp("conftool"))
    try:
        eventually(store.ready)
        yield store
    finally:
        store.process.kill()
        store.process.wait()


@pytest.fixture
def store(etcd: Store) -> Store:
    etcd.fill()
    return etcd


def test_records_are_read_and_one_alone_is_set(store: Store) -> None:
    discovery = Discovery(store.config, dry_run=False)
    assert discovery.pooled(list(STATES)) == STATES
    assert discovery.pooled(["web.x"]) == {"web.x": STATES["web.x"]}

    discovery.set("web.x", "here", pooled=False)
    discovery.set("web.x", "here", pooled=False)
    discovery.set("web.x", "there", pooled=True)

    changed = {**STATES, "web.x": {"here": False, "there": True}}
    assert discovery.pooled(list(STATES)) == changed
    assert store.value("web.x", "here") == {"pooled": False, "references": ["x"], "ttl": 10}


def test_a_dry_run_reads_and_sets_nothing(store: Store) -> None:
    discovery = Discovery(store.config, dry_run=True)
    discovery.set("api", "here", pooled=False)
    assert discovery.pooled(["api"]) == {"api": STATES["api"]}


def test_what_there_is_not_is_named(store: Store) -> None:
    discovery = Discovery(store.config, dry_run=False)
    with pytest.raises(DiscoveryError, match=r"no discovery record for absent: see discovery\.services"):
        discovery.pooled(["api", "absent"])
    with pytest.raises(DiscoveryError, match="no discovery records for absent: No match found"):
        discovery.pooled(["absent"])
    with pytest.raises(
        DiscoveryError, match="did not set api's discovery record in elsewhere to pooled=False: No match"
    ):
        discovery.set("api", "elsewhere", pooled=False)
    with pytest.raises(DiscoveryError, match="did not set webyx's"):
        discovery.set("webyx", "here", pooled=False)


def test_files_and_servers_that_are_of_no_use_are_named(store: Store, tmp_path: Path) -> None:
    down = Discovery(store.write("down", free_port()), dry_run=False)
    with pytest.raises(DiscoveryError, match="no discovery records for api"):
        down.pooled(["api"])
    with pytest.raises(DiscoveryError, match=r"conftool.yaml does not have conftool's type discovery"):
        Discovery(store.write("other", store.port, schema="conftool.yaml"), dry_run=False)
    wrong = store.config.model_copy(update={"config_file": tmp_path / "wrong.yaml"})
    for text, message in (("colour: red", "unexpected keyword argument 'colour'"), ("driver: x", "its driver or its")):
        wrong.config_file.write_text(text)
        with pytest.raises(DiscoveryError, match=rf"Conftool cannot be used with .*wrong\.yaml: .*{message}"):
            Discovery(wrong, dry_run=False)


NAMES = st.sampled_from(["here", "there", "elsewhere"])


@given(st.dictionaries(st.sampled_from(["api", "web"]), st.dictionaries(NAMES, st.booleans())))
def test_without_the_last_one_a_service_would_be_nowhere(states):
    found = last_one(states, "here")
    for service, pooled in states.items():
        left = {name for name, there in pooled.items() if there} - {"here"}
        assert (service in found) == (not left)
