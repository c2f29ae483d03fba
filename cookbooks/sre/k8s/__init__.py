"""Kubernetes clusters: maintenance of their nodes."""

__title__ = "Kubernetes clusters: maintenance of their nodes."
__owner_team__ = "SRE"
