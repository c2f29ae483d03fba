"""The re-initialisation of a whole cluster onto a new etcd: its stages, the rollback, the preflight."""
