"""What an operator decides about single targets of a run: to give one up, or to accept a proof by their own word.

Both are recorded in the run's journal: who, when, why. A target that is given up is closed as it is; the run has
nothing more to do with it, and the rest continues. A proof that is accepted is passed over for this target and this
run. Never accepted are pods that are left, an act that is not proven, and the health of the others that a target
depends on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fleet.engine.journal import Journal
from fleet.engine.model import Accepted, GivenUp, Status, StepSpec, TargetState
from fleet.errors import FleetError

LeftOn = Callable[[TargetState], Sequence[str]]
"""Notes on a target itself that it is given up, where that can be noted, and returns what is left on it, in lines."""


@dataclass(frozen=True, slots=True)
class WayOut:
    """What an operator has decided.

    Attributes:
        operator: who, ``user@host``.
        reason: why.
        give_up: names of targets, or of their hosts.
        accept: names of targets, or of their hosts, each with the name of the proof's step.
    """

    operator: str = ""
    reason: str = ""
    give_up: tuple[str, ...] = ()
    accept: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        """Return whether anything was decided."""
        return bool(self.give_up or self.accept)

    def describe(self) -> str:
        """Return it in a line for the server admin log, with a leading comma; empty if nothing was decided."""
        parts = [f"{name} given up" for name in self.give_up]
        parts += [f"{gate} of {name} accepted" for name, gate in self.accept]
        return f", {', '.join(parts)}: {self.reason or 'no reason given'}" if parts else ""


NOTHING = WayOut()
"""What an operator has decided who says nothing about single targets."""

Change = tuple[str, TargetState]
"""A stage, and the state that one of its targets gets."""


def changes(
    way_out: WayOut,
    states: Mapping[str, Mapping[str, TargetState]],
    steps: Mapping[str, Sequence[StepSpec]],
    hosts: Mapping[str, str],
) -> list[Change]:
    """Return the states that targets get by what an operator has decided; of what is left on them nothing is known yet.

    Args:
        way_out: what they decided.
        states: the states of a run's targets, by stage and name.
        steps: the steps of each of these stages.
        hosts: the host of each target, by which a target may be named as well.

    Raises:
        FleetError: something of it cannot be done; the text has a line for each mistake.
    """
    names = {host: name for name, host in hosts.items()}
    found: dict[tuple[str, str], TargetState] = {}
    mistakes: list[str] = []

    def open_states(given: str) -> list[tuple[str, TargetState]]:
        name = names.get(given, given)
        its = [(stage, targets[name]) for stage, targets in states.items() if name in targets]
        left = [(stage, state) for stage, state in its if state.status not in (Status.DONE, Status.GIVEN_UP)]
        if not its:
            known = dict.fromkeys(name for targets in states.values() for name in targets)
            mistakes.append(f"The run has no {given}: it has {', '.join(known)}.")
        elif not left:
            mistakes.append(f"{given} is {its[-1][1].status.value} already.")
        return [(stage, found.get((stage, name), state)) for stage, state in left]

    for given in way_out.give_up:
        for stage, state in open_states(given):
            detail = f"given up by {way_out.operator}: {way_out.reason or 'no reason given'}"
            given_up = GivenUp(way_out.operator, way_out.reason)
            found[stage, state.target.name] = replace(state, status=Status.GIVEN_UP, detail=detail, given_up=given_up)
    for given, gate in way_out.accept:
        of = [(stage, state) for stage, state in open_states(given) if state.status is not Status.GIVEN_UP]
        # The word is for what is in question now, not for stages that are still to come.
        of = [it for it in of if it[1].status is not Status.PENDING] or of
        fitting = [(stage, state) for stage, state in of if any(s.acceptable and s.name == gate for s in steps[stage])]
        if of and not fitting:
            allowed = dict.fromkeys(step.name for stage, _ in of for step in steps[stage] if step.acceptable)
            mistakes.append(f"{gate!r} of {given} cannot be accepted: {', '.join(allowed) or 'no proof'} can.")
        for stage, state in fitting:
            accepted = {**state.accepted, gate: Accepted(way_out.operator, way_out.reason)}
            found[stage, state.target.name] = replace(state, accepted=accepted)
    if mistakes:
        raise FleetError("\n".join(dict.fromkeys(mistakes)))
    return [(stage, state) for (stage, _), state in found.items()]


def carry_out(
    way_out: WayOut, hosts: Mapping[str, str], book: Journal, steps: Mapping[str, Sequence[StepSpec]], left_on: LeftOn
) -> list[str]:
    """Record what an operator has decided about targets of a run; that of a stage at once.

    What is noted on the targets themselves is noted before, and may be noted again: the journal decides.

    Returns:
        What was recorded, a line for each target.

    Raises:
        FleetError: something of it cannot be done; nothing was recorded.
    """
    found: dict[str, list[TargetState]] = {}
    lines = []
    for stage, state in changes(way_out, {stage: book.states(stage) for stage in steps}, steps, hosts):
        name, closed = state.target.name, state
        if state.given_up is not None:
            left = tuple(left_on(state))
            closed = replace(state, given_up=replace(state.given_up, left=left), released=False)
            lines.append(f"{name} is given up; left on it: {', '.join(left) or 'nothing'}.")
        else:
            own = {name, hosts.get(name, name)}
            gates = ", ".join(gate for target, gate in way_out.accept if target in own)
            lines.append(f"{name}: {gates} accepted by {way_out.operator}: {way_out.reason}.")
        found.setdefault(stage, []).append(closed)
    for stage, states in found.items():
        for kind, closed_ones in (
            ("given up", [state for state in states if state.given_up]),
            ("accepted by word", [state for state in states if not state.given_up]),
        ):
            book.record(stage, closed_ones, step="", kind=kind)
    return lines
