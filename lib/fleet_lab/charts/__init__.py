"""The lab's deployment repository: what an organisation has on its cluster, and how it is deployed.

It stands for helmfile and its charts: objects are applied as ``helmfile sync`` would do it, at any time.
The scripts that :func:`fleet_lab.deployment.write` writes run it: ``python -m fleet_lab.charts SETTINGS COMMAND``.
"""
