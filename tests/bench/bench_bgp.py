"""How long it takes to read a summary of 2,000 peers, and to judge the sessions of 100 nodes by it."""

import time
from collections.abc import Callable
from ipaddress import ip_address

from fleet.adapters.bgp import text, values, verify
from fleet.adapters.bgp.summary import ESTABLISHED, Peer, Rib, Summary, parse_xml, read_xml
from support import replies

PEERS, NODES, ASN = 2_000, 100, 64601


def peer(index: int) -> Peer:
    """Every other one speaks IPv6, every fifth is in a VRF, every tenth is down, every tenth has more tables."""
    ipv6 = index % 2
    address = ip_address(
        f"2620:0:861:101:10:64:{index // 200}:{index % 200:x}" if ipv6 else f"10.64.{index // 200}.{index % 200}"
    )
    table = ("VRF.customers." if index % 5 == 0 else "") + ("inet6.0" if ipv6 else "inet.0")
    ribs = [Rib(table, 3, 4, 3, 0)] + (
        [Rib("inet.2", 0, 0, 0, 0), Rib("inetflow.0", 0, 0, 0, 0)] if index % 10 == 0 else []
    )
    down = index % 10 == 9
    return Peer(
        address=address,
        asn=ASN if index < 2 * NODES else 4_200_000_000 + index,
        state="Active" if down else ESTABLISHED,
        elapsed=index * 7919,
        flaps=index % 7,
        input_messages=index * 1000,
        output_messages=index * 999,
        description=f"peer {index}",
        ribs=() if down else tuple(ribs),
    )


def best_of(times: int, work: Callable[[], object]) -> float:
    """In milliseconds of the processor, which does not count what else the machine does meanwhile."""
    took = []
    for _ in range(times):
        for cached in (values.address, values.asn, values.count):
            cached.cache_clear()  # as in the first answer of a run
        started = time.process_time()
        work()
        took.append((time.process_time() - started) * 1000)
    return min(took)


def test_a_summary_of_2000_peers() -> None:
    summary = Summary([peer(index) for index in range(PEERS)], 0.0)
    reply = replies.xml(summary.peers).encode()
    printed = replies.text(summary.peers)
    assert parse_xml(reply, taken=0.0) == summary
    assert len(text.parse(printed, taken=0.0).peers) == PEERS

    xml_ms = best_of(9, lambda: read_xml(reply, taken=0.0))
    text_ms = best_of(9, lambda: text.parse(printed, taken=0.0))
    print(f"\n{PEERS} peers: XML of {len(reply) // 1024} KiB {xml_ms:.0f} ms, text {text_ms:.0f} ms")
    assert xml_ms < 50
    assert text_ms < 50


def test_100_nodes_judged_by_two_routers() -> None:
    routers = ("cr1", "cr2")
    sessions = verify.expected([peer(index).address for index in range(2 * NODES)], routers)
    summary = Summary([peer(index) for index in range(PEERS)], 1e9)
    baseline = verify.baseline(sessions, dict.fromkeys(routers, summary), ASN)

    def judge() -> None:
        fresh = Summary(summary.peers, 1e9)
        left = verify.unproven(baseline, dict.fromkeys(routers, fresh), ASN, since=2e9, stable=10)
        assert len(left) == 2 * 180

    took = best_of(9, judge)
    print(f"\n{len(sessions)} sessions judged by {PEERS} peers: {took:.0f} ms")
    assert took < 50
