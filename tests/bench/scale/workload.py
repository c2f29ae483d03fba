"""What runs in the cluster: Deployments under budgets, and a DaemonSet."""

import itertools
import random
import threading
from typing import Any

from bench.scale.drawn import SEED
from bench.scale.kubelets import Api

NAMESPACES = 25


def create(apis: list[Api], *, nodes: int, pods: int, budgets: int) -> None:
    """Create workloads with so many pods in all, one of them on every node.

    Args:
        apis: connections, which are used at the same time.
        nodes: how many nodes there are.
        pods: how many pods, those of the DaemonSet included.
        budgets: how many Deployments, each with a budget.
    """
    source = random.Random(SEED)
    for index in range(NAMESPACES):
        apis[0].request("POST", "/api/v1/namespaces", {"metadata": {"name": f"ns{index}"}})
    policy = budgets_of(apis[0])
    calls = []
    for index in range(budgets):
        name, namespace = f"app{index}", f"ns{index % NAMESPACES}"
        replicas = (pods - nodes) // budgets + (index < (pods - nodes) % budgets)
        annotations = {
            "fleet-lab/termination-seconds": f"{source.triangular(0, 2, 0.5):.2f}",
            "fleet-lab/ready-seconds": f"{source.uniform(0.5, 1.5):.2f}",
        }
        selector = {"matchLabels": {"app": name}}
        spec = {
            "replicas": replicas,
            "selector": selector,
            "template": _template(name, annotations),
            "strategy": {"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}},
        }
        budget = {"metadata": {"name": name}, "spec": {"maxUnavailable": "25%", "selector": selector}}
        calls.append((f"/apis/apps/v1/namespaces/{namespace}/deployments", {"metadata": {"name": name}, "spec": spec}))
        calls.append((f"{policy}/namespaces/{namespace}/poddisruptionbudgets", budget))
    daemon = {"selector": {"matchLabels": {"app": "agent"}}, "template": _template("agent", {})}
    calls.append(("/apis/apps/v1/namespaces/ns0/daemonsets", {"metadata": {"name": "agent"}, "spec": daemon}))

    def work(api: Api, number: int) -> None:
        for path, body in itertools.islice(calls, number, None, len(apis)):
            api.request("POST", path, body)

    threads = [threading.Thread(target=work, args=(api, number)) for number, api in enumerate(apis)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def budgets_of(api: Api) -> str:
    """Return the path of the API group that has budgets, in the version that the server prefers."""
    return f"/apis/{api.request('GET', '/apis/policy')['preferredVersion']['groupVersion']}"


def _template(name: str, annotations: dict[str, str]) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "registry.example.org/app:1",
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
    }
    return {
        "metadata": {"labels": {"app": name}, "annotations": annotations},
        "spec": {"terminationGracePeriodSeconds": 30, "automountServiceAccountToken": False, "containers": [container]},
    }
