"""etcd: what its members say about themselves, and what may be done with them."""
