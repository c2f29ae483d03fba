"""What the API server says of its health."""

from email.utils import formatdate

import pytest
import urllib3

from fleet.adapters.k8s.client import Api
from fleet.adapters.k8s.errors import ApiError
from fleet.clock import SystemClock
from fleet.engine.findings import Level
from fleet.procedures import preflight
from support import official
from support.official import SERVER, answer


def client_of(answers: dict[str, urllib3.HTTPResponse]) -> Api:
    """Return a client of a server that has answers by path."""

    def request(method: str, url: str, _body: bytes | None) -> urllib3.HTTPResponse:
        assert method == "GET"
        return answers[url.removeprefix(SERVER)]

    return Api(official.client(request), clock=SetClock())


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
def test_the_failing_checks_of_readyz_are_named(status, text, expected):
    assert client_of({"/readyz?verbose=true": answer(status, text.encode())}).not_ready() == expected


def test_what_is_not_there_is_found_missing_and_no_other_refusal():
    refusals = {f"/{status}": answer(status, b"no") for status in (404, 403, 410)}
    api = client_of({"/api/v1": answer(200, b'{"kind": "x"}'), **refusals})
    assert api.find("/api/v1") == {"kind": "x"}
    assert api.find("/404") is None
    for status in (403, 410):
        with pytest.raises(ApiError, match=str(status)):
            api.find(f"/{status}")


class SetClock(SystemClock):
    """A clock that a test sets, and that moves on by two seconds with each look."""

    now = 1_800_000_000.0

    def time(self) -> float:
        self.now += 2
        return self.now


def api_at(date: str | None) -> Api:
    """Return a client of a server whose answers have a date."""
    return client_of({"/version": answer(200, b"{}", headers={} if date is None else {"Date": date})})


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
