"""Hosts: alert downtimes."""

__title__ = "Hosts: alert downtimes."
__owner_team__ = "SRE"
