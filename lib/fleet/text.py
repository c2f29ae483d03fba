"""Small words of messages: numbers with what they count, and values that may stand in a line. Pure."""

import re
from collections.abc import Collection, Sized

_LONGEST = 120
_WRAPPING = re.compile(r"(HTTPS?Connection(Pool)?\([^)]*\): |<urllib3\.[^>]*>: |\[Errno -?[0-9]+\] )")
"""What libraries put before the cause."""


def count(what: int | Sized, singular: str, plural: str = "") -> str:
    """Return a number with what it counts: ``1 pod``, ``3 pods``, ``2 of its pods`` is for the caller.

    Args:
        what: the number, or what has that many.
        singular: the word for one.
        plural: the word for several; by default the singular with an "s".
    """
    number = what if isinstance(what, int) else len(what)
    return f"{number} {singular if number == 1 else plural or f'{singular}s'}"


def verb(what: int | Sized, singular: str, plural: str) -> str:
    """Return a verb that agrees with how many there are: ``verb(pods, "is", "are")``."""
    return singular if (what if isinstance(what, int) else len(what)) == 1 else plural


def listed(names: Collection[str], singular: str, plural: str) -> str:
    """Return names with a verb that agrees: ``web-a is``, ``web-a, web-b are``."""
    return f"{', '.join(names)} {verb(names, singular, plural)}"


def short(value: object) -> str:
    """Return how a value is written, in a line, and cut where it is long."""
    written = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return written if len(written) <= _LONGEST else f"{written[:_LONGEST]}…"


def printable(value: str) -> str:
    """Return a text in quotes with all that does not show as escape codes, cut where it is long."""
    written = ascii(value)
    return written if len(written) <= _LONGEST else f"{written[:_LONGEST]}…"


def line(error: object) -> str:
    """Return the text of an error as one line of what shows; the name of its class where it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def network(error: BaseException) -> str:
    """Return why something could not be reached, as the system says it and not as libraries wrap it."""
    inner: BaseException | None = error
    seen: list[BaseException] = []
    while inner is not None and inner not in seen:
        seen.append(inner)
        wrapped = [*vars(inner).values(), *inner.args] if not isinstance(inner, OSError) else []
        inner = inner.__cause__ or next((one for one in wrapped if isinstance(one, BaseException)), None)
    said = next((one.strerror for one in reversed(seen) if isinstance(one, OSError) and one.strerror), "")
    if any("Timeout" in type(one).__name__ for one in seen):
        return "it timed out"
    return said[:1].lower() + said[1:] if said else line(_WRAPPING.sub("", str(seen[-1]))).rstrip(".")
