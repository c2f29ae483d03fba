"""sre.k8s.restart-calico over the whole fleet, and BGP as a gate: watched at the routers themselves."""

import json
import os
import pty
import subprocess
import threading
from collections import defaultdict

import pytest

from support.rehearsal import DEADLINES, RESTART_CALICO, Rehearsal, RouterWatcher, Watcher, eventually

WORKERS = [f"worker{number}" for number in range(1, 7)]
SHORT = {**DEADLINES, "bgp": "8s", "restart": "8s"}
STEPS = (
    *("baseline", "silence", "cordon", "drain", "restart", "active", "bgp", "ready", "daemons", "alerts"),
    *("uncordon", "unsilence", "workloads"),
)


@pytest.fixture(scope="module", autouse=True)
def _in_order_afterwards(lab, tmp_path_factory):
    """Whatever the last test leaves is put in order for the next module."""
    yield
    Rehearsal(lab, tmp_path_factory.mktemp("afterwards")).restore()


@pytest.fixture
def rehearsal(lab, running_workload, tmp_path):
    """A fleet in order."""
    rehearsal = Rehearsal(lab, tmp_path, RESTART_CALICO)
    rehearsal.restore()
    return rehearsal


def addresses(lab, *names):
    """The addresses of nodes, by which routers know them."""
    return {str(address) for name in names for address in (lab.hosts[name].ipv4, lab.hosts[name].ipv6)}


def start_of(lab, node):
    """The invocation of calico-node on a node, as its systemd has it."""
    return lab.enter(node, "systemctl", "show", "--property=InvocationID", "--value", "calico-node").strip()


def test_every_session_is_reestablished_once_and_proven(rehearsal, lab):
    starts = {name: start_of(lab, name) for name in WORKERS}
    before = lab.sessions()
    planned = rehearsal.cookbook(
        "--dry-run", RESTART_CALICO, "--cluster", "lab", "-r", "rehearsal", "--max-unavailable", "2"
    )
    assert planned.code == 0, planned.output
    assert "All 24 BGP sessions of the nodes are up at cr1, cr2." in planned.output
    assert {name: start_of(lab, name) for name in WORKERS} == starts
    assert not rehearsal.state_dir.exists()

    with RouterWatcher(lab) as routers, Watcher(lab) as seen:
        outcome = rehearsal.start("--max-unavailable", "2", "-t", "T123")
    assert outcome.code == 0, outcome.output

    assert routers.looks > 20
    assert len(routers.most_without_sessions) in (1, 2), routers.most_without_sessions
    assert routers.without_sessions_in_service == set(), "a node took pods before its sessions were up"
    assert len(seen.most_unavailable) == 2
    assert len(seen.most_rows) == 1
    after = lab.sessions()
    workers = addresses(lab, *WORKERS)
    for (router, address), session in after.items():
        flaps = session["connectionsDropped"] - before[router, address]["connectionsDropped"]
        assert flaps == (1 if address in workers else 0), f"{address} at {router} went down {flaps} times"
        assert session["state"] == "Established"
    assert all(len(boots) == 1 for boots in seen.boots.values()), "a node was rebooted"
    assert all(start_of(lab, name) != starts[name] for name in WORKERS)
    rehearsal.assert_untouched(*WORKERS)
    assert rehearsal.silences() == []
    for unit in rehearsal.report()["units"]:
        assert set(unit["steps"]) == {"bgp baseline", "bgp routes", *STEPS}
        assert {router: len(sessions) for router, sessions in unit["facts"]["bgp"].items()} == {"cr1": 2, "cr2": 2}


