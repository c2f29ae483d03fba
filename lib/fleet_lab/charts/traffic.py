"""Whether traffic for a service still comes to this datacenter: a stand-in, by the time that its record is depooled.

Clients keep what a discovery record said for as long as its TTL: once it has been depooled here for that long, none of
them has this datacenter's address any more. Since when that is, is kept beside: etcd does not know when it was written.
"""

import json
import os
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from fleet_lab.errors import LabError
from fleet_lab.guest.kubelet.api import Json

_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Record:
    """A discovery record of one datacenter, as conftool has it."""

    pooled: bool
    ttl: float
    """Seconds."""
    index: int
    """Grows with each change."""


@dataclass(frozen=True, slots=True)
class Seen:
    """When a record was first seen depooled."""

    index: int
    since: float
    """Seconds since the epoch."""


def judge(record: Record, before: Seen | None, now: float) -> tuple[Seen | None, float | None]:
    """Return what to keep for the next time, and how many seconds there are to go; None while it is pooled.

    A record that was changed meanwhile may have been pooled again: its time begins anew.

    Args:
        record: the record.
        before: what was kept the last time.
        now: seconds since the epoch.
    """
    if record.pooled:
        return None, None
    if before is None or before.index != record.index or before.since > now:
        before = Seen(record.index, now)
    return before, max(0.0, before.since + record.ttl - now)


def remaining(settings: Json, name: str) -> float | None:
    """Return for how many seconds traffic may still come; None while the record is pooled.

    Args:
        settings: ``url`` of the records in etcd, ``datacenter``, the files ``ca``, ``certificate`` and ``key``, and
            ``kept``, a folder.
        name: the service.

    Raises:
        LabError: there is no such record, or etcd cannot be asked.
    """
    kept = Path(settings["kept"], f"{name}.json")
    before = Seen(**json.loads(kept.read_text(encoding="utf-8"))) if kept.exists() else None
    after, seconds = judge(_read(settings, name), before, time.time())
    if after is None:
        kept.unlink(missing_ok=True)
    elif after != before:
        kept.parent.mkdir(exist_ok=True, mode=0o700)
        temporary = kept.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"index": after.index, "since": after.since}), encoding="utf-8")
        temporary.replace(kept)
    return seconds


def _read(settings: Json, name: str) -> Record:
    url = f"{settings['url']}/{name}/{settings['datacenter']}"
    tls = ssl.create_default_context(cafile=settings["ca"])
    tls.load_cert_chain(settings["certificate"], settings["key"])
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT, context=tls) as answer:  # noqa: S310
            node = json.load(answer)["node"]
        value = json.loads(node["value"])
        return Record(pooled=bool(value["pooled"]), ttl=float(value["ttl"]), index=int(node["modifiedIndex"]))
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise LabError(f"The record of {name} cannot be read: {error}") from error
        raise LabError(f"Conftool has no record of {name} in {settings['datacenter']}.") from error
    except (OSError, ValueError, KeyError) as error:
        raise LabError(f"The record of {name} cannot be read from {url}: {error}") from error
