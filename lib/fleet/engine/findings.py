"""Findings of the preflight: what an operator has to know before anything is touched."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    STOP = "stop"
    """The run does not start."""
    ASK = "ask"
    """An operator may go on; an unattended run does not."""
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


def stop(what: str, todo: str) -> Finding:
    """Return a finding that keeps the run from starting."""
    return Finding(Level.STOP, what, todo)


def ask(what: str, todo: str) -> Finding:
    """Return a finding that an operator may overrule."""
    return Finding(Level.ASK, what, todo)


def note(what: str, todo: str = "") -> Finding:
    """Return a finding that is good to know."""
    return Finding(Level.NOTE, what, todo)
