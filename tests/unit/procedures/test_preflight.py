"""The preflight's judgements, over plain data."""

import json
import threading

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.k8s import rights
from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.disruption import Risk, RiskKind
from fleet.adapters.k8s.model import Node, Taint, parse_node
from fleet.adapters.k8s.nodes import OWNER_ANNOTATION
from fleet.clock import THREADS
from fleet.config.model import LeaseConfig
from fleet.engine.findings import Finding, Level, ask, note, stop
from fleet.engine.model import Limits, Target
from fleet.procedures import preflight
from fleet.procedures.availability import absent, group_of
from fleet.procedures.inventory import compare, match
from fleet.steps import drain_risks
from fleet.steps.drain import Drain
from support import official
from support.clusters import cluster

ROW = "topology.kubernetes.io/zone"


def node(name, row="row-a", *, ready=True, cordoned=False, owner=None, taints=()) -> Node:
    annotations = {}
    if owner:
        value = {"run": owner, "operator": "ann@here", "reason": "disk", "was_cordoned": False}
        annotations[OWNER_ANNOTATION] = json.dumps(value)
    return parse_node(
        {
            "metadata": {
                "name": name,
                "labels": {ROW: row} if row else {},
                "annotations": annotations,
                "resourceVersion": "1",
            },
            "spec": {"unschedulable": cordoned, "taints": [{"key": k, "value": v, "effect": e} for k, v, e in taints]},
            "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}]},
        }
    )


def fleet(*nodes):
    return {node.name: node for node in nodes}


def units(*names):
    return [Target(name, "row-a") for name in names]


def levels(findings):
    return [finding.level for finding in findings]


def test_a_healthy_fleet_has_no_findings():
    known = fleet(node("w1"), node("w2"))
    assert preflight.of_nodes(known, units("w1", "w2"), ROW, "r1") == []
    assert preflight.of_limits(units("w1", "w2"), Limits(), absent(known, ROW)) == []


def test_a_target_that_is_not_ready_stops_the_run_and_another_node_does_not():
    known = fleet(node("w1", ready=False), node("w2", ready=False))
    found = preflight.of_nodes(known, units("w1"), ROW, "r1")
    assert levels(found) == [Level.STOP, Level.NOTE]
    assert found[0].what == "w1 is NotReady."
    assert found[0].todo == "Repair it, or --exclude w1."


def test_a_cordon_of_others_is_noted_and_one_of_another_run_stops():
    known = fleet(
        node("w1", cordoned=True), node("w2", cordoned=True, owner="r0"), node("w3", cordoned=True, owner="r1")
    )
    found = preflight.of_nodes(known, units("w1", "w2", "w3"), ROW, "r1")
    assert levels(found) == [Level.NOTE, Level.STOP, Level.NOTE]
    assert "it will be done, and stay cordoned" in found[0].what
    assert found[1].what == "w2 is under the maintenance of run r0 (ann@here: disk)."


def test_nodes_without_a_domain_are_named():
    found = preflight.of_nodes(fleet(node("w1", row="")), units("w1"), ROW, "r1")
    assert levels(found) == [Level.ASK]
    assert "w1" in found[0].what


def test_limits_that_let_nothing_start_are_found():
    known = fleet(node("w1"), node("w2", cordoned=True), node("w3", cordoned=True))
    found = preflight.of_limits(units("w1"), Limits(max_unavailable=2), absent(known, ROW))
    assert levels(found) == [Level.STOP]
    assert found[0].what == "Nothing can start: w2, w3 unavailable, the limit is 2."


@pytest.mark.parametrize("kind", list(RiskKind))
def test_what_is_bound_to_fail_stops_and_names_the_nodes(kind):
    finding = drain_risks.of_risk(Risk(kind, "what", "todo.", ("w1", "w2")))
    assert (finding.level is Level.STOP) == kind.is_fatal
    if kind.is_fatal:
        assert finding.todo == "todo. Or --exclude w1,w2."


