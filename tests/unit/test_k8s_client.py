"""What the API server says of its health."""

from types import SimpleNamespace

import pytest

from fleet.k8s.client import Api


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (200, "[+]ping ok\n[+]etcd ok\nreadyz check passed\n", ""),
        (
            500,
            "[+]ping ok\n[-]etcd failed: reason withheld\n[-]shutdown failed: x\nreadyz check failed\n",
            "etcd, shutdown",
        ),
        (503, "no server is available", "status 503"),
    ],
)
def test_the_failing_checks_of_readyz_are_named(monkeypatch, status, text, expected):
    api = Api.__new__(Api)
    api._timeout = 1.0
    answer = SimpleNamespace(status=status, data=text.encode())
    monkeypatch.setattr(api, "_send", lambda *arguments, **options: answer)
    assert api.not_ready() == expected
