"""Which hosts of a group serve: by a command on them, or else by an answer over SSH."""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from fleet import execution
from fleet.clock import Clock, Repeating, Threads
from fleet.engine.declaration import Verdicts
from fleet.engine.findings import Found, stop
from fleet.engine.model import TargetState, Verdict, done, pending
from fleet.execution import Runner
from fleet.steps.base import HostStep, each
from fleet.steps.look import Look
from fleet.steps.scope import Scope

_NOT_RUN = (126, 127)
"""Bash's exit codes for a command that it cannot run, or does not find."""
Away = Mapping[str, str]
"""Why each host that does not serve does not, in a line."""


def away(remote: Runner, hosts: Sequence[str], command: str | None) -> Away:
    """Ask all hosts at once.

    Args:
        remote: runs the command.
        hosts: the hosts.
        command: a command that only looks, and succeeds if the host serves; None for any answer over SSH.

    Raises:
        RemoteError: Cumin could not run anything.
    """
    return execution.failures(remote.run(hosts, command or "true", timeout=execution.TIMEOUT, safe=True))


class Succeeds(HostStep):
    """A command of the configuration succeeds on the host."""

    gate = True

    def __init__(self, scope: Scope, command: str, *, name: str, deadline: str, acceptable: bool) -> None:
        """Run a command that only looks.

        Args:
            scope: the scope.
            command: for bash.
            name: the step's name.
            deadline: which of the configuration's deadlines it has.
            acceptable: whether an operator may give their word for it.
        """
        super().__init__(scope)
        self._command = command
        self.name = name
        self.deadline = deadline
        self.acceptable = acceptable

    def preflight(self, look: Look) -> Found:
        """Look whether the command can be run at all: what bash does not find never succeeds."""
        results = self.scope.remote.run(list(look.answering()), self._command, timeout=execution.TIMEOUT, safe=True)
        lacking = sorted(host for host, result in results.items() if result.exit_code in _NOT_RUN)
        if not lacking:
            return Found()
        what = f"The command {self.name!r} cannot be run on {', '.join(lacking)}: {results[lacking[0]].output}"
        return Found((stop(what, f"Correct it: {self._command}"),))

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Run it on all hosts at once."""
        problems = away(self.scope.remote, self.hosts(targets), self._command)

        def judge(state: TargetState) -> Verdict:
            problem = problems.get(self.scope.hosts[state.target.name])
            return pending(problem) if problem else done()

        return each(targets, judge)


class HostWatch:
    """What is known, without asking, of hosts that do not serve: they are asked again and again in the background.

    Args:
        look: asks all hosts.
        settled: returns the hosts that are proven to serve: what an older look said of them does not count.
        clock: the time.
        threads: where to ask.
    """

    PAUSE = 10.0
    """Seconds between two looks."""
    STALE = 60.0
    """Seconds after which an old look says nothing any more."""

    def __init__(
        self, look: Callable[[], Away], settled: Callable[[], frozenset[str]], clock: Clock, threads: Threads
    ) -> None:
        self._look = look
        self._settled = settled
        self._clock = clock
        self._threads = threads
        self._seen: tuple[float, Away, frozenset[str]] = (clock.monotonic(), {}, frozenset())
        self._problem = ""
        self._keeper: Repeating | None = None

    def __enter__(self) -> "HostWatch":
        """Look once, and begin to look again and again.

        Raises:
            RemoteError: Cumin could not run anything.
        """
        self._ask()
        self._keeper = self._threads.repeat(self._repeat, self.PAUSE, "hosts")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Look no more."""
        if self._keeper:
            self._keeper.stop()

    def away(self) -> Away:
        """Return why each host that did not serve at the last look did not."""
        _, found, settled_then = self._seen
        proven_since = self._settled() - settled_then if found else frozenset()
        return {host: why for host, why in found.items() if host not in proven_since}

    def problem(self) -> str:
        """Return why what is known is too old to be trusted; empty if it is not."""
        age = self._clock.monotonic() - self._seen[0]
        if age <= self.STALE:
            return ""
        return f"the hosts could not be looked at for {age:.0f} s: {self._problem or 'no answer'}"

    def _ask(self) -> None:
        settled, asked = self._settled(), self._clock.monotonic()
        self._seen, self._problem = (asked, self._look(), settled), ""

    def _repeat(self) -> bool:
        try:
            self._ask()
        except Exception as error:  # Whatever it is: the next look may be a good one.
            self._problem = str(error) or repr(error)
        return True
