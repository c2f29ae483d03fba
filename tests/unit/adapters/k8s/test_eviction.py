"""Evictions: which version is asked for, and what each answer means."""

from typing import Any

import pytest

from fleet.adapters.k8s.errors import ApiError, ApiUnreachable, Cause, KubernetesError
from fleet.adapters.k8s.eviction import Answer, Evictor
from fleet.adapters.k8s.pods import parse_pod

POD = parse_pod({"metadata": {"name": "p", "namespace": "t", "uid": "u", "labels": {"app": "web"}}})


class StubApi:
    """Answers as an API server of a version does."""

    server = "https://stub"

    def __init__(
        self, *, eviction: str | None = "v1", policy: str = "policy/v1", answer: Exception | None = None
    ) -> None:
        self.eviction, self.policy, self.answer = eviction, policy, answer
        self.created: list[tuple[str, Any]] = []

    def get(self, path: str) -> Any:
        assert path == "/api/v1"
        entry = {"name": "pods/eviction", "kind": "Eviction", "group": "policy", "version": self.eviction}
        return {"resources": [{"name": "pods"}, *([entry] if self.eviction else [])]}

    def serves(self, group_version: str) -> bool:
        return group_version == self.policy

    def list_all(self, path: str, *, convert: Any) -> Any:
        assert path == f"/apis/{self.policy}/namespaces/t/poddisruptionbudgets"
        return [
            convert({"metadata": {"name": name, "namespace": "t"}, "spec": {"selector": {"matchLabels": {"app": app}}}})
            for name, app in (("two", "web"), ("one", "web"), ("other", "db"))
        ], "1"

    def create(self, path: str, body: Any) -> Any:
        self.created.append((path, body))
        if self.answer:
            raise self.answer


def refused(status: int, message: str = "no", **more: Any) -> ApiError:
    return ApiError("POST", status, "Reason", message, **more)


@pytest.mark.parametrize(
    ("eviction", "policy"),
    [("v1beta1", "policy/v1beta1"), ("v1beta1", "policy/v1"), ("v1", "policy/v1")],
    ids=["1.20", "1.21", "1.22"],
)
def test_version(eviction: str, policy: str) -> None:
    api: Any = StubApi(eviction=eviction, policy=policy)
    evictor = Evictor(api)
    assert evictor.evict(POD).answer is Answer.EVICTED
    assert evictor.policy_version == policy
    assert api.created == [
        (
            "/api/v1/namespaces/t/pods/p/eviction",
            {
                "apiVersion": f"policy/{eviction}",
                "kind": "Eviction",
                "metadata": {"namespace": "t", "name": "p"},
                "deleteOptions": {"preconditions": {"uid": "u"}},
            },
        )
    ]


def test_api_without_evictions() -> None:
    api: Any = StubApi(eviction=None)
    with pytest.raises(KubernetesError, match="does not serve evictions"):
        Evictor(api)


@pytest.mark.parametrize(
    ("error", "answer", "why"),
    [
        (refused(404), Answer.GONE, ""),
        (
            refused(409, 'Operation cannot be fulfilled on Pod "p": the UID in the precondition (u) does not match'),
            Answer.GONE,
            "",
        ),
        (refused(409, "Precondition failed: UID in precondition: u, UID in object meta: v"), Answer.GONE, ""),
        (refused(409, "the object has been modified"), Answer.TROUBLE, "409 Reason: the object has been modified"),
        (
            refused(429, causes=(Cause("DisruptionBudget", "one needs 2 healthy pods and has 2 currently"),)),
            Answer.BLOCKED,
            "is protected by the budgets t/one, t/two: one needs 2 healthy pods and has 2 currently",
        ),
        (refused(429), Answer.BLOCKED, "t/one allows 0 disruptions"),
        (
            refused(500, "This pod has more than one PodDisruptionBudget, which the eviction subresource does not"),
            Answer.HOPELESS,
            "is covered by more than one budget (t/one, t/two)",
        ),
        (refused(500, "etcdserver: leader changed"), Answer.TROUBLE, "etcdserver: leader changed"),
        (refused(403, "not you"), Answer.TROUBLE, "not you"),
        (ApiUnreachable("nobody there"), Answer.TROUBLE, "nobody there"),
    ],
)
def test_answers(error: Exception, answer: Answer, why: str) -> None:
    api: Any = StubApi(answer=error)
    verdict = Evictor(api).evict(POD)
    assert verdict.answer is answer
    assert why in verdict.why


def test_retry_after() -> None:
    api: Any = StubApi(answer=refused(429, retry_after=7.0))
    assert Evictor(api).evict(POD).retry_after == 7.0


@pytest.mark.parametrize(
    ("message", "answer", "words"),
    [
        (
            'pods "p" is forbidden: unable to create new content in namespace t because it is being terminated',
            Answer.TROUBLE,
            "its namespace is being deleted",
        ),
        (
            'pods "p" is forbidden: User "ann" cannot create resource "pods/eviction" in API group ""',
            Answer.HOPELESS,
            "resources: [pods/eviction], verbs: [create]",
        ),
        ('admission webhook "drain.example.org" denied the request: wait', Answer.TROUBLE, "denied the request: wait"),
        (
            'poddisruptionbudget "b" is forbidden: pdb disruptions allowed is negative',
            Answer.BLOCKED,
            "disruptions allowed is negative",
        ),
    ],
)
def test_forbidden(message: str, answer: Answer, words: str) -> None:
    api: Any = StubApi(answer=refused(403, message))
    verdict = Evictor(api).evict(POD)
    assert verdict.answer is answer
    assert words in verdict.why


def test_a_budget_that_cannot_be_computed_is_quoted() -> None:
    class Failing(StubApi):
        def list_all(self, path: str, *, convert: Any) -> Any:
            condition = {"type": "DisruptionAllowed", "reason": "SyncFailed", "message": "found no controllers"}
            metadata, spec = {"name": "b", "namespace": "t"}, {"selector": {"matchLabels": {"app": "web"}}}
            return [convert({"metadata": metadata, "spec": spec, "status": {"conditions": [condition]}})], "1"

    cause = Cause("DisruptionBudget", "The disruption budget b needs 0 healthy pods and has 0 currently")
    api: Any = Failing(answer=refused(429, causes=(cause,)))
    why = Evictor(api).evict(POD).why
    assert why == "is protected by the budget t/b: kube-controller-manager cannot compute it: found no controllers"
