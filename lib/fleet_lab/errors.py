"""Errors of the lab."""

from fleet.errors import FleetError


class LabError(FleetError):
    """The lab cannot do what was asked for; the text says why, and what to do next."""
