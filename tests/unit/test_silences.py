"""Matchers: which alerts are a host's; and spicerack's configuration of Alertmanager."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.hosts.matchers import Matcher, host_matcher, parse_matcher
from fleet.hosts.silences import SilenceError, Silences, find_instance

labels = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
domains = st.lists(labels, max_size=3).map(lambda parts: "".join(f".{part}" for part in parts))
ports = st.one_of(st.just(""), st.integers(0, 65535).map(lambda port: f":{port}"))


def matches(hosts: list[str], instance: str) -> bool:
    return bool(host_matcher(hosts, label="instance").regex().fullmatch(instance))


@given(name=labels, domain=domains, port=ports, others=st.lists(labels))
def test_a_host_is_matched_with_and_without_domain_and_port(
    name: str, domain: str, port: str, others: list[str]
) -> None:
    hosts = [*others, name + domain]

    assert matches(hosts, name + domain + port)
    assert matches(hosts, name + port)


@given(names=st.lists(labels, min_size=1), other=labels, domain=domains, port=ports)
def test_no_other_host_is_matched(names: list[str], other: str, domain: str, port: str) -> None:
    assert matches(names, other + domain + port) is (other in names)


@given(name=labels, domain=domains.filter(bool), other=domains.filter(bool))
def test_the_same_name_at_another_site_is_another_host(name: str, domain: str, other: str) -> None:
    assert matches([name + domain], name + other) is (domain == other)


@pytest.mark.parametrize(
    ("host", "instance", "matched"),
    [
        ("10.0.0.1", "10.0.0.1:9100", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.10", False),
        ("10.0.0.1", "10", False),
        ("fd00::1", "[fd00::1]:9100", True),
        ("fd00::1", "fd00::1", True),
        ("fd00::1", "fd00::11", False),
        ("a.b", "axb", False),
        ("worker1", "worker1\n", False),
    ],
)
def test_addresses_and_near_misses(host: str, instance: str, matched: bool) -> None:
    assert matches([host], instance) is matched


def test_no_hosts_match_nothing_rather_than_all() -> None:
    with pytest.raises(ValueError, match="no hosts"):
        host_matcher([], label="instance")


matchers = st.builds(
    Matcher,
    name=st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]*", fullmatch=True),
    value=st.text(st.characters(exclude_categories=["C", "Zl", "Zp"])) | st.just("line\nline"),
    is_equal=st.booleans(),
)


@given(matcher=matchers)
def test_matchers_are_read_as_they_are_written(matcher: Matcher) -> None:
    assert parse_matcher(str(matcher)) == matcher
    assert Matcher.from_api(matcher.to_api()) == matcher


@pytest.mark.parametrize(
    ("text", "matcher"),
    [
        ("site=eqiad", Matcher("site", "eqiad")),
        (' site != "eqiad" ', Matcher("site", "eqiad", is_equal=False)),
        ('team=~"sre|net"', Matcher("team", "sre|net", is_regex=True)),
        (r'a!~"\\d\"x"', Matcher("a", r'\d"x', is_regex=True, is_equal=False)),
    ],
)
def test_parsing(text: str, matcher: Matcher) -> None:
    assert parse_matcher(text) == matcher


@pytest.mark.parametrize("text", ["", "site", "=x", 'site="x', 'site=~"("', "1site=x", "site=a b", 'a="b", c="d"'])
def test_what_is_no_matcher(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text)) + " is no matcher"):
        parse_matcher(text)


GOOD: dict[str, Any] = {"default_instance": "main", "instances": {"main": {"urls": ["http://alerts1:9093"]}}}


def test_instances() -> None:
    assert find_instance(GOOD, "") == find_instance(GOOD, "main") == GOOD["instances"]["main"]


@pytest.mark.parametrize(
    ("config", "name", "message"),
    [
        (None, "", "must be a mapping"),
        ({"instances": {}}, "", "default_instance is missing"),
        (GOOD, "other", "instances.other is missing; there are: main"),
        ({"instances": {"a": {"urls": []}}}, "a", "instances.a.urls must be a list"),
        ({"instances": {"a": {"urls": "http://x"}}}, "a", "instances.a.urls must be a list"),
        ({"instances": {"a": {"urls": ["alerts1:9093"]}}}, "a", "must begin with http"),
        ({"instances": {"a": {"urls": ["http://x"], "http_username": "u"}}}, "a", "belong together"),
    ],
)
def test_wrong_instances(config: object, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_instance(config, name)


def test_spicerack_configuration_that_is_missing(tmp_path: Path) -> None:
    spicerack: Any = SimpleNamespace(config_dir=tmp_path, dry_run=False, requests_proxies=None)

    with pytest.raises(SilenceError, match=r"alertmanager/config\.yaml"):
        Silences.from_spicerack(spicerack)


class Posted(Silences):
    """Keeps what would be sent to Alertmanager."""

    def __init__(self) -> None:
        super().__init__([])
        self.matchers: list[dict[str, Any]] = []

    def _post(self, silence: dict[str, Any]) -> str:
        self.matchers = silence["matchers"]
        return "id"


def silenced(hosts: list[str], *matchers: str) -> list[str]:
    """Return the labels that a silence is about."""
    posted = Posted()
    found = [parse_matcher(matcher) for matcher in matchers]
    assert posted.create(hosts, comment="c", author="a", duration=60, matchers=found) == "id"
    return [matcher["name"] for matcher in posted.matchers]


def test_a_silence_is_of_hosts_or_of_what_matches() -> None:
    assert silenced(["w1"]) == ["instance"]
    assert silenced(["w1"], 'site="a"') == ["instance", "site"]
    assert silenced([], 'service="shop"', 'site="a"') == ["service", "site"]


def test_a_silence_of_everything_is_not_created() -> None:
    with pytest.raises(ValueError, match="no hosts"):
        silenced([])
