"""JSON from one origin, within bounds of time and bytes: the only way in which sources here speak HTTP themselves.

No redirect is followed, so that a secret goes to its origin and nowhere else. What the other side says in an error is
never repeated: it may hold the secret. HTTP proxies are not used.
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec

from prsm.core.clock import Clock
from prsm.core.clock import now as now_utc
from prsm.core.errors import InvalidRequest, Kind
from prsm.federation.discovery.seams import SourceError

MAX_RETRY_AFTER_S = 86_400.0
_MAX_ETAG_CHARS = 200
_NOTHING = {"GET": 304, "POST": 404}

# In detail it logs the headers of answers, and whoever answers may repeat the secret there.
logging.getLogger("httpcore2").setLevel(logging.INFO)


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Bounds of one request: ``idle_s`` between two reads, ``total_s`` from its beginning to its last byte."""

    connect_s: float = 10.0
    idle_s: float = 20.0
    total_s: float = 60.0
    max_bytes: int = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole answer; ``etag`` is empty where there was none that can be sent back."""

    body: bytes
    etag: str


class JsonFetch:
    """Asks one origin. ``secret`` is sent as a bearer token; ``now`` dates a Retry-After that is a date."""

    def __init__(
        self,
        base_url: str,
        *,
        secret: str = "",
        limits: FetchLimits | None = None,
        now: Clock = now_utc,
    ) -> None:
        self.host = check_address(base_url, secret)
        self._base_url = base_url.rstrip("/")
        self._limits = limits or FetchLimits()
        self._now = now
        headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "prsm"}
        if secret:
            headers["authorization"] = f"Bearer {secret}"
        timeout = httpx2.Timeout(self._limits.idle_s, connect=self._limits.connect_s)
        self._client = httpx2.AsyncClient(headers=headers, timeout=timeout, follow_redirects=False, trust_env=False)

    async def get(self, path: str, *, etag: str = "") -> Fetched | None:
        """The answer at ``path`` under the base URL; None where it is still what ``etag`` names. Raises SourceError."""
        return await self._fetch("GET", path, None, {"if-none-match": etag} if etag else {})

    async def post(self, path: str, payload: Any) -> bytes | None:
        """The answer to a JSON body; None where what is asked for is not there (404). Raises SourceError."""
        headers = {"content-type": "application/json"}
        fetched = await self._fetch("POST", path, msgspec.json.encode(payload), headers)
        return None if fetched is None else fetched.body

    async def aclose(self) -> None:
        """Close open connections."""
        await self._client.aclose()

    async def _fetch(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Fetched | None:
        try:
            async with (
                asyncio.timeout(self._limits.total_s),
                self._client.stream(method, self._base_url + path, content=body, headers=headers) as response,
            ):
                if response.status_code == _NOTHING.get(method):
                    return None
                if response.status_code != 200:
                    raise status_error(self.host, response.status_code, response.headers, self._now())
                return Fetched(await self._read(response), _etag(response.headers))
        except (TimeoutError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise unreachable(self.host, error) from None  # its request holds the secret

    async def _read(self, response: httpx2.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self._limits.max_bytes:
                raise too_large(self.host, f"{self._limits.max_bytes} bytes")
        return bytes(body)


def check_address(base_url: str, secret: str = "") -> str:
    """The host and port of an address; raise InvalidRequest, naming the field, unless both can be used."""
    try:
        parts = urlsplit(base_url)
        host = parts.hostname and f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    except ValueError:
        parts, host = urlsplit(""), None
    plain = base_url.isascii() and base_url.isprintable() and not set(base_url) & set(" ?#@\\")
    if parts.scheme not in ("http", "https") or not host or not plain:
        raise InvalidRequest(
            "A source's address is http(s)://host[:port]/path in ASCII, without user name, query or fragment.",
            param="address",
        )
    if not (secret.isascii() and secret.isprintable() and " " not in secret):
        raise InvalidRequest("A source's secret is printable ASCII without spaces.", param="secret")
    return host


def status_error(host: str, status: int, headers: httpx2.Headers, now: datetime) -> SourceError:
    """What an HTTP status says of a source."""
    if status in (401, 403):
        return SourceError(
            f"The source at {host} refuses this node (HTTP {status}).",
            kind=Kind.FORBIDDEN,
            code="source_refused",
            remedy="Check its secret, and what that is allowed to read.",
        )
    if status == 429:
        return SourceError(
            f"The source at {host} limits how often it is asked.",
            kind=Kind.RATE_LIMITED,
            code="source_rate_limited",
            remedy="It is asked again later by itself.",
            retry_after_s=retry_after_s(headers, now),
        )
    if 300 <= status < 400:
        return malformed(host, f"redirects (HTTP {status}), which is not followed")
    error = SourceError(f"The source at {host} answers with HTTP {status}.", retry_after_s=retry_after_s(headers, now))
    if status in (404, 405, 410):
        error.remedy = "Check its address."
    return error


def retry_after_s(headers: httpx2.Headers, now: datetime) -> float | None:
    """Seconds to wait, by Retry-After (RFC 9110 section 10.2.3), at most a day; None where it does not say."""
    value = headers.get("retry-after", "").strip()[:100]
    if value.isascii() and value.isdigit():
        return min(float(value), MAX_RETRY_AFTER_S)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(max((date - now).total_seconds(), 0.0), MAX_RETRY_AFTER_S)


def unreachable(host: str, error: Exception) -> SourceError:
    """The error for a source that did not answer, or not to the end; nothing of ``error`` but its kind is told."""
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return SourceError(f"The source at {host} did not answer in time.", kind=Kind.TIMEOUT)
    if isinstance(error, httpx2.ConnectError):
        return SourceError(f"The source at {host} cannot be reached.", remedy="Check its address.")
    if isinstance(error, httpx2.ProtocolError):
        return SourceError(f"The source at {host} broke off, or does not speak HTTP.")
    return SourceError(f"The connection to the source at {host} failed ({type(error).__name__}).")


def malformed(host: str, what: str) -> SourceError:
    """The error for a source that answers something else than a list of models."""
    return SourceError(f"The source at {host} {what}.", code="source_malformed", remedy="Check its address and kind.")


def too_large(host: str, limit: str) -> SourceError:
    """The error for a source that sends more than is taken."""
    return SourceError(f"The source at {host} sends more than {limit}.", kind=Kind.TOO_LARGE, code="source_too_large")


def _etag(headers: httpx2.Headers) -> str:
    etag = headers.get("etag", "")
    return etag if len(etag) <= _MAX_ETAG_CHARS and etag.isascii() and etag.isprintable() else ""
