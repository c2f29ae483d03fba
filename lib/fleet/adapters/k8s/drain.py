"""Drains a node in passes: each looks at what is left, evicts what may go now, and returns.

Pods are told apart by UID. Nothing is ever deleted instead of evicted, and what the policy forbids to evict is named
before the first eviction. A pass reports in a result object; it is repeated until the result says that it is over.
"""

import random
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from fleet.adapters.k8s.budgets import Budget, covering, parse_budget
from fleet.adapters.k8s.client import JSON, Api
from fleet.adapters.k8s.daemons import existing_daemonsets
from fleet.adapters.k8s.eviction import Answer, Evictor, Verdict, budgets_path
from fleet.adapters.k8s.leftover import Remaining, has_to_go, is_overdue, pods_left, terminating
from fleet.adapters.k8s.pods import STAYING, Pod, PodClass, PodRef, classify, parse_pod, refusal
from fleet.adapters.k8s.policy import DrainPolicy
from fleet.adapters.k8s.reflector import Follow, View, follow
from fleet.clock import THREADS, Threads

__all__ = ["DrainResult", "DrainStatus", "NodeDrain", "pods_left"]

_WORKERS = 20  # evictions asked for at once
_AGAIN = 0.2  # seconds after which a blocked pod is asked for again when its budget has opened
_FIRST_PAUSE, _MAX_PAUSE = 1.0, 5.0  # seconds between two attempts at a pod
_RETURNS = 3  # pods of one workload that are evicted after the drain began
_SILENT = 30.0  # seconds without news from the API after which it is said


class DrainStatus(Enum):
    """How far a drain is."""

    DRAINED = "drained"
    """Nothing is left, as confirmed by a list that was read after the last eviction."""
    DUE = "due"
    """Pods may be evicted now."""
    WAITING = "waiting"
    """Pods are terminating, or may not be evicted yet."""
    FAILED = "failed"
    """What is left cannot be evicted."""


@dataclass(frozen=True, slots=True)
class DrainResult:
    """How far a drain is after a pass.

    Attributes:
        status: whether it is over, and how.
        evicted: pods whose eviction the API has accepted, since the first pass.
        remaining: pods that are still to go.
        refused: those of them that the policy forbids to evict; if there were some at the start, nothing was evicted.
        reason: why it failed, or what is to be known beside the pods; perhaps empty.
    """

    status: DrainStatus
    evicted: tuple[PodRef, ...]
    remaining: tuple[Remaining, ...]
    refused: tuple[Remaining, ...]
    reason: str = ""

    def explain(self) -> str:
        """Return what is left and why, in a sentence: pods that wait for the same are named together."""
        alike: dict[str, list[str]] = {}
        for left in self.remaining:
            alike.setdefault(left.why, []).append(str(left.pod))
        named = [f"{_some(pods)} {_agree(why, len(pods))}" for why, pods in alike.items()]
        return "; ".join(filter(None, [self.reason, *named[:5]]))


@dataclass(slots=True)
class _State:
    """What a drain knows of one pod, beside the pod itself.

    Attributes:
        why_not: why it will not be evicted, in words that follow its name; empty if it will.
        refused: whether the policy is why.
        verdict: the last answer of the API.
        last: when it was asked last, by the monotonic clock; ``due`` is when to ask next.
        pause: seconds to wait after the next refusal.
    """

    kind: PodClass
    why_not: str
    refused: bool
    verdict: Verdict | None = None
    last: float = 0.0
    due: float = 0.0
    pause: float = _FIRST_PAUSE


