"""Which member a kube-apiserver depends on, by what it was started with."""

import pytest

from fleet.adapters.etcd import clients
from fleet.adapters.etcd.health import Answer, Member, NoAnswer, Status

VIEW = {
    f"etcd{n}.example.org": Answer(
        Status(f"etcd{n}.example.org", n, 1, 7, 5, 5, 1, False, (), "3.6.16"),
        tuple(Member(m, f"m{m}", (f"https://10.0.0.{m}:2379", f"https://[fd00::{m}]:2379"), False) for m in (1, 2, 3)),
        "",
    )
    for n in (1, 2)
} | {"etcd3.example.org": NoAnswer("connection refused")}
KNOWN = clients.addresses(VIEW)


def test_members_are_known_by_their_hosts_and_by_what_they_advertise() -> None:
    assert KNOWN["etcd1.example.org"] == {"etcd1.example.org", "etcd1", "10.0.0.1", "fd00::1"}
    assert KNOWN["etcd3.example.org"] == {"etcd3.example.org", "etcd3"}, "it does not say which member it is"


@pytest.mark.parametrize(
    ("servers", "on", "member"),
    [
        (["https://10.0.0.1:2379"], "cp1", "etcd1.example.org"),
        (["https://[fd00::2]:2379"], "cp1", "etcd2.example.org"),
        (["https://etcd3:2379"], "cp1", "etcd3.example.org"),
        (["https://ETCD3.example.org:2379"], "cp1", "etcd3.example.org"),
        (["https://127.0.0.1:2379"], "etcd2.example.org", "etcd2.example.org"),
        (["http://localhost:2379"], "etcd2.example.org", "etcd2.example.org"),
        (["https://[::1]:2379"], "etcd2.example.org", "etcd2.example.org"),
        (["10.0.0.1:2379"], "cp1", "etcd1.example.org"),
        (["https://10.0.0.1:2379", "https://etcd1:2379"], "cp1", "etcd1.example.org"),
        (["https://10.0.0.1:2379", "https://10.0.0.2:2379"], "cp1", ""),
        (["https://127.0.0.1:2379", "https://10.0.0.1:2379"], "etcd2.example.org", ""),
        (["https://10.0.0.1:2379", "https://10.9.9.9:2379"], "cp1", ""),
        (["https://etcd.service:2379"], "cp1", "https://etcd.service:2379"),
        (["https://127.0.0.1:2379"], "cp1", "https://127.0.0.1:2379"),
        ([""], "cp1", ""),
    ],
)
def test_who_has_one_member_alone_depends_on_it(servers: list[str], on: str, member: str) -> None:
    assert clients.sole(servers, on, KNOWN) == member
