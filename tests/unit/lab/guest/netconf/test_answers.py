"""What the lab's routers answer, made of what FRR 8.4 said when it was recorded (``data/frr``)."""

import asyncio
import json
from typing import Any
from xml.etree import ElementTree

import pytest

from fleet.adapters.bgp.junos import restarts_of
from fleet.adapters.bgp.summary import Peer, parse_xml
from fleet.adapters.bgp.text import parse as parse_text
from fleet_lab.guest.netconf import frr, junos
from fleet_lab.guest.netconf.rpc import Rpcs
from support.places import DATA

RECORDED = DATA / "frr"
GROUPS = {"10.64.0.18": "transit"}


def recorded(name: str) -> Any:
    return json.loads((RECORDED / name).read_text())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0"),
        (59, "59"),
        (60, "1:00"),
        (32 * 60 + 13, "32:13"),
        (3600, "1:00:00"),
        (86399, "23:59:59"),
        (86400 + 2 * 3600 + 184, "1d 2:03:04"),
        (7 * 86400, "1w0d 0:00:00"),
        (85 * 86400 + 21 * 3600 + 45 * 60 + 51, "12w1d 21:45:51"),
    ],
)
def test_times_are_printed_as_junos_does(seconds: int, text: str) -> None:
    assert junos.elapsed(seconds) == text


def test_a_session_that_went_down_has_been_so_since() -> None:
    peers = {str(peer.address): peer for peer in frr.summary(recorded("summary-worker1-down.json"), GROUPS)}

    worker1 = peers["10.64.0.121"]
    assert (worker1.state, worker1.elapsed, worker1.flaps, worker1.ribs) == ("Active", 2, 3, ())


def test_a_session_of_two_families_is_one_peer() -> None:
    transit = frr.summary(recorded("summary.json"), GROUPS)[0]

    assert (str(transit.address), transit.group, [rib.name for rib in transit.ribs]) == (
        "10.64.0.18",
        "transit",
        ["inet.0", "inet6.0"],
    )


def test_states_that_junos_does_not_have_are_idle() -> None:
    answer = recorded("summary.json")
    answer["ipv4Unicast"]["peers"]["10.64.0.200"]["state"] = "Clearing"

    states = {str(peer.address): peer.state for peer in frr.summary(answer, {})}
    assert states["10.64.0.200"] == "Idle"
    assert states["10.64.0.201"] == "Idle"  # FRR says "Idle (Admin)"


def test_text_and_xml_say_the_same() -> None:
    peers = frr.summary(recorded("summary.json"), GROUPS)

    xml = parse_xml(reply(junos.summary_xml(peers)), taken=1)
    text = parse_text(junos.summary_text(peers), taken=1)

    assert xml.peers[0].established
    assert [facts(peer) for peer in text.peers] == [facts(peer) for peer in xml.peers]


def facts(peer: Peer) -> tuple[object, ...]:
    """Return what both tell: in text, a peer with inet.0 alone has the counts of an empty inet.2 as well."""
    ribs = tuple(rib for rib in peer.ribs if rib.name != "inet.2" or rib.received)
    return (peer.address, peer.asn, peer.state, peer.elapsed, peer.flaps, peer.input_messages, ribs)


def reply(body: str) -> str:
    return f'<rpc-reply xmlns:junos="{junos.NAMESPACE}">{body}</rpc-reply>'


def test_lines_stand_as_on_a_device() -> None:
    lines = junos.summary_text(frr.summary(recorded("summary.json"), GROUPS)).splitlines()

    head = next(line for line in lines if line.startswith("Peer "))
    peer = next(line for line in lines if line.startswith("10.64.0.145 "))
    assert peer.index(" 64601") + len(" 64601") == head.index("AS") + 2
    assert peer.index("2/2/2/0") == head.index("State|")
    assert any(line.startswith("2620:0:861:101:10:64:0:121       64601 ") for line in lines)


def ask(request: str, *, answer: str = "", groups: dict[str, str] | None = None) -> tuple[ElementTree.Element, bool]:
    """Ask a router whose FRR says something, in place of what was recorded."""
    said = (
        f"echo '{answer}'"
        if answer
        else f'case "$2" in *summary*) cat {RECORDED}/summary.json;; *) cat {RECORDED}/neighbors.json;; esac'
    )
    rpcs = Rpcs(["sh", "-c", said, "vtysh"], router_id="10.64.0.1", local_as=64600, groups=groups or GROUPS)
    text, closes = asyncio.run(rpcs.reply(request.encode()))
    return ElementTree.fromstring(text), closes