def test_findings_are_told_worst_first():
    assert levels(preflight.worst_first([note("a"), stop("b", "x"), ask("c", "y")])) == list(Level)


def test_a_node_is_absent_when_cordoned_or_not_ready():
    gone = absent(fleet(node("w1"), node("w2", cordoned=True), node("w3", "row-b", ready=False)), ROW)
    assert {name: (a.domain, a.down) for name, a in gone.items()} == {"w2": ("row-a", False), "w3": ("row-b", True)}


def test_a_taint_group_is_what_keeps_pods_off():
    taints = [
        ("gpu", "yes", "NoSchedule"),
        ("node.kubernetes.io/unreachable", "", "NoExecute"),
        ("fleet-cookbooks/pending-maintenance", "r1", "PreferNoSchedule"),
    ]
    assert group_of(node("w1", taints=taints)) == "gpu=yes:NoSchedule"
    assert Taint("gpu", "yes", "NoSchedule") in node("w1", taints=taints).taints


names = st.sets(st.from_regex(r"w[0-9]{1,2}(\.example\.org)?", fullmatch=True), max_size=8)


@given(names, names, names, st.sampled_from(["fqdn", "short"]))
def test_every_host_is_a_target_excluded_or_found_missing(hosts, known, excluded, naming):
    targets = match(hosts, known, excluded, naming)
    assert set(targets.hosts) <= known
    assert set(targets.hosts.values()) <= hosts - excluded
    text = " ".join(finding.what for finding in targets.findings)
    for name in excluded - hosts:
        if name not in {host.split(".")[0] for host in hosts}:
            assert name in text
    assert all(finding.level is Level.STOP for finding in targets.findings)


def test_two_hosts_of_one_name_stop_the_run():
    targets = match({"w1.eqiad", "w1.codfw"}, {"w1"}, set(), "short")
    assert levels(targets.findings) == [Level.STOP]
    assert "Several hosts would be the same node: w1.codfw" in targets.findings[0].what


def test_the_control_plane_is_no_target_and_strays_are_named():
    findings = compare({"cp1", "w1"}, {"cp1", "w1", "w9"}, {"w1"}, {"cp1", "cp2"}, "fqdn")
    assert levels(findings) == [Level.STOP, Level.NOTE]
    assert findings[0].what.startswith("cp1 belongs to the control plane")
    assert findings[1].what.endswith(": w9.")


def test_an_operator_who_leaves_does_not_wait_for_the_longest_look():
    cancel = threading.Event()

    def leaves() -> list[Finding]:
        raise KeyboardInterrupt

    def watches() -> list[Finding]:
        assert cancel.wait(30), "it would have watched to the end"
        return []

    with pytest.raises(KeyboardInterrupt):
        preflight.carry_out([leaves, watches], cancel, THREADS)
    assert cancel.is_set()


def test_looking_at_everything_cancels_nothing():
    cancel = threading.Event()
    assert preflight.carry_out([lambda: [note("well")]], cancel, THREADS) == [note("well")]
    assert not cancel.is_set()


def role(lacks: str) -> Api:
    """Return an API that allows everything but one resource."""

    def review(_method: str, _url: str, body: bytes | None) -> urllib3.HTTPResponse:
        asked = json.loads(body or b"")["spec"]["resourceAttributes"]["resource"]
        return official.answer(201, json.dumps({"status": {"allowed": asked != lacks}}).encode())

    return Api(official.client(review))


@pytest.mark.parametrize(
    ("lacks", "expected"),
    [("pods", Level.STOP), ("leases", Level.STOP), ("persistentvolumes", Level.ASK), ("secrets", None)],
)
def test_rights_without_which_a_run_fails_stop_it_and_others_are_asked_about(lacks, expected):
    found = preflight.of_rights(cluster({}, api=role(lacks)), [*rights.of_lease(LeaseConfig()), *Drain.rights])
    assert set(levels(found)) == ({expected} if expected else set())
    assert all(lacks in finding.todo and finding.what.startswith("The user of /k may not ") for finding in found)
