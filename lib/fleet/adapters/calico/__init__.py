"""Calico: its datastore in etcd, and how it is moved into another one."""
