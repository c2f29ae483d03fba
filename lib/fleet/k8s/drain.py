"""Drains a node: evicts its pods, all at the same time, and waits until they are gone.

Pods are told apart by UID. Nothing is ever deleted instead of evicted, and what the policy forbids to evict is named
before the first eviction. A drain reports in a result object, and raises for nothing that a cluster has to be expected
to do.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from typing import Any, TypeVar

from fleet.k8s.budgets import Budget, covering
from fleet.k8s.client import JSON, Api, ApiError, ApiUnreachable, KubernetesError
from fleet.k8s.eviction import Answer, Evictor, Verdict, budgets_path
from fleet.k8s.leftover import Remaining, existing_daemonsets, has_to_go, is_overdue, pods_left, terminating
from fleet.k8s.pods import STAYING, DrainPolicy, Pod, PodClass, PodRef, classify, parse_pod, refusal
from fleet.k8s.reflector import Reflector

__all__ = ["DrainPolicy", "DrainResult", "PodRef", "Remaining", "drain", "pods_left"]

T = TypeVar("T")

_WORKERS = 20  # calls in flight at once
_POLL = 0.1  # seconds until a cancellation is noticed
_REMIND = 30.0  # seconds until the same is said again
_COUNT = 10.0  # seconds between two counts of what is left
_FIRST_PAUSE, _MAX_PAUSE = 1.0, 5.0  # seconds between two attempts at a pod
_RETURNS = 3  # pods of one workload that are evicted after the drain began


@dataclass(frozen=True, slots=True)
class DrainResult:
    """How a drain ended.

    Attributes:
        done: whether the node is drained, as confirmed by a list read after the last eviction.
        evicted: pods whose eviction the API accepted.
        remaining: pods that are still to go.
        refused: those of them that the policy forbids to evict; if there were some at the start, nothing was evicted.
        seconds: how long it took.
        reason: why it ended.
    """

    done: bool
    evicted: tuple[PodRef, ...]
    remaining: tuple[Remaining, ...]
    refused: tuple[Remaining, ...]
    seconds: float
    reason: str


def drain(
    api: Api,
    node_name: str,
    policy: DrainPolicy,
    *,
    deadline: float,
    cancel: threading.Event,
    progress: Callable[[str], None],
) -> DrainResult:
    """Evict the pods of a node and wait until they are gone.

    Pods of DaemonSets, static pods and finished ones stay. The node should be cordoned before.

    Args:
        api: the cluster.
        node_name: the node.
        policy: what may be done with pods that nothing protects.
        deadline: seconds after which to give up.
        cancel: ends the drain, within a second.
        progress: is told, in sentences, what the drain does and what it waits for; called from this thread.
    """
    return _Drain(api, node_name, policy, deadline, cancel, progress).run()


class _OverError(Exception):
    """The drain ends here; the text says why."""


@dataclass(slots=True)
class _State:
    """What a drain knows of one pod, beside the pod itself.

    Attributes:
        why_not: why it will not be evicted, in words that follow its name; empty if it will.
        refused: whether the policy is why.
        asked: whether the API's answer is being waited for.
        verdict: the last answer.
        last: when it was asked last, by the monotonic clock; ``due`` is when to ask next.
        pause: seconds to wait after the next refusal.
    """

    kind: PodClass
    why_not: str
    refused: bool
    asked: bool = False
    verdict: Verdict | None = None
    last: float = 0.0
    due: float = 0.0
    pause: float = _FIRST_PAUSE


class _Drain:
    """One drain. Only the API's calls leave the thread that called :func:`drain`."""

    def __init__(
        self,
        api: Api,
        node: str,
        policy: DrainPolicy,
        deadline: float,
        cancel: threading.Event,
        progress: Callable[[str], None],
    ) -> None:
        self.api, self.node, self.policy = api, node, policy
        self.deadline, self.cancel, self.progress = deadline, cancel, progress
        self.started = time.monotonic()
        self.pool = ThreadPoolExecutor(_WORKERS, f"drain-{node}")
        self.wake = threading.Event()
        self.following: list[Future[Reflector[Any]]] = []
        self.budgets: Future[Reflector[Budget]] | None = None
        self.pods: Mapping[str, Pod] = {}
        self.states: dict[str, _State] = {}
        self.daemonsets: dict[str, bool] = {}  # by UID, whether it exists
        self.newcomers: Counter[str] = Counter()  # by their controller's UID
        self.answers: list[tuple[Pod, Future[Verdict]]] = []
        self.evicted: dict[str, PodRef] = {}
        self.said: dict[str, float] = {}

    def run(self) -> DrainResult:
        try:
            return self._result(self._run())
        except (_OverError, KubernetesError) as over:
            return self._result(str(over))
        finally:
            self.pool.shutdown(wait=False, cancel_futures=True)
            for reflector in self.following:
                reflector.add_done_callback(_stop)

    def _run(self) -> str:
        """Drain, and return why it ended."""
        self.evictor = self._insist(lambda: Evictor(self.api))
        selector = f"spec.nodeName={self.node}"
        reflector = self._insist(lambda: self._follow("/api/v1/pods", parse_pod, fieldSelector=selector).result())
        self._take_in(reflector.snapshot(), are_new=False)
        left = self._left()
        if any(self.states[pod.ref.uid].refused for pod in left):
            return "nothing was evicted, as the policy forbids to evict some of the pods"
        self.progress(f"{len(left)} pods have to go from {self.node}")
        while True:
            self.wake.clear()
            self._take_in(reflector.snapshot())
            self._collect()
            left = self._left()
            if not left and not self._insist(lambda: pods_left(self.api, self.node, self.policy)):
                return "drained"
            if left and not self.answers and all(self._is_hopeless(pod) for pod in left):
                return "what remains on the node cannot be evicted"
            self._ask(left)
            self._report(left)
            if reflector.age() > _REMIND:
                self._say("the API has been silent for a while, what is left may have changed")
            self.wake.wait(_POLL)
            self._check()

    # What is on the node

    def _follow(self, path: str, convert: Callable[[JSON], T], **query: str) -> "Future[Reflector[T]]":
        """Start to follow a collection, until the drain ends."""

        def key(item: JSON) -> str:
            return str(item["metadata"]["uid"])

        future = self.pool.submit(lambda: Reflector(self.api, path, convert, key=key, on_change=self.wake.set, **query))
        self.following.append(future)
        return future

    def _take_in(self, pods: Mapping[str, Pod], *, are_new: bool = True) -> None:
        """Decide about pods that were not there before."""
        unknown = [pod for uid, pod in pods.items() if uid not in self.states]
        asked = [pod for pod in unknown if pod.controller and pod.controller.uid not in self.daemonsets]
        if any(pod.controller and pod.controller.kind == "DaemonSet" for pod in asked):
            existing = self._insist(lambda: existing_daemonsets(self.api, asked))
            self.daemonsets |= {pod.controller.uid: pod.controller.uid in existing for pod in asked if pod.controller}
        daemonsets = {uid for uid, exists in self.daemonsets.items() if exists}
        for pod in unknown:
            kind = classify(pod, daemonsets)
            why_not = refusal(pod, kind, self.policy)
            state = self.states[pod.ref.uid] = _State(kind, why_not, bool(why_not))
            if are_new and kind not in STAYING and pod.controller and not pod.deleting:
                self.newcomers[pod.controller.uid] += 1
                if self.newcomers[pod.controller.uid] > _RETURNS:
                    state.why_not = f"came after {_RETURNS} evicted ones of its kind: they tolerate the cordon"
        self.pods = pods

    def _left(self) -> list[Pod]:
        """Return the pods that have to go and have not."""
        return [pod for uid, pod in self.pods.items() if has_to_go(pod, self.states[uid].kind, self.policy)]

    # Evictions

    def _ask(self, left: Iterable[Pod]) -> None:
        """Ask for the evictions that are due."""
        now = time.monotonic()
        opened = self._opened(left)
        for pod in left:
            state = self.states[pod.ref.uid]
            if state.asked or state.why_not or pod.deleting or pod.ref.uid in self.evicted:
                continue
            if now >= state.due or (pod.ref.uid in opened and now - state.last > 2 * _POLL):
                state.asked, state.last = True, now
                answer = self.pool.submit(self._evict, pod)
                answer.add_done_callback(lambda _: self.wake.set())
                self.answers.append((pod, answer))

    def _evict(self, pod: Pod) -> Verdict:
        if self.cancel.is_set():  # it waited for a free worker meanwhile
            return Verdict(Answer.TROUBLE)
        return self.evictor.evict(pod)

    def _opened(self, left: Iterable[Pod]) -> set[str]:
        """Return the UIDs of blocked pods whose budgets allow a disruption by now, no more than they allow."""
        if not self.budgets or not self.budgets.done() or self.budgets.exception():
            return set()
        namespaces = {pod.ref.namespace for pod in left}
        budgets = [each for each in self.budgets.result().snapshot().values() if each.namespace in namespaces]
        allowed = Counter({str(budget): budget.allowed for budget in budgets})
        opened = set()
        for pod in left:
            verdict = self.states[pod.ref.uid].verdict
            if verdict and verdict.answer is Answer.BLOCKED and verdict.retry_after is None:
                names = [str(budget) for budget in covering(budgets, pod)]
                if names and all(allowed[name] > 0 for name in names):
                    allowed.subtract(names)
                    opened.add(pod.ref.uid)
        return opened

    def _collect(self) -> None:
        """Take in the answers that have come."""
        for pair in [pair for pair in self.answers if pair[1].done()]:
            self.answers.remove(pair)
            pod, verdict = pair[0], pair[1].result()
            state = self.states[pod.ref.uid]
            state.asked, state.verdict = False, verdict
            if verdict.answer is Answer.EVICTED:
                self.evicted[pod.ref.uid] = pod.ref
            elif verdict.answer is Answer.HOPELESS:
                state.why_not = verdict.why
            elif verdict.answer is Answer.BLOCKED and not self.budgets:
                self.budgets = self._follow(budgets_path(self.evictor.policy_version), self.evictor.parse)
            # Spread, so that the pods of one budget do not ask in step.
            pause = (verdict.retry_after or 0) + state.pause * random.uniform(0.5, 1.0)  # noqa: S311
            state.due = time.monotonic() + pause
            state.pause = min(state.pause * 1.5, _MAX_PAUSE)

    # Waiting

    def _check(self) -> None:
        if self.cancel.is_set():
            raise _OverError("cancelled")
        if time.monotonic() - self.started > self.deadline:
            raise _OverError(f"not drained within {self.deadline:.0f} s")

    def _insist(self, call: Callable[[], T]) -> T:
        """Return what a call returns, and repeat it until the deadline as long as the API does not work."""
        while True:
            future = self.pool.submit(call)
            while not wait_for([future], _POLL).done:
                self._check()
            try:
                return future.result()
            except (ApiUnreachable, ApiError) as error:
                if isinstance(error, ApiError) and error.status < 500 and error.status != 429:
                    raise
                self._say(str(error))
            self.cancel.wait(_FIRST_PAUSE)
            self._check()

    # Reporting

    def _is_hopeless(self, pod: Pod) -> bool:
        return bool(self.states[pod.ref.uid].why_not) and not pod.deleting

    def _why(self, pod: Pod) -> str:
        """Say why a pod is still there, in words that follow its name."""
        state = self.states[pod.ref.uid]
        if pod.deleting:
            return terminating(pod)
        if pod.ref.uid in self.evicted:
            return "is evicted and about to terminate"
        if state.why_not:
            return state.why_not
        if state.asked:
            return "is being evicted, the API has not answered yet"
        return (state.verdict and state.verdict.why) or "was not evicted yet"

    def _report(self, left: list[Pod]) -> None:
        """Say what is being waited for; the same thing only once in a while."""
        waiting: dict[str, list[str]] = {}
        for pod in left:
            state = self.states[pod.ref.uid]
            refused = state.why_not or (state.verdict and state.verdict.why)
            if is_overdue(pod) or (refused and not pod.deleting):
                waiting.setdefault(self._why(pod), []).append(str(pod.ref))
        for why, names in waiting.items():
            self._say(f"{', '.join(sorted(names))} {why}")
        now = time.monotonic()
        if left and now - self.said.setdefault("", self.started) > _COUNT:
            self.said[""] = now
            self.progress(f"{len(left)} pods are still on {self.node}")

    def _say(self, text: str) -> None:
        now = time.monotonic()
        if now - self.said.get(text, -_REMIND) >= _REMIND:
            self.said[text] = now
            self.progress(text)

    def _result(self, reason: str) -> DrainResult:
        self._collect()
        left = self._left()
        return DrainResult(
            done=reason == "drained",
            evicted=tuple(self.evicted.values()),
            remaining=tuple(Remaining(pod.ref, self._why(pod)) for pod in left),
            refused=tuple(Remaining(pod.ref, self._why(pod)) for pod in left if self.states[pod.ref.uid].refused),
            seconds=time.monotonic() - self.started,
            reason=reason,
        )


def _stop(reflector: "Future[Reflector[Any]]") -> None:
    if not reflector.cancelled() and not reflector.exception():
        reflector.result().stop(wait=False)
