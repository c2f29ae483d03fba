"""The lab: a real fleet on one machine."""
