"""The configuration: what is read, and every mistake in it."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fleet.config.consistency import contradictions
from fleet.config.file import ConfigError
from fleet.config.loading import load
from fleet.config.model import Config
from fleet.config.types import parse_amount, parse_duration
from fleet.paths import default_path
from support.places import CONFIG

EXAMPLE = CONFIG / "fleet.yaml"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    return path


def mistakes(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]


@dataclass(frozen=True)
class Shown:
    """A key in the example: where it is, what a program and a person read there."""

    place: str
    field: FieldInfo
    value: object
    comment: str

    @property
    def is_default(self) -> bool:
        return not self.field.is_required() and self.value == self.field.get_default(call_default_factory=True)

    @property
    def has_keys(self) -> bool:
        """Whether it is a section with a default, of which each key has to be shown for itself."""
        return isinstance(self.value, BaseModel) and not self.field.is_required() and self.field.default is not None


def shown(model: BaseModel, node: yaml.MappingNode, lines: list[str], place: str = "") -> Iterator[Shown]:
    """Return all keys of a section and of those below it."""
    nodes = {key.value: (key, value) for key, value in node.value}
    fields = type(model).model_fields
    # An alternative to what is shown is there as a comment.
    alternatives = {name for name in fields if any(re.match(rf" *# {name}:", line) for line in lines)}
    assert set(fields) - alternatives <= set(nodes), place
    for name, (key, value_node) in nodes.items():
        value, below = getattr(model, name), f"{place}.{name}".removeprefix(".")
        comment: list[str] = []
        for line in reversed(lines[: key.start_mark.line]):
            if not line.startswith(" " * key.start_mark.column + "#"):
                break
            comment.insert(0, line.strip(" #"))
        yield Shown(below, fields[name], value, " ".join(comment))
        if isinstance(value, BaseModel):
            yield from shown(value, value_node, lines, below)
        elif isinstance(value, dict) and value and isinstance(first := next(iter(value.values())), BaseModel):
            # What is said of the first one counts for all.
            yield from shown(first, value_node.value[0][1], lines, f"{below}.{value_node.value[0][0].value}")


def wrong(one: Shown) -> str:
    """Return what is wrong with the comment of a key; nothing if it keeps the promise in the example's first lines."""
    if one.field.is_required():
        return "" if one.comment.startswith("Required.") else "is required, and not marked so"
    if one.is_default or one.has_keys:
        return "is marked as required, and is not" if one.comment.startswith("Required") else ""
    told = re.search(r"\b(By default|Without this|Required (here|is one of the two))\b", one.comment)
    return "" if told else "is shown with another value than its default, and its comment does not say so"


def examples(text: str) -> list[Shown]:
    node = yaml.compose(text)
    assert isinstance(node, yaml.MappingNode)
    return list(shown(Config.model_validate(yaml.safe_load(text)), node, text.splitlines()))


def promises_broken(text: str) -> list[str]:
    return [f"{one.place} {problem}" for one in examples(text) if (problem := wrong(one))]


def test_the_example_shows_every_key_with_its_default_or_says_that_it_does_not() -> None:
    text = EXAMPLE.read_text()

    assert promises_broken(text) == []
    places = {one.place for one in examples(text)}
    assert {
        "state_dir",
        "clusters.lab.bgp.routers.cr1.port",
        "clusters.lab.reinitialize.etcds.lab-b.endpoints",
    } < places


@pytest.mark.parametrize(
    ("old", "new", "broken"),
    [
        (
            "# Required. The services that",
            "# The services that",
            "clusters.lab.reinitialize.services is required, and not marked so",
        ),
        (
            "# Where every kube-apiserver",
            "# Required. Where every kube-apiserver",
            "clusters.lab.control_plane.port is marked as required, and is not",
        ),
        (
            "max_failed: 0\n      # How often",
            "max_failed: 1\n      # How often",
            "clusters.lab.limits.max_failed is shown with another value than its default, and its comment does not say"
            " so",
        ),
    ],
)
def test_an_example_that_does_not_keep_its_promise_is_found_out(old: str, new: str, broken: str) -> None:
    text = EXAMPLE.read_text()
    assert text.count(old) == 1
    assert promises_broken(text.replace(old, new)) == [broken]


def test_an_example_without_a_key_is_found_out() -> None:
    text = EXAMPLE.read_text()
    assert text.count("      max_domains: 1\n      # Failed nodes") == 1
    with pytest.raises(AssertionError, match=r"clusters\.lab\.limits"):
        examples(text.replace("      max_domains: 1\n      # Failed nodes", "      # Failed nodes"))


