"""How long it takes to assess a fleet of 5,000 nodes and 100,000 pods, and how much memory."""

import itertools
import random
import resource
import time
from collections.abc import Iterator
from typing import Any

from fleet.adapters.k8s.budgets import parse_budget
from fleet.adapters.k8s.disruption import assess
from fleet.adapters.k8s.model import parse_node
from fleet.adapters.k8s.pods import Pod, parse_pod
from fleet.adapters.k8s.policy import DrainPolicy

NODES, WORKLOADS, PODS = 5_000, 3_000, 100_000


def nodes() -> Iterator[dict[str, Any]]:
    for index in range(NODES):
        name = f"node{index}"
        yield {
            "metadata": {
                "name": name,
                "labels": {"kubernetes.io/hostname": name, "zone": f"row{index % 20}", "disk": "ssd"},
            },
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "allocatable": {"cpu": "32", "memory": "128Gi", "pods": "110"},
            },
        }


def pods(random: random.Random) -> Iterator[dict[str, Any]]:
    """As the API gives them, managed fields left out."""
    for index in range(PODS):
        workload = index % WORKLOADS
        name, namespace = f"web{workload}", f"ns{workload % 300}"
        affinity = {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"labelSelector": {"matchLabels": {"app": name}}, "topologyKey": "kubernetes.io/hostname"}
                ]
            }
        }
        yield {
            "metadata": {
                "name": f"{name}-{index}",
                "namespace": namespace,
                "uid": f"uid-{index}",
                "labels": {"app": name, "pod-template-hash": f"{workload:x}"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": name, "uid": f"rs-{workload}", "controller": True}],
            },
            "spec": {
                "nodeName": f"node{random.randrange(NODES)}",
                "affinity": affinity if workload % 10 == 0 else None,
                "nodeSelector": {"disk": "ssd"} if workload % 3 == 0 else None,
                "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
                "containers": [
                    {
                        "name": "c",
                        "image": "i",
                        "resources": {"requests": {"cpu": f"{100 * (1 + workload % 12)}m", "memory": "2Gi"}},
                    }
                ],
                "volumes": [{"name": "tmp", "emptyDir": {}}] if workload % 5 == 0 else [],
            },
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }


def budgets() -> Iterator[dict[str, Any]]:
    for workload in range(0, WORKLOADS, 2):
        yield {
            "metadata": {"name": f"web{workload}", "namespace": f"ns{workload % 300}"},
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": f"web{workload}"}}},
            "status": {"disruptionsAllowed": 1, "currentHealthy": 33, "desiredHealthy": 32, "expectedPods": 33},
        }


def main() -> None:
    source = random.Random(1)
    spent = 0.0
    parsed: list[Pod] = []
    raw = pods(source)
    while batch := list(itertools.islice(raw, 500)):  # a page of the API's list
        started = time.perf_counter()
        parsed.extend(map(parse_pod, batch))
        spent += time.perf_counter() - started
    known = {node.name: node for node in map(parse_node, nodes())}
    print(f"parse {len(parsed)} pods: {spent:.2f} s")
    started = time.perf_counter()
    found = assess(parsed, list(map(parse_budget, budgets())), known, list(known), DrainPolicy())
    print(f"assess {NODES} nodes: {time.perf_counter() - started:.2f} s, {len(found.risks)} risks")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
