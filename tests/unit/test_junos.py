"""Who may restart without losing its routes, as Junos tells; and what the module costs."""

import subprocess
import sys

import pytest
from lxml import etree

from fleet.bgp.junos import restarting_peers

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
    return {str(address) for address in restarting_peers(reply)}


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


@pytest.mark.parametrize(
    "text", ["<output>BGP is not running</output>", "<bgp-information><bgp-peer>{}</bgp-peer></bgp-information>"]
)
def test_what_is_no_answer_is_an_error(text: str) -> None:
    broken = PEER.replace("10.64.0.121+179", "cr1").replace('<bgp-peer style="detail">', "").replace("</bgp-peer>", "")

    with pytest.raises(ValueError, match=r"output|cr1"):
        restarting_peers(etree.fromstring(text.format(broken)))


def test_junos_eznc_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, fleet.bgp.junos; sys.exit(any(n in sys.modules for n in ('jnpr.junos', 'ncclient', 'paramiko')))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
