"""The values in a BGP summary, as Junos writes them. Pure: no I/O."""

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address

STATE = r"[A-Z][A-Za-z]*(?: \([^()]*\))?"
"""A session's state: ``Active``, ``Idle (LicenseFailure)``."""

TIME = r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?\ ?(\d+(?::\d\d){0,2})?"
"""How long ago; may match nothing at all."""


@lru_cache(maxsize=65536)  # the same ones in every answer
def address(text: str) -> Address:
    """Read an address, which may have a port: ``10.64.0.121+179``.

    A link-local address keeps its interface, with a dash for the slash that Python does not take: ``%ge-0-0-5.301``.

    Raises:
        ValueError: it is none.
    """
    match = _PORT.fullmatch(text)
    return ip_address((match[1] if match else text).replace("/", "-"))


@lru_cache(maxsize=1024)
def asn(text: str) -> int:
    """Read an AS number: plain, or its halves (``1.10`` is 65546).

    Raises:
        ValueError: it is none.
    """
    match = _ASN.fullmatch(text)
    high, low = (int(match[1] or 0), int(match[2])) if match else (0, -1)
    if not match or high > 0xFFFF or low > (0xFFFF if match[1] else 0xFFFFFFFF):
        raise ValueError(f"{text!r} is no AS number")
    return (high << 16) + low


def elapsed(text: str) -> int:
    """Read ``7``, ``32:13``, ``2:03:04``, ``1d 2:03:04``, ``12w1d 21:45:51`` or ``6w5d6h``, in seconds.

    Raises:
        ValueError: it is no time.
    """
    match = _TIME.fullmatch(text)
    if not match or not any(match.groups()):
        raise ValueError(f"{text!r} is no time such as 32:13 or 1d 2:03:04")
    weeks, days, hours, clock = (group or "0" for group in match.groups())
    seconds = 0
    for part in clock.split(":"):
        seconds = seconds * 60 + int(part)
    return ((int(weeks) * 7 + int(days)) * 24 + int(hours)) * 3600 + seconds


@lru_cache(maxsize=65536)
def count(text: str | None) -> int:
    """Read a number that is not negative.

    Raises:
        ValueError: it is none.
    """
    digits = (text or "").strip()
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{digits!r} is no number")
    return int(digits)


@lru_cache(maxsize=64)
def state(text: str) -> str:
    """Read a session's state.

    Raises:
        ValueError: it is no word that could be one.
    """
    if not _STATE.fullmatch(text):
        raise ValueError(f"{text!r} is no state")
    return text


_ASN = re.compile(r"(?:(\d+)\.)?(\d+)", re.ASCII)
_PORT = re.compile(r"([^+]+)\+\d+", re.ASCII)
_STATE = re.compile(STATE)
_TIME = re.compile(TIME, re.ASCII)
