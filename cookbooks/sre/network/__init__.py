"""The network: what the core routers know of the fleet."""

__title__ = "The network: what the core routers know of the fleet."
__owner_team__ = "SRE"
