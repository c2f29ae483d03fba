"""Load balancers: what is read of their answers, what they are told, and what they make of a server together."""

import socket
import subprocess
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.load_balancer import pybal, runtime_socket
from fleet.adapters.load_balancer.conftool import NAME, judge
from fleet.adapters.load_balancer.haproxy import Haproxy, combine
from fleet.adapters.load_balancer.model import LoadBalancerError
from fleet.adapters.load_balancer.runtime_socket import Server
from fleet.config.model import HaproxyConfig
from fleet.execution import RemoteError, Result
from fleet.names import known_as
from support.places import DATA

ANSWERS = DATA / "haproxy"
CONFIG = HaproxyConfig(hosts="lb[1-2]", backend="api")


def answer(name: str) -> str:
    return (ANSWERS / f"{name}.txt").read_text()


def flag(text: str, server: str, column: str, value: str) -> str:
    """Return an answer with another value in a column of ``show servers state``."""
    lines = text.splitlines()
    names = next(line for line in lines if line.startswith("# be_id")).removeprefix("# ").split()
    for number, line in enumerate(lines):
        fields = line.split()
        if len(fields) == len(names) and fields[3] == server:
            fields[names.index(column)] = value
            lines[number] = " ".join(fields)
    return "\n".join(lines)


class Hosts:
    """Load balancers: each answers questions with a text of its own, and orders with another one."""

    def __init__(self, texts: dict[str, str], said: str = "\n") -> None:
        self.texts = texts
        self.said = said
        self.orders: list[tuple[tuple[str, ...], str]] = []

    def run(self, hosts: Sequence[str], command: str, *, timeout: float, safe: bool) -> dict[str, Result]:
        assert timeout > 0
        assert safe == ("show stat" in command)
        if safe:
            return {host: Result(0, self.texts[host]) for host in hosts}
        self.orders.append((tuple(hosts), command))
        return {host: Result(0, self.said) for host in hosts}


def haproxy(*texts: str, said: str = "\n") -> tuple[Haproxy, Hosts]:
    hosts = Hosts({f"lb{number}": answer(text) for number, text in enumerate(texts, 1)}, said)
    return Haproxy(CONFIG, hosts, list(hosts.texts)), hosts


@pytest.mark.parametrize(
    ("name", "server", "told", "up", "detail"),
    [
        ("up", "cp1", True, True, "UP, L7OK, 3 connections"),
        ("drain", "cp1", False, False, "DRAIN, health checks paused, 3 connections"),
        ("drain", "cp2", True, True, "UP, L7OK, 3 connections"),
        # Told to come back; no check has ended since.
        ("proving", "cp2", True, False, "NOLB, L7OK, 4 connections"),
        ("down", "cp1", True, False, "DOWN, L4CON, 0 connections"),
    ],
)
def test_haproxys_answers_are_read(name, server, told, up, detail):
    found = runtime_socket.parse(answer(name), "api")[server]
    assert (found.told, found.up, str(found)) == (told, up, detail)


@pytest.mark.parametrize(
    ("column", "value", "told", "up"),
    [
        ("srv_admin_state", "1", False, False),  # maintenance
        ("srv_admin_state", "2", False, False),  # maintenance of the one that it tracks
        ("srv_admin_state", "32", True, True),  # HAProxy itself keeps it out: seen by its operational state
        ("srv_uweight", "0", False, False),
        ("srv_op_state", "0", True, False),
        ("srv_op_state", "1", True, False),  # starting slowly
        ("srv_op_state", "3", True, False),  # stopping
        ("srv_check_state", "2", True, False),  # health checks are paused: nothing is proven
        ("srv_check_state", "14", True, False),
        ("srv_check_state", "7", True, True),  # one is under way
    ],
)
def test_what_keeps_connections_from_a_server(column, value, told, up):
    found = runtime_socket.parse(flag(answer("up"), "cp1", column, value), "api")["cp1"]
    assert (found.told, found.up) == (told, up)


def test_a_check_that_is_under_way_does_not_hide_the_last_one():
    found = runtime_socket.parse(answer("up").replace("L7OK", "* L7OK"), "api")["cp1"]
    assert found.check == "L7OK"


def test_a_failed_check_is_not_up_before_haproxy_counts_the_server_as_down():
    found = runtime_socket.parse(answer("up").replace("L7OK", "L7STS"), "api")["cp1"]
    assert found.running
    assert not found.up


def test_columns_that_were_added_change_nothing():
    text = answer("up").replace("# be_id ", "# be_id new ")
    text = text.replace("3 api ", "3 x api ").replace("# pxname,", "# pxname,new,").replace("api,cp", "api,x,cp")
    assert runtime_socket.parse(text, "api") == runtime_socket.parse(answer("up"), "api")


