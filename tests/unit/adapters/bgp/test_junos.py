"""Who may restart without losing its routes, as Junos tells; and what the module costs."""

import subprocess
import sys

import pytest
from lxml import etree

from fleet.adapters.bgp.errors import RouterError
from fleet.adapters.bgp.junos import Restarts, restarts_of

# As `show bgp neighbor | display xml` has it, shortened; the first of a peer that restarts, with both families.
PEER = """
<bgp-peer style="detail">
  <peer-address>
10.64.0.121+179
</peer-address>
  <peer-as>64601</peer-as>
  <peer-state>Established</peer-state>
  <peer-restart-nlri-configured>inet-unicast inet6-unicast</peer-restart-nlri-configured>
  <nlri-type-peer>inet-unicast inet6-unicast</nlri-type-peer>
  <nlri-type-session>inet-unicast inet6-unicast</nlri-type-session>
  <peer-stale-route-time-configured>300</peer-stale-route-time-configured>
  <peer-restart-time-received>120</peer-restart-time-received>
  <peer-restart-nlri-received>inet-unicast inet6-unicast</peer-restart-nlri-received>
  <peer-restart-nlri-negotiated>
inet-unicast inet6-unicast
</peer-restart-nlri-negotiated>
</bgp-peer>
"""


def peers(*texts: str) -> set[str]:
    reply = etree.fromstring(f"<bgp-information>{''.join(texts)}</bgp-information>")
    return {str(address) for address in restarts_of([reply]).negotiated}


def test_a_peer_that_negotiated_it_may_restart() -> None:
    assert peers(PEER, PEER.replace("10.64.0.121", "2620:0:861:101::121")) == {"10.64.0.121", "2620:0:861:101::121"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # Junos 18 and later say negotiated also of a peer that has the capability for notifications alone.
        ("<peer-restart-time-received>120<", "<peer-no-restart/><peer-restart-time-received>120<"),
        ("negotiated>\ninet-unicast inet6-unicast\n<", "negotiated><"),
        ("negotiated>\ninet-unicast inet6-unicast\n<", "negotiated>\ninet-unicast\n<"),
        ("-negotiated>", "-configured>"),
        ("Established", "Active"),
    ],
)
def test_one_that_loses_some_of_its_routes_may_not(old: str, new: str) -> None:
    assert old in PEER

    assert peers(PEER.replace(old, new)) == set()


END = "<peer-end-of-rib-received>{}</peer-end-of-rib-received></bgp-peer>"


@pytest.mark.parametrize(
    ("families", "complete"),
    [("inet-unicast inet6-unicast", True), ("inet6-unicast", False), ("", False)],
)
def test_a_peer_that_restarts_is_complete_with_the_end_of_every_family(families: str, complete: bool) -> None:
    reply = etree.fromstring(f"<bgp-information>{PEER.replace('</bgp-peer>', END.format(families))}</bgp-information>")
    assert {str(address) for address in restarts_of([reply]).incomplete} == (set() if complete else {"10.64.0.121"})


def test_of_a_peer_that_does_not_restart_nothing_is_kept() -> None:
    for text in (
        PEER.replace("inet-unicast inet6-unicast\n</peer-restart-nlri-n", "</peer-restart-nlri-n"),
        PEER.replace("</bgp-peer>", "<peer-no-restart/></bgp-peer>"),
    ):
        assert text != PEER
        reply = etree.fromstring(f"<bgp-information>{text}</bgp-information>")
        assert restarts_of([reply]) == Restarts(frozenset(), frozenset())


def test_a_neighbor_without_an_address_is_an_error() -> None:
    reply = etree.fromstring(f"<bgp-information>{PEER.replace('10.64.0.121+179', 'cr1')}</bgp-information>")
    with pytest.raises(RouterError, match="'cr1'"):
        restarts_of([reply])


def test_junos_eznc_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, fleet.adapters.bgp.junos\n"
        "sys.exit(any(n in sys.modules for n in ('jnpr.junos', 'ncclient', 'paramiko')))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
