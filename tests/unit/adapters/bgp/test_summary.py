"""A router's BGP summary: recorded answers, and what is refused."""

from ipaddress import ip_address

import pytest
from lxml import etree

from fleet.adapters.bgp import text
from fleet.adapters.bgp.summary import ESTABLISHED, Peer, Rib, Summary, SummaryError, parse_xml, read_xml
from support import replies
from support.places import DATA

ANSWERS = DATA / "bgp"
XML = (ANSWERS / "summary.xml").read_text()
TEXT = (ANSWERS / "summary.txt").read_text()
PEERS = [
    Peer(
        ip_address("10.64.0.121"),
        64601,
        ESTABLISHED,
        1933,
        2,
        input_messages=220,
        output_messages=208,
        description="kubernetes1001 & its pods",
        ribs=(Rib("inet.0", 3, 4, 3, 0), Rib("inet.2", 0, 0, 0, 0)),
    ),
    Peer(
        ip_address("2620:0:861:101:10:64:0:121"),
        64601,
        ESTABLISHED,
        1932,
        2,
        input_messages=217,
        output_messages=208,
        ribs=(Rib("inet6.0", 1, 1, 1, 0),),
    ),
    Peer(ip_address("10.64.48.52"), 64601, "Active", 41, 4, input_messages=782006, output_messages=754152),
    Peer(ip_address("2620:0:861:107:10:64:48:52"), 64601, "Connect", 17966556, 0),
    Peer(
        ip_address("198.51.100.1"),
        4200000011,
        ESTABLISHED,
        7422351,
        11,
        input_messages=28179233,
        output_messages=131725,
        queue=12,
        description="transit",
        ribs=(Rib("inet.0", 905866, 905870, 905869, 1), Rib("inetflow.0", 0, 0, 0, 0)),
    ),
    Peer(
        ip_address("203.0.113.7"),
        64700 * 65536 + 10,
        ESTABLISHED,
        7,
        0,
        input_messages=1,
        output_messages=2,
        ribs=(Rib("customers.inet.0", 1, 72, 70, 0),),
    ),
    Peer(ip_address("203.0.113.7"), 64700 * 65536 + 10, "Idle", 90061, 0),
    Peer(
        ip_address("fe80::205:8601:2d71:9500%ge-0-0-5.301"),
        65502,
        ESTABLISHED,
        3,
        1,
        input_messages=7,
        output_messages=3,
    ),
]


def without_descriptions(peers):
    return [Peer(**{**{name: getattr(peer, name) for name in Peer.__slots__}, "description": ""}) for peer in peers]


def test_a_recorded_answer():
    assert parse_xml(XML, taken=5.5) == Summary(PEERS, 5.5)


def test_the_same_from_the_command_line():
    assert text.parse(TEXT, taken=5.5) == Summary(without_descriptions(PEERS), 5.5)


def test_lines_that_were_picked_by_their_as_number():
    peers = text.parse((ANSWERS / "match.txt").read_text(), taken=0).peers
    seen = [(str(peer.address), peer.state, peer.elapsed, peer.flaps) for peer in peers]
    assert seen == [
        ("10.64.0.121", ESTABLISHED, 1933, 2),
        ("10.64.0.145", ESTABLISHED, 7422351, 1),
        ("10.64.32.23", "Active", 1139, 2),
        ("2620:0:861:101:10:64:0:121", ESTABLISHED, 1932, 2),
        ("2620:0:861:101:10:64:0:145", ESTABLISHED, 7422351, 1),
        ("2620:0:861:103:10:64:32:23", "OpenConfirm", 4082400, 2),
    ]
    assert {peer.asn for peer in peers} == {64601}


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(XML.encode(), id="bytes"),
        pytest.param('<?xml version="1.0" encoding="us-ascii"?>' + XML, id="declaration"),
        pytest.param(etree.fromstring(XML), id="element"),
        pytest.param(etree.fromstring(XML)[0], id="no wrapper"),
        pytest.param(XML.replace("<peer-as>", "<!-- a comment --><peer-as>"), id="comments"),
        pytest.param(XML.replace("+179", "").replace("10.64.0.121\n", "10.64.0.121+51234\n"), id="ports"),
        pytest.param(XML.replace(" junos:seconds=", " junos:style="), id="times as text only"),
    ],
)
def test_the_same_in_other_clothes(reply):
    assert parse_xml(reply, taken=5.5) == Summary(PEERS, 5.5)


def test_the_peers_of_several_routing_engines_follow_each_other():
    items = "".join(
        f"<multi-routing-engine-item><re-name>fpc{index}</re-name>{replies.xml([peer], namespaces=False)}"
        "</multi-routing-engine-item>"
        for index, peer in enumerate(PEERS[:2])
    )
    reply = f"<rpc-reply><multi-routing-engine-results>{items}</multi-routing-engine-results></rpc-reply>"
    assert parse_xml(reply, taken=0).peers == PEERS[:2]


def test_addresses_are_compared_as_addresses():
    peers = parse_xml(replies.xml(PEERS).replace("2620:0:861:101:", "2620:0000:0861:0101:"), taken=0)
    assert peers.find(ip_address("2620:0:861:101:10:64:0:121"), 64601) == (PEERS[1],)


def test_a_peer_is_found_by_its_address_and_as_number_wherever_it_is():
    summary = Summary(PEERS, 0)
    assert summary.find(ip_address("203.0.113.7"), 64700 * 65536 + 10) == (PEERS[5], PEERS[6])
    assert summary.find(ip_address("203.0.113.7"), 64601) == ()
    assert summary.find(ip_address("203.0.113.8"), 64601) == ()


