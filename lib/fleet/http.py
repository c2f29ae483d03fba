"""Errors of the library ``requests``, in words for people: what it says itself is a nest of class names and URLs."""

import socket
import ssl
from collections.abc import Iterator

import requests


def explain(error: requests.RequestException) -> str:
    """Return why a request got no answer, in half a sentence such as ``connection refused``.

    Args:
        error: what requests raised.
    """
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy cannot be used: {_cause(error)}"
    if isinstance(error, requests.exceptions.SSLError):
        return f"its TLS certificate or its TLS is not accepted: {_cause(error)}"
    if isinstance(error, requests.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.Timeout):
        return "connected, but no answer in time"
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema):
        return "this is no URL"
    if isinstance(error, requests.TooManyRedirects):
        return "it redirects again and again"
    return _cause(error)


def _cause(error: BaseException) -> str:
    """Return what the operating system, or the innermost library, said."""
    chain = list(_chain(error))
    for inner in reversed(chain):
        if isinstance(inner, socket.gaierror):
            return f"its name cannot be resolved ({inner.strerror})"
        if isinstance(inner, ssl.SSLCertVerificationError):
            return str(inner.verify_message)
        if isinstance(inner, OSError) and not isinstance(inner, requests.RequestException) and inner.strerror:
            return inner.strerror[:1].lower() + inner.strerror[1:]
    inner = chain[-1]
    text = " ".join(str(inner).split())
    # What still tells of pools and URLs is for a debugger.
    return type(inner).__name__ if not text or "url:" in text or "<" in text else text[:200]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Return an error and those that it came of, the innermost last; urllib3 wraps them in several ways."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        wrapped = [argument for argument in current.args if isinstance(argument, BaseException)]
        reason = getattr(current, "reason", None)
        inner = reason if isinstance(reason, BaseException) else next(iter(wrapped), None)
        current = inner or current.__cause__ or current.__context__
