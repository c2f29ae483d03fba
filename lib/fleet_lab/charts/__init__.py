"""The lab's deployment repository: what an organisation has on its cluster, and how it is deployed.

It stands for helmfile and its charts: objects are applied as ``helmfile sync`` would do it, at any time.
The scripts that :func:`fleet_lab.deployment.write` writes run it: ``python -m fleet_lab.charts SETTINGS COMMAND``.
"""

COMMANDS = {
    "managed-namespaces": "print the managed namespaces, one a line",
    "initialize-cluster": "create what an empty cluster needs; may be run again",
    "cluster-helmfile": "deploy the cluster's components, and wait until they are Ready",
    "deploy-service": "deploy a service, and wait until it is Ready; may be run again",
    "check-service": "succeed if all replicas of a service are Ready",
    "traffic-gone": "succeed once no client uses a service in this datacenter",
}
"""What can be done, by name."""
OF_SERVICES = ("deploy-service", "check-service", "traffic-gone")
"""The commands that are for one service."""
