"""How long the drain of a node with 30 pods takes, with a real API server.

The pods have a grace of 30 s and end as soon as they are told, or after two seconds. The numbers to beat, for pods that
end at once: ``kubectl drain`` 1.32 takes 13.7 s, and the drain of spicerack 33.8 s.
"""

import statistics
import tempfile
import threading
import time
from pathlib import Path

from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.policy import DrainPolicy
from support.apiserver import Cluster, FakeKubelet, World
from support.draining import drain

PODS, GRACE, ROUNDS = 30, 30, 3


def measure(api: Api, *, after: float, budget: bool) -> float:
    """Return the seconds of one drain.

    Args:
        api: the cluster.
        after: seconds that a pod takes to end.
        budget: whether a budget lets only one pod go at a time.
    """
    world = World(api)
    node = world.node()
    kubelet = world.kubelet = FakeKubelet(api, after=after)
    try:
        world.web_pods(node, PODS, grace=GRACE)
        if budget:
            world.budget("web", 1)
            threading.Thread(target=reopen, args=(world, kubelet), daemon=True).start()
        result = drain(api, node, DrainPolicy(), deadline=300, cancel=threading.Event(), progress=lambda _: None)
        assert result.done, result
        assert len(result.evicted) == PODS, result
        return result.seconds
    finally:
        world.clean()


def reopen(world: World, kubelet: FakeKubelet) -> None:
    """Stand in for the controllers: once a pod has ended, its replacement is ready and the budget allows the next."""
    for count in range(1, PODS):
        while len(kubelet.deleted) < count:
            time.sleep(0.01)
        world.allow("web", 1)


def main() -> None:
    cluster = Cluster(Path(tempfile.mkdtemp()))
    try:
        cluster.start()
        api = cluster.api()
        for title, after, budget in (
            ("pods end at once", 0.0, False),
            ("pods end after 2 s", 2.0, False),
            ("pods end at once, a budget lets one go at a time", 0.0, True),
        ):
            seconds = [measure(api, after=after, budget=budget) for _ in range(ROUNDS)]
            print(f"{PODS} pods, {title}: {statistics.median(seconds):.2f} s (of {ROUNDS}: up to {max(seconds):.2f} s)")
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
