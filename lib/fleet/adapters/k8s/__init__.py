"""Kubernetes: the API client, nodes, drains and disruption budgets."""
