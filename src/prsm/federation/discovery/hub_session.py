"""Calls of ``huggingface_hub`` within bounds: its HTTP client by itself has no time-out, no limit, and goes anywhere.

The library keeps one client for the process and lets it be replaced; the one put there counts what each pass spends.
Whoever calls the library outside of a pass notices nothing.
"""

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import set_client_factory

from prsm.federation.discovery.json_fetch import check_address, malformed, too_large, unreachable
from prsm.federation.discovery.seams import SourceError

_CONNECT_S = 10.0


@dataclass(slots=True)
class Budget:
    """What one pass may spend, all its requests together; they go to ``endpoint``'s origin.

    With ``elsewhere`` redirects may lead away from there (files lie with others), but never with the secret, nor from
    TLS to none. ``cancel`` ends the pass at its next byte, whatever thread it runs in.
    """

    endpoint: str
    total_s: float
    bytes_left: int
    requests_left: int
    idle_s: float = 30.0
    elsewhere: bool = False
    host: str = field(init=False)
    _deadline_s: float = field(init=False)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.host = check_address(self.endpoint)
        self._deadline_s = time.monotonic() + self.total_s

    def cancel(self) -> None:
        """Nobody waits for this pass any more."""
        self._cancelled.set()

    def admit(self, request: httpx2.Request) -> None:
        """Count a request and give it its time-outs. Raises SourceError for one that may not go out."""
        self.requests_left -= 1
        if self.requests_left < 0:
            raise too_large(self.host, "the answers that one pass takes")
        if not self._may_ask(str(request.url), request.headers):
            raise malformed(self.host, "leads to another address, which is not followed")
        self.spend(0)
        idle_s = min(self.idle_s, self._deadline_s - time.monotonic())
        request.extensions["timeout"] = httpx2.Timeout(idle_s, connect=min(idle_s, _CONNECT_S)).as_dict()
        request.headers["accept-encoding"] = "identity"  # or what is counted is not what is kept in memory

    def spend(self, count_bytes: int) -> None:
        """Count bytes that came. Raises SourceError when they are too many, too late, or for nobody."""
        self.bytes_left -= count_bytes
        if self.bytes_left < 0:
            raise too_large(self.host, "the bytes that one pass takes")
        if self._cancelled.is_set():
            raise SourceError(f"Reading from {self.host} was ended here.", code="source_cancelled")
        if time.monotonic() >= self._deadline_s:
            raise unreachable(self.host, TimeoutError())

    def _may_ask(self, url: str, headers: httpx2.Headers) -> bool:
        home, asked = _origin(self.endpoint), _origin(url)
        if home == asked:
            return True
        return self.elsewhere and "authorization" not in headers and (home[0], asked[0]) != ("https", "http")


@contextmanager
def spending(budget: Budget) -> Generator[None]:
    """Count what the library does in this thread against ``budget``."""
    _install()
    token = _BUDGET.set(budget)
    try:
        yield
    finally:
        _BUDGET.reset(token)


class _Counting(httpx2.BaseTransport):
    """The network as a pass may use it."""

    def __init__(self) -> None:
        self._network = httpx2.HTTPTransport()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        budget = _BUDGET.get()
        if budget is None:
            return self._network.handle_request(request)
        budget.admit(request)
        try:
            response = self._network.handle_request(request)
        except httpx2.HTTPError as error:
            raise unreachable(budget.host, error) from None  # its request holds the secret
        if response.headers.get("content-encoding", "identity") != "identity":
            response.close()
            raise malformed(budget.host, "sends compressed what was asked for as it is")
        assert isinstance(response.stream, httpx2.SyncByteStream)
        counted = _CountedStream(response.stream, budget)
        return httpx2.Response(response.status_code, headers=response.headers, stream=counted)

    def close(self) -> None:
        self._network.close()


class _CountedStream(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, budget: Budget) -> None:
        self._stream = stream
        self._budget = budget

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._stream:
                self._budget.spend(len(chunk))
                yield chunk
        except httpx2.HTTPError as error:
            raise unreachable(self._budget.host, error) from None

    def close(self) -> None:
        self._stream.close()


_BUDGET: ContextVar[Budget | None] = ContextVar("hub_budget", default=None)
_INSTALLING = threading.Lock()
_installed = False


def _install() -> None:
    global _installed
    with _INSTALLING:
        if not _installed:
            set_client_factory(lambda: httpx2.Client(transport=_Counting(), follow_redirects=True, timeout=None))
            _installed = True


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
