"""The plan for 5,000 nodes and 100,000 pods: time and memory, from the API's JSON to the findings."""

import json
import resource
import time
from collections.abc import Iterator
from typing import Any

from fleet.adapters.k8s.budgets import parse_budget
from fleet.adapters.k8s.disruption import assess
from fleet.adapters.k8s.model import parse_node
from fleet.adapters.k8s.pods import parse_pod
from fleet.adapters.k8s.policy import DrainPolicy
from fleet.engine import planner
from fleet.engine.model import Limits
from fleet.procedures import preflight
from fleet.procedures.availability import absent, unit_of

NODES, PODS, WORKLOADS, PAGE = 5_000, 100_000, 2_000, 500
ROW = "topology.kubernetes.io/zone"


def nodes() -> Iterator[dict[str, Any]]:
    for i in range(NODES):
        labels = {"kubernetes.io/hostname": f"node{i}", ROW: f"row-{i % 20}"}
        yield {
            "metadata": {"name": f"node{i}", "labels": labels, "annotations": {}, "resourceVersion": str(i)},
            "spec": {},
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}],
                "allocatable": {"cpu": "64", "memory": "256Gi", "pods": "110"},
                "nodeInfo": {"bootID": f"boot-{i}"},
                "addresses": [{"type": "InternalIP", "address": f"10.{i // 65536}.{i // 256 % 256}.{i % 256}"}],
            },
        }


def pods() -> Iterator[dict[str, Any]]:
    for i in range(PODS):
        app = f"app-{i % WORKLOADS}"
        owner = {"kind": "ReplicaSet", "name": app, "uid": f"rs-{app}", "controller": True, "apiVersion": "apps/v1"}
        container = {"name": "main", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}
        yield {
            "metadata": {
                "namespace": f"ns-{i % 100}",
                "name": f"{app}-{i}",
                "uid": f"pod-{i}",
                "labels": {"app": app, "pod-template-hash": f"h{i % WORKLOADS}"},
                "annotations": {"checksum/config": "x" * 64},
                "ownerReferences": [owner],
            },
            "spec": {"nodeName": f"node{i % NODES}", "containers": [container, dict(container, name="sidecar")]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }


def budgets() -> Iterator[dict[str, Any]]:
    for i in range(WORKLOADS):
        yield {
            "metadata": {"namespace": f"ns-{i % 100}", "name": f"app-{i}"},
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": f"app-{i}"}}},
            "status": {"disruptionsAllowed": 1, "currentHealthy": 50, "desiredHealthy": 49, "expectedPods": 50},
        }


def test_plan_of_5000_nodes_and_100000_pods():
    # The API sends pages of JSON, of which only what was parsed stays.
    pages: list[str] = []
    page: list[Any] = []
    for pod in pods():
        page.append(pod)
        if len(page) == PAGE:
            pages.append(json.dumps(page))
            page = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begin = time.perf_counter()
    known = {node["metadata"]["name"]: parse_node(node) for node in nodes()}
    parsed = [parse_pod(pod) for text in pages for pod in json.loads(text)]
    limits = Limits(max_unavailable=planner.resolve("5%", len(known)))
    units = planner.order(unit_of(node, ROW) for node in known.values())
    read = time.perf_counter() - begin
    found = assess(parsed, [parse_budget(item) for item in budgets()], known, list(known), DrainPolicy())
    findings = preflight.of_nodes(known, units, ROW, "run") + preflight.of_limits(units, limits, absent(known, ROW))
    seconds = time.perf_counter() - begin
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"\nplan of {NODES} nodes and {PODS} pods: {seconds:.2f} s, {read:.2f} s of them parsing (aim: 5 s);"
        f" peak memory {memory:.0f} MiB, {before:.0f} MiB of them the test's own data (aim: 1024 MiB)"
    )
    assert sum(found.evictions.values()) == PODS
    assert findings == []
    assert found.risks == ()
    assert seconds < 5
    assert memory < 1024
