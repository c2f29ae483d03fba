"""Units of systemd: what is read of a host's answer, and orders that end only the start that they name."""

import shutil
import subprocess

import pytest

from fleet.hosts import services
from fleet.hosts.probe import Unreachable
from fleet.hosts.remote import RemoteError, Result

ANSWER = """\
Welcome to worker1
fleet-boot-id=00000000-0000-0000-0000-000000000001
fleet-uptime=100.50
fleet-Result=success
fleet-LoadState=loaded
fleet-ActiveState=active
fleet-Job=
fleet-InactiveExitTimestampMonotonic=60500000
fleet-InvocationID=0123456789abcdef0123456789abcdef
"""


class Hosts:
    """Answers every command, and keeps it."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self.commands: list[tuple[str, bool]] = []

    def run(self, hosts, command, *, timeout, safe):
        self.commands.append((command, safe))
        return dict.fromkeys(hosts, self.result)


def test_an_answer_is_read():
    assert services.parse(ANSWER) == services.ServiceState(
        loaded=True,
        active="active",
        result="success",
        invocation="0123456789abcdef0123456789abcdef",
        age=40.0,
        boot_id="00000000-0000-0000-0000-000000000001",
        moving=False,
    )


@pytest.mark.parametrize(("old", "new"), [("Job=", "Job=56"), ("=active", "=deactivating"), ("=active", "=activating")])
def test_a_unit_with_a_job_is_not_yet_what_it_will_be(old, new):
    answer = services.parse(ANSWER.replace(f"{old}\n", f"{new}\n"))
    assert isinstance(answer, services.ServiceState)
    assert answer.moving


def test_a_unit_that_was_never_started_has_no_invocation():
    text = ANSWER.replace("0123456789abcdef0123456789abcdef", "").replace("=60500000", "=0")
    answer = services.parse(text.replace("LoadState=loaded", "LoadState=not-found"))
    assert isinstance(answer, services.ServiceState)
    assert (answer.loaded, answer.invocation, answer.age) == (False, services.NEVER, 100.5)


@pytest.mark.parametrize("output", ["", "systemctl: not found", ANSWER.replace("fleet-uptime=100.50", "fleet-uptime=")])
def test_what_cannot_be_read_is_no_answer(output):
    answer = services.parse(output)
    assert isinstance(answer, Unreachable)
    assert "cannot be read" in answer.reason


def test_a_host_that_is_gone_is_no_answer():
    answers = services.state(Hosts(Result(None, "no answer within 15 s")), ["w1"], "calico-node.service")
    assert answers == {"w1": Unreachable("no answer within 15 s")}


def test_the_state_is_only_read_and_the_unit_is_quoted():
    hosts = Hosts(Result(0, ANSWER))
    services.state(hosts, ["w1"], "a;reboot.service")
    assert [("'a;reboot.service'" in command, safe) for command, safe in hosts.commands] == [(True, True)]


@pytest.mark.parametrize("invocation", ["", "x", "$(reboot)", "0" * 31, "*"])
def test_an_order_without_an_invocation_is_refused(invocation):
    hosts = Hosts(Result(0, ""))
    with pytest.raises(RemoteError, match="is no invocation"):
        services.restart(hosts, "calico-node.service", {"w1": invocation})
    assert hosts.commands == []


@pytest.mark.parametrize(("current", "restarted"), [("1" * 32, True), ("2" * 32, True), ("3" * 32, False), ("", False)])
def test_only_the_named_start_is_ended(tmp_path, current, restarted):
    hosts = Hosts(Result(0, ""))
    services.restart(hosts, "calico-node.service", {"w1": "1" * 32, "w2": "2" * 32})
    command, safe = hosts.commands[0]
    assert not safe
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\n[ "$1" = show ] && echo "{current}" || echo "$@" >>{tmp_path}/done\n')
    systemctl.chmod(0o755)
    bash = shutil.which("bash")
    assert bash
    result = subprocess.run(
        [bash, "-c", command], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert (tmp_path / "done").exists() is restarted
    assert ("not restarted" in result.stdout) is not restarted


class Counting(Hosts):
    """Keeps which hosts were asked what at once."""

    def __init__(self) -> None:
        super().__init__(Result(0, ""))
        self.calls: list[tuple[list[str], str]] = []

    def run(self, hosts, command, *, timeout, safe):
        assert not safe, "a dry-run orders nothing"
        self.calls.append((list(hosts), command))
        return super().run(hosts, command, timeout=timeout, safe=safe)


def test_orders_for_the_same_units_are_one_execution():
    hosts = Counting()
    plane, node = ["kube-apiserver.service", "calico-node.service"], ["calico-node.service"]
    results = services.order(hosts, "stop", {"cp1": plane, "w1": node, "cp2": plane, "w2": node})
    assert hosts.calls == [
        (["cp1", "cp2"], "systemctl stop --no-block -- kube-apiserver.service calico-node.service"),
        (["w1", "w2"], "systemctl stop --no-block -- calico-node.service"),
    ]
    assert set(results) == {"cp1", "cp2", "w1", "w2"}


def test_nothing_is_ordered_where_there_is_no_unit():
    hosts = Counting()
    assert services.order(hosts, "start", {"w1": [], "w2": ["a.service"]}) == {"w2": Result(0, "")}
    assert hosts.calls == [(["w2"], "systemctl start --no-block -- a.service")]
    assert services.order(hosts, "start", {}) == {}


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_units_are_words_of_an_order(tmp_path, verb):
    hosts = Counting()
    units = ["a b.service", f"$(touch {tmp_path}/harm).service", "--now", "c'd.service"]
    services.order(hosts, verb, {"w1": units})
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/words\n')
    systemctl.chmod(0o755)
    bash = shutil.which("bash")
    assert bash
    subprocess.run([bash, "-c", hosts.calls[0][1]], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert (tmp_path / "words").read_text().splitlines() == [verb, "--no-block", "--", *units]
    assert not (tmp_path / "harm").exists()
