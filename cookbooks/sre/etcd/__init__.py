"""etcd clusters: maintenance of their members."""

__title__ = "etcd clusters: maintenance of their members."
__owner_team__ = "SRE"
