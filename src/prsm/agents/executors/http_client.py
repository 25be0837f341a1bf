"""The node's own upstream client: HTTP/1.1 over asyncio and httptools with a keep-alive pool per origin.

It exists because CPU per request is the product. It follows no redirect, asks for no compression, keeps no cookie and
speaks to origins directly: HTTP proxies are not supported (``HTTPS_PROXY`` is not read). A request is repeated only on
a pooled connection that turned out to be closed before any byte of an answer came.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from msgspec import Struct

from prsm.agents.executors.http_connection import Connection, Headers, Limits
from prsm.agents.seams import UpstreamError
from prsm.core.errors import ConfigError, InvalidRequest, Kind, Unavailable

__all__ = ["Headers", "HttpClient", "Limits", "Response", "Stream", "find_header", "header_block"]

_MAX_ROUTES = 4_096
_COPY_BYTES = 64 * 1024


class Response(Struct, frozen=True):
    """A whole answer; header names are lower case."""

    status: int
    headers: Headers
    body: bytes


class Stream:
    """An answer whose body is still coming. Iterate for chunks; ``close`` at any time aborts the connection.

    Its ``headers`` are there of a refusal only: who reads an open stream has no use for them.
    """

    __slots__ = ("_connection", "headers", "status")

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection
        self.status = connection.status
        self.headers = [] if connection.status == 200 else connection.headers
        connection.headers = []

    async def read(self) -> bytes:
        """What came since the last read, waiting for at least one byte; b"" is the end. Raises UpstreamError."""
        connection = self._connection
        while connection is not None:
            data = connection.take()
            if data:
                return data
            if connection.error is not None:
                self._connection = None
                raise connection.error
            if connection.complete:
                self._connection = None
                connection.release()
                break
            await connection.progress()
        return b""

    async def read_all(self) -> bytes:
        """The rest of the body, within the client's limits."""
        return b"".join([chunk async for chunk in self])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    def finish(self) -> None:
        """The caller has all it wanted: save the connection if the answer ends soon."""
        if self._connection is not None:
            self._connection.drain()
            self._connection = None

    def close(self) -> None:
        """End the exchange; the upstream sees its connection closed unless the answer was complete."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.complete and connection.error is None:
            connection.release()
        else:
            connection.abort()


@dataclass(slots=True, eq=False)
class _Origin:
    host: str
    port: int
    tls: bool
    open: int = 0
    idle: dict[Connection, None] = field(default_factory=dict[Connection, None])
    waiters: deque[asyncio.Future[Connection | None]] = field(
        default_factory=deque["asyncio.Future[Connection | None]"]
    )


@dataclass(frozen=True, slots=True)
class _Route:
    origin: _Origin
    target: bytes


class HttpClient:
    """Connections of one event loop. ``tls`` replaces the system's trust store, for a private authority."""

    def __init__(self, limits: Limits | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.limits = limits or Limits()
        self.clock: Callable[[], float] = time.monotonic
        self._tls = tls
        self._routes: dict[str, _Route] = {}
        self._origins: dict[tuple[str, int, bool], _Origin] = {}
        self._connections: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self.further_headers: Callable[[], bytes] | None = None
        """Header lines that go with every request, made anew for each; None: no more than a look."""

    def post(self, url: str, headers: bytes, body: bytes, *, total_s: float | None = None) -> Awaitable[Response]:
        """Send ``body``, wait for the whole answer. ``headers`` comes from ``header_block``. Raises UpstreamError."""
        return self._whole(b"POST ", url, headers, body, total_s)

    def get(self, url: str, headers: bytes = b"", *, total_s: float | None = None) -> Awaitable[Response]:
        """As ``post``, without a body."""
        return self._whole(b"GET ", url, headers, b"", total_s)

    async def stream(self, url: str, headers: bytes, body: bytes, *, total_s: float | None = None) -> Stream:
        """Send ``body`` and return when the answer's head is there. The caller must read to the end or close."""
        return Stream(await self._exchange(b"POST ", url, headers, body, total_s, whole=False))

    def open_connections(self) -> int:
        """How many connections are open, in use or kept."""
        return len(self._connections)

    async def aclose(self) -> None:
        """Abort every connection; the client refuses further requests. Safe to call twice."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)

    async def _whole(self, method: bytes, url: str, headers: bytes, body: bytes, total_s: float | None) -> Response:
        connection = await self._exchange(method, url, headers, body, total_s, whole=True)
        response = Response(connection.status, connection.headers, connection.take())
        connection.release()
        return response

    async def _exchange(
        self, method: bytes, url: str, headers: bytes, body: bytes, total_s: float | None, *, whole: bool
    ) -> Connection:
        route = self._routes.get(url) or self._route(url)
        deadline = self.clock() + (total_s or self.limits.total_s)
        if self.further_headers is not None:
            headers += self.further_headers()
        head = b"%b%bcontent-length: %d\r\n%b\r\n" % (method, route.target, len(body), headers)
        message = [head + body] if len(body) < _COPY_BYTES else [head, body]
        connection = await self._acquire(route.origin, deadline, fresh=False)
        connection.begin(message, whole=whole, deadline=deadline)
        await connection.progress()
        if connection.stale:
            connection = await self._acquire(route.origin, deadline, fresh=True)
            connection.begin(message, whole=whole, deadline=deadline)
            await connection.progress()
        if connection.error is not None and not connection.head_done:
            raise connection.error
        if connection.error is not None and whole:
            raise connection.error
        return connection

    async def _acquire(self, origin: _Origin, deadline: float, *, fresh: bool) -> Connection:
        if self._closed:
            raise Unavailable("The upstream client is closed.", remedy="The node is stopping; ask again when it is up.")
        while origin.idle and not fresh:
            connection, _ = origin.idle.popitem()
            if connection.transport is not None and not connection.transport.is_closing():
                return connection
        if origin.idle and origin.open >= self.limits.max_connections_per_origin:
            origin.idle.popitem()[0].abort()  # its place goes to the fresh one
        if origin.open < self.limits.max_connections_per_origin:
            origin.open += 1
        else:
            waited = await self._wait_turn(origin, deadline)
            if waited is not None:
                return waited
        return await self._connect(origin, deadline)

    async def _wait_turn(self, origin: _Origin, deadline: float) -> Connection | None:
        if len(origin.waiters) >= self.limits.max_waiters_per_origin:
            raise _busy(self.limits)
        turn: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        origin.waiters.append(turn)
        try:
            async with asyncio.timeout(max(0.0, deadline - self.clock())):
                return await turn
        except BaseException as error:
            with suppress(ValueError):
                origin.waiters.remove(turn)
            if turn.done() and not turn.cancelled():
                self._pass_on(origin, turn.result())
            if isinstance(error, TimeoutError):
                raise _busy(self.limits) from None
            raise

    def _pass_on(self, origin: _Origin, connection: Connection | None) -> None:
        if connection is not None:
            self.connection_idle(connection)
        else:
            self._free_slot(origin)

    async def _connect(self, origin: _Origin, deadline: float) -> Connection:
        connection = Connection(self, origin)
        loop = asyncio.get_running_loop()
        try:
            tls = self._tls_context() if origin.tls else None
            async with asyncio.timeout(max(0.0, min(self.limits.connect_s, deadline - self.clock()))):
                await loop.create_connection(
                    lambda: connection,
                    origin.host,
                    origin.port,
                    ssl=tls,
                    server_hostname=origin.host if tls is not None else None,
                )
        except BaseException as error:
            connection.abort()
            if isinstance(error, OSError):  # TimeoutError and ssl.SSLError among them
                raise _unreachable(origin, error) from error
            raise
        self._connections.add(connection)
        if self._closed:
            connection.abort()
        if self._sweeper is None:
            self._sweeper = loop.call_later(self.limits.sweep_s, self._sweep)
        return connection

    def connection_idle(self, connection: Connection) -> None:
        """Give the connection to whoever waits longest for one, or keep it."""
        origin = connection.origin
        assert isinstance(origin, _Origin)
        while origin.waiters:
            turn = origin.waiters.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        if self._closed:
            connection.abort()
        else:
            origin.idle[connection] = None

    def connection_gone(self, connection: Connection) -> None:
        """Take a dead connection out of the books and let the next waiter open one."""
        origin = connection.origin
        assert isinstance(origin, _Origin)
        self._connections.discard(connection)
        origin.idle.pop(connection, None)
        self._free_slot(origin)

    def _free_slot(self, origin: _Origin) -> None:
        while origin.waiters:
            turn = origin.waiters.popleft()
            if not turn.done():
                turn.set_result(None)  # the slot changes hands, so the count stays
                return
        origin.open -= 1

    def _sweep(self) -> None:
        now = self.clock()
        for connection in list(self._connections):
            connection.expire(now)
        self._sweeper = None
        if self._connections:
            self._sweeper = asyncio.get_running_loop().call_later(self.limits.sweep_s, self._sweep)

    def _route(self, url: str) -> _Route:
        scheme, host, port, path = _parse(url)
        if len(self._routes) >= _MAX_ROUTES:
            self._routes.clear()
        key = (host, port, scheme == "https")
        origin = self._origins.get(key)
        if origin is None:
            if len(self._origins) >= self.limits.max_origins:
                self._drop_unused_origins()
            origin = self._origins[key] = _Origin(host, port, key[2])
        name = f"[{host}]" if ":" in host else host
        default = port == (443 if key[2] else 80)
        target = f"{path} HTTP/1.1\r\nhost: {name if default else f'{name}:{port}'}\r\nuser-agent: prsm\r\n"
        route = _Route(origin, f"{target}accept-encoding: identity\r\n".encode("ascii"))
        self._routes[url] = route
        return route

    def _drop_unused_origins(self) -> None:
        self._routes.clear()
        self._origins = {key: origin for key, origin in self._origins.items() if origin.open}
        if len(self._origins) >= self.limits.max_origins:
            raise Unavailable(
                f"This node already talks to {self.limits.max_origins} upstream origins.",
                remedy="Remove providers that are not used.",
            )

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


def header_block(*pairs: tuple[str, str]) -> bytes:
    """Header lines ready to send. Raises InvalidRequest on a value that cannot stand in a header."""
    lines: list[str] = []
    for name, value in pairs:
        if not (value.isascii() and value.isprintable()):
            raise InvalidRequest(
                f"The header {name} can hold printable ASCII only.",
                param=name,
                remedy="Check the provider's key for line breaks and stray characters.",
            )
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("ascii")


def find_header(headers: Headers, name: bytes) -> bytes:
    """The first value of ``name`` (lower case), or b""."""
    return next((value for key, value in headers if key == name), b"")


def _parse(url: str) -> tuple[str, str, int, str]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    usable = parts.scheme in ("http", "https") and parts.hostname and not parts.fragment and "@" not in parts.netloc
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError(
            "A provider's base_url must be http(s)://host[:port]/path in ASCII, without user name or fragment.",
            param="base_url",
            remedy="Correct it with `prsm models add`.",
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.scheme, parts.hostname or "", port or (443 if parts.scheme == "https" else 80), path


def _busy(limits: Limits) -> UpstreamError:
    return UpstreamError(
        f"All {limits.max_connections_per_origin} connections to this model provider are in use.",
        retryable=True,
        kind=Kind.UNAVAILABLE,
        code="upstream_busy",
    )


def _unreachable(origin: _Origin, error: OSError) -> UpstreamError:
    where = f"{origin.host}:{origin.port}"
    if isinstance(error, TimeoutError):
        message = f"The model provider at {where} did not accept a connection in time."
        return UpstreamError(message, retryable=True, kind=Kind.TIMEOUT, code="upstream_timeout")
    if isinstance(error, ssl.SSLCertVerificationError):
        message = f"The certificate of the model provider at {where} is not trusted: {error.verify_message}."
        return UpstreamError(message, retryable=False, code="upstream_untrusted")
    message = f"The model provider at {where} cannot be reached: {error.strerror or type(error).__name__}."
    return UpstreamError(message, retryable=True, code="upstream_unreachable")
