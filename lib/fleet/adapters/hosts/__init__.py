"""Hosts: remote execution, reboots, Puppet and alert silences."""
