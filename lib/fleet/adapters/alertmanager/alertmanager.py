"""One member of an Alertmanager cluster, over its API v2; and where spicerack's configuration says the members are."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import requests

from fleet.errors import FleetError
from fleet.http import explain

_TIMEOUT = (3.05, 10.0)
"""Seconds to connect, and to wait for data."""


class SilenceError(FleetError):
    """Alertmanager could not be asked, or refused."""


class NoSuchSilenceError(SilenceError):
    """No Alertmanager knows the silence."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a member answered."""

    status: int
    """The status code of HTTP."""
    data: Any
    """The answer, from its JSON; None if it is empty or an error."""
    reason: str = ""
    """What the member said of an error."""
    date: float | None = None
    """The time by the member's clock, in seconds since the epoch; None if it did not tell."""

    @property
    def ok(self) -> bool:
        """Whether the member did what it was asked for."""
        return self.status < 400


class Transport(Protocol):
    """The way to members; may be used from several threads."""

    def __call__(self, method: str, url: str, *, params: Mapping[str, str] | None = None, json: Any = None) -> Reply:
        """Ask a member.

        Args:
            method: of HTTP.
            url: with the member's own URL at its beginning.
            params: of the query.
            json: what is sent.

        Raises:
            SilenceError: it could not be asked; why, in half a sentence.
        """


class Http:
    """A :class:`Transport`, by requests. A session would be shared by the threads, and the calls are few.

    Args:
        auth: user name and password for HTTP basic authentication.
        proxies: for requests.
    """

    def __init__(self, *, auth: tuple[str, str] | None = None, proxies: dict[str, str] | None = None) -> None:
        self._auth = auth
        self._proxies = proxies

    def __call__(self, method: str, url: str, *, params: Mapping[str, str] | None = None, json: Any = None) -> Reply:
        """See :class:`Transport`."""
        try:
            response = requests.request(
                method, url, params=params, json=json, auth=self._auth, proxies=self._proxies, timeout=_TIMEOUT
            )
            if response.ok:
                data = response.json() if response.content else None
                return Reply(response.status_code, data, date=_date(response))
        except requests.JSONDecodeError as error:
            raise SilenceError("its answer is no JSON: is this Alertmanager, or a proxy before it?") from error
        except requests.RequestException as error:
            raise SilenceError(explain(error)) from error
        said = " ".join(response.text.split())[:300]
        reason = f"{response.status_code} {response.reason}" + (f": {said}" if said else "")
        return Reply(response.status_code, None, reason, _date(response))


def _date(response: requests.Response) -> float | None:
    try:
        return parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (KeyError, ValueError):
        return None


def timestamp(epoch: float) -> str:
    """Return a time as the API writes it."""
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def epoch(text: str) -> float:
    """Read a time of the API, in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def find_instance(config: object, name: str) -> dict[str, Any]:
    """Return an instance of spicerack's configuration of Alertmanager.

    Args:
        config: the content of ``alertmanager/config.yaml``.
        name: the instance's name; empty for the default one.

    Raises:
        ValueError: there is none, or it cannot be used.
    """
    if not isinstance(config, dict) or not isinstance(config.get("instances"), dict):
        raise ValueError("must be a mapping with the keys default_instance and instances")
    name = name or config.get("default_instance") or ""
    if not name:
        raise ValueError("default_instance is missing, and no other instance is asked for")
    instance = config["instances"].get(name)
    if not isinstance(instance, dict):
        raise ValueError(f"instances.{name} is missing; there are: {', '.join(config['instances']) or 'none'}")
    urls = instance.get("urls")
    if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
        raise ValueError(f"instances.{name}.urls must be a list of the URLs of one Alertmanager cluster")
    wrong = [url for url in urls if not url.startswith(("http://", "https://"))]
    if wrong:
        raise ValueError(f"instances.{name}.urls: {wrong[0]!r} must begin with http:// or https://")
    if len({url.rstrip("/") for url in urls}) < len(urls):
        raise ValueError(f"instances.{name}.urls names a member twice")
    if ("http_username" in instance) != ("http_password" in instance):
        raise ValueError(f"instances.{name}: http_username and http_password belong together")
    return instance
