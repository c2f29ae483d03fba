"""What a namespace's conditions name as left in it; the sentences are those of Kubernetes 1.20."""

import pytest

from fleet.adapters.k8s.namespaces import remaining


def namespace(**messages):
    conditions = [{"type": name, "status": "True", "message": message} for name, message in messages.items()]
    return {"status": {"conditions": conditions}}


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("Some resources are remaining: configmaps. has 1 resource instances", [("configmaps", "")]),
        (
            "Some resources are remaining: widgets.x-y.example.org has 12 resource instances, "
            "pods. has 2 resource instances, jobs.batch has 1 resource instances",
            [("jobs", "batch"), ("pods", ""), ("widgets", "x-y.example.org")],
        ),
        ("Some content in the namespace has finalizers remaining: example.org/never in 1 resource instances", []),
        ("", []),
    ],
)
def test_resources_are_read_of_a_condition(message, found):
    assert remaining(namespace(NamespaceContentRemaining=message)) == found


def test_only_conditions_that_hold_count():
    state = namespace(
        NamespaceContentRemaining="configmaps. has 1 resource instances",
        NamespaceFinalizersRemaining="a/b in 1 resource instances",
        Other="pods. has 1 resource instances",
    )
    assert remaining(state) == [("configmaps", "")]
    for condition in state["status"]["conditions"]:
        condition["status"] = "False"
    assert remaining(state) == []
    assert remaining({}) == []
