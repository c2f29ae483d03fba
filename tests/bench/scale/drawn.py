"""How long hosts take for what they do: drawn from what the lab was measured to take, by a seed."""

import random
from dataclasses import dataclass

SEED = 1
ANSWER = (0.22, 0.32)
"""Seconds that a host takes to answer over SSH, from the first packet on."""
ANSWERS = 5
"""Commands that every host has to answer: a look, the order, a look after the boot, Puppet, a look after that."""


@dataclass(frozen=True)
class Times:
    """What one host takes, in seconds.

    Attributes:
        leaves: from the order to reboot until it is gone; ``reboot-host`` waits a second.
        boots: from then on until it answers again.
        ready: from then on until its kubelet reports Ready.
        routes: from the boot until its BGP sessions are up.
        puppet: a run of Puppet.
        fails: how often Puppet fails before it succeeds.
    """

    leaves: float
    boots: float
    ready: float
    routes: float
    puppet: float
    fails: int

    @property
    def own(self) -> float:
        """The least seconds that the host takes, less those that its pods need to end.

        Puppet runs, the kubelet starts and the sessions come up at the same time.
        """
        answers = ANSWERS * sum(ANSWER) / 2
        return answers + self.leaves + self.boots + max(self.puppet * (1 + self.fails), self.ready, self.routes)


def times(count: int, boot: float, seed: int = SEED) -> list[Times]:
    """Draw the times of hosts.

    Args:
        count: how many.
        boot: seconds that a boot takes in the middle.
        seed: the same for the same times.
    """
    source = random.Random(seed)
    return [
        Times(
            leaves=source.uniform(1.3, 1.5),
            boots=boot * min(max(source.lognormvariate(0, 0.15), 0.7), 1.6),
            ready=source.uniform(2.0, 2.6),
            routes=source.uniform(1.1, 3.1),
            puppet=source.uniform(1.8, 2.4),
            fails=int(source.random() < 0.005),
        )
        for _ in range(count)
    ]
