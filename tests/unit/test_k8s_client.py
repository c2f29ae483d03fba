"""What the API server says of its health."""

from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import pytest

from fleet.adapters.k8s.client import Api
from fleet.clock import SystemClock
from fleet.engine.findings import Level
from fleet.procedures import preflight


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


class SetClock(SystemClock):
    """A clock that a test sets, and that moves on by two seconds with each look."""

    now = 1_800_000_000.0

    def time(self) -> float:
        self.now += 2
        return self.now


class Pool:
    """The API server, which has its own clock."""

    def __init__(self, date: str | None) -> None:
        self.headers = {} if date is None else {"Date": date}

    def request(self, method: str, url: str, **options: Any) -> Any:
        assert (method, url) == ("GET", "https://api:6443/version")
        return SimpleNamespace(status=200, headers=self.headers, data=b"{}")


def api_at(date: str | None) -> Api:
    """Return a client of a server whose answers have a date."""
    configuration = SimpleNamespace(host="https://api:6443", auth_settings=dict)
    client = SimpleNamespace(
        rest_client=SimpleNamespace(pool_manager=Pool(date)), configuration=configuration, default_headers={}
    )
    return Api(client, clock=SetClock())


@pytest.mark.parametrize("ahead", [-10_800, -7, 7, 10_800])
def test_the_clocks_are_compared_by_the_date_of_an_answer(ahead: int) -> None:
    """It is the server's in the middle of the request, in whole seconds."""
    found = api_at(formatdate(1_800_000_003 - ahead, usegmt=True)).clock_difference()
    assert found == pytest.approx(ahead, abs=1)
    (finding,) = preflight.of_clock(api_at(formatdate(1_800_000_003 - ahead, usegmt=True)))
    assert found is not None
    assert finding.level is (Level.NOTE if abs(ahead) == 7 else Level.ASK)
    assert ("ahead of" if ahead > 0 else "behind") in finding.what


def test_clocks_that_agree_are_not_mentioned() -> None:
    assert preflight.of_clock(api_at(formatdate(1_800_000_003, usegmt=True))) == []


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_an_answer_without_a_date_tells_nothing(date: str | None) -> None:
    assert api_at(date).clock_difference() is None
    assert preflight.of_clock(api_at(date)) == []
