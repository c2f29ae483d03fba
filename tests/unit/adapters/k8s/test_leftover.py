"""What is still on a node: who has to go, and the words for who does not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fleet.adapters.k8s.leftover import has_to_go, is_overdue, terminating
from fleet.adapters.k8s.pods import STAYING, Pod, PodClass, parse_pod
from fleet.adapters.k8s.policy import DrainPolicy

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
AT = NOW.timestamp()
WAIT, SKIP = DrainPolicy(finalizers="wait"), DrainPolicy(finalizers="skip")


def pod(*, ends: timedelta | None = None, grace: int = 30, finalizers: tuple[str, ...] = ()) -> Pod:
    metadata: dict[str, Any] = {"name": "p", "namespace": "t", "uid": "u", "finalizers": list(finalizers)}
    if ends is not None:
        stamp = (NOW + ends).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata |= {"deletionTimestamp": stamp, "deletionGracePeriodSeconds": grace}
    return parse_pod({"metadata": metadata})


RUNNING = pod()
TERMINATING = pod(ends=timedelta(seconds=20))
LATE = pod(ends=timedelta(seconds=-60))
ENDED_BUT_KEPT = pod(ends=timedelta(0), grace=0, finalizers=("a/b", "c/d"))
LATE_AND_KEPT = pod(ends=timedelta(seconds=-60), finalizers=("a/b",))
TERMINATING_WITH_FINALIZER = pod(ends=timedelta(seconds=20), finalizers=("a/b",))


@pytest.mark.parametrize(
    ("found", "wait", "skip"),
    [
        (RUNNING, True, True),
        (TERMINATING, True, True),
        (LATE, True, True),
        (ENDED_BUT_KEPT, True, False),
        (LATE_AND_KEPT, True, True),
        (TERMINATING_WITH_FINALIZER, True, True),
        (pod(finalizers=("a/b",)), True, True),
    ],
)
def test_who_has_to_go(found: Pod, wait: bool, skip: bool) -> None:
    assert has_to_go(found, PodClass.EVICT, WAIT) is wait
    assert has_to_go(found, PodClass.EVICT, SKIP) is skip
    assert not any(has_to_go(found, kind, WAIT) for kind in STAYING)


def test_pods_are_overdue_only_after_some_slack() -> None:
    assert not is_overdue(RUNNING, AT)
    assert not is_overdue(TERMINATING, AT)
    assert not is_overdue(pod(ends=timedelta(seconds=-5)), AT)
    assert is_overdue(LATE, AT)


def test_words() -> None:
    assert terminating(TERMINATING, AT) == "is terminating, with 30 s of grace"
    assert terminating(ENDED_BUT_KEPT, AT) == "is terminating, with 0 s of grace, kept by the finalizers a/b, c/d"
    assert terminating(LATE, AT) == "should have terminated by 11:59:00 UTC and has not"
    assert terminating(LATE_AND_KEPT, AT).endswith("has not, kept by the finalizers a/b")
