"""What follows from a failure at an endpoint: pure rules from an exception or a status to a ``StorageFault``.

Each fault's sentence names the endpoint, what was asked and what happened. No secret is at hand here, so none is shown.
"""

import http.client
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from prsm.core.errors import Kind
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.network.addresses import BadAddress, ForbiddenAddress, Origin, literal_ip, special_use
from prsm.data_layer.seams import Fault, StorageFault

MAX_RETRY_AFTER_S = 300.0
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 507})
_MEANINGS = {
    401: "it wants credentials",
    403: "it forbids it",
    404: "it does not have it",
    408: "it waited too long for the request",
    410: "it no longer gives it",
    429: "too many requests",
    451: "it may not give it for legal reasons",
    500: "an error inside it",
    502: "it got no good answer from where it asked",
    503: "it cannot answer now",
    504: "it did not find it in time",
}


def of_status(status: int, headers: Mapping[str, str], *, endpoint: str, asked: str, detail: str = "") -> StorageFault:
    """The fault of an answer that is not the one asked for. ``headers`` are looked up in lower case."""
    if 300 <= status < 400:
        return _of_redirect(status, headers.get("location", ""), endpoint, asked)
    meaning = detail or _MEANINGS.get(status, "")
    message = f"{endpoint} answered {status} for {asked}" + (f": {meaning}." if meaning else ".")
    if status not in _PASSING:
        return StorageFault(message, fault=Fault.OTHER_REPLICA, endpoint=endpoint)
    return StorageFault(
        message,
        fault=Fault.RETRY,
        endpoint=endpoint,
        kind=Kind.RATE_LIMITED if status == 429 else None,
        retry_after_s=retry_after_s(headers.get("retry-after", ""), datetime.now(UTC)),
    )


def of_error(error: Exception, *, endpoint: str, asked: str) -> StorageFault:
    """The fault of an exchange that broke off."""
    if isinstance(error, StorageFault):
        return error
    if isinstance(error, ForbiddenAddress | BadAddress):
        return StorageFault(
            f"{endpoint} was not asked for {asked}: {error.message}",
            fault=Fault.BAN,
            endpoint=endpoint,
            remedy=error.remedy,
            code=error.code,
        )
    kind = Kind.TIMEOUT if isinstance(error, TimeoutError) else None
    message = f"{endpoint} failed at {asked}: {_said(error)}."
    return StorageFault(message, fault=Fault.RETRY, endpoint=endpoint, kind=kind)


def lied(endpoint: str, cid: Cid, came: str) -> StorageFault:
    """An endpoint gave something that cannot be the block it was asked for."""
    return StorageFault(f"{endpoint} lied about {cid}: {came}.", fault=Fault.BAN, endpoint=endpoint, code="wrong_bytes")


def retry_after_s(text: str, now: datetime) -> float | None:
    """Read ``Retry-After`` (RFC 9110, 10.2.3), in seconds up to MAX_RETRY_AFTER_S; None if it cannot be read."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_RETRY_AFTER_S)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return min(max(0.0, (until - now).total_seconds()), MAX_RETRY_AFTER_S)


def _of_redirect(status: int, location: str, endpoint: str, asked: str) -> StorageFault:
    # Redirects are never followed; one that aims at a forbidden address is an attempt to make somebody follow it.
    absolute = f"http:{location}" if location.startswith("//") else location
    try:
        host = Origin.parse("/".join(absolute.split("/")[:3]).partition("?")[0].partition("#")[0]).host
    except BadAddress:
        host, forbidden = "elsewhere", "://" in absolute
    else:
        ip = literal_ip(host)
        forbidden = host == "localhost" or (ip is not None and special_use(ip) != "")
    return StorageFault(
        f"{endpoint} answered {status} for {asked}: it redirects to {host}, and redirects are not followed.",
        fault=Fault.BAN if forbidden else Fault.OTHER_REPLICA,
        endpoint=endpoint,
        code="redirected",
    )


def _said(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold ({error.verify_message})"
    if isinstance(error, socket.gaierror):
        return f"its name cannot be resolved ({error.strerror})"
    if isinstance(error, TimeoutError):
        return str(error) or "it did not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "it refused the connection"
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead | ssl.SSLEOFError):
        return "it closed the connection before the end"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or 'broken off'})"
    if isinstance(error, ConnectionError):
        return "the connection was reset"
    if isinstance(error, http.client.HTTPException):
        return "what it sent is not HTTP"
    return str(error) or type(error).__name__