@pytest.mark.parametrize(
    ("text", "backend", "message"),
    [
        (answer("up"), "kube", "it has no backend kube with servers, but api"),
        ("", "api", "its answer cannot be read: ''"),
        ("Permission denied\n", "api", "its answer cannot be read: 'Permission denied'"),
        (answer("up").partition("# pxname")[0], "api", "its answer cannot be read"),
        (answer("up").replace("api,cp1", "api,cp3"), "api", "its answer lacks something: 'cp1'"),
        (flag(answer("up"), "cp1", "srv_op_state", "x"), "api", "its answer lacks something"),
        (answer("up").replace("srv_op_state", "srv_other"), "api", "its answer lacks something: 'srv_op_state'"),
    ],
)
def test_what_is_no_answer_of_haproxys_is_refused(text, backend, message):
    with pytest.raises(ValueError, match=message):
        runtime_socket.parse(text, backend)


@given(cut=st.integers(min_value=0, max_value=len(answer("up"))))
def test_of_an_answer_that_was_cut_off_nothing_wrong_is_read(cut):
    whole = runtime_socket.parse(answer("up"), "api")
    try:
        found = runtime_socket.parse(answer("up")[:cut], "api")
    except ValueError:
        return
    assert found.keys() == whole.keys()
    assert all(found[name].told == whole[name].told for name in whole)


SERVERS = st.builds(
    Server,
    told=st.booleans(),
    running=st.booleans(),
    checkable=st.just(True),
    checked=st.booleans(),
    status=st.just("UP"),
    check=st.sampled_from(["", "L4OK", "L7OK", "L7STS", "L4CON"]),
    sessions=st.integers(0, 9),
)


@given(servers=st.dictionaries(st.sampled_from(["lb1", "lb2", "lb3"]), SERVERS, min_size=1))
def test_all_load_balancers_count(servers):
    state = combine(servers)

    assert set(state.pooled_at) == {name for name, server in servers.items() if server.told}
    assert not (state.out and state.up)
    assert state.out == (state.pooled_at == ())
    if state.up:
        assert set(state.pooled_at) == set(servers)
        assert all(server.check.endswith("OK") for server in servers.values())
    assert state.connections == sum(server.sessions for server in servers.values())


def test_the_state_is_that_at_all_load_balancers():
    balancer, hosts = haproxy("up", "drain")

    states = balancer.states(["cp1.example.org", "cp2.example.org"])

    first = states["cp1.example.org"]
    assert (first.pooled_at, first.out, first.up, first.connections) == (("lb1",), False, False, 6)
    assert first.detail == "lb1: UP, L7OK, 3 connections; lb2: DRAIN, health checks paused, 3 connections"
    assert states["cp2.example.org"].up
    assert hosts.orders == []


def test_only_those_are_told_that_are_named():
    balancer, hosts = haproxy("up", "up")

    balancer.depool("cp1", ["lb2"])

    assert [at for at, _ in hosts.orders] == [("lb2",)]
    assert "disable health api/cp1; set server api/cp1 state drain" in hosts.orders[0][1]


def test_one_that_is_up_is_not_brought_back_again():
    balancer, hosts = haproxy("up", "drain")

    balancer.pool("cp1", ["lb1", "lb2"])

    assert [at for at, _ in hosts.orders] == [("lb2",)]
    assert hosts.orders[0][1].index("enable health api/cp1") < hosts.orders[0][1].index("state ready")


def test_health_is_looked_at_again_everywhere_and_nothing_else_is_changed():
    balancer, hosts = haproxy("drain", "drain")

    balancer.watch_again("cp1")

    assert [at for at, _ in hosts.orders] == [("lb1", "lb2")]
    assert "enable health api/cp1" in hosts.orders[0][1]
    assert "set server" not in hosts.orders[0][1]


@pytest.mark.parametrize(
    ("host", "text", "message"),
    [
        ("cp9", answer("up"), "has no server cp9 for cp9, but cp1, cp2"),
        ("cp1", flag(answer("up"), "cp1", "srv_check_state", "0"), "has no health checks for cp1"),
        ("cp1", "", "1 of 1 load balancers could not be asked: lb1: HAProxy is of no use here"),
    ],
)
def test_what_cannot_be_told_of_a_server_is_an_error(host, text, message):
    with pytest.raises(LoadBalancerError, match=message):
        Haproxy(CONFIG, Hosts({"lb1": text}), ["lb1"]).states([host])


def test_a_refusal_is_an_error():
    with pytest.raises(
        LoadBalancerError,
        match="1 of 1 load balancers could not be told about cp1: lb1: HAProxy refused: No such server",
    ):
        haproxy("up", said="\nNo such server.\n")[0].depool("cp1", ["lb1"])


def test_one_that_is_no_load_balancer_is_not_told():
    balancer, hosts = haproxy("up")
    with pytest.raises(LoadBalancerError, match="lb9 is no load balancer"):
        balancer.depool("cp1", ["lb1", "lb9"])
    assert hosts.orders == []


