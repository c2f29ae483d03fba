"""What goes wrong with a call of the Kubernetes API, and how its refusals are read."""

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import urllib3

from fleet.errors import FleetError

_MISMATCHES = frozenset({62, 64})  # OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH
_BUSY = frozenset({429, 502, 503, 504})
_BUSY_CODES = ("etcdserver:", "leader changed", "apiserver is shutting down")


class KubernetesError(FleetError):
    """The Kubernetes API could not be used."""


class ApiUnreachable(KubernetesError):
    """No answer: the connection was refused, broke or timed out. Whether the call had an effect is not known."""


class WatchBroken(ApiUnreachable):
    """A watch that the API had accepted broke off. A new one may go on from the last resource version seen."""


class UntrustedCertificate(KubernetesError):
    """What answered has not proven to be the API.

    Attributes:
        problem: what is wrong with its certificate, in OpenSSL's words.
        other_name: whether it is merely the certificate of another name or address, signed by the right authority.
    """

    def __init__(self, server: str, error: ssl.SSLCertVerificationError) -> None:
        super().__init__(f"The certificate of {server} cannot be trusted: {error.verify_message}")
        self.problem = error.verify_message
        self.other_name = error.verify_code in _MISMATCHES


@dataclass(frozen=True, slots=True)
class Cause:
    """One of the causes that the API gives for a refusal."""

    reason: str
    message: str


class ApiError(KubernetesError):
    """The API answered with an error.

    Attributes:
        status: the HTTP status, such as 404.
        reason: the API's word for it, such as ``NotFound``.
        message: the API's sentence.
        retry_after: seconds after which the API wants to be asked again, if it said so.
        causes: details, such as the disruption budget that forbids an eviction.
    """

    def __init__(
        self,
        call: str,
        status: int,
        reason: str,
        message: str,
        *,
        retry_after: float | None = None,
        causes: tuple[Cause, ...] = (),
    ) -> None:
        super().__init__(f"The Kubernetes API answered {call} with {status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.causes = causes


def refusal(call: str, response: urllib3.BaseHTTPResponse) -> ApiError:
    """Read a refusal, which is a ``Status`` object unless something in between answered."""
    data = response.data
    header = response.headers.get("Retry-After", "")
    retry_after = float(header) if header.isdecimal() else None
    try:
        status = json.loads(data)
    except ValueError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        return status_error(call, status, http_status=response.status, retry_after=retry_after)
    text = data.decode(errors="replace").strip()[:200] or "no text"
    return ApiError(call, response.status, response.reason or "", text, retry_after=retry_after)


def status_error(
    call: str, status: Mapping[str, Any], *, http_status: int | None = None, retry_after: float | None = None
) -> ApiError:
    """Read a ``Status`` object; what the answer's own status and header say comes before what is in it."""
    details = status.get("details") or {}
    if retry_after is None and details.get("retryAfterSeconds"):
        retry_after = float(details["retryAfterSeconds"])
    return ApiError(
        call,
        http_status or int(status.get("code") or 0),
        status.get("reason") or "",
        status.get("message") or "no text",
        retry_after=retry_after,
        causes=tuple(
            Cause(cause.get("reason") or "", cause.get("message") or "") for cause in details.get("causes") or ()
        ),
    )


def is_busy(error: ApiError) -> bool:
    """Return whether the same call may succeed a moment later."""
    return error.status in _BUSY or (error.status == 500 and any(code in error.message for code in _BUSY_CODES))
