"""Programs that run inside the hosts of the lab, with the standard library alone."""
