"""Routers, asked through junos-eznc: the lab's NETCONF server, and servers that misbehave in every way there is."""

import gc
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest
from jnpr.junos import Device
from jnpr.junos.exception import RpcError

from fleet.adapters.bgp.errors import RouterError
from fleet.adapters.bgp.junos import Restarts, Routers
from fleet.adapters.bgp.summary import Summary
from fleet_lab.guest.netconf import HANGS, HOST_KEY, LOGIN
from fleet_lab.guest.netconf.rpc import BASE
from support.netconf import HELLO, PASSWORD, USER, Keys, Network, Router, rogue, says, silent, wait_until

WORKER1 = ip_address("10.64.0.121")
WORKER1_V6 = ip_address("2620:0:861:101:10:64:0:121")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[Router]:
    router = Router(tmp_path_factory.mktemp("router") / "cr", keys)
    router.start()
    yield router
    router.stop()


@pytest.fixture
def network(tmp_path: Path, keys: Keys, shared: Router) -> Iterator[Network]:
    network = Network(tmp_path, keys, shared)
    yield network
    network.close()


def summary(client: Routers, router: str = "cr1") -> Summary:
    answer = client.summaries()[router]
    assert isinstance(answer, Summary), answer
    return answer


def error(client: Routers, router: str = "cr1") -> str:
    answer = client.summaries()[router]
    assert isinstance(answer, RouterError), answer
    return str(answer)


@pytest.mark.parametrize("base_1_1", [False, True])
def test_the_summary_is_what_frr_says(network: Network, base_1_1: bool) -> None:
    network.another_router(base_1_1=base_1_1)
    before = time.monotonic()

    found = summary(network.client())

    assert before < found.taken < time.monotonic()
    assert [(str(peer.address), peer.asn, peer.state, peer.flaps, len(peer.ribs)) for peer in found.peers] == [
        ("10.64.0.18", 4200000018, "Established", 0, 2),
        ("10.64.0.121", 64601, "Established", 2, 1),
        ("10.64.0.145", 64601, "Established", 0, 1),
        ("10.64.0.200", 64601, "Active", 0, 0),
        ("10.64.0.201", 64601, "Idle", 0, 0),
        ("2620:0:861:101:10:64:0:121", 64601, "Established", 2, 1),
        ("2620:0:861:101:10:64:0:145", 64601, "Active", 0, 0),
    ]
    assert [(rib.name, rib.accepted) for rib in found.peers[0].ribs] == [("inet.0", 2), ("inet6.0", 1)]


def test_who_may_restart_is_who_negotiated_it(network: Network) -> None:
    network.router()

    # worker2's BIRD has graceful restart off, the transit's is merely aware of it.
    known = network.client().restarts()["cr1"]
    assert isinstance(known, Restarts), known
    assert known.negotiated == {WORKER1, WORKER1_V6}


def test_who_has_not_told_all_routes_is_who_sent_no_end_of_them(network: Network) -> None:
    router = network.router()
    client = network.client()
    both = frozenset({WORKER1, WORKER1_V6})
    assert client.restarts(both) == {"cr1": Restarts(both, frozenset())}
    router.change("neighbors.json", lambda peers: peers[str(WORKER1_V6)]["gracefulRestartInfo"].pop("endOfRibRecv"))
    assert client.restarts(both) == {"cr1": Restarts(both, frozenset({WORKER1_V6}))}


def test_a_password_lets_in_as_well(network: Network, tmp_path: Path) -> None:
    network.router()
    (tmp_path / "password").write_text(f"{PASSWORD}\nanother line\n")

    assert summary(network.client(password_file=tmp_path / "password"))


@pytest.fixture
def device(network: Network, keys: Keys) -> Iterator[Any]:
    router = network.router()
    options = {"ssh_private_key_file": str(keys.path("user")), "gather_facts": False, "normalize": True}
    with Device(host="127.0.0.1", port=router.port, user=USER, **options) as device:
        yield device


def test_the_cli_prints_what_an_operator_knows(device: Any) -> None:
    text = device.cli("show bgp summary", warning=False)

    lines = text.strip().splitlines()
    assert lines[0] == "Groups: 2 Peers: 7 Down peers: 3"
    assert "  inet6.0: 1/1/1/0" in lines
    assert any(
        line.startswith("2620:0:861:101:10:64:0:121       64601 ") and line.endswith(" Establ") for line in lines
    )
    assert device.cli("show bgp summary | display xml rpc").tag == "get-bgp-summary-information"