@pytest.fixture
def dynamic(lab):
    """Make a node's sessions dynamic at both routers: they know no such neighbor until it comes (Junos: ``allow``)."""
    host = lab.hosts["worker6"]
    ranges = {4: f"{host.ipv4}/32", 6: f"{host.ipv6}/128"}
    neighbors = {4: str(host.ipv4), 6: str(host.ipv6)}

    def configure(*commands):
        for router in lab.names("router"):
            lines = ["conf t", "router bgp 65000", *commands]
            lab.enter(router, "vtysh", *(word for line in lines for word in ("-c", line)))

    listen = [f"bgp listen range {ranges[family]} peer-group kubernetes-ipv{family}" for family in (4, 6)]
    activate = [
        line
        for family in (4, 6)
        for line in (
            f"address-family ipv{family} unicast",
            f"neighbor kubernetes-ipv{family} activate",
            "exit-address-family",
        )
    ]
    configure(*(f"no neighbor {neighbors[family]}" for family in (4, 6)), *listen, *activate)
    try:
        lab.wait_for_sessions(timeout=60)
        yield "worker6"
    finally:
        configure(
            *(f"no {line}" for line in listen),
            *(
                line
                for family in (4, 6)
                for line in (
                    f"neighbor {neighbors[family]} peer-group kubernetes-ipv{family}",
                    f"neighbor {neighbors[family]} description worker6",
                )
            ),
        )
        lab.wait_for_sessions(timeout=60)


def test_sessions_that_the_routers_make_anew_are_proven_by_their_age(rehearsal, lab, dynamic):
    """Their counts start at 0 each time."""
    flaps = {key: session["connectionsDropped"] for key, session in lab.sessions().items()}
    own = [key for key in flaps if key[1] in addresses(lab, dynamic)]
    assert [flaps[key] for key in own] == [0, 0, 0, 0]
    start = start_of(lab, dynamic)

    outcome = rehearsal.start("--query", dynamic)
    assert outcome.code == 0, outcome.output
    assert start_of(lab, dynamic) != start
    after = lab.sessions()
    assert [after[key]["connectionsDropped"] for key in own] == [0, 0, 0, 0], "these are no dynamic neighbors"
    rehearsal.assert_untouched(dynamic)

    rehearsal.change_config(lambda cluster: cluster["bgp"].update(stable="1s"))
    start = start_of(lab, dynamic)
    lab.inject("bgp-down", dynamic)
    rehearsal.hurry(bgp="8s")
    held = rehearsal.start("--query", dynamic)
    assert held.code == 1, held.output
    assert "HELD: bgp: not within 8 s: cr1" in held.output, "what is not back is proven"
    lab.heal()
    lab.wait_for_sessions(timeout=30)
    aborted = rehearsal.abort(held.run)
    assert aborted.code == 0, aborted.output
    assert start_of(lab, dynamic) != start
    rehearsal.assert_untouched(dynamic)


def test_nodes_whose_sessions_do_not_come_back_are_held(rehearsal, lab, tmp_path):
    faults = {
        "worker1": ("bgp-down", f"bgp: not within 8 s: cr1 {lab.hosts['worker1'].ipv4}: "),
        "worker2": ("bgp-ipv6-down", f"bgp: not within 8 s: cr1 {lab.hosts['worker2'].ipv6}: "),
        "worker3": ("bgp-fewer-prefixes", "1 of 2 prefixes"),
        "worker4": ("calico-fails", "active: not within 8 s: calico-node.service is activating"),
    }
    limits = {"max_unavailable": 5, "max_domains": 3, "max_failed": 3}
    rehearsal = Rehearsal(lab, tmp_path, RESTART_CALICO, limits=limits, deadlines=SHORT)
    for node, (fault, _) in faults.items():
        lab.inject(fault, node)
    outcome = rehearsal.start("--query", "worker[1-6]")
    assert outcome.code == 1, outcome.output
    held = [name for name, status in rehearsal.statuses().items() if status == "held"]
    assert held == list(faults)
    for node, (_, message) in faults.items():
        line = next(line for line in outcome.output.splitlines() if f"{node}: HELD: " in line)
        assert message in line
        rehearsal.assert_held(node)
    assert f"cookbook {RESTART_CALICO} --resume {outcome.run}" in outcome.output
    shown = rehearsal.cookbook("sre.network.bgp-summary", "--cluster", "lab", "--json")
    assert shown.code == 1

    lab.heal()
    lab.wait_for_sessions(timeout=60)
    starts = {name: start_of(lab, name) for name in ("worker1", "worker2", "worker3")}
    resumed = rehearsal.resume(outcome.run)
    assert resumed.code == 0, resumed.output
    assert {name: start_of(lab, name) for name in starts} == starts, "what was restarted was restarted again"
    rehearsal.assert_untouched(*WORKERS)
    assert rehearsal.silences() == []


