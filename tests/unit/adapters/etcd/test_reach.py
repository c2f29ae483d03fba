"""Whether hosts reach etcd: what is made of curl's answers."""

from pathlib import Path

import pytest

from fleet.adapters.etcd import reach
from fleet.adapters.etcd.members import EtcdError
from fleet.config.certificates import Certificates
from fleet.execution import Result

ENDPOINTS = ("https://etcd4:2379", "https://etcd5:2379")
WELL = 'fleet-etcd-1={"health":"true","reason":""}\nfleet-etcd-0={"health":"true"}'


def test_all_endpoints_have_to_be_well():
    assert reach.judge(ENDPOINTS, Result(0, f"Welcome\n{WELL} \nBye")) == ""


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ('{"health":"false","reason":"ALARM NOSPACE"}', '{"health":"false","reason":"ALARM NOSPACE"}'),
        ('{"health":true}', '{"health":true}'),
        ("curl: (7) Failed to connect to etcd4 port 2379 ", "curl: (7) Failed to connect to etcd4 port 2379"),
        ("[]", "[]"),
        ("", "no answer"),
    ],
)
def test_an_endpoint_that_is_not_well_is_named(answer, why):
    result = Result(0, WELL.replace('{"health":"true"}', answer))
    assert reach.judge(ENDPOINTS, result) == f"https://etcd4:2379: {why}"


def test_endpoints_without_an_answer_are_all_named():
    assert reach.judge(ENDPOINTS, Result(127, "")) == "https://etcd4:2379: no answer; https://etcd5:2379: no answer"


def test_a_host_that_is_gone_reaches_nothing():
    assert reach.judge(ENDPOINTS, Result(None, "no answer within 15 s")) == "no answer within 15 s"


class Hosts:
    """Keeps the commands."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, bool]] = []

    def run(self, hosts, command, *, timeout, safe):
        self.commands.append((command, safe))
        return dict.fromkeys(hosts, Result(0, WELL))


def test_one_execution_for_all_hosts_that_only_reads_and_quotes():
    hosts = Hosts()
    certificates = Certificates(Path("/a b/ca.pem"), Path("/c.pem"), Path("/$(id).key"))
    found = reach.reachable(hosts, ["w1", "w2"], ["https://etcd4:2379/", "https://x;reboot:1"], certificates)
    assert found == {"w1": "", "w2": ""}
    ((command, safe),) = hosts.commands
    assert safe
    assert "--cacert '/a b/ca.pem' --cert /c.pem --key '/$(id).key'" in command
    assert "check 0 https://etcd4:2379/health &\ncheck 1 'https://x;reboot:1/health' &\n" in command


def test_no_endpoint_is_no_proof():
    hosts = Hosts()
    with pytest.raises(EtcdError, match="No endpoint of etcd is named"):
        reach.reachable(hosts, ["w1"], [], None)
    assert hosts.commands == []