def test_no_peers_at_all():
    assert parse_xml("<rpc-reply><bgp-information/></rpc-reply>", taken=0).peers == []
    assert text.parse("", taken=0).peers == []
    assert text.parse(replies.text([]), taken=0).peers == []


ONE = replies.xml(PEERS[:1], namespaces=False)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("", "is no XML"),
        (b"\xff\xfe\x00", "is no XML"),
        ("BGP is not running", "is no XML"),
        (XML[:1000], "is no XML"),
        ("<rpc-reply><output>BGP is not running</output></rpc-reply>", "has no bgp-information: .*BGP is not running"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><bgp-information>&b;</bgp-information>', "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><bgp-information/>', "document type"),
        (ONE.replace("peer-as", "peer-asn"), "has a peer without peer-as: .*10.64.0.121"),
        (ONE.replace("elapsed-time", "elapsed"), "has a peer without elapsed-time"),
        (ONE.replace("flap-count", "flaps"), "has a peer without flap-count"),
        (ONE.replace("accepted-prefix-count", "accepted"), "has a peer without accepted-prefix-count"),
        (ONE.replace("10.64.0.121", "10.64.0.1211"), "10.64.0.1211"),
        (ONE.replace("10.64.0.121", "10.64.0.121+x"), "10.64.0.121[+]x"),
        (ONE.replace("64601", "65536.1"), "'65536.1' is no AS number"),
        (ONE.replace("64601", "1.65536"), "'1.65536' is no AS number"),
        (ONE.replace("64601", "4294967296"), "'4294967296' is no AS number"),
        (ONE.replace("64601", "-1"), "'-1' is no AS number"),
        (ONE.replace("Established", ""), "'' is no state"),
        (ONE.replace("Established", "3/3"), "'3/3' is no state"),
        (ONE.replace("\n2\n", "\n-2\n"), "'-2' is no number"),
        (ONE.replace("\n2\n", "\n1_0\n"), "'1_0' is no number"),
        (ONE.replace('"1933"', '"soon"'), "'soon' is no number"),
        (ONE.replace(' seconds="1933"', "").replace("32:13", "yesterday"), "'yesterday' is no time"),
        (ONE.replace(' seconds="1933"', "").replace("32:13", ""), "'' is no time"),
        (ONE.replace("inet.0", ""), "a table has no name"),
    ],
)
def test_xml_that_is_refused(reply, message):
    assert reply != ONE
    with pytest.raises(SummaryError, match=message):
        parse_xml(reply, taken=0)


def test_what_cannot_be_read_of_a_peer_is_refused_when_it_is_asked_for():
    second = replies.xml(PEERS[1:2], namespaces=False).replace("flap-count", "flaps")
    both = ONE.replace("</bgp-information>", second.removeprefix("<bgp-information>\n"))
    summary = read_xml(both, taken=0)
    assert summary.find(PEERS[0].address, PEERS[0].asn) == (PEERS[0],)
    with pytest.raises(SummaryError, match="has a peer without flap-count"):
        summary.find(PEERS[1].address, PEERS[1].asn)


def test_a_peer_that_could_be_anybodys_is_refused_at_once():
    with pytest.raises(SummaryError, match="has a peer that cannot be read"):
        read_xml(ONE.replace("peer-as", "peer-asn"), taken=0)
    with pytest.raises(SummaryError, match="has a peer that cannot be read"):
        read_xml(ONE.replace("peer-address", "address"), taken=0)


LINE = "10.64.0.121           64601        220        208       0       2       32:13 "


@pytest.mark.parametrize(
    ("lines", "quoted"),
    [
        ("error: BGP is not running", "error: BGP is not running"),
        (LINE + "Establ\nerror: timeout communicating with routing daemon", "error: timeout communicating"),
        (LINE, "10.64.0.121 64601 220 208 0 2 32:13"),
        (LINE + "3/3/3", "32:13 3/3/3"),
        (LINE + "establ", "32:13 establ"),
        (LINE + "Establ\n  inet.0: 3/3/3", "inet.0: 3/3/3"),
        (LINE + "Active\n  inet.0: 3/3/3/0", "inet.0: 3/3/3/0"),
        ("  inet.0: 3/3/3/0", "inet.0: 3/3/3/0"),
        (LINE.replace("10.64.0.121", "10.64.0.1211") + "Establ", "10.64.0.1211"),
        (LINE.replace("10.64.0.121", "") + "Establ", "64601 220 208 0 2 32:13 Establ"),
        (LINE.replace("64601", "4294967296") + "Establ", "4294967296"),
        (LINE.replace("32:13", "Never") + "Establ", "Never"),
        (LINE.replace("64601", "64601 64602") + "Establ", "64601 64602"),
        ("2620:0:861:101:10:64:0:121\n", "2620:0:861:101:10:64:0:121"),
        ("2620:0:861:101:10:64:0:121\n\n10.64.0.121\n" + LINE + "Establ", "10.64.0.121"),
        (LINE + "Establ\n" + replies.text([]), LINE.split()[0]),
        (replies.text([]) + replies.text([]), "Groups: 3 Peers: 12"),
    ],
)
def test_lines_that_are_refused(lines, quoted):
    with pytest.raises(SummaryError) as caught:
        text.parse(lines, taken=0)
    assert quoted in str(caught.value)
