"""A router's BGP summary, written as XML or text and read again; and whatever else may come instead."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.adapters.bgp import text, values
from fleet.adapters.bgp.summary import ESTABLISHED, Peer, Rib, Summary, SummaryError, parse_xml, read_xml
from support import replies

COUNTS = st.integers(0, 2**32)
TWENTY_YEARS = 20 * 365 * 86400
DOWN = ("Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Idle (LicenseFailure)")
VRFS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,30}", fullmatch=True)
TABLES = st.sampled_from(("inet.0", "inet.2", "inet6.0", "inet6.2", "inet.3", "bgp.l3vpn.0", "inetflow.0"))
NAMES = st.one_of(TABLES, st.builds("{}.{}".format, VRFS, TABLES))
RIBS = st.builds(Rib, NAMES, COUNTS, COUNTS, COUNTS, COUNTS)
DESCRIPTIONS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=20)


@st.composite
def peers(draw):
    state = draw(st.sampled_from((ESTABLISHED, *DOWN)))
    ribs = draw(st.lists(RIBS, max_size=4, unique_by=lambda rib: rib.name)) if state == ESTABLISHED else []
    return Peer(
        address=draw(st.ip_addresses()),
        asn=draw(st.integers(1, 2**32 - 1)),
        state=state,
        elapsed=draw(st.one_of(st.integers(0, 200), st.integers(0, TWENTY_YEARS))),
        flaps=draw(COUNTS),
        input_messages=draw(COUNTS),
        output_messages=draw(COUNTS),
        queue=draw(COUNTS),
        description=draw(DESCRIPTIONS),
        ribs=tuple(ribs),
    )


SUMMARIES = st.builds(Summary, st.lists(peers(), max_size=6), st.floats(0, 2e9))


@given(SUMMARIES, st.booleans(), st.booleans(), st.booleans())
@settings(deadline=None)
def test_xml(summary, namespaces, seconds, dotted):
    written = replies.xml(summary.peers, namespaces=namespaces, seconds=seconds, dotted=dotted)
    assert parse_xml(written, taken=summary.taken) == summary
    read = read_xml(written, taken=summary.taken)
    assert list(read.peers) == summary.peers
    assert all(read.find(p.address, p.asn) == summary.find(p.address, p.asn) for p in summary.peers)


@given(SUMMARIES, st.booleans(), st.booleans(), st.booleans(), st.booleans())
@settings(deadline=None)
def test_text(summary, header, counts, alone, dotted):
    written = replies.text(summary.peers, header=header, counts=counts, alone=alone, dotted=dotted)
    nameless = [replace(peer, description="") for peer in summary.peers]
    assert text.parse(written, taken=summary.taken) == Summary(nameless, summary.taken)


@given(SUMMARIES)
@settings(deadline=None)
def test_every_peer_is_found(summary):
    for peer in summary.peers:
        assert peer in summary.find(ip_address(peer.address.exploded), peer.asn)
    assert all(
        (found.address, found.asn) == (peer.address, peer.asn)
        for peer in summary.peers
        for found in summary.find(peer.address, peer.asn)
    )


@given(st.lists(peers(), min_size=1, max_size=3), st.data())
@settings(deadline=None)
def test_xml_that_breaks_off_is_refused(several, data):
    written = replies.xml(several).strip()
    end = data.draw(st.integers(0, len(written) - 1))
    with pytest.raises(SummaryError):
        parse_xml(written[:end], taken=0)


@given(st.lists(peers(), min_size=1, max_size=3), st.data())
@settings(deadline=None)
def test_no_line_is_passed_over(several, data):
    """A line of anything that gets between the peers is read or refused, and the refusal quotes it."""
    lines = replies.text(several, header=False, counts=False).splitlines()
    garbage = data.draw(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=60))
    place = data.draw(st.integers(0, len(lines)))
    read, refusal = 0, ""
    try:
        read = len(text.parse("\n".join([*lines[:place], garbage, *lines[place:]]), taken=0).peers)
    except SummaryError as error:
        refusal = str(error)
    nothing = not garbage.strip() or garbage.strip().startswith("{")
    assert read > len(several) or " ".join(garbage.split()) in refusal or (nothing and read == len(several))


@given(st.one_of(st.text(), st.binary()))
@settings(deadline=None)
def test_anything_else_is_an_error_of_ours(reply):
    with pytest.raises(SummaryError):
        parse_xml(reply, taken=0)


@given(st.integers(0, TWENTY_YEARS))
@settings(deadline=None)
def test_times(seconds):
    assert values.elapsed(replies.elapsed(seconds)) == seconds


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("0", 0),
        ("59", 59),
        ("1:00", 60),
        ("32:13", 1933),
        ("2:03:04", 7384),
        ("1d 2:03:04", 93784),
        ("12w1d 21:45:51", 7422351),
        ("29w5d 22:42:36", 18052956),
        ("105w0d 0:00:01", 63504001),
        ("1w0d 0:00:00", 604800),
        ("9w5d6h", 5896800),
        ("6w3d17h", 3949200),
    ],
)
def test_times_as_routers_print_them(written, seconds):
    assert values.elapsed(written) == seconds


@pytest.mark.parametrize("written", ["", " ", "x", "-1", "1:2", "1:60:0:0", "1d2:03:04:05", "1h 2d", "٣", "1w x"])
def test_no_times(written):
    with pytest.raises(ValueError, match="is no time"):
        values.elapsed(written)