def test_a_router_that_cannot_be_asked_keeps_the_gate_closed(rehearsal, lab):
    faults = {
        "netconf-hangs": "did not answer",
        "netconf-host-key": "host key",
        "netconf-login": "refuses to let fleet in",
        "router-unreachable": "let nobody in within 1 s",
    }
    rehearsal.change_config(lambda cluster: cluster["bgp"].update(connect_timeout="1s", rpc_timeout="1s"))
    rehearsal.hurry(bgp="5s")
    run = ""
    for fault, message in faults.items():
        if not run:
            with rehearsal.in_background("--query", "worker[1-2]") as process:
                rehearsal.wait_for_event("worker1", "restart", "intent")
                lab.inject(fault, "cr2")
                outcome = rehearsal.end(process)
            run = outcome.run
            start = start_of(lab, "worker1")
        else:
            lab.heal()
            lab.inject(fault, "cr2")
            outcome = rehearsal.resume(run)
        assert outcome.code == 1, outcome.output
        assert rehearsal.statuses() == {"worker1": "held", "worker2": "pending"}
        line = next(line for line in outcome.output.splitlines() if "worker1: HELD: bgp: not within 5 s: " in line)
        assert "cr2 " in line
        assert message in line
        assert "cr1" not in line
        rehearsal.assert_held("worker1")
        rehearsal.assert_untouched("worker2")
    refused = rehearsal.start("--query", "worker2")
    assert refused.code == 2, refused.output
    assert "[stop] 1 of 2 core routers could not be asked: cr2 " in refused.output

    rehearsal.hurry(bgp=DEADLINES["bgp"])
    lab.heal()
    resumed = rehearsal.resume(run)
    assert resumed.code == 0, resumed.output
    assert start_of(lab, "worker1") == start
    rehearsal.assert_untouched("worker1", "worker2")
    assert rehearsal.silences() == []


def test_a_run_that_is_killed_again_and_again_restarts_each_node_once(rehearsal, lab):
    before = lab.sessions()
    rehearsal.kill_at("worker1", "restart", "intent", "--query", "worker[1-2]")
    run = rehearsal.folder().name
    with rehearsal.resumed(run):
        rehearsal.wait_for_event("worker2", "bgp", "pending")
    outcome = rehearsal.resume(run)
    assert outcome.code == 0, outcome.output
    assert rehearsal.statuses() == {"worker1": "done", "worker2": "done"}
    after = lab.sessions()
    for address in addresses(lab, "worker1", "worker2"):
        for router in ("cr1", "cr2"):
            flaps = [sessions[router, address]["connectionsDropped"] for sessions in (before, after)]
            assert flaps[1] - flaps[0] == 1, f"{address} at {router} was not restarted exactly once"
    rehearsal.assert_untouched("worker1", "worker2")
    assert rehearsal.silences() == []


def test_an_abort_gives_back_only_what_is_proven(rehearsal, lab):
    """Of a run that was killed when it had ordered the restart."""
    lab.inject("bgp-down", "worker1")
    rehearsal.kill_at("worker1", "restart", "applied", "--query", "worker1")
    run = rehearsal.folder().name
    rehearsal.hurry(bgp="3s")
    aborted = rehearsal.abort(run)
    assert aborted.code == 1, aborted.output
    assert "worker1 stays out of service and silenced" in aborted.output
    rehearsal.assert_held("worker1")
    rehearsal.cordon("worker1", on=False)
    opened = rehearsal.resume(run)
    assert opened.code == 1, opened.output
    assert "worker1: HELD: bgp: somebody has uncordoned it" in opened.output
    rehearsal.cordon("worker1", on=True)
    lab.heal()
    lab.wait_for_sessions(timeout=60)
    rehearsal.hurry(bgp=DEADLINES["bgp"])
    aborted = rehearsal.abort(run)
    assert aborted.code == 0, aborted.output
    rehearsal.assert_untouched("worker1")
    assert rehearsal.silences() == []


