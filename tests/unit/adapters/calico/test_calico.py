"""Calico's datastore: calicoctl's configuration, what it prints, what has to be written, and how it is run."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.adapters.calico import config, contents
from fleet.adapters.calico.config import ApiConfig, CalicoError
from fleet.adapters.calico.contents import CONFIGURATION, KINDS, PEER, POOL, PROFILE, Contents, Resource
from fleet.adapters.calico.datastore import Datastore
from fleet.config.certificates import Certificates
from fleet.config.reinitialize import CalicoConfig
from fleet.execution import Result

FILE = """\
# Puppet's
apiVersion: projectcalico.org/v3
kind: CalicoAPIConfig
metadata: {}
spec:
  datastoreType: etcdv3
  etcdEndpoints: "https://etcd1:2379, https://etcd2:2379"
  etcdKeyFile: /etc/calico/key.pem
  etcdCertFile: /etc/calico/cert.pem
  etcdCACertFile: /etc/calico/ca.pem
"""
NEW = ("https://etcd4:2379", "https://etcd5:2379")

# As calicoctl 3 prints them: with what the datastore adds, and null for a list without any.
CONFIGURATIONS = """{
  "kind": "BGPConfigurationList",
  "apiVersion": "projectcalico.org/v3",
  "metadata": {"resourceVersion": "6152496"},
  "items": [
    {
      "kind": "BGPConfiguration",
      "apiVersion": "projectcalico.org/v3",
      "metadata": {
        "name": "default",
        "uid": "631aa7d6-4efc-11e8-92d5-06982eb5f90e",
        "resourceVersion": "4519634",
        "creationTimestamp": "2018-05-03T18:04:13Z"
      },
      "spec": {"logSeverityScreen": "Info", "nodeToNodeMeshEnabled": false, "asNumber": 64601}
    }
  ]
}"""
POOLS = """{
  "kind": "IPPoolList",
  "apiVersion": "projectcalico.org/v3",
  "metadata": {"resourceVersion": "2306"},
  "items": [
    {
      "kind": "IPPool",
      "apiVersion": "projectcalico.org/v3",
      "metadata": {
        "name": "default-ipv4-ippool",
        "uid": "0ba1e107-0582-4b7b-b99f-f7105525e987",
        "resourceVersion": "763",
        "creationTimestamp": "2020-08-10T16:59:28Z",
        "labels": {"row": "a"}
      },
      "spec": {
        "cidr": "192.168.0.0/16", "vxlanMode": "Never", "ipipMode": "Never", "blockSize": 26, "nodeSelector": "all()"
      }
    }
  ]
}"""
PEERS = (
    POOLS.replace("IPPool", "BGPPeer")
    .replace("default-ipv4-ippool", "cr1-ipv4")
    .replace('"cidr": "192.168.0.0/16", "vxlanMode": "Never", "ipipMode": "Never", "blockSize": 26, ', "")
    .replace('"nodeSelector": "all()"', '"peerIP": "10.0.0.2", "asNumber": 64600')
)
NOTHING = '{"kind": "ProfileList", "apiVersion": "projectcalico.org/v3", "metadata": {}, "items": null}'
SAID = {CONFIGURATION: CONFIGURATIONS, POOL: POOLS, PEER: PEERS, PROFILE: NOTHING}

PEER1 = Resource(PEER, "cr1-ipv4", {"peerIP": "10.0.0.2", "asNumber": 64600}, {"labels": {"row": "a"}})
OLD = contents.gather(resource for text in SAID.values() for resource in contents.parse(text))
WANTED = contents.transfer(OLD, ["kube-system"])

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
LABELS = st.fixed_dictionaries({}, optional={"labels": st.dictionaries(st.text(), st.text(), min_size=1, max_size=2)})
RESOURCES = st.builds(
    Resource,
    kind=st.sampled_from(KINDS),
    name=st.sampled_from(["default", "a", "b", "kns.c"]),
    spec=st.dictionaries(st.sampled_from(["asNumber", "peerIP", "x"]), JSON_VALUES, max_size=3),
    metadata=LABELS,
)
CONTENTS = st.lists(RESOURCES, unique_by=lambda one: (one.kind, one.name), max_size=8).map(contents.gather)


def test_the_file_of_calicoctl_is_read():
    files = Certificates(
        ca=Path("/etc/calico/ca.pem"), cert=Path("/etc/calico/cert.pem"), key=Path("/etc/calico/key.pem")
    )
    assert config.parse(FILE) == ApiConfig(("https://etcd1:2379", "https://etcd2:2379"), files)
    assert config.parse(json.dumps(yaml.safe_load(FILE))) == config.parse(FILE)


def test_an_etcd_without_tls_needs_no_files():
    text = "".join(line for line in FILE.splitlines(keepends=True) if "File" not in line)
    assert config.parse(text) == ApiConfig(("https://etcd1:2379", "https://etcd2:2379"), None)


def test_another_etcd_changes_the_endpoints_alone():
    before, after = yaml.safe_load(FILE), yaml.safe_load(config.derive(FILE, NEW))
    assert after["spec"].pop("etcdEndpoints") == "https://etcd4:2379,https://etcd5:2379"
    del before["spec"]["etcdEndpoints"]
    assert after == before
    assert config.parse(config.derive(FILE, NEW)) == replace(config.parse(FILE), endpoints=NEW)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("datastoreType: etcdv3", "datastoreType: kubernetes", "spec.datastoreType kubernetes"),
        ("kind: CalicoAPIConfig", "kind: Config", "not the kind CalicoAPIConfig"),
        ("etcdEndpoints", "etcdEndpoint", "no spec.etcdEndpoints"),
        ("https://etcd1:2379, https://etcd2:2379", " , ", "no spec.etcdEndpoints"),
        ("etcdCertFile", "other", "no spec.etcdCertFile"),
        ("etcdKeyFile: /etc", "etcdPassword: /etc", "spec.etcdPassword, which would show"),
        ("etcdKeyFile: /etc", "etcdDiscoverySrv: /etc", "spec.etcdDiscoverySrv"),
        ("spec:", "specs:", "no spec"),
        ("kind:", "kind: [", "is no YAML"),
        (FILE, "", "not the kind"),
        (FILE, "[]", "not the kind"),
    ],
)
def test_a_file_that_is_of_no_use_is_refused(old, new, why):
    with pytest.raises(CalicoError, match=why) as caught:
        config.parse(FILE.replace(old, new))
    assert "\n" not in str(caught.value)
    assert "key.pem" not in str(caught.value)


def test_a_file_of_no_use_leads_to_no_other_etcd():
    with pytest.raises(CalicoError, match=r"spec\.etcdPassword"):
        config.derive(FILE.replace("etcdKeyFile", "etcdPassword"), NEW)
    with pytest.raises(CalicoError, match=r"no spec\.etcdEndpoints"):
        config.derive(FILE, [])


def test_what_calicoctl_prints_is_read_without_what_the_datastore_adds():
    assert OLD.peers == (PEER1,)
    assert (OLD.as_number, OLD.mesh) == (64601, False)
    assert OLD.pools[0].spec["cidr"] == "192.168.0.0/16"
    assert OLD.profiles == ()
    (one,) = contents.parse(json.dumps(json.loads(PEERS)["items"][0]))
    assert one == PEER1
    assert (Contents().as_number, Contents().mesh) == (None, True)


@pytest.mark.parametrize("text", ["", "null", "7", "{}", '[{"kind": "Node"}]', '{"kind": "BGPPeer", "metadata": {}}'])
def test_what_cannot_be_read_are_no_resources(text):
    with pytest.raises(CalicoError, match="no resources of Calico"):
        contents.parse(text)
    with pytest.raises(CalicoError, match="no resources of Calico"):
        contents.parse(PEERS.replace("BGPPeer", "FelixConfiguration"))


def test_two_of_a_name_are_refused():
    with pytest.raises(CalicoError, match="two of BGPPeer cr1-ipv4"):
        contents.from_json(json.dumps([PEER1.manifest(), PEER1.manifest()]))


@given(CONTENTS)
@settings(deadline=None)
def test_an_export_is_read_as_it_was(found):
    assert contents.from_json(contents.to_json(found)) == found


@given(CONTENTS)
@settings(deadline=None)
def test_nothing_differs_from_itself(found):
    assert contents.differences(found, found) == []
    assert contents.missing(found, found) == ()


@given(CONTENTS, CONTENTS)
@settings(deadline=None)
def test_what_is_missing_makes_it_what_is_wanted_and_changes_nothing_that_is_set(wanted, found):
    try:
        written = contents.missing(wanted, found)
    except CalicoError:
        assert contents.differences(wanted, found) != []
        return
    after = {str(one): one for one in found.resources} | {str(one): one for one in written}
    assert contents.differences(wanted, contents.gather(after.values())) == []
    for before in found.resources:
        assert before.spec.items() <= after[str(before)].spec.items()
    assert contents.missing(wanted, contents.gather(after.values())) == ()


@given(CONTENTS)
@settings(deadline=None)
def test_an_empty_datastore_can_always_be_filled(wanted):
    assert contents.missing(wanted, Contents()) == wanted.resources


@given(CONTENTS, st.data())
@settings(deadline=None)
def test_a_crash_while_it_is_written_does_no_harm(wanted, data):
    count = data.draw(st.integers(0, len(wanted.resources)))
    written = contents.gather(wanted.resources[:count])
    assert contents.missing(wanted, written) == wanted.resources[count:]


def test_differences_are_told_by_field():
    pool = replace(OLD.pools[0], spec={**OLD.pools[0].spec, "blockSize": 27, "disabled": True})
    other = replace(PEER1, spec={"peerIP": "10.0.0.1"}, metadata={})
    found = Contents(peers=(other, replace(PEER1, name="cr9")), pools=(pool,))
    assert contents.differences(WANTED, found) == [
        "BGPConfiguration default is missing",
        "IPPool default-ipv4-ippool: blockSize is 27, not 26",
        "IPPool default-ipv4-ippool: disabled is true, and should not be set",
        'BGPPeer cr1-ipv4: labels is not set, and should be {"row": "a"}',
        "BGPPeer cr1-ipv4: peerIP is 10.0.0.1, not 10.0.0.2",
        "BGPPeer cr1-ipv4: asNumber is not set, and should be 64600",
        "Profile kns.kube-system is missing",
        "BGPPeer cr9 is there, and should not be",
    ]


def test_a_profile_that_calico_took_over_is_the_default_one_still():
    (profile,) = WANTED.profiles
    rule = {"action": "Allow"}
    taken = {"ingress": [rule], "egress": [rule], "labelsToApply": {"pcns.projectcalico.org/name": "kube-system"}}
    found = replace(WANTED, profiles=(replace(profile, spec=taken), replace(profile, name="kns.default")))
    assert contents.differences(WANTED, found) == []
    closed = replace(profile, spec={**taken, "egress": [{"action": "Deny"}]})
    assert len(contents.differences(WANTED, replace(WANTED, profiles=(closed,)))) == 1


def test_what_a_new_datastore_gets():
    assert replace(OLD, profiles=(contents.default_profile("kube-system"),)) == WANTED
    (profile,) = WANTED.profiles
    assert profile.name == "kns.kube-system"
    assert [rule["action"] for side in ("ingress", "egress") for rule in profile.spec[side]] == ["Allow", "Allow"]


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"asNumber": 64601}, "mesh is on"),
        ({"asNumber": 64601, "nodeToNodeMeshEnabled": True}, "mesh is on"),
        ({"nodeToNodeMeshEnabled": False}, "no BGPConfiguration default with an asNumber"),
    ],
)
def test_an_old_datastore_that_cannot_be_the_right_one_is_not_moved(spec, why):
    with pytest.raises(CalicoError, match=why):
        contents.transfer(replace(OLD, configurations=(Resource(CONFIGURATION, "default", spec),)), [])


def test_the_default_configuration_gets_what_it_lacks_alone():
    def found(**spec: object) -> Contents:
        return Contents(configurations=(Resource(CONFIGURATION, "default", spec),))

    (written,) = contents.missing(replace(OLD, peers=(), pools=()), found(logSeverityScreen="Info"))
    assert written.spec == OLD.configurations[0].spec
    with pytest.raises(CalicoError, match="BGPConfiguration default: asNumber is 64999, not 64601"):
        contents.missing(OLD, found(asNumber=64999))
    with pytest.raises(CalicoError, match="BGPConfiguration default: listenPort is 178, and should not be set"):
        contents.missing(OLD, found(listenPort=178))


class Host:
    """A host whose calicoctl says what it is told to, and which keeps the commands that run it, or read its file."""

    def __init__(self, said: dict[str, str] | str, *, code: int | None = 0, dry_run: bool = False) -> None:
        self.said = said
        self.code = code
        self.dry_run = dry_run
        self.commands: list[str] = []
        self.readings: list[str] = []

    def run(self, hosts, command, *, timeout, safe):
        if self.dry_run and not safe:
            return {}
        if "fleet-calico-file=" in command:
            self.readings.append(command)
            return dict.fromkeys(hosts, Result(0, f"Hello\nfleet-calico-file={_encode(FILE)}"))
        self.commands.append(command)
        text = self.said if isinstance(self.said, str) else self.lines(self.said)
        return dict.fromkeys(hosts, Result(self.code, text))

    @staticmethod
    def lines(said: dict[str, str]) -> str:
        return "\n".join(["Hello", *(f"fleet-calico-{kind}={_encode(text)}" for kind, text in said.items()), "Bye"])


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_an_etcd_is_read_in_one_execution_with_a_private_file():
    host = Host(SAID, dry_run=True)
    assert Datastore(host, "w1", CalicoConfig(file=Path("/etc/a b/calicoctl.cfg")), NEW).read() == OLD
    (reading,), (command,) = host.readings, host.commands
    assert "'/etc/a b/calicoctl.cfg'" in reading
    assert "https://etcd4:2379,https://etcd5:2379" in command
    assert "mktemp" in command


@pytest.mark.parametrize("missing", KINDS)
def test_an_answer_that_is_cut_off_is_no_empty_datastore(missing):
    said = {kind: text for kind, text in SAID.items() if kind != missing}
    with pytest.raises(CalicoError):
        Datastore(Host(said), "w1", CalicoConfig(), NEW).read()


def test_what_calicoctl_says_of_its_failure_is_told_in_a_line():
    text = "Version mismatch.\nClient Version:   v3.20\nUse --allow-version-mismatch to override.\n"
    with pytest.raises(CalicoError) as caught:
        Datastore(Host(text, code=1), "w1", CalicoConfig(), NEW).read()
    assert str(caught.value) == (
        "Calico's datastore at https://etcd4:2379, https://etcd5:2379 cannot be read with calicoctl on w1: Version"
        " mismatch. Client Version: v3.20 Use --allow-version-mismatch to override."
    )
    with pytest.raises(CalicoError, match=r"etcd5:2379 cannot be read .* no answer within 60 s"):
        Datastore(Host("no answer within 60 s", code=None), "w1", CalicoConfig(), NEW).read()


def test_nothing_is_written_if_nothing_is_missing():
    complete = {**SAID, PROFILE: json.dumps(contents.default_profile("kube-system").manifest())}
    host = Host(complete)
    assert Datastore(host, "w1", CalicoConfig(), NEW).write(WANTED) == []
    assert len(host.commands) == 1


def test_only_what_is_missing_is_written():
    host = Host(SAID)
    assert Datastore(host, "w1", CalicoConfig(), NEW).write(WANTED) == ["Profile kns.kube-system"]
    _, command = host.commands
    assert command.count("| calico create --filename=-") == 1
    assert '"kind": "ProfileList"' in command


def test_a_command_line_does_not_become_too_long():
    peers = tuple(replace(PEER1, name=f"node{number}") for number in range(1200))
    host = Host(SAID)
    assert len(Datastore(host, "w1", CalicoConfig(), NEW).write(replace(OLD, peers=(*OLD.peers, *peers)))) == 1200
    assert sum(command.count('"BGPPeer"') for command in host.commands) == 1200
    assert max(map(len, host.commands)) < 50_000


def test_a_dry_run_says_what_would_be_written():
    host = Host(SAID, dry_run=True)
    assert Datastore(host, "w1", CalicoConfig(), NEW).write(WANTED) == ["Profile kns.kube-system"]
    assert len(host.commands) == 1


def test_nothing_is_written_into_a_datastore_that_holds_something_else():
    host = Host({**SAID, PEER: PEERS.replace("10.0.0.2", "10.0.0.9")})
    with pytest.raises(CalicoError, match=r"left alone: BGPPeer cr1-ipv4: peerIP is 10\.0\.0\.9, not 10\.0\.0\.2\. "):
        Datastore(host, "w1", CalicoConfig(), NEW).write(WANTED)
    assert len(host.commands) == 1
