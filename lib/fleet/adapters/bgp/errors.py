"""What goes wrong with routers."""

from fleet.errors import FleetError


class RouterError(FleetError):
    """One router could not be asked."""