def test_ten_mistakes_are_named_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        state_dir: runs
        colour: blue
        clusters:
          lab/1:
            kubeconfig: /k
            hosts: {workers: a, control_plane: b}
          lab:
            hosts: {workers: " "}
            node_names: short-ish
            limits: {max_unavailable: 0, max_failed: -1}
            deadlines: {drain: 900, reboot: soon}
            drain:
            alerts: {label: a-b, matchers: ['site=eqiad', 'nonsense']}
            lease: {name: Fleet}
        """,
    )

    assert {line.split(": ")[0] for line in mistakes(path)} == {
        "state_dir",
        "colour",
        "clusters.lab/1",
        "clusters.lab.kubeconfig",
        "clusters.lab.hosts.workers",
        "clusters.lab.hosts.control_plane",
        "clusters.lab.node_names",
        "clusters.lab.limits.max_unavailable",
        "clusters.lab.limits.max_failed",
        "clusters.lab.deadlines.drain",
        "clusters.lab.deadlines.reboot",
        "clusters.lab.drain",
        "clusters.lab.alerts.label",
        "clusters.lab.alerts.matchers.1",
        "clusters.lab.lease.name",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping"),
        ("- a", "must be a mapping"),
        ("a: [", "is no YAML: "),
        ("state_dir: /a\nstate_dir: /b", "the key state_dir is there twice"),
        ("? [a]\n: b", "is no YAML: "),
        ("state_dir: /a\nclusters: {}", "needs clusters or groups"),
        ("state_dir: /a", "needs clusters or groups"),
        ("clusters: {a: 1}", "clusters.a: must be a mapping"),
        ("clusters: {1: {}}", 'line 1: the key 1 means a number in YAML: write it in quotes, "1"'),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    assert any(message in line for line in mistakes(write(tmp_path, text)))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert mistakes(tmp_path / "none") == ["cannot be read: No such file or directory"]
    assert mistakes(tmp_path) == ["cannot be read: Is a directory"]
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    assert mistakes(binary)[0].startswith("is no YAML")


def test_unknown_clusters() -> None:
    with pytest.raises(ConfigError, match=r"no cluster 'x' in the configuration. It has: lab"):
        load(EXAMPLE).cluster("x")


def test_where_the_configuration_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEET_CONFIG", raising=False)
    assert default_path() == Path("/etc/spicerack/fleet/config.yaml")
    assert default_path(Path("/x")) == Path("/x/fleet/config.yaml")
    monkeypatch.setenv("FLEET_CONFIG", "/y")
    assert default_path(Path("/x")) == Path("/y")


def test_settings_cannot_be_changed() -> None:
    config: Any = load(EXAMPLE)
    with pytest.raises(ValueError, match="frozen"):
        config.state_dir = Path("/x")


UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@given(
    parts=st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(sorted(UNITS))), min_size=1, max_size=5).filter(
        lambda parts: any(number for number, _ in parts)
    )
)
def test_durations(parts: list[tuple[int, str]]) -> None:
    expected = sum(number * UNITS[unit] for number, unit in parts)

    assert parse_duration("".join(f"{number}{unit}" for number, unit in parts)) == pytest.approx(expected)


@given(value=st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.lists(st.integers())))
def test_what_is_no_duration_is_refused_and_the_rest_is_positive(value: object) -> None:
    try:
        seconds = parse_duration(value)
    except ValueError:
        return
    assert isinstance(value, str)
    assert seconds > 0
    assert math.isfinite(seconds)


@pytest.mark.parametrize(
    "value", ["0s", "", "s", "90", 90, "-5m", "5 m", "1h 30m", "1e3s", "٣s", "9" * 400 + "d", "5M"]
)
def test_no_durations(value: object) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(value)[:100])):
        parse_duration(value)


@given(number=st.integers(1, 10**6), blank=st.sampled_from(["", " "]))
def test_amounts(number: int, blank: str) -> None:
    assert parse_amount(number) == number
    assert parse_amount(f"{blank}{number}{blank}") == number
    if number <= 100:
        assert parse_amount(f"{number}%") == f"{number}%"
    else:
        with pytest.raises(ValueError, match="above 100%"):
            parse_amount(f"{number}%")


@pytest.mark.parametrize("value", [0, "0", "0%", "00", -1, "-1", 1.5, "1.5", "%", "", None, True, "a", "٣", "9" * 5000])
def test_no_amounts(value: object) -> None:
    with pytest.raises(ValueError, match=r"is no amount|would let nothing be done"):
        parse_amount(value)


BARE = """\
state_dir: /runs
clusters:
  lab:
    kubeconfig: /k
    hosts: {workers: a, control_plane: b}