def test_sessions_that_are_down_before_are_found_before(rehearsal, lab):
    lab.inject("bgp-ipv6-down", "worker1")
    lab.inject("bgp-down", "worker2")
    for node in ("worker1", "worker2"):
        lab.enter(node, "systemctl", "restart", "calico-node")
    down = addresses(lab, "worker2") | {str(lab.hosts["worker1"].ipv6)}
    eventually(
        lambda: all((s["state"] == "Established") is (a not in down) for (_, a), s in lab.sessions().items()),
        within=60,
    )
    outcome = rehearsal.start("--query", "worker[1-3]")
    assert outcome.code == 2, outcome.output
    assert f"[ask] worker1 has BGP sessions that are down: cr1 {lab.hosts['worker1'].ipv6} is " in outcome.output
    assert f"[stop] worker2 has no BGP session with any router: cr1 {lab.hosts['worker2'].ipv4} " in outcome.output
    assert not rehearsal.state_dir.exists()
    rehearsal.assert_untouched(*WORKERS)

    shown = rehearsal.cookbook("sre.network.bgp-summary", "--cluster", "lab", "--node", "worker[1-3]", "--json")
    assert shown.code == 1, shown.output
    alone = rehearsal.cookbook("sre.network.bgp-summary", "--cluster", "lab", "--node", "worker3")
    assert alone.code == 0, alone.output


def test_a_session_that_is_lost_meanwhile_keeps_the_next_node_in_service(rehearsal, lab):
    rehearsal.hurry(bgp="8s")
    with rehearsal.in_background("--query", "worker[1-2]") as process:
        rehearsal.wait_for_event("worker1", "cordon", "done")
        lab.inject("bgp-ipv6-down", "worker2")
        lab.enter("worker2", "systemctl", "restart", "calico-node")
        outcome = rehearsal.end(process)
    assert outcome.code == 1, outcome.output
    assert rehearsal.statuses() == {"worker1": "done", "worker2": "held"}
    lost = f"cr1 {lab.hosts['worker2'].ipv6} is "
    assert f"worker2: HELD: bgp baseline: not within 8 s: down since the run began: {lost}" in outcome.output
    rehearsal.assert_untouched("worker1", "worker2")
    assert rehearsal.silences() == []
    aborted = rehearsal.abort(outcome.run)
    assert aborted.code == 0, aborted.output


