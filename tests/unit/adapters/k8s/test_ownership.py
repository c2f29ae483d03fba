"""Whatever others do meanwhile, a run undoes only what it did itself."""

import itertools
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.k8s import nodes
from fleet.adapters.k8s.errors import ApiError
from fleet.clock import CLOCK


class FakeApi:
    """Holds one node and applies merge patches as the API does, conflicts included."""

    def __init__(self, conflicts: Sequence[bool]) -> None:
        self.version = 1
        self.conflicts = itertools.chain(conflicts, itertools.repeat(False))
        self.clock = CLOCK
        self.unschedulable = False
        self.annotations: dict[str, str] = {}
        self.taints: list[dict[str, str]] = [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]

    def get(self, path: str) -> dict[str, Any]:
        metadata = {"name": "w1", "annotations": dict(self.annotations), "resourceVersion": str(self.version)}
        return {"metadata": metadata, "spec": {"unschedulable": self.unschedulable, "taints": list(self.taints)}}

    def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if next(self.conflicts):
            self.version += 1  # a kubelet wrote in between
        if body["metadata"]["resourceVersion"] != str(self.version):
            raise ApiError("PATCH w1", 409, "Conflict", "changed meanwhile")
        self.version += 1
        for key, value in (body["metadata"].get("annotations") or {}).items():
            if value is None:
                self.annotations.pop(key, None)
            else:
                self.annotations[key] = value
        spec = body.get("spec") or {}
        if "unschedulable" in spec:
            self.unschedulable = bool(spec["unschedulable"])
        if "taints" in spec:
            self.taints = spec["taints"] or []
        return {}


steps = st.lists(
    st.sampled_from(["a cordons", "a uncordons", "b cordons", "b uncordons", "a taints", "a clears", "b clears"]),
    max_size=12,
)


@given(st.booleans(), steps, st.lists(st.booleans(), max_size=3))
def test_runs_put_back_what_they_found(cordoned_before, history, conflicts):
    api: Any = FakeApi(conflicts)
    api.unschedulable = cordoned_before
    holder = None
    for what in history:
        who, verb = what.split()
        if verb == "cordons":
            outcome = nodes.cordon(api, "w1", nodes.Owner(who, "ann", "why"))
            assert (outcome is nodes.CordonOutcome.OTHER_RUN) == (holder not in (None, who))
            holder = holder or who
            assert api.unschedulable
        elif verb == "uncordons":
            nodes.uncordon(api, "w1", who)
            if holder == who:
                holder = None
                assert api.unschedulable == cordoned_before
        elif verb == "taints":
            nodes.set_pending_taint(api, ["w1"], who)
        else:
            before = list(api.taints)
            nodes.clear_pending_taint(api, ["w1"], who)
            assert [taint for taint in before if taint.get("value") != who] == api.taints
    for who in "ab":
        nodes.uncordon(api, "w1", who)
        nodes.clear_pending_taint(api, ["w1"], who)
    assert api.unschedulable == cordoned_before
    assert api.annotations == {}
    assert api.taints == [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]


def test_the_cordon_of_a_node_that_was_given_up_is_anybodys():
    api: Any = FakeApi([])
    first, second = nodes.Owner("run-1", "ann", "why"), nodes.Owner("run-2", "bob", "why")
    nodes.cordon(api, "w1", first)
    assert not nodes.give_up(api, "w1", "run-2"), "it is not that run's"
    assert nodes.give_up(api, "w1", "run-1")
    assert nodes.cordon(api, "w1", second) is nodes.CordonOutcome.FOUND_CORDONED
    assert nodes.uncordon(api, "w1", "run-2") is nodes.UncordonOutcome.LEFT_CORDONED
    assert api.unschedulable


def test_a_run_that_was_killed_before_it_wrote_down_that_a_node_is_given_up_can_go_on():
    api: Any = FakeApi([])
    owner = nodes.Owner("run-1", "ann", "why")
    nodes.cordon(api, "w1", owner)
    nodes.give_up(api, "w1", "run-1")
    assert nodes.cordon(api, "w1", owner) is nodes.CordonOutcome.ALREADY_OURS
    assert '"given_up": false' in api.annotations[nodes.OWNER_ANNOTATION]
    nodes.give_up(api, "w1", "run-1")
    assert nodes.uncordon(api, "w1", "run-1") is nodes.UncordonOutcome.UNCORDONED
