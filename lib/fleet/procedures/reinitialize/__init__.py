"""The re-initialisation of a whole cluster onto a new etcd: its stages, the way back, the preflight."""
