"""Matchers, spicerack's configuration of Alertmanager, and silences and alerts at all members of a cluster."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.alertmanager.alertmanager import NoSuchSilenceError, SilenceError, epoch, find_instance, timestamp
from fleet.adapters.alertmanager.alertmanagers import clock_difference
from fleet.adapters.alertmanager.silences import Silences
from fleet.clock import CLOCK, THREADS
from fleet.config.matchers import Matcher, host_matcher, parse_matcher
from support.spicerack import Ann
from worlds.mesh import START, InTurn, Mesh, Time

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
        ({"instances": {"a": {"urls": ["http://x", "http://x/"]}}}, "a", "names a member twice"),
        ({"instances": {"a": {"urls": ["http://x"], "http_username": "u"}}}, "a", "belong together"),
    ],
)
def test_wrong_instances(config: object, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_instance(config, name)


def test_spicerack_configuration_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SilenceError, match=r"alertmanager/config\.yaml"):
        Silences.from_spicerack(Ann(tmp_path), clock=CLOCK, threads=THREADS)


A, B, C = "http://a", "http://b", "http://c"


class World:
    """Three Alertmanagers, and the library before them."""

    def __init__(self, needed: int | None = None) -> None:
        self.clock = Time()
        self.mesh = Mesh(A, B, C, clock=self.clock)
        self.silences = Silences([A, B, C], needed=needed, transport=self.mesh, clock=self.clock, threads=InTurn())

    def create(self, *, duration: float = 900, comment: str = "reboot - run 1 - w1", host: str = "w1") -> str:
        return self.silences.create([host], comment=comment, author="anna", duration=duration)

    def in_force(self) -> list[int]:
        """How many silences each member has in force."""
        return [len(self.mesh.in_force(name)) for name in (A, B, C)]

    def lasts(self) -> list[float]:
        """How long the first silence of each member lasts by the member's own clock."""
        return [
            round(epoch(self.mesh.in_force(name)[0]["endsAt"]) - START - self.clock.now - member.ahead)
            for name, member in self.mesh.members.items()
        ]


@pytest.fixture
def world() -> World:
    return World()


def silenced(hosts: list[str], *matchers: str) -> list[str]:
    """Return the labels that a silence is about."""
    world = World()
    found = [parse_matcher(matcher) for matcher in matchers]
    world.silences.create(hosts, comment="c", author="a", duration=60, matchers=found)
    return [matcher["name"] for matcher in world.mesh.in_force(A)[0]["matchers"]]


def test_a_silence_is_of_hosts_or_of_what_matches() -> None:
    assert silenced(["w1"]) == ["instance"]
    assert silenced(["w1"], 'site="a"') == ["instance", "site"]
    assert silenced([], 'service="shop"', 'site="a"') == ["service", "site"]


def test_a_silence_of_everything_is_not_created() -> None:
    with pytest.raises(ValueError, match="no hosts"):
        silenced([])


def test_the_mesh_brings_a_silence_to_all_and_it_is_created_once(world: World) -> None:
    silence_id = world.create()

    assert [list(member.silences) for member in world.mesh.members.values()] == [[silence_id]] * 3
    assert world.clock.now < 1


def test_without_a_mesh_it_is_created_at_each_member_and_is_one(world: World) -> None:
    world.mesh.cut = True

    silence_id = world.create()

    assert world.in_force() == [1, 1, 1]
    assert world.clock.now < 5, "gossip is not waited for for long"
    (found,) = world.silences.find(comment_contains="run 1")
    assert (found.lacking, found.comment) == ((), "reboot - run 1 - w1")
    assert world.silences.extend(silence_id, 3600) == silence_id
    assert world.lasts() == [3600] * 3
    world.silences.expire(silence_id)
    assert world.in_force() == [0, 0, 0]
    assert not world.silences.find(comment_contains="run 1")


def test_a_silence_that_only_the_last_member_has_is_found_named_and_brought_to_the_others(world: World) -> None:
    world.mesh.cut = True
    only = Silences([C], transport=world.mesh, clock=world.clock, threads=InTurn())
    silence_id = only.create(["w1"], comment="reboot - run 1 - w1", author="anna", duration=900)

    assert world.silences.get(silence_id).state == "active"
    (found,) = world.silences.find(comment_contains="run 1")
    assert (found.id, found.lacking) == (silence_id, (A, B))

    assert world.create() == silence_id

    assert world.in_force() == [1, 1, 1]
    assert not world.silences.find(comment_contains="run 1")[0].lacking


def test_creating_again_creates_nothing_more(world: World) -> None:
    first = world.create()
    world.clock.sleep(600)

    assert world.create() == first

    assert world.in_force() == [1, 1, 1]
    assert world.lasts() == [900] * 3