"""
BGP = "{routers: {cr1: {}}, username: u, known_hosts: /h, asn: 64601, %s}"


@pytest.mark.parametrize(
    ("bgp", "message"),
    [
        (BGP % "ssh_key: /k, password_file: /p", "bgp: needs either ssh_key or password_file"),
        (BGP % "stable: 1s", "bgp: needs either ssh_key or password_file"),
        (
            BGP.replace("cr1: {}", "cr1: {}, cr2: {address: cr1}") % "ssh_key: /k",
            "bgp: cr1 and cr2 are the same router",
        ),
        (BGP % "ssh_key: /k, families: []", "bgp.families: must not be empty"),
        (BGP % "ssh_key: /k, addresses: {w1: [worker1]}", "bgp.addresses.w1.0: 'worker1' is no IP address"),
        (BGP % "ssh_key: /k, unit: calico-node", "bgp.unit: 'calico-node' is no valid value"),
        (BGP % "ssh_key: /k, stable: 10m", " bgp.stable must be shorter"),
        (BGP.replace("64601", "4294967296") % "ssh_key: /k", "bgp.asn: "),
        (BGP.replace("cr1: {}", "") % "ssh_key: /k", "bgp.routers: must not be empty"),
        (BGP.replace("cr1: {}", "cr1: {port: 0}") % "ssh_key: /k", "bgp.routers.cr1.port: "),
    ],
)
def test_mistakes_about_routers_are_named(tmp_path: Path, bgp: str, message: str) -> None:
    found = mistakes(write(tmp_path, BARE + f"    bgp: {bgp}\n"))
    assert len(found) == 1, found
    assert found[0].removeprefix("clusters.lab").removeprefix(":").lstrip(".").startswith(message)


def test_a_session_may_count_at_once(tmp_path: Path) -> None:
    bgp = load(write(tmp_path, BARE + f"    bgp: {BGP % 'ssh_key: /k, stable: 0s'}\n")).cluster("lab").bgp
    assert bgp is not None
    assert (bgp.stable, bgp.families, bgp.unit) == (0.0, ("ipv4", "ipv6"), "calico-node.service")


HAPROXY = "haproxy: {hosts: lb1, backend: api}"
CONFTOOL = "conftool: {selector: {service: kubemaster}}"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (f"load_balancer: {{{HAPROXY}, {CONFTOOL}}}", "load_balancer: has both haproxy and conftool"),
        ("load_balancer: {haproxy: {hosts: lb1}}", "load_balancer.haproxy.backend: is missing"),
        ("load_balancer: {haproxy: {hosts: lb1, backend: a;b}}", "load_balancer.haproxy.backend: 'a;b' is no valid"),
        ("load_balancer: {conftool: {selector: {}}}", "load_balancer.conftool.selector: must not be empty"),
        (
            "load_balancer: {conftool: {selector: {dc: a}, pybal: [lvs1]}}",
            "load_balancer.conftool.pybal.0: 'lvs1' is no valid",
        ),
        ("components: {confd: {}}", " components.confd needs a check"),
        ("components: {kube-apiserver: {check: true}}", "components.kube-apiserver.check: "),
        ("components: {kube-scheduler: {check: 'true'}}", " components.kube-scheduler must have no check"),
    ],
)
def test_mistakes_about_the_control_plane_are_named(tmp_path: Path, section: str, message: str) -> None:
    found = mistakes(write(tmp_path, BARE + f"    control_plane: {{{section}}}\n"))
    assert len(found) == 1, found
    assert found[0].removeprefix("clusters.lab.control_plane").removeprefix(":").lstrip(".").startswith(message)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("puppet.enabled", False, "reinitialize needs puppet.enabled: "),
        ("etcd.endpoints", [], "reinitialize needs etcd.endpoints: "),
        ("etcd", None, "reinitialize needs etcd.endpoints: "),
        ("reinitialize.etcds.lab-b.endpoints", [], ".reinitialize: etcds.lab-b needs endpoints: "),
        ("reinitialize.managed", ["shop", "kube-system"], ".reinitialize: managed: kube-system is Kubernetes' own"),
        ("reinitialize.initialize", "init {service}", ".reinitialize.initialize: {service} is not known here"),
    ],
)
def test_mistakes_about_a_reinitialisation_are_named(tmp_path: Path, where: str, value: object, message: str) -> None:
    data = yaml.safe_load(EXAMPLE.read_text())
    *sections, key = where.split(".")
    section = data["clusters"]["lab"]
    for name in sections:
        section = section[name]
    section[key] = value
    (found,) = mistakes(write(tmp_path, yaml.safe_dump(data)))
    assert found.removeprefix("clusters.lab").removeprefix(": ").startswith(message)


@pytest.mark.parametrize("section", [HAPROXY, CONFTOOL, "drain: 0s"])
def test_what_may_be_before_apiservers(tmp_path: Path, section: str) -> None:
    text = BARE + f"    control_plane: {{load_balancer: {{{section}}}}}\n"
    found = load(write(tmp_path, text)).cluster("lab").control_plane.load_balancer
    assert (found.haproxy is not None, found.conftool is not None) == ("haproxy" in section, "conftool" in section)


def test_a_pattern_of_budgets_that_is_there_twice_is_a_mistake_like_any_other():
    def config(*patterns):
        cluster = {
            "kubeconfig": "/k",
            "hosts": {"workers": "w[1-3]", "control_plane": "cp1"},
            "drain": {"opens_on_cordon": list(patterns)},
        }
        return Config.model_validate({"state_dir": "/var/lib/fleet", "clusters": {"lab": cluster}})

    assert not contradictions(config({"namespace": "pg"}, {"labels": {"operator": "cnpg"}}))
    (mistake,) = contradictions(config({"namespace": "pg"}, {"namespace": "pg"}))
    assert "is there 2 times" in mistake
