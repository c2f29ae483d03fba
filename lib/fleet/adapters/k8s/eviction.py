"""One attempt to evict one pod, and what the API's answer to it means."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from fleet.adapters.k8s.budgets import Budget, covering, parse_budget
from fleet.adapters.k8s.client import JSON, Api
from fleet.adapters.k8s.errors import ApiError, KubernetesError
from fleet.adapters.k8s.pods import Pod
from fleet.text import count, verb

# How API servers word what they have no code for.
_OVERLAP = "more than one PodDisruptionBudget"
_DELETED_NAMESPACE = "because it is being terminated"
_NO_RIGHT = "cannot create resource"
_BUDGETS_STATUS = re.compile("disruptions allowed is negative|DisruptedPods map too big")
_OTHER_UID = re.compile("UID in (the )?precondition")


class Answer(Enum):
    """What became of an attempt."""

    EVICTED = "evicted"
    GONE = "gone"
    """The pod is gone; if there is one of its name, it is another one."""
    BLOCKED = "blocked"
    """A budget forbids it now."""
    HOPELESS = "hopeless"
    """It will be refused until somebody changes something."""
    TROUBLE = "trouble"
    """It failed for now; nothing is known of the pod."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of an attempt.

    Attributes:
        why: in words that follow the pod's name; empty if the pod is evicted or gone.
        retry_after: seconds that the API asks to wait, if it does.
    """

    answer: Answer
    why: str = ""
    retry_after: float | None = None


class Evictor:
    """Evicts pods by UID: another pod that took the name of an evicted one is never touched.

    Args:
        api: the cluster.

    Raises:
        KubernetesError: the API could not be asked which versions it serves.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._version = eviction_version(api)
        self.policy_version = policy_version(api)

    def evict(self, pod: Pod) -> Verdict:
        """Ask for an eviction, once. Never raises for what the API answers."""
        ref = pod.ref
        body: JSON = {
            "apiVersion": self._version,
            "kind": "Eviction",
            "metadata": {"namespace": ref.namespace, "name": ref.name},
            "deleteOptions": {"preconditions": {"uid": ref.uid}},
        }
        try:
            self._api.create(f"/api/v1/namespaces/{ref.namespace}/pods/{ref.name}/eviction", body)
        except ApiError as error:
            return self._verdict(pod, error)
        except KubernetesError as error:
            return Verdict(Answer.TROUBLE, f"could not be evicted: {error}")
        return Verdict(Answer.EVICTED)

    def _verdict(self, pod: Pod, error: ApiError) -> Verdict:
        if error.status == 404:
            return Verdict(Answer.GONE)
        if error.status == 409 and _OTHER_UID.search(error.message):
            return Verdict(Answer.GONE)
        if error.status == 429:
            return Verdict(Answer.BLOCKED, self._blocked(pod, error), error.retry_after)
        if error.status == 403:
            return self._forbidden(error)
        if error.status == 500 and _OVERLAP in error.message:
            names = ", ".join(str(budget) for budget in self._covering(pod)) or "their names could not be read"
            why = f"is covered by more than one budget ({names}), which evictions do not support: leave it only one"
            return Verdict(Answer.HOPELESS, why)
        return Verdict(Answer.TROUBLE, f"could not be evicted: {error.status} {error.reason}: {error.message}")

    def _blocked(self, pod: Pod, error: ApiError) -> str:
        """Name what blocks an eviction, with the API's own sentence where it has one."""
        budgets = self._covering(pod)
        if not budgets:
            return f"could not be evicted: {error.message}"
        said = "; ".join(cause.message for cause in error.causes if cause.message)
        if failures := "; ".join(budget.failure for budget in budgets if budget.failure):
            said = f"kube-controller-manager cannot compute it: {failures}"
        names = ", ".join(map(str, budgets))
        return f"is protected by the {verb(budgets, 'budget', 'budgets')} {names}: {said or describe(budgets)}"

    def _forbidden(self, error: ApiError) -> Verdict:
        """Tell refusals that last from those that pass by themselves."""
        if _DELETED_NAMESPACE in error.message:
            why = "cannot be evicted, as its namespace is being deleted: it goes when the namespace does"
            return Verdict(Answer.TROUBLE, why)
        if _BUDGETS_STATUS.search(error.message):
            return Verdict(Answer.BLOCKED, f"cannot be evicted now: {error.message}")
        if _NO_RIGHT in error.message:
            rule = 'ClusterRole: {apiGroups: [""], resources: [pods/eviction], verbs: [create]}'
            return Verdict(Answer.HOPELESS, f"may not be evicted: {error.message}. Add to the user's {rule}")
        return Verdict(Answer.TROUBLE, f"could not be evicted: {error.message}")  # webhooks may allow it later

    def _covering(self, pod: Pod) -> list[Budget]:
        try:
            budgets, _ = self._api.list_all(budgets_path(self.policy_version, pod.ref.namespace), convert=self.parse)
        except KubernetesError:
            return []  # only a name in a message
        return covering(budgets, pod)

    def parse(self, data: JSON) -> Budget:
        """Read a budget of the version that this API serves."""
        return parse_budget(data, version=self.policy_version)


def describe(budgets: Iterable[Budget]) -> str:
    """Say how far budgets are from allowing a disruption."""
    return "; ".join(
        f"{budget} allows {count(budget.allowed, 'disruption')}, {budget.healthy} of {count(budget.expected, 'pod')}"
        f" {verb(budget.healthy, 'is', 'are')} healthy and {budget.desired} must be"
        for budget in budgets
    )


def eviction_version(api: Api) -> str:
    """Return the version that evictions are asked for with: ``policy/v1`` from Kubernetes 1.22 on.

    Not the same as the version of budgets: 1.21 serves those, but not evictions, as ``policy/v1``.

    Raises:
        KubernetesError: the API could not be asked, or does not serve evictions.
    """
    for resource in api.get("/api/v1")["resources"]:
        if resource["name"] == "pods/eviction":
            return f"{resource.get('group') or 'policy'}/{resource.get('version') or 'v1'}"
    raise KubernetesError(f"The API at {api.server} does not serve evictions, so that no budget would be respected.")


def policy_version(api: Api) -> str:
    """Return the version that budgets are read with: ``policy/v1`` from Kubernetes 1.21 on.

    Raises:
        KubernetesError: the API could not be asked.
    """
    return "policy/v1" if api.serves("policy/v1") else "policy/v1beta1"


def budgets_path(version: str, namespace: str = "") -> str:
    """Return the path of the budgets of a namespace, or of all."""
    middle = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{version}{middle}/poddisruptionbudgets"
