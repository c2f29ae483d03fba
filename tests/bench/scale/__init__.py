"""A whole reboot run over many nodes, measured: a real control plane; simulated hosts, routers and Alertmanagers."""
