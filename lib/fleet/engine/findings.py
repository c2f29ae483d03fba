"""Findings of the preflight: what an operator has to know before anything is touched."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad a finding is."""

    STOP = "stop"
    """The run does not start."""
    ASK = "ask"
    """An operator may continue; an unattended run does not."""
    NOTE = "note"
    """Good to know."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was found.

    Attributes:
        level: how bad it is.
        what: what was found, and where.
        todo: what to do about it.
    """

    level: Level
    what: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What a preflight found.

    Attributes:
        findings: what the operator has to know.
        facts: what the run has to remember of targets from the beginning.
        columns: what the plan shows of each target, by the heading; a target that a column does not have shows "?".
    """

    findings: tuple[Finding, ...] = ()
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def merged(several: Iterable[Found]) -> Found:
    """Return as one what several preflights found; equal findings are told once."""
    findings: dict[Finding, None] = {}
    facts: dict[str, dict[str, Any]] = {}
    columns: dict[str, dict[str, str]] = {}
    for found in several:
        findings |= dict.fromkeys(found.findings)
        for target, known in found.facts.items():
            facts.setdefault(target, {}).update(known)
        for heading, cells in found.columns.items():
            columns.setdefault(heading, {}).update(cells)
    return Found(tuple(findings), facts, columns)


def stop(what: str, todo: str) -> Finding:
    """Return a finding that keeps the run from starting."""
    return Finding(Level.STOP, what, todo)


def ask(what: str, todo: str) -> Finding:
    """Return a finding that an operator may overrule."""
    return Finding(Level.ASK, what, todo)


def note(what: str, todo: str = "") -> Finding:
    """Return a finding that is good to know."""
    return Finding(Level.NOTE, what, todo)


def unread(error: Exception) -> Finding:
    """Return the finding that something could not be looked at: it counts as the worst that it could be."""
    return stop(f"Not everything could be looked at: {error}", "Mend that, then try again.")
