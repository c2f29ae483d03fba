"""The lab's stand-in for PyBal: when it tells HAProxy something, and what it answers."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.load_balancer import pybal
from fleet_lab.guest.pybal import Haproxy, Pool


class Told(Haproxy):
    """HAProxy as it was told: a server that was not gets new connections."""

    def __init__(self, *, healthy: bool = True) -> None:
        self.told: list[tuple[str, bool]] = []
        self._healthy = healthy

    def set_pooled(self, server: str, *, pooled: bool) -> None:
        self.told.append((server, pooled))

    def servers(self) -> dict[str, tuple[bool, bool]]:
        pooled = dict(self.told).get("cp1", True)
        return {"cp1": (self._healthy, self._healthy and pooled)}


@given(said=st.lists(st.sampled_from(["yes", "no", "inactive"]), max_size=8))
def test_haproxy_is_told_of_changes_alone(said: list[str]) -> None:
    haproxy = Told()
    pool = Pool(haproxy)
    for pooled in said:
        pool.update("cp1", pooled)

    steps = [pooled == "yes" for pooled in ["yes", *said]]
    changes = [after for before, after in pairwise(steps) if before != after]
    assert haproxy.told == [("cp1", pooled) for pooled in changes]


@pytest.mark.parametrize(
    ("said", "healthy", "answer"),
    [
        ("yes", True, {"cp1": pybal.UP}),
        ("yes", False, {"cp1": "enabled/down/not pooled"}),
        ("no", True, {"cp1": "disabled/up/not pooled"}),
        ("inactive", True, {}),
        (None, True, {}),
    ],
)
def test_it_answers_as_pybal_does(said: str | None, healthy: bool, answer: dict[str, Any]) -> None:
    pool = Pool(Told(healthy=healthy))
    if said:
        pool.update("cp1", said)
    text = "".join(f"{server}:\t{line}\n" for server, line in pool.lines().items())
    assert pybal.parse(text) == answer