def rpc(body: str) -> str:
    return f'<nc:rpc xmlns:nc="urn:ietf:params:xml:ns:netconf:base:1.0" message-id="a&lt;1">{body}</nc:rpc>'


def test_a_reply_is_in_junos_format() -> None:
    answer, closes = ask(rpc("<get-bgp-summary-information/>"))

    assert answer.tag == "{urn:ietf:params:xml:ns:netconf:base:1.0}rpc-reply"
    assert answer.get("message-id") == "a<1"
    assert not closes
    ns = f"{{{junos.ROUTING}}}"
    information = answer[0]
    assert [information.findtext(f"{ns}{name}-count") for name in ("group", "peer", "down-peer")] == [
        "\n2\n",
        "\n7\n",
        "\n3\n",
    ]
    peer = information.findall(f"{ns}bgp-peer")[1]
    assert peer.get(f"{{{junos.NAMESPACE}}}style") == "terse"
    assert peer.findtext(f"{ns}peer-address") == "\n10.64.0.121\n"
    elapsed = peer.find(f"{ns}elapsed-time")
    assert elapsed is not None
    assert elapsed.get(f"{{{junos.NAMESPACE}}}seconds") == "75"


def test_neighbors_have_ports_and_tell_who_may_restart() -> None:
    answer, _ = ask(rpc("<get-bgp-neighbor-information/>"))
    without = ElementTree.tostring(answer[0], encoding="unicode").replace("ns0:", "").replace("ns1:", "")
    information = ElementTree.fromstring(without)

    up, down = information.findall("bgp-peer")[1], information.findall("bgp-peer")[3]
    assert (up.findtext("peer-address") or "").strip().startswith("10.64.0.121+")
    assert (down.findtext("peer-address") or "").strip() == "10.64.0.200"
    assert (up.findtext("peer-restart-nlri-negotiated") or "").strip() == "inet-unicast"
    assert {str(address) for address in restarts_of([information]).negotiated} == {
        "10.64.0.121",
        "2620:0:861:101:10:64:0:121",
    }


def test_one_who_does_not_help_negotiates_nothing() -> None:
    answer = recorded("neighbors.json")
    answer["10.64.0.121"]["gracefulRestartInfo"]["localGrMode"] = "Disable"

    found = frr.neighbors(answer, GROUPS, router_id="10.64.0.1", local_as=64600)

    assert {str(neighbor.peer.address): neighbor.restarting for neighbor in found}["10.64.0.121"] == ()


@pytest.mark.parametrize(
    ("request_", "answer", "said"),
    [
        (rpc("<get-route-information/>"), "", "expecting <command>"),
        (rpc("<command>show version</command>"), "", "syntax error"),
        (rpc("<command format='text'>show bgp summary | match 64601</command>"), "", "syntax error"),
        (rpc(""), "", "expecting <rpc> with one element"),
        ("<hello/>", "", "expecting <rpc> with one element"),
        ("<rpc", "", "syntax error"),
        (rpc("<get-bgp-neighbor-information><neighbor-address>x;y</neighbor-address></get-bgp-neighbor-information>"),
         "", "invalid value 'x;y'"),
        (rpc("<get-bgp-summary-information/>"), "% BGP instance not found", "routing subsystem is not running"),
        (rpc("<get-bgp-summary-information/>"), "[]", "routing subsystem is not running"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_an_rpc_error(request_: str, answer: str, said: str) -> None:
    reply, closes = ask(request_, answer=answer)

    message = reply.find(".//{*}error-message")
    assert message is not None
    assert said in (message.text or "")
    assert not closes


def test_close_session_closes() -> None:
    answer, closes = ask(rpc("<close-session/>"))

    assert closes
    assert answer[0].tag.endswith("ok")


def test_a_router_without_peers_has_a_summary() -> None:
    answer, _ = ask(rpc("<get-bgp-summary-information/>"), answer="{}")

    assert answer[0].findtext(f"{{{junos.ROUTING}}}peer-count") == "\n0\n"


def test_a_router_without_that_peer_says_nothing_of_it() -> None:
    answer, _ = ask(rpc("<command>show bgp neighbor 10.9.9.9</command>"), answer='{"bgpNoSuchNeighbor": true}')

    assert list(answer[0]) == []
