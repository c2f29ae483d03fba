"""Pods that stay on a node: what of them has to be Ready again, and what proves it."""

from typing import Any

import pytest

from fleet.adapters.k8s import staying


def pod(
    name: str = "csi-x", *, ready: bool = True, ids: tuple[str, ...] = ("c://1",), static: bool = False, **changes: Any
) -> staying.StayingPod:
    owner = {"kind": "DaemonSet", "name": "csi", "uid": "d1", "controller": True}
    metadata: dict[str, Any] = {"namespace": "storage", "name": name, "uid": name, "ownerReferences": [owner]}
    if static:
        metadata |= {"annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": []}
    metadata |= changes.get("metadata", {})
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    statuses: list[dict[str, Any]] = [
        {"name": "csi", "containerID": it, "ready": ready, "state": {"running": {}} if ready else waiting} for it in ids
    ]
    conditions = [{"type": "Ready", "status": str(ready)}]
    return staying.parse(
        {
            "metadata": metadata,
            "spec": {"nodeName": "w1"},
            "status": {"conditions": conditions, "containerStatuses": statuses},
        }
    )


def test_what_was_ready_is_remembered_and_what_was_not_is_not():
    pods = [pod(), pod("broken", ready=False, metadata={"ownerReferences": []}, static=True), pod("proxy", static=True)]
    assert staying.baseline(pods, ()) == {
        "DaemonSet storage/csi": ["c://1"],
        "static pod storage/proxy": ["c://1"],
    }


@pytest.mark.parametrize("ignored", ["storage/csi", "storage/*", "*/csi"])
def test_what_is_ignored_need_not_be_ready_again(ignored):
    assert list(staying.baseline([pod(), pod("proxy", static=True, metadata={"namespace": "kube"})], [ignored])) == [
        "static pod kube/proxy"
    ]


WANTED = {"DaemonSet storage/csi": ["c://1"]}


@pytest.mark.parametrize(
    ("now", "restarted", "line"),
    [
        pytest.param([pod(ids=("c://2",))], True, "", id="ready anew"),
        pytest.param([pod("csi-other", ids=("c://2",))], True, "", id="another pod of it"),
        pytest.param([pod()], False, "", id="not rebooted"),
        pytest.param(
            [pod()], True, "DaemonSet storage/csi is shown with its containers of before the reboot", id="stale status"
        ),
        pytest.param(
            [pod(ids=("c://2",), ready=False)],
            True,
            "DaemonSet storage/csi is not Ready (csi: CrashLoopBackOff)",
            id="not ready",
        ),
        pytest.param([], True, "DaemonSet storage/csi has no pod there", id="no pod"),
        pytest.param(
            [pod(ids=("c://2",), metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})],
            True,
            "DaemonSet storage/csi has no pod there",
            id="going",
        ),
    ],
)
def test_what_proves_that_it_is_back(now, restarted, line):
    assert staying.missing(WANTED, now, restarted=restarted) == ([line] if line else [])


def test_one_of_several_containers_that_runs_on_is_no_proof():
    wanted = {"DaemonSet storage/csi": ["c://1", "c://2"]}
    assert staying.missing(wanted, [pod(ids=("c://2", "c://3"))], restarted=True)
    assert not staying.missing(wanted, [pod(ids=("c://3", "c://4"))], restarted=True)