def test_one_neighbor_or_none_is_told(device: Any, network: Network) -> None:
    assert device.rpc.get_bgp_neighbor_information(neighbor_address="10.9.9.9").findall("bgp-peer") == []
    with pytest.raises(RpcError, match="invalid value"):
        device.rpc.get_bgp_neighbor_information(neighbor_address="10.9.9")


@pytest.mark.parametrize("command", ["show version", "show bgp summary | match 64601"])
def test_what_the_server_does_not_know_is_an_error(device: Any, command: str) -> None:
    with pytest.raises(RpcError, match="syntax error"):
        device.cli(command, warning=False)
    with pytest.raises(RpcError, match="get-route-information"):
        device.rpc.get_route_information()


def sessions() -> set[threading.Thread]:
    """Return ncclient's threads, one for each connection."""
    return {thread for thread in threading.enumerate() if thread.name == "session"}


def test_a_connection_is_kept(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    router = network.router()
    client = network.client()

    summary(client)
    first = sessions()
    for _ in range(3):
        summary(client)

    assert sessions() == first != set()
    assert router.questions() == 4
    assert "Connecting again" not in caplog.text


def test_a_connection_that_broke_is_made_anew(network: Network) -> None:
    router = network.another_router()
    client = network.client()
    summary(client)
    router.stop()

    assert "cr1 (127.0.0.1:" in error(client)
    assert "refused" in error(client)
    router.start()
    assert summary(client)


def test_a_connection_that_broke_unseen_costs_no_answer(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    router = network.another_router()
    client = network.client()
    summary(client)
    router.stop()
    router.start()

    assert summary(client)
    assert "Connecting again" in caplog.text


def test_routers_are_asked_at_the_same_time(network: Network) -> None:
    for name in ("cr1", "cr2", "cr3"):
        (network.another_router(name).folder / "delay").write_text("3")
    client = network.client()
    began = time.monotonic()

    answers = client.summaries()

    assert all(isinstance(answer, Summary) for answer in answers.values())
    assert tuple(answers) == client.names == ("cr1", "cr2", "cr3")
    assert time.monotonic() - began < 9  # one after the other takes 9 s


def test_one_router_does_not_keep_the_others_back(network: Network) -> None:
    network.router("cr1")
    network.another_router("cr2").inject(LOGIN)
    client = network.client()

    assert isinstance(client.summaries()["cr1"], Summary)
    assert "refuses to let fleet in with" in error(client, "cr2")


def test_callers_share_a_round_that_began_after_they_called(network: Network) -> None:
    router = network.router()
    client = network.client()
    summary(client)
    (router.folder / "delay").write_text("0.3")
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(client.summaries)
        wait_until(lambda: router.questions() == 2)
        others = [pool.submit(client.summaries) for _ in range(5)]
        answers = [other.result() for other in others]

    assert router.questions() == 3
    assert all(answer == answers[0] for answer in answers)
    assert first.result() != answers[0]


def test_a_router_that_hangs_in_a_reply_is_given_up(network: Network) -> None:
    router = network.router()
    client = network.client(rpc_timeout="1s")
    summary(client)
    router.inject(HANGS)
    began = time.monotonic()

    assert "did not answer get-bgp-summary-information within 1 s" in error(client)
    assert time.monotonic() - began < 12  # the other limit is 20 s
    router.heal(HANGS)
    assert summary(client)


def test_another_host_key_is_refused_also_where_a_connection_was_open(network: Network, keys: Keys) -> None:
    router = network.router()
    client = network.client()
    summary(client)
    router.inject(HOST_KEY)

    wait_until(lambda: "shows another SSH host key" in str(client.summaries()["cr1"]))
    router.heal(HOST_KEY)
    wait_until(lambda: isinstance(client.summaries()["cr1"], Summary))


def test_a_refused_login_meets_open_connections_too(network: Network) -> None:
    router = network.router()
    client = network.client()
    summary(client)
    router.inject(LOGIN)

    wait_until(lambda: "refuses to let fleet in" in str(client.summaries()["cr1"]))
    router.heal(LOGIN)
    assert summary(client)


def test_an_unknown_host_key_is_refused_before_anything_secret_is_sent(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = network.router()
    # The operator's own list has it, which is nobody's business here.
    home = tmp_path / "home/.ssh"
    home.mkdir(parents=True)
    network.known_hosts.rename(home / "known_hosts")
    monkeypatch.setenv("HOME", str(home.parent))
    network.known_hosts.touch()
    said = error(network.client())

    assert "shows an SSH host key (MD5:" in said
    assert f"ssh-keyscan -p {router.port} 127.0.0.1 >> {network.known_hosts}" in said


@pytest.mark.parametrize("name", ["ecdsa-sha2-nistp256", "ssh-ed25519"])
def test_host_keys_of_the_usual_kinds_are_verified(network: Network, keys: Keys, name: str) -> None:
    keys.path(name, name)
    with rogue(keys, lambda process: process.exit(0), host_key=name) as port:
        network.know("cr1", port, name)

        assert "closed the connection while we were logging in" in error(network.client())


@pytest.mark.parametrize(("listen", "address"), [("127.0.0.1", "localhost"), ("::1", "::1")])
def test_hashed_host_keys_of_names_and_of_ipv6_are_verified(
    network: Network, keys: Keys, tmp_path: Path, listen: str, address: str
) -> None:
    router = network.another_router(listen=[listen])
    name = paramiko.HostKeys.hash_host(f"[{address}]:{router.port}")
    (tmp_path / "hashed").write_text(f"{name} {keys.public('host')}\n")
    routers = {"cr1": {"address": address, "port": router.port}}

    assert summary(network.client(routers=routers, known_hosts=tmp_path / "hashed"))
    network.known_hosts.write_text("")
    assert "has none of it" in error(network.client(routers=routers))


def test_an_rsa_key_alone_is_no_use(network: Network, keys: Keys) -> None:
    keys.path("rsa", "ssh-rsa")
    with rogue(keys, lambda process: process.exit(0), host_key="rsa") as port:
        network.know("cr1", port, "rsa")

        assert "ssh-rsa alone is never enough" in error(network.client())


def test_neither_the_agents_keys_nor_the_operators_are_offered(
    network: Network, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.router()
    home = tmp_path / "home/.ssh"
    home.mkdir(parents=True)
    (home / "id_ed25519").write_bytes(keys.path("user").read_bytes())
    (home / "config").write_text(f"Host *\n  IdentityFile {keys.path('user')}\n")
    monkeypatch.setenv("HOME", str(home.parent))

    assert "refuses to let fleet in with" in error(network.client(ssh_key=keys.path("stranger")))


def test_a_wrong_password_is_not_told(network: Network, tmp_path: Path) -> None:
    network.router()
    (tmp_path / "password").write_text("wrong one")
    said = error(network.client(password_file=tmp_path / "password"))

    assert f"refuses to let fleet in with the password in {tmp_path}/password" in said
    assert "wrong one" not in said


@pytest.fixture(scope="module")
def locked() -> bytes:
    return asyncssh.generate_private_key("ssh-ed25519").export_private_key(passphrase="secret")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"ssh_key": "/nowhere/key"}, "/nowhere/key: No such file"),
        ({"ssh_key": "{folder}/nonsense"}, "nonsense cannot be used"),
        ({"ssh_key": "{folder}/locked"}, "locked cannot be used"),
        ({"password_file": "/nowhere/password"}, "/nowhere/password: No such file"),
        ({"password_file": "{folder}/empty"}, "the first line of"),
        ({"password_file": "{folder}/binary"}, "binary cannot be used"),
        ({"known_hosts": "/nowhere/known"}, "/nowhere/known: No such file"),
        ({"known_hosts": "{folder}/binary"}, "is no list of keys"),
        ({"known_hosts": "{folder}/nonsense"}, "has none of it"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    network: Network, tmp_path: Path, locked: bytes, values: dict[str, str], said: str
) -> None:
    network.router()
    (tmp_path / "nonsense").write_text("what is that\n")
    (tmp_path / "empty").write_text("\nsecond line\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x9f\n")
    (tmp_path / "locked").write_bytes(locked)

    found = error(network.client(**{name: value.format(folder=tmp_path) for name, value in values.items()}))

    assert said in found
    assert "cr1 (127.0.0.1:" in found


async def hello_hangs(process: Any) -> None:
    await until_the_client_goes(process)


async def hangs_up_at_once(process: Any) -> None:
    process.exit(0)


async def hangs_up_in_the_reply(process: Any) -> None:
    process.stdout.write(HELLO)
    await request(process)
    process.stdout.write(b"<rpc-reply><bgp-information><group-count>3</gr")
    await process.stdout.drain()
    process.channel.get_connection().abort()


async def garbage(process: Any) -> None:
    process.stdout.write(HELLO)
    await request(process)
    process.stdout.write(b"%!PS-Adobe-3.0]]>]]>")
    await until_the_client_goes(process)


async def garbled_hello(process: Any) -> None:
    process.stdout.write(b"<hello><capa]]>]]>")
    await until_the_client_goes(process)


async def permission(process: Any) -> None:
    await answer(
        process,
        "<rpc-error><error-severity>error</error-severity><error-message>\npermission denied\n"
        "</error-message><error-info><bad-element>bgp</bad-element></error-info></rpc-error>",
    )


async def nothing(process: Any) -> None:
    await answer(process, "")


async def something_else(process: Any) -> None:
    await answer(process, "<software-information/>")


async def answer(process: Any, body: str) -> None:
    process.stdout.write(HELLO)
    message = await request(process)
    number = message.partition(b'message-id="')[2].partition(b'"')[0].decode()
    process.stdout.write(f'<rpc-reply xmlns="{BASE}" message-id="{number}">{body}</rpc-reply>]]>]]>'.encode())
    await process.stdin.read(4096)  # close-session
    process.exit(0)


async def until_the_client_goes(process: Any) -> None:
    while await process.stdin.read(4096):
        pass


async def request(process: Any) -> bytes:
    data = b""
    while data.count(b"]]>]]>") < 2:
        data += await process.stdin.read(4096)
    return bytes(data.split(b"]]>]]>")[1])


@pytest.mark.parametrize(
    ("behaviour", "limit", "said"),
    [
        (None, "connect_timeout", "let nobody in within 0.5 s: it took the connection, but"),
        (hello_hangs, "connect_timeout", "let nobody in within 0.5 s: it took the connection, but"),
        (garbage, "rpc_timeout", "did not answer get-bgp-summary-information within 0.5 s"),
        (garbled_hello, "", "cannot be asked: XMLSyntaxError"),
        (hangs_up_at_once, "", "closed the connection while we were logging in"),
        (hangs_up_in_the_reply, "", "closed the connection instead of answering get-bgp-summary-information"),
        (permission, "", "refuses get-bgp-summary-information to fleet: permission denied"),
        (nothing, "", "answered get-bgp-summary-information with nothing"),
        (something_else, "", "answered with no BGP summary"),
    ],
)
def test_whatever_a_router_does_is_told_in_time(
    network: Network, keys: Keys, behaviour: Any, limit: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with rogue(keys, behaviour) as port:
        network.know("cr1", port)
        client = network.client(**{limit: "0.5s"} if limit else {})
        began = time.monotonic()

        assert said in error(client)

        assert time.monotonic() - began < 12  # the other limits are 20 s
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("full", [False, True])
def test_a_router_that_never_says_a_word_is_given_up(network: Network, full: bool) -> None:
    with silent(full=full) as port:
        network.know("cr1", port)
        began = time.monotonic()

        assert "let nobody in within 0.5 s" in error(network.client(connect_timeout="0.5s"))
        assert time.monotonic() - began < 12


def test_what_speaks_no_ssh_is_told(network: Network) -> None:
    with says(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        network.know("cr1", port)

        assert "The SSH handshake with cr1 (127.0.0.1:" in error(network.client())


def test_a_name_without_address_is_told(network: Network) -> None:
    client = network.client(routers={"cr1": {"address": "cr1.invalid"}, "cr2": {"address": "a" * 70}})

    assert error(client).startswith("cr1 (cr1.invalid:830) cannot be reached: ")
    assert "cannot be reached" in error(client, "cr2")


def open_files() -> int:
    gc.collect()  # ncclient's selectors go with its sessions
    return len(list(Path("/proc/self/fd").iterdir()))


def test_failures_leave_nothing_behind(network: Network, keys: Keys) -> None:
    router = network.router("cr1")
    with rogue(keys, hello_hangs) as hanging, rogue(keys, hangs_up_in_the_reply) as breaking, silent() as mute:
        network.know("cr2", hanging)
        network.know("cr3", breaking)
        network.know("cr4", mute)
        client = network.client(connect_timeout="0.1s", rpc_timeout="0.2s")
        router.inject(HANGS)
        client.summaries()
        threads, files = threading.active_count(), open_files()
        for _ in range(20):
            assert all(isinstance(answer, RouterError) for answer in client.summaries().values())

        # What is still at work holds some threads, and errors that are kept (by the client or in the test's log) some
        # files; a leak would be one of every round.
        wait_until(lambda: threading.active_count() <= threads + 10, 30)
        wait_until(lambda: open_files() <= files + 10, 30)


def test_closing_ends_connections_and_a_question_makes_new_ones(network: Network) -> None:
    network.router()
    client = network.client()
    threads = threading.active_count()
    summary(client)

    client.close()

    wait_until(lambda: threading.active_count() <= threads)
    assert summary(client)
