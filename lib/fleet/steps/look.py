"""What the preflights of several steps share: each thing is asked once, whoever asks first."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from fleet.adapters.hosts import probe
from fleet.adapters.hosts.probe import HostState
from fleet.execution import Unreachable
from fleet.steps.scope import Scope

T = TypeVar("T")


class Look:
    """One look at everything, from several threads.

    Args:
        scope: the scope, with the hosts of the targets.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._lock = threading.Lock()
        self._asked: dict[str, Future[Any]] = {}

    def once(self, key: str, ask: Callable[[], T]) -> T:
        """Return the answer to a question that is asked once; an error is everybody's answer as well.

        Args:
            key: names the question.
            ask: asks it.
        """
        with self._lock:
            is_first = key not in self._asked
            answer = self._asked.setdefault(key, Future())
        if is_first:
            try:
                answer.set_result(ask())
            except BaseException as error:
                answer.set_exception(error)
        result: T = answer.result()
        return result

    def hosts(self) -> Mapping[str, HostState | Unreachable]:
        """Return the state of all hosts of the targets.

        Raises:
            RemoteError: Cumin could not run anything.
        """
        scope = self.scope
        return self.once("hosts", lambda: probe.probe(scope.remote, list(scope.hosts.values())))

    def answering(self) -> dict[str, HostState]:
        """Return the state of the hosts that answer; the preflight names the others by itself.

        Raises:
            RemoteError: Cumin could not run anything.
        """
        return {host: state for host, state in self.hosts().items() if isinstance(state, HostState)}
