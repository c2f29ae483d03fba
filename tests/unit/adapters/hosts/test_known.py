"""Which hosts nobody knows: those that do not resolve and that no list has."""

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.hosts.known import resolves, unknown
from worlds.mesh import InTurn

names = st.sets(st.sampled_from(["w1", "w2", "w3", "w4"]))


@given(hosts=names, named=names, listed=names)
def test_a_host_is_known_if_its_name_resolves_or_a_list_has_it(
    hosts: set[str], named: set[str], listed: set[str]
) -> None:
    found = unknown(sorted(hosts), resolves=lambda host: host in named, inventory=lambda: listed, threads=InTurn())

    assert found == sorted(hosts - named - listed)


def test_lists_are_not_read_for_hosts_that_resolve() -> None:
    def inventory() -> Collection[str]:
        raise AssertionError

    assert unknown(["w1"], resolves=lambda _host: True, inventory=inventory) == []


@pytest.mark.parametrize(
    ("host", "known"), [("localhost", True), ("127.0.0.1", True), ("nobody.invalid", False), ("x" * 300, False)]
)
def test_names_are_resolved(host: str, known: bool) -> None:
    assert resolves(host) is known