def attended(rehearsal, answer, *arguments):
    """Run a cookbook on a terminal, and answer its question."""
    leader, follower = pty.openpty()
    command = ["cookbook", *arguments]
    process = subprocess.Popen(command, env=rehearsal.environment, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    said = bytearray()

    def read():
        while True:
            try:
                data = os.read(leader, 4096)
            except OSError:
                return
            if not data:
                return
            said.extend(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        eventually(lambda: b'Type "go"' in said or process.poll() is not None, within=60)
        os.write(leader, f"{answer}\n".encode())
        code = process.wait(timeout=120)
    finally:
        process.kill()
        reader.join(timeout=5)
        os.close(leader)
    return code, said.decode(errors="replace")


@pytest.fixture
def graceful(rehearsal, lab):
    """A node whose sessions negotiate graceful restart, as Calico's do."""
    node = rehearsal.busiest()

    def configure(before, after, settings):
        # BIRD says goodbye when it is asked to end; routers keep the routes only of a peer that goes without a word.
        steps = (
            f"sed -i 's/graceful restart {before}/graceful restart {after}/' /etc/calico/bird.conf",
            "mkdir -p /run/systemd/system/calico-node.service.d",
            f"printf '[Service]\n{settings}' >/run/systemd/system/calico-node.service.d/test.conf",
            "systemctl daemon-reload",
            "systemctl restart calico-node",
        )
        lab.enter(node, "sh", "-ec", "\n".join(steps))
        lab.wait_for_sessions(timeout=60)

    configure("off", "on", "KillSignal=SIGKILL\nSuccessExitStatus=KILL\n")
    yield node
    configure("on", "off", "")


def test_pods_stay_where_the_routers_keep_their_routes_which_open_no_gate(rehearsal, lab, graceful):
    node = lab.hosts[graceful]
    other = next(name for name in WORKERS if name != graceful)
    refused = rehearsal.start("--query", f"{graceful},{other}", "--no-drain")
    assert refused.code == 2, refused.output
    for router in ("cr1", "cr2"):
        assert f"[stop] Graceful restart was not negotiated at {router} in all sessions of {other}." in refused.output
    unanswered = rehearsal.start("--query", graceful, "--no-drain")
    assert unanswered.code == 2, unanswered.output
    assert "[ask] Pods stay on the nodes" in unanswered.output
    assert "[stop]" not in unanswered.output

    arguments = (RESTART_CALICO, "--cluster", "lab", "-r", "rehearsal", "--query", graceful, "--no-drain")
    start = start_of(lab, graceful)
    code, said = attended(rehearsal, "abort", *arguments)
    assert (code, "Not started" in said) == (2, True), said
    routes = {"there": 0, "gone": 0}
    over = threading.Event()

    def watch():
        while not over.wait(0.05):
            route = lab.enter("cr1", "ip", "route", "get", str(node.pods_ipv4[-2]))
            routes["there" if f"via {node.ipv4} " in route else "gone"] += 1

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    with Watcher(lab) as seen:
        code, said = attended(rehearsal, "go", *arguments)
    over.set()
    watcher.join(timeout=5)
    assert code == 0, said
    assert seen.evicted == {}
    assert routes["there"] > 10
    assert routes["gone"] == 0
    assert start_of(lab, graceful) != start
    assert "drain" not in rehearsal.report()["units"][0]["steps"]
    rehearsal.assert_untouched(graceful)

    # Of the prefixes that the routers merely kept half does not come back.
    rehearsal.hurry(bgp="8s")
    lab.inject("bgp-fewer-prefixes", graceful)
    outcome = rehearsal.start("--query", graceful)
    assert outcome.code == 1, outcome.output
    assert "1 of 2 prefixes" in next(line for line in outcome.output.splitlines() if f"{graceful}: HELD: bgp" in line)
    rehearsal.assert_held(graceful)
    lab.heal()
    lab.wait_for_sessions(timeout=60)
    rehearsal.hurry(bgp=DEADLINES["bgp"])
    assert rehearsal.resume(outcome.run).code == 0
    rehearsal.assert_untouched(graceful)


def test_the_summary_says_what_the_routers_say(rehearsal, lab):
    shown = rehearsal.cookbook("sre.network.bgp-summary", "--cluster", "lab", "--json")
    assert shown.code == 0, shown.output
    said = defaultdict(set)
    begin = shown.output.index("[\n")
    for row in json.JSONDecoder().raw_decode(shown.output, begin)[0]:
        said[row["node"]].add((row["router"], row["address"], row["state"]))
    assert said == {
        name: {(router, address, "Established") for router in ("cr1", "cr2") for address in addresses(lab, name)}
        for name in WORKERS
    }
    lab.inject("router-unreachable", "cr1")
    partly = rehearsal.cookbook("sre.network.bgp-summary", "--cluster", "lab")
    assert partly.code == 1, partly.output
    assert "cr1" in partly.output
    assert partly.output.count("Established") == 12


@pytest.mark.parametrize(
    ("bgp", "message"),
    [
        (None, "has no section bgp in the configuration"),
        ({"known_hosts": "/nonexistent"}, "/nonexistent"),
        ({"routers": {"cr1": {"address": "nosuchhost.invalid"}}}, "nosuchhost.invalid"),
    ],
)
def test_bad_configuration_is_one_clear_message(lab, tmp_path, bgp, message):
    rehearsal = Rehearsal(lab, tmp_path, RESTART_CALICO)
    rehearsal.change_config(lambda cluster: cluster.update(bgp=bgp and {**cluster["bgp"], **bgp}))
    outcome = rehearsal.start("--query", "worker1")
    assert outcome.code == 2, outcome.output
    assert message in outcome.output
    assert "Traceback" not in outcome.output
    assert not rehearsal.state_dir.exists()