def test_other_hosts_reasons_and_authors_are_other_silences(world: World) -> None:
    world.create()
    world.create(host="w2")
    world.create(comment="disk - run 1 - w1")
    world.silences.create(["w1"], comment="reboot - run 1 - w1", author="bob", duration=900)

    assert len(world.silences.find(comment_contains="run 1")) == 4


def test_silences_of_others_are_not_found(world: World) -> None:
    world.silences.create(["w1"], comment="kernel - run 1 - w1", author="ann", duration=600)
    world.silences.create(["w1"], comment="kernel - run 2 - w1", author="ann", duration=600)
    (found,) = world.silences.find(comment_contains="run 1")
    assert found.comment == "kernel - run 1 - w1"


def test_a_silence_that_ends_earlier_at_one_member_ends_then(world: World) -> None:
    world.create(duration=900)
    world.mesh.cut = True
    (copy,) = world.mesh.in_force(B)
    world.mesh.members[B].silences = {copy["id"]: copy | {"endsAt": timestamp(START + 300)}}

    assert world.silences.find(comment_contains="")[0].ends_at == START + 300


@pytest.mark.parametrize("name", [A, B, C])
def test_an_alert_that_one_member_knows_fires(world: World, name: str) -> None:
    world.mesh.members[name].fire("w1:9100", "DiskBroken")

    assert [alert.name for alert in world.silences.alerts(["w1"])] == ["DiskBroken"]


def test_an_alert_that_several_know_is_one_and_is_silenced_if_it_is_everywhere(world: World) -> None:
    a, b, _ = world.mesh.members.values()
    for member in (a, b):
        member.fire("w1", "Quiet", "suppressed")
        member.fire("w1", "Loud", "active" if member is b else "suppressed")

    assert {alert.name: alert.silenced for alert in world.silences.alerts(["w1"])} == {"Quiet": True, "Loud": False}


