"""The values that stand in the configuration: durations, amounts, names, queries, and how each is checked."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from fleet.config.matchers import parse_matcher
from fleet.text import short

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: object) -> float:
    """Read a duration such as ``90s``, ``15m`` or ``1h30m``.

    Args:
        value: what stands in the file.

    Returns:
        Seconds, more than zero.

    Raises:
        ValueError: the value is no duration.
    """
    if isinstance(value, str) and re.fullmatch(f"(?:{_DURATION.pattern})+", value):
        seconds = float(sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(value)))
        if seconds > 0:
            return seconds
    raise ValueError(f"{short(value)} is no duration: write a number and a unit (s, m, h, d), such as 90s or 1h30m")


def parse_pause(value: object) -> float:
    """Read a duration that may be none at all: ``0s``.

    Args:
        value: what stands in the file.

    Returns:
        Seconds.

    Raises:
        ValueError: the value is no duration.
    """
    return 0.0 if value == "0s" else parse_duration(value)


def parse_amount(value: object) -> int | str:
    """Read a number of units, or a share of them: ``2`` or ``"10%"``.

    Args:
        value: what stands in the file or on the command line.

    Returns:
        The number, or the percentage as a string that ends with ``%``.

    Raises:
        ValueError: the value is no amount, or not between 1 and 100 %.
    """
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}%?", text):
        raise ValueError(f"{short(value)} is no amount: write a number such as 2, or a percentage such as 10%")
    if int(text.rstrip("%")) < 1:
        raise ValueError(f"{value!r} would let nothing be done: write at least 1 or 1%")
    if text.endswith("%"):
        if int(text[:-1]) > 100:
            raise ValueError(f"{value!r} is above 100%")
        return text
    return int(text)


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{short(str(path))} must be an absolute path: begin it with /")
    if len(str(path)) > 1024 or any(len(part) > 255 for part in path.parts):
        raise ValueError(f"{short(str(path))} is longer than the names of files may be")
    return path


def _matcher(text: str) -> str:
    parse_matcher(text)
    return text


def _no_secret(name: str) -> str:
    if name in ("ETCDCTL_USER", "ETCDCTL_PASSWORD"):
        raise ValueError(f"{name} would show on command lines and in logs: let etcdctl use a certificate")
    return name


PROTECTED = frozenset({"kube-system", "kube-public", "kube-node-lease", "default"})
"""Namespaces that are Kubernetes' own, which it makes itself."""
Duration = Annotated[float, BeforeValidator(parse_duration)]
Pause = Annotated[float, BeforeValidator(parse_pause)]
Amount = Annotated[int | str, BeforeValidator(parse_amount)]
Matcher = Annotated[str, AfterValidator(_matcher)]
"""A matcher of Alertmanager, such as ``site="eqiad"``."""
NoSecret = AfterValidator(_no_secret)
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Query = Annotated[str, Field(pattern=r"\S", max_length=20_000)]
"""A Cumin query."""
Command = Annotated[str, Field(pattern=r"\S", max_length=20_000)]
"""A command for bash on a host."""
ScopeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=63)]
"""The name of a cluster or a group; it becomes part of the names of runs, and so of folders."""
RouterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=253)]
UnitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9:_.@-]+\.service$", max_length=255)]
DNS_LABEL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
NODE_LABEL = r"^([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$"
ALERT_LABEL = r"^[a-zA-Z_][a-zA-Z0-9_]*$"


class Model(BaseModel):
    """Base of all sections: no unknown key, no change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
