"""Rolling maintenance of bare-metal Kubernetes fleets: the library that the cookbooks are written in."""