READS: dict[str, Callable[[Silences], object]] = {
    "alerts": lambda silences: silences.alerts(["w1"]),
    "find": lambda silences: silences.find(comment_contains="run 1"),
    "get": lambda silences: silences.get("s1"),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("name", [A, B, C])
def test_a_member_that_cannot_be_asked_makes_it_unknown(
    world: World, name: str, read: Callable[[Silences], object]
) -> None:
    world.create()
    world.mesh.members[name].down = "connection refused"

    with pytest.raises(SilenceError) as caught:
        read(world.silences)

    assert str(caught.value) == (
        f"1 of 3 members of Alertmanager could not be asked: {name}: connection refused. Repair it, or correct its URL"
        " in alertmanager/config.yaml; alerts.members_needed may let the others suffice."
    )


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_the_others_suffice_if_the_configuration_says_so(
    read: Callable[[Silences], object], caplog: pytest.LogCaptureFixture
) -> None:
    world = World(needed=2)
    world.create()
    world.mesh.members[A].down = "connection refused"

    read(world.silences)
    read(world.silences)

    problem = f"1 of 3 members of Alertmanager could not be asked: {A}: connection refused"
    assert world.silences.unasked == problem
    assert caplog.messages == [f"{problem}; what the others know has to suffice."], "it is told once"
    world.mesh.members[B].down = "no answer"
    with pytest.raises(SilenceError, match="2 of 3 members"):
        read(world.silences)


def test_what_a_member_that_is_down_would_not_tell_is_not_called_unknown(world: World) -> None:
    world.mesh.members[B].down = "no answer"

    for act in (world.silences.get, world.silences.expire, lambda name: world.silences.extend(name, 60)):
        with pytest.raises(SilenceError) as caught:
            act("nope")
        assert not isinstance(caught.value, NoSuchSilenceError)
    world.mesh.members[B].down = ""
    world.silences.expire("nope")
    with pytest.raises(NoSuchSilenceError, match="nope"):
        world.silences.extend("nope", 60)


def test_the_members_that_answer_get_and_end_a_silence_although_one_is_down(world: World) -> None:
    world.mesh.members[B].down = "no answer"

    with pytest.raises(SilenceError, match="1 of 3"):
        world.create()
    assert world.in_force()[::2] == [1, 1]
    (silence_id,) = world.mesh.members[A].silences
    with pytest.raises(SilenceError, match="1 of 3"):
        world.silences.extend(silence_id, 3600)
    assert world.lasts()[::2] == [3600, 3600]
    with pytest.raises(SilenceError, match="1 of 3"):
        world.silences.expire(silence_id)
    assert world.in_force()[::2] == [0, 0]


def test_a_member_that_refuses_is_named_with_what_it_said(world: World) -> None:
    world.create()
    world.mesh.cut = True
    world.mesh.members[B].refuses = "500 Internal: disk full"

    with pytest.raises(SilenceError, match=rf"1 of 3 .*{B}: it refuses the silence: 500 Internal: disk full"):
        world.create(duration=3600)
    with pytest.raises(SilenceError, match=rf"1 of 3 .*{B}: it does not end the silence s1: 500 Internal: disk full"):
        world.silences.expire("s1")
    assert world.in_force() == [0, 1, 0]


def test_one_that_another_has_ended_meanwhile_is_fine(world: World) -> None:
    world.create()
    world.mesh.delay = 0

    world.silences.expire("s1")

    assert world.in_force() == [0, 0, 0]


@pytest.mark.parametrize("jumped", [-10_800.0, 0.0, 10_800.0])
def test_our_clock_decides_nothing(world: World, jumped: float) -> None:
    world.clock.jumped = jumped

    silence_id = world.create(duration=60)
    assert world.lasts() == [60] * 3
    assert world.mesh.in_force(A)[0]["startsAt"] == timestamp(START)
    world.clock.jumped = 0
    world.silences.extend(silence_id, 900)
    world.clock.jumped = jumped
    world.silences.extend(silence_id, 900)

    assert world.lasts() == [900] * 3
    silence = world.silences.get(silence_id)
    assert silence.ends_at - world.clock.time() == pytest.approx(900, abs=2), "it is told by our clock"


@pytest.mark.parametrize("jumped", [-10_800.0, 10_800.0])
def test_a_difference_of_clocks_is_told_once(world: World, jumped: float, caplog: pytest.LogCaptureFixture) -> None:
    world.silences.alerts(["w1"])
    assert not caplog.messages
    world.clock.jumped = jumped

    world.silences.alerts(["w1"])
    world.silences.alerts(["w1"])

    word = "ahead of" if jumped < 0 else "behind"
    assert caplog.messages == [
        f"The clock of {name} is 10800 s {word} this host's: silences go by Alertmanager's. Look at NTP on both."
        for name in (A, B, C)
    ]
    assert list(world.silences.clock_differences) == caplog.messages
    world.clock.jumped = 0

    world.silences.alerts(["w1"])

    assert world.silences.clock_differences == (), "it was corrected"


@pytest.mark.parametrize(
    ("ahead", "word"), [(5.1, "5 s ahead of"), (-5.1, "5 s behind"), (5.0, ""), (-5.0, ""), (0.0, "")]
)
def test_which_differences_of_clocks_are_told(ahead: float, word: str) -> None:
    said = clock_difference(A, ahead)
    assert f"The clock of {A} is {word} this host's" in said if word else said == ""


@pytest.mark.parametrize("ahead", [-3600.0, 3600.0])
def test_a_silence_is_active_and_long_enough_at_members_of_different_clocks(world: World, ahead: float) -> None:
    world.mesh.members[B].ahead = ahead

    world.create(duration=900)

    assert min(world.lasts()) == 900
    now = [START + world.clock.now + member.ahead for member in world.mesh.members.values()]
    starts = [epoch(world.mesh.in_force(name)[0]["startsAt"]) for name in (A, B, C)]
    assert all(start <= time for start, time in zip(starts, now, strict=True))


def test_an_alertmanager_that_does_not_tell_the_time_has_ours(world: World) -> None:
    for member in world.mesh.members.values():
        member.dateless = True

    world.create(duration=60)

    assert world.lasts() == [60] * 3


@given(data=st.data())
def test_whatever_happens_to_the_mesh_creating_leaves_a_silence_everywhere_and_expiring_none(
    data: st.DataObject,
) -> None:
    world = World()
    for _ in range(data.draw(st.integers(1, 6))):
        world.mesh.cut = data.draw(st.booleans())
        world.clock.sleep(data.draw(st.sampled_from([0.0, 1.0, 400.0, 1000.0])))
        for member in world.mesh.members.values():
            member.down = data.draw(st.sampled_from(["", "", "no answer"]))
            if data.draw(st.integers(0, 5)) == 0:
                member.silences = {}  # it is a new one
        with suppress(SilenceError):
            world.create()
    for member in world.mesh.members.values():
        member.down = ""

    world.create()

    assert all(world.in_force())
    assert min(world.lasts()) >= 896, "less the time that gossip got"
    (found,) = world.silences.find(comment_contains="run 1")
    assert not found.lacking
    world.silences.expire(found.id)
    assert world.in_force() == [0, 0, 0]