def test_a_load_balancer_that_does_not_answer_is_an_error():
    class Gone(Hosts):
        def run(self, hosts, command, *, timeout, safe):
            return {**super().run(hosts, command, timeout=timeout, safe=safe), "lb2": Result(None, "no route")}

    class Broken(Hosts):
        def run(self, hosts, command, *, timeout, safe):
            raise RemoteError("no Cumin")

    texts = {"lb1": answer("up"), "lb2": answer("up")}
    one = "1 of 2 load balancers could not be asked: lb2: no route"
    for hosts, message in ((Gone(texts), one), (Broken(texts), "no Cumin")):
        with pytest.raises(LoadBalancerError, match=message):
            Haproxy(CONFIG, hosts, list(texts)).states(["cp1"])


def test_in_a_dry_run_nobody_is_told():
    class DryRun(Hosts):
        def run(self, hosts, command, *, timeout, safe):
            return super().run(hosts, command, timeout=timeout, safe=safe) if safe else {}

    balancer = Haproxy(CONFIG, DryRun({"lb1": answer("drain")}), ["lb1"])
    balancer.depool("cp1", ["lb1"])
    balancer.pool("cp1", ["lb1"])
    assert balancer.states(["cp1"])["cp1"].out


def test_a_socket_with_a_strange_name_is_quoted(tmp_path):
    command = runtime_socket.question(f"/x y;touch {tmp_path}/done")
    subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", {}),
        ("cp1.example.org:\tenabled/up/pooled\n", {"cp1.example.org": pybal.UP}),
        (
            "a:\tdisabled/partially up/not pooled\nb:\tenabled/down/pooled\n",
            {"a": "disabled/partially up/not pooled", "b": "enabled/down/pooled"},
        ),
    ],
)
def test_pybals_answers_are_read(text, said):
    assert pybal.parse(text) == said


@pytest.mark.parametrize("text", ["<html>", "kubemaster_6443\n", "cp1:\tenabled/up", "The desired url was not found"])
def test_what_is_no_pool_is_refused(text):
    with pytest.raises(ValueError, match="no line of a pool"):
        pybal.parse(text)


@pytest.mark.parametrize(
    ("pooled", "said", "out", "up"),
    [
        ("yes", {}, False, True),
        ("no", {}, True, False),
        ("inactive", {}, True, False),
        ("yes", {"lvs1": pybal.UP, "lvs2": pybal.UP}, False, True),
        ("yes", {"lvs1": pybal.UP, "lvs2": "enabled/down/not pooled"}, False, False),
        ("yes", {"lvs1": "enabled/down/pooled"}, False, False),  # too many are down for it to let this one go
        ("yes", {"lvs1": pybal.ABSENT}, False, False),
        ("no", {"lvs1": "disabled/up/not pooled", "lvs2": pybal.UP}, False, False),  # lvs2 has not followed yet
        ("no", {"lvs1": "disabled/up/not pooled"}, True, False),
        ("inactive", {"lvs1": pybal.ABSENT}, True, False),
    ],
)
def test_what_conftool_says_is_proven_by_pybal(pooled, said, out, up):
    state = judge(pooled, said)
    assert state.pooled_at == ((NAME,) if pooled == "yes" else ())
    assert (state.out, state.up, state.connections) == (out, up, None)
    assert all(text in state.detail for text in said.values())
    assert ("no PyBal was asked" in state.detail) == (not said)


def test_all_that_are_of_no_use_are_named():
    balancer = Haproxy(CONFIG, Hosts({"lb1": answer("up"), "lb2": "", "lb3": ""}), ["lb1", "lb2", "lb3"])
    with pytest.raises(LoadBalancerError, match=r"2 of 3 load balancers could not be asked: lb2: .*; lb3: "):
        balancer.states(["cp1"])


def test_all_pybals_are_asked_and_those_that_cannot_be_are_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}/pools/x"
    urls = [closed, "http://nobody.invalid:9090/pools/x"]
    with pytest.raises(LoadBalancerError) as caught:
        pybal.ask_all(urls)
    assert str(caught.value).startswith(
        f"2 of 2 PyBals could not be asked: {closed}: connection refused; {urls[1]}: its name cannot be resolved"
    )
    assert pybal.ask_all([]) == {}


def test_no_pybals_answer_hides_behind_anothers_of_the_same_host():
    one, other = "http://lvs1:9090/pools/x", "http://lvs2:9090/pools/x"
    assert pybal.names([one, other]) == {one: "lvs1", other: "lvs2"}
    twin = "http://lvs1:9091/pools/x"
    assert pybal.names([one, twin]) == {one: one, twin: twin}


def test_names_of_servers():
    assert known_as("cp1.example.org", "short") == "cp1"
    assert known_as("cp1.example.org", "fqdn") == "cp1.example.org"
