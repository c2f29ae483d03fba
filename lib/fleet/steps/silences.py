"""The silences of nodes and hosts: one for each, by this run, found again by its comment."""

from collections.abc import Sequence

from fleet.adapters.alertmanager.silences import NoSuchSilenceError, Silence
from fleet.config.matchers import parse_matcher
from fleet.engine.declaration import Tell, Verdicts
from fleet.engine.model import TargetState, Verdict, done, pending, undone
from fleet.steps.base import FAST, HostStep, each
from fleet.steps.scope import Scope


class SilenceNode(HostStep):
    """The node's alerts are silenced, by a silence of this run."""

    name = "silence"

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look for this run's silences; one whose id was lost in a crash is found by its comment."""
        active = silences_of(self.scope)

        def judge(state: TargetState) -> Verdict:
            found = active.get(state.target.name)
            if not found:
                return pending("not silenced")
            if lacking := found[0].lacking:
                return undone(f"not silenced at {', '.join(lacking)}")
            return done(silence=found[0].id, alerts_before=self._alerts_before(state))

        return each(targets, judge)

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Create a silence for each node, and note which alerts were firing before."""
        config = self.scope.config.alerts

        def create(state: TargetState) -> Verdict:
            before = self._alerts_before(state)
            return done(silence=silence_node(self.scope, state.target.name, config.silence), alerts_before=before)

        return each(targets, create)

    def _alerts_before(self, state: TargetState) -> list[str]:
        """Return the names of the alerts that fired before; of a resumed run's own work there may be more by now."""
        if "alerts_before" in state.facts:
            return list(state.facts["alerts_before"])
        return [alert.name for alert in self.scope.silences.alerts([self.scope.hosts[state.target.name]])]


def silence_node(scope: Scope, node: str, duration: float) -> str:
    """Silence a node's alerts for some seconds; the comment tells the run and the node."""
    return scope.silences.create(
        [scope.hosts[node]],
        comment=silence_comment(scope, node),
        author=scope.run.operator,
        duration=duration,
        matchers=[parse_matcher(matcher) for matcher in scope.config.alerts.matchers],
    )


def silence_comment(scope: Scope, about: str) -> str:
    """Return the comment of a silence: it tells the run, and what the silence is for."""
    run = scope.run
    task = f" - {run.task}" if run.task else ""
    return f"{run.reason}{task} - run {run.id} - {about}"


def silences_about(scope: Scope) -> dict[str, list[Silence]]:
    """Return this run's active silences by what they are for; one that merely mentions the run is someone else's."""
    found: dict[str, list[Silence]] = {}
    for silence in scope.silences.find(comment_contains=scope.run.id):
        before, _, about = silence.comment.rpartition(" - ")
        if before.endswith(f" - run {scope.run.id}"):
            found.setdefault(about, []).append(silence)
    return found


def silences_of(scope: Scope) -> dict[str, list[Silence]]:
    """Return this run's active silences by node."""
    return {node: found for node, found in silences_about(scope).items() if node in scope.hosts}


class Unsilence(HostStep):
    """The node's silence has ended."""

    name = "unsilence"
    poll = FAST
    gives_back = True

    def check(self, targets: Sequence[TargetState]) -> Verdicts:
        """Look for silences of this run that are still active."""
        active = silences_of(self.scope)
        return each(targets, lambda state: undone("still silenced") if state.target.name in active else done())

    def apply(self, targets: Sequence[TargetState], tell: Tell) -> Verdicts:  # noqa: ARG002
        """Expire them."""
        active = silences_of(self.scope)

        def expire(state: TargetState) -> Verdict:
            for silence in active.get(state.target.name, []):
                self.scope.silences.expire(silence.id)
            return done()

        return each(targets, expire)


def extend(scope: Scope, targets: Sequence[TargetState], duration: float) -> Verdicts:
    """Extend the silences of targets in flight. One that has expired meanwhile is replaced, under another id.

    Args:
        scope: the scope.
        targets: the units.
        duration: seconds from now.
    """

    def one(state: TargetState) -> Verdict:
        silence = state.facts.get("silence")
        if silence is None:
            return done()
        try:
            return done(silence=scope.silences.extend(str(silence), duration))
        except NoSuchSilenceError:
            return done(silence=silence_node(scope, state.target.name, duration))

    return each(targets, one)
