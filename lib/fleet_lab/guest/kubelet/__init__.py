"""The lab's kubelet: a node of the real Kubernetes API whose pods run as far as that API can tell.

It registers the node, heartbeats by Lease and status, and takes pods through their lives: Pending, Running, Ready, and
termination with its grace period and finalizers. After a reboot of the host it restarts the pods that ran before.
"""
