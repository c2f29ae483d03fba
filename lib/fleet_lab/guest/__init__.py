"""Programs that run inside the hosts of the lab, with the standard library and what Debian packages alone."""