class NodeDrain:
    """The drain of one node. The node should be cordoned before; pods of DaemonSets, static and finished ones stay.

    Passes may come from any thread, one at a time.

    Args:
        api: the cluster.
        node: the node's name.
        policy: what may be done with pods that nothing protects.
        follow: how the node's pods, and budgets, are followed.
        threads: where evictions are asked for at the same time.

    Raises:
        KubernetesError: the API could not be read.
    """

    def __init__(
        self,
        api: Api,
        node: str,
        policy: DrainPolicy,
        *,
        follow: Follow = follow,
        threads: Threads = THREADS,
    ) -> None:
        self._api, self._node, self._policy = api, node, policy
        self._follow, self._threads = follow, threads
        self._states: dict[str, _State] = {}
        self._daemonsets: dict[str, bool] = {}  # by UID, whether it exists
        self._newcomers: Counter[str] = Counter()  # by their controller's UID
        self._evicted: dict[str, PodRef] = {}
        self._budgets: View[Budget] | None = None
        self._evictor = Evictor(api)
        self._pods: View[Pod] = follow(api, "/api/v1/pods", parse_pod, key=_uid, fieldSelector=f"spec.nodeName={node}")
        try:
            self._take_in(self._pods.snapshot(), are_new=False)
        except Exception:
            self.close()
            raise
        # What the policy forbids is found before anything is evicted, and then nothing is.
        self._is_forbidden = any(self._states[pod.ref.uid].refused for pod in self._left())

    def close(self) -> None:
        """End the watches."""
        for view in filter(None, (self._pods, self._budgets)):
            view.stop(wait=False)

    def once(self, cancel: threading.Event) -> DrainResult:
        """Evict what may be evicted now, and return how far the drain is; takes as long as the API takes to answer.

        Args:
            cancel: keeps evictions from being asked for that have not been asked for yet.

        Raises:
            KubernetesError: the API could not be read.
        """
        if self.look().status is DrainStatus.DUE:
            due = self._due(self._left())
            answers = self._threads.map(lambda pod: self._evict(pod, cancel), due, f"evict-{self._node}", most=_WORKERS)
            for pod, verdict in zip(due, answers, strict=True):
                self._take(pod, verdict)
        return self.look()

    def look(self) -> DrainResult:
        """Return how far the drain is; nothing is evicted.

        Raises:
            KubernetesError: the API could not be read.
        """
        self._take_in(self._pods.snapshot())
        left = self._left()
        if self._is_forbidden and left:
            return self._result(
                DrainStatus.FAILED, left, "nothing was evicted, as the policy forbids to evict some of the pods"
            )
        if not left:
            confirmed = not pods_left(self._api, self._node, self._policy)
            return self._result(DrainStatus.DRAINED if confirmed else DrainStatus.WAITING, left)
        if all(self._states[pod.ref.uid].why_not and not pod.deleting for pod in left):
            return self._result(DrainStatus.FAILED, left, "what remains on the node cannot be evicted")
        silent = self._pods.age() > _SILENT
        reason = "the API has been silent for a while, what is left may have changed" if silent else ""
        return self._result(DrainStatus.DUE if self._due(left) else DrainStatus.WAITING, left, reason)

    # What is on the node

    def _take_in(self, pods: Mapping[str, Pod], *, are_new: bool = True) -> None:
        """Decide about pods that were not there before."""
        self._known = pods
        unknown = [pod for uid, pod in pods.items() if uid not in self._states]
        asked = [pod for pod in unknown if pod.controller and pod.controller.uid not in self._daemonsets]
        if any(pod.controller and pod.controller.is_daemonset for pod in asked):
            existing = existing_daemonsets(self._api, asked)
            self._daemonsets |= {pod.controller.uid: pod.controller.uid in existing for pod in asked if pod.controller}
        daemonsets = {uid for uid, exists in self._daemonsets.items() if exists}
        for pod in unknown:
            kind = classify(pod, daemonsets, self._policy.daemon_kinds)
            why_not = refusal(pod, kind, self._policy)
            state = self._states[pod.ref.uid] = _State(kind, why_not, bool(why_not))
            if are_new and kind not in STAYING and pod.controller and not pod.deleting:
                self._newcomers[pod.controller.uid] += 1
                if self._newcomers[pod.controller.uid] > _RETURNS:
                    state.why_not = f"came after {_RETURNS} evicted ones of its kind: they tolerate the cordon"

    def _left(self) -> list[Pod]:
        """Return the pods that have to go and have not."""
        return [pod for uid, pod in self._known.items() if has_to_go(pod, self._states[uid].kind, self._policy)]

    # Evictions

    def _due(self, left: Iterable[Pod]) -> list[Pod]:
        """Return the pods that are to be asked for now."""
        now = self._api.clock.monotonic()
        opened = self._opened(left)
        due = []
        for pod in left:
            state = self._states[pod.ref.uid]
            if state.why_not or pod.deleting or pod.ref.uid in self._evicted:
                continue
            if now >= state.due or (pod.ref.uid in opened and now - state.last > _AGAIN):
                due.append(pod)
        return due

    def _evict(self, pod: Pod, cancel: threading.Event) -> Verdict:
        if cancel.is_set():
            return Verdict(Answer.TROUBLE)
        return self._evictor.evict(pod)

    def _take(self, pod: Pod, verdict: Verdict) -> None:
        """Take in an answer."""
        now = self._api.clock.monotonic()
        state = self._states[pod.ref.uid]
        state.verdict, state.last = verdict, now
        if verdict.answer is Answer.EVICTED:
            self._evicted[pod.ref.uid] = pod.ref
        elif verdict.answer is Answer.HOPELESS:
            state.why_not = verdict.why
        elif verdict.answer is Answer.BLOCKED and self._budgets is None:
            version = self._evictor.policy_version
            self._budgets = self._follow(
                self._api, budgets_path(version), lambda item: parse_budget(item, version=version), key=_uid
            )
        # Spread, so that the pods of one budget do not ask in step.
        state.due = now + (verdict.retry_after or 0) + state.pause * random.uniform(0.5, 1.0)  # noqa: S311
        state.pause = min(state.pause * 1.5, _MAX_PAUSE)

    def _opened(self, left: Iterable[Pod]) -> set[str]:
        """Return the UIDs of blocked pods whose budgets allow a disruption by now, no more than they allow."""
        if self._budgets is None:
            return set()
        namespaces = {pod.ref.namespace for pod in left}
        budgets = [each for each in self._budgets.snapshot().values() if each.namespace in namespaces]
        allowed = Counter({str(budget): budget.allowed for budget in budgets})
        opened = set()
        for pod in left:
            verdict = self._states[pod.ref.uid].verdict
            if verdict and verdict.answer is Answer.BLOCKED and verdict.retry_after is None:
                names = [str(budget) for budget in covering(budgets, pod)]
                if names and all(allowed[name] > 0 for name in names):
                    allowed.subtract(names)
                    opened.add(pod.ref.uid)
        return opened

    # Reporting

    def _why(self, pod: Pod) -> str:
        """Say why a pod is still there, in words that follow its name."""
        state = self._states[pod.ref.uid]
        if pod.deleting:
            return terminating(pod, self._api.clock.time())
        if pod.ref.uid in self._evicted:
            return "is evicted and about to terminate"
        if state.why_not:
            return state.why_not
        return (state.verdict and state.verdict.why) or "was not evicted yet"

    def _is_stuck(self, pod: Pod) -> bool:
        """Tell whether a pod that should have gone is still there, or may not go for now."""
        state = self._states[pod.ref.uid]
        refused = state.why_not or (state.verdict and state.verdict.why)
        return is_overdue(pod, self._api.clock.time()) or bool(refused and not pod.deleting)

    def _result(self, status: DrainStatus, left: list[Pod], reason: str = "") -> DrainResult:
        # What is stuck comes first: it is what an operator has to know.
        ordered = sorted(left, key=lambda pod: (not self._is_stuck(pod), str(pod.ref)))
        return DrainResult(
            status=status,
            evicted=tuple(self._evicted.values()),
            remaining=tuple(Remaining(pod.ref, self._why(pod)) for pod in ordered),
            refused=tuple(Remaining(pod.ref, self._why(pod)) for pod in ordered if self._states[pod.ref.uid].refused),
            reason=reason,
        )


def _uid(item: JSON) -> str:
    return str(item["metadata"]["uid"])


_PLURALS = {"is": "are", "has": "have", "was": "were"}


def _agree(why: str, count: int) -> str:
    """Return words that follow the name of one pod as they follow those of several."""
    verb, space, rest = why.partition(" ")
    return (_PLURALS.get(verb, verb) if count > 1 else verb) + space + rest


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"
