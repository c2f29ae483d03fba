"""Silences and alerts, over Alertmanager's API v2.

Spicerack's own accessor creates and removes silences; a run also extends them while a host is in flight, finds those
that a crash left behind, and reads alerts. Facts: Alertmanager's ``api/v2/openapi.yaml`` and ``silence/silence.go``.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import requests
from requests.auth import HTTPBasicAuth
from spicerack import Spicerack
from wmflib.config import load_yaml_config
from wmflib.exceptions import WmflibError

from fleet.errors import FleetError
from fleet.hosts.matchers import Matcher, host_matcher

logger = logging.getLogger(__name__)

_TIMEOUT = (3.05, 10.0)
"""Seconds to connect, and to wait for data: another member of the cluster is asked after it."""
_SKEW = 300
"""Seconds that our clock may be ahead of Alertmanager's, for which a silence would not have begun yet."""
_HOSTS_AT_A_TIME = 50
"""Alerts are asked for in an URL, which takes so many hosts and not thousands."""


class SilenceError(FleetError):
    """Alertmanager could not be asked, or refused."""


class NoSuchSilenceError(SilenceError):
    """No Alertmanager knows the silence."""


@dataclass(frozen=True)
class Silence:
    """A silence; times are seconds since the epoch."""

    id: str
    state: str
    """``active``, ``pending`` or ``expired``."""
    comment: str
    author: str
    starts_at: float
    ends_at: float
    matchers: tuple[Matcher, ...]


@dataclass(frozen=True)
class Alert:
    """A firing alert."""

    host: str
    """The host that was asked for."""
    name: str
    instance: str
    """The label that names the host, as it is."""
    severity: str
    """The label ``severity``, perhaps empty."""
    starts_at: float
    """Since when, in seconds since the epoch."""
    silenced: bool
    """Whether a silence, or another alert that inhibits this one, keeps it quiet."""


