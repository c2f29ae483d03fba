"""The etcd of locks in memory, as python-etcd shows it: keys that expire by the world's time."""

from dataclasses import dataclass, field

import etcd

from worlds.timeline import Time


@dataclass(frozen=True)
class Kept:
    """A key."""

    value: str
    ends_at: float


@dataclass
class LockStore:
    """A :class:`fleet.adapters.locks.Store`.

    Attributes:
        is_up: whether it answers.
    """

    time: Time
    is_up: bool = True
    keys: dict[str, Kept] = field(default_factory=dict)

    def read(self, key: str) -> Kept:
        """Return a key that has not expired."""
        self._ask()
        found = self.keys.get(key)
        if found is None or found.ends_at <= self.time.now:
            raise etcd.EtcdKeyNotFound(f"Key not found : {key}")
        return found

    def write(self, key: str, value: str, *, ttl: int, prevExist: bool = True, prevValue: str = "") -> None:  # noqa: N803
        """Write a key, if it is as expected."""
        try:
            found: Kept | None = self.read(key)
        except etcd.EtcdKeyNotFound:
            found = None
        if not prevExist and found is not None:
            raise etcd.EtcdAlreadyExist("Key already exists")
        if prevValue and found is None:
            raise etcd.EtcdKeyNotFound(f"Key not found : {key}")
        if prevValue and found is not None and found.value != prevValue:
            raise etcd.EtcdCompareFailed("Compare failed")
        self.keys[key] = Kept(value, self.time.now + ttl)

    def delete(self, key: str, *, prevValue: str) -> None:  # noqa: N803
        """Remove a key, if it is as expected."""
        if self.read(key).value != prevValue:
            raise etcd.EtcdCompareFailed("Compare failed")
        del self.keys[key]

    def _ask(self) -> None:
        if not self.is_up:
            raise etcd.EtcdConnectionFailed("Connection to etcd failed")