class Silences:
    """Alertmanager's silences and alerts; may be used from several threads."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        label: str = "instance",
        auth: tuple[str, str] | None = None,
        proxies: dict[str, str] | None = None,
        dry_run: bool = False,
    ) -> None:
        """Initialize the instance.

        Args:
            urls: the members of one Alertmanager cluster, asked in this order until one answers.
            label: the label of alerts that names the host.
            auth: user name and password for HTTP basic authentication.
            proxies: for requests.
            dry_run: whether nothing is to be changed.
        """
        self._urls = [url.rstrip("/") for url in urls]
        self._label = label
        self._auth = HTTPBasicAuth(*auth) if auth else None
        self._proxies = proxies
        self._dry_run = dry_run
        # A session would be shared by the threads; the calls are few.

    @classmethod
    def from_spicerack(cls, spicerack: Spicerack, *, instance: str = "", label: str = "instance") -> "Silences":
        """Use the Alertmanager of spicerack's configuration, ``alertmanager/config.yaml`` in its folder.

        Args:
            spicerack: for the configuration, and whether this is a dry-run.
            instance: the instance to use; empty for the default one.
            label: the label of alerts that names the host.

        Raises:
            SilenceError: the file cannot be read, or has no such instance.
        """
        path = spicerack.config_dir / "alertmanager" / "config.yaml"
        try:
            found = find_instance(load_yaml_config(path), instance)
        except (WmflibError, ValueError) as error:
            raise SilenceError(f"{path}: {error}") from error
        return cls(
            found["urls"],
            label=label,
            auth=(found["http_username"], found["http_password"]) if "http_username" in found else None,
            proxies=spicerack.requests_proxies if found.get("http_use_proxy") else None,
            dry_run=spicerack.dry_run,
        )

    def create(
        self, hosts: Sequence[str], *, comment: str, author: str, duration: float, matchers: Sequence[Matcher] = ()
    ) -> str:
        """Silence all alerts of hosts, or all that match.

        Args:
            hosts: their names, as Cumin knows them; none if the matchers alone are to say what is silenced.
            comment: why; with the run's id, by which :meth:`find` finds it.
            author: who.
            duration: for how long, in seconds.
            matchers: what else must hold of the alerts; one at least where there are no hosts.

        Returns:
            The silence's id; an empty string in a dry-run.

        Raises:
            SilenceError: no Alertmanager could be asked, or it refused.
        """
        of_hosts = [host_matcher(hosts, label=self._label)] if hosts or not matchers else []
        now = time.time()
        return self._post(
            {
                "matchers": [matcher.to_api() for matcher in (*of_hosts, *matchers)],
                "startsAt": _timestamp(now - _SKEW),  # a start in the past is taken as now
                "endsAt": _timestamp(now + duration),
                "comment": comment,
                "createdBy": author,
            }
        )

    def extend(self, silence_id: str, duration: float) -> str:
        """Let a silence end in ``duration`` seconds from now, or later if it does already.

        Returns:
            The silence's id: the same, or a new one if the silence had expired and was made anew.

        Raises:
            NoSuchSilenceError: no Alertmanager knows it.
            SilenceError: no Alertmanager could be asked, or it refused.
        """
        if self._dry_run:
            return silence_id
        data = self._get(silence_id)
        ends_at = time.time() + duration
        expired = data["status"]["state"] == "expired"
        if not expired and _epoch(data["endsAt"]) >= ends_at:
            return silence_id
        changed = {key: data[key] for key in ("matchers", "startsAt", "comment", "createdBy")}
        changed["endsAt"] = _timestamp(ends_at)
        return self._post(changed if expired else changed | {"id": silence_id})

    def expire(self, silence_id: str) -> None:
        """End a silence now; one that has ended, or that nobody knows any more, is fine.

        Raises:
            SilenceError: no Alertmanager could be asked, or it refused.
        """
        if self._dry_run:
            return
        try:
            self._call("DELETE", f"silence/{silence_id}")
        except SilenceError:
            # Of one that has expired, releases answer differently (500, 404, 200); look instead of guessing.
            try:
                if self.get(silence_id).state == "expired":
                    return
            except NoSuchSilenceError:
                return
            raise

    def get(self, silence_id: str) -> Silence:
        """Return a silence.

        Raises:
            NoSuchSilenceError: no Alertmanager knows it.
            SilenceError: no Alertmanager could be asked.
        """
        return _silence(self._get(silence_id))

    def find(self, *, comment_contains: str) -> list[Silence]:
        """Return the silences in force whose comment contains a text, such as a run's id.

        Raises:
            SilenceError: no Alertmanager could be asked.
        """
        silences = map(_silence, self._call("GET", "silences"))
        return [silence for silence in silences if silence.state != "expired" and comment_contains in silence.comment]

    def alerts(self, hosts: Sequence[str]) -> list[Alert]:
        """Return the alerts of hosts that are firing, silenced ones included.

        Args:
            hosts: their names, as Cumin knows them.

        Raises:
            SilenceError: no Alertmanager could be asked.
        """
        return [
            alert
            for start in range(0, len(hosts), _HOSTS_AT_A_TIME)
            for alert in self._alerts(hosts[start : start + _HOSTS_AT_A_TIME])
        ]

    def _alerts(self, hosts: Sequence[str]) -> Iterator[Alert]:
        query = {"filter": str(host_matcher(hosts, label=self._label))}
        answer = self._call("GET", "alerts", params=query)
        patterns = {host: host_matcher([host], label=self._label).regex() for host in hosts}
        for data in answer:
            labels = data["labels"]
            instance = labels.get(self._label, "")
            for host, pattern in patterns.items():
                if pattern.fullmatch(instance):
                    yield Alert(
                        host=host,
                        name=labels.get("alertname", ""),
                        instance=instance,
                        severity=labels.get("severity", ""),
                        starts_at=_epoch(data["startsAt"]),
                        silenced=data["status"]["state"] == "suppressed",
                    )

    def _post(self, silence: dict[str, Any]) -> str:
        if self._dry_run:
            logger.debug("Would have posted the silence %s", silence)
            return ""
        return str(self._call("POST", "silences", json=silence)["silenceID"])

    def _get(self, silence_id: str) -> Any:
        return self._call("GET", f"silence/{silence_id}")

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        """Ask one Alertmanager after the other; return the first good answer."""
        problems, unknown = [], 0
        for url in self._urls:
            try:
                response = requests.request(
                    method,
                    f"{url}/api/v2/{path}",
                    auth=self._auth,
                    proxies=self._proxies,
                    timeout=_TIMEOUT,
                    **arguments,
                )
                if response.ok:
                    return response.json() if response.content else None
                unknown += response.status_code == 404
                problems.append(f"{url}: {response.status_code} {response.reason}: {response.text.strip()[:300]}")
            except (requests.RequestException, ValueError) as error:
                problems.append(f"{url}: {error}")
        summary = "; ".join(problems)
        if unknown == len(self._urls) and path.startswith("silence/"):
            raise NoSuchSilenceError(
                f"No Alertmanager knows {path.replace('/', ' ')} (asked: {', '.join(self._urls)})."
            )
        raise SilenceError(f"Alertmanager could not do {method} {path}: {summary}")


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
    if ("http_username" in instance) != ("http_password" in instance):
        raise ValueError(f"instances.{name}: http_username and http_password belong together")
    return instance


def _silence(data: dict[str, Any]) -> Silence:
    return Silence(
        id=data["id"],
        state=data["status"]["state"],
        comment=data["comment"],
        author=data["createdBy"],
        starts_at=_epoch(data["startsAt"]),
        ends_at=_epoch(data["endsAt"]),
        matchers=tuple(Matcher.from_api(matcher) for matcher in data["matchers"]),
    )


def _timestamp(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
