"""An HTTP/1.1 server for one application: connections in, one exchange at a time on each, in the order they came.

llhttp parses, strictly; what it or a limit refuses is answered once and the connection ended. A connection has no
task and no timer of its own: a request has one task, and one sweeper ends whatever takes too long.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast

import structlog
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from prsm.api.http_exchange import BodyBroken, Exchange
from prsm.api.wire.errors import openai_error
from prsm.core.errors import Kind, PrsmError

Application = Callable[[Exchange], Coroutine[Any, Any, None]]

_DRAIN_STEP_BYTES = 16 * 1024
_log: Any = structlog.get_logger("edge")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a server; times are seen at the next sweep, so up to ``sweep_s`` late.

    ``header_s`` runs from the connection, or the first byte of a later request, to the end of its head; ``idle_s``
    between requests; ``write_s`` is how long a client may read next to nothing of what waits for it; ``linger_s``
    how long a refused client's bytes are read and thrown away, so that it gets to see the refusal.
    """

    header_s: float = 15.0
    idle_s: float = 75.0
    write_s: float = 60.0
    linger_s: float = 2.0
    sweep_s: float = 1.0
    flush_s: float = 2.0
    max_connections: int = 24_000
    max_head_bytes: int = 64 * 1024
    max_headers: int = 200
    max_pipelined: int = 64
    high_water_bytes: int = 64 * 1024
    backlog: int = 4096


class HttpServer:
    """Listens, and keeps count of what is open."""

    def __init__(self, application: Application, limits: Limits) -> None:
        self.application = application
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.stopping = False
        self._listener: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None

    async def listen(self, host: str, port: int, *, reuse_port: bool = False) -> int:
        """Begin to accept; answers the port. Raises OSError when the address cannot be had."""
        self._listener = await self.loop.create_server(
            lambda: Connection(self), host, port, backlog=self.limits.backlog, reuse_port=reuse_port
        )
        self._sweep = self.loop.call_later(self.limits.sweep_s, self._expire)
        return self._listener.sockets[0].getsockname()[1]

    async def stop(self, grace_s: float) -> None:
        """Accept no more, let requests in work end for ``grace_s``, cancel the late ones, then end everything."""
        self.stopping = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.end_if_idle()
        tasks = {connection.task for connection in self.connections if connection.task is not None}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        flushed_by = self.loop.time() + self.limits.flush_s
        while self.connections and self.loop.time() < flushed_by:  # noqa: ASYNC110 - once in a node's life
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.abort()
        if self._sweep is not None:
            self._sweep.cancel()

    def _expire(self) -> None:
        now = self.loop.time()
        for connection in list(self.connections):
            connection.expire(now)
        self._sweep = self.loop.call_later(self.limits.sweep_s, self._expire)


class Connection(asyncio.Protocol):
    """One client's connection: the exchange in work stands first in its queue, pipelined ones behind it."""

    __slots__ = (
        "_closing", "_deaf", "_drain", "_eof", "_fault", "_headers", "_idle", "_lingering", "_parser",
        "_paused", "_queue", "_reading", "_server", "_since", "_stash", "_target", "_transport", "_unparsed", "_unsent",
        "congested", "task",
    )  # fmt: skip

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._parser: HttpRequestParser | None = HttpRequestParser(self)
        self._queue: list[Exchange] = []
        self._reading: Exchange | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._target = b""
        self._unparsed = self._unsent = 0
        self._stash = b""
        self._fault: _Refusal | None = None
        self._drain: asyncio.Future[None] | None = None
        self._since = server.loop.time()
        self._idle = self._paused = self._eof = self._deaf = self._lingering = self._closing = False
        self.congested = False
        self.task: asyncio.Task[None] | None = None

    # What an exchange asks (Carrier)

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self) -> None:
        if self.congested and self._transport is not None:
            self._drain = self._server.loop.create_future()
            await self._drain

    def read_on(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def may_stay(self) -> bool:
        more = len(self._queue) > 1 or self._stash or self._fault
        return not self._server.stopping and (not self._eof or bool(more))

    def client_left(self) -> bool:
        return self._eof or self._transport is None

    def addresses(self) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
        if self._transport is None:
            return None, None
        client, server = (self._transport.get_extra_info(name) for name in ("peername", "sockname"))
        return client and client[:2], server and server[:2]

    # What the server asks

    def end_if_idle(self) -> None:
        """Close, unless a request is in work."""
        if not self._queue and not self._lingering:
            self._close()

    def abort(self) -> None:
        """Close now; what was not sent is lost."""
        if self._transport is not None:
            self._transport.abort()

    def expire(self, now: float) -> None:
        """End what has taken too long."""
        limits = self._server.limits
        if self._transport is None:
            return
        if self.congested or self._closing or self._lingering:
            unsent = self._transport.get_write_buffer_size()
            if unsent + _DRAIN_STEP_BYTES <= self._unsent:
                self._unsent, self._since = unsent, now
            allowed_s = limits.write_s if unsent else limits.linger_s
            if now - self._since > allowed_s:
                self._transport.abort()
        elif not self._queue and now - self._since > (limits.idle_s if self._idle else limits.header_s):
            self._close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)
        if len(self._server.connections) > self._server.limits.max_connections or self._server.stopping:
            self._refuse(_Refusal(503, "overloaded", "The node has as many connections as it may."), linger=False)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._queue and self._reading is None:
            # Another request before this one is answered: it waits as it is, and with it whatever comes behind.
            self._stash += data
            self._pause()
            return
        self._parse(data)

    def eof_received(self) -> bool:
        self._eof = True
        if self._reading is not None:
            self._reading.break_off(
                BodyBroken("The connection ended before the request's body was complete.", cut=True)
            )
            self._reading = None
            self._deaf = True
        if self._queue:
            self._queue[0].left()  # one who waits for a whole answer may have closed its sending side only
        return bool(self._queue)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._transport = self._parser = None  # the parser holds this connection's methods: a reference circle
        self._deaf = True
        self.resume_writing()
        if self._reading is not None:
            self._reading.break_off(
                BodyBroken("The connection ended before the request's body was complete.", cut=True)
            )
            self._reading = None
        if self._queue:
            self._queue[0].left()

    def pause_writing(self) -> None:
        self.congested = True
        self._mark_unsent()

    def resume_writing(self) -> None:
        self.congested = False
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)
        self._drain = None

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = []
        if len(self._queue) >= self._server.limits.max_pipelined:
            self._stop_parsing(_Refusal(400, "too_many_pipelined", "Too many requests were sent without waiting."))

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is None:  # else it is a trailer
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        limits = self._server.limits
        # Counted once, here: what one read can hold bounds it until then, and `_parse` the reads.
        size = len(self._target) + sum([len(name) + len(value) for name, value in self._headers])
        if size > limits.max_head_bytes or len(self._headers) > limits.max_headers:
            self._stop_parsing(_head_too_large(limits))
        version = self._parser.get_http_version()
        exchange = Exchange(self, self._parser.get_method().decode("ascii"), self._target.decode("latin-1"), version)
        exchange.headers = self._headers
        exchange.keep_alive = self._parser.should_keep_alive()
        why = _check(exchange)
        if why:
            self._stop_parsing(_malformed(why))
        self._unparsed = 0
        self._reading = exchange
        self._headers = []
        self._target = b""
        self._queue.append(exchange)
        if len(self._queue) == 1:
            self._start(exchange)

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        assert self._reading is not None
        self._reading.feed(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        assert self._reading is not None
        self._reading.finish()
        self._reading = None

    # Parsing

    def _parse(self, data: bytes) -> None:
        if self._idle:
            self._idle, self._since = False, self._server.loop.time()
        assert self._parser is not None
        limits = self._server.limits
        self._unparsed += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            # No other protocol is spoken here: the request is answered as it is, and nothing after it is read.
            self._deaf = True
            if self._queue:
                self._queue[-1].keep_alive = False
        except HttpParserError as error:
            self._break(self._fault or _malformed(str(error)))
            return
        # Bytes that made neither a whole head nor a piece of body: a head, or trailers, without an end.
        if self._unparsed > limits.max_head_bytes:
            self._break(_head_too_large(limits))
        elif (
            self._reading is not None and not self._reading.wanted and self._reading.buffered > limits.high_water_bytes
        ):
            self._pause()

    def _stop_parsing(self, refusal: "_Refusal") -> None:
        self._fault = refusal
        raise ValueError(refusal.message)

    def _break(self, refusal: "_Refusal") -> None:
        """Nothing that comes from now on can be understood: refuse it after what came before has been answered."""
        self._deaf = True
        self._fault = None
        if self._reading is not None:
            self._reading.break_off(BodyBroken(refusal.message, cut=False))
            self._reading = None
        elif not self._queue:
            self._refuse(refusal)
        elif self._queue[-1].keep_alive:
            self._fault = refusal

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    # Answering

    def _start(self, exchange: Exchange) -> None:
        self.task = self._server.loop.create_task(self._server.application(exchange))
        self.task.add_done_callback(self._answered)

    def _answered(self, task: "asyncio.Task[None]") -> None:
        self.task = None
        exchange = self._queue.pop(0)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("request failed", exc_info=error)
        if self._transport is None:
            return
        if not exchange.ended:
            self._cut_off(exchange, cancelled=task.cancelled())
        elif not exchange.keep_alive:
            self._end(whole=exchange.complete)
        elif self._queue:
            self._start(self._queue[0])
        elif self._fault is not None:
            self._refuse(self._fault)
        else:
            self._next()

    def _next(self) -> None:
        """Take up what came while the last request was in work, or wait."""
        self._idle, self._since = True, self._server.loop.time()
        stash, self._stash = self._stash, b""
        if stash:
            self._parse(stash)
        if self._eof and not self._queue:
            self._close()
        elif not self._deaf:
            self.read_on()

    def _cut_off(self, exchange: Exchange, *, cancelled: bool) -> None:
        if exchange.started or cancelled or self._server.stopping:
            self.abort()
        else:
            self._refuse(_Refusal(500, "internal_error", "The node failed at this request; its log says more."))

    def _refuse(self, refusal: "_Refusal", *, linger: bool = True) -> None:
        """Answer what is no request that a handler could have."""
        exchange = Exchange(self, "", "", "1.1")
        exchange.keep_alive = False
        exchange.respond(refusal.status, [("content-type", "application/json")], refusal.body())
        self._end(whole=not linger)

    def _end(self, *, whole: bool) -> None:
        """Close; with unread bytes of the client's still coming, only after it had time to read the answer.

        A close with unread bytes resets the connection, and a reset can overtake the answer (RFC 9112, 9.6).
        """
        self._deaf = True
        if whole or self._eof or self._transport is None:
            self._close()
            return
        self._lingering = True
        self._mark_unsent()
        self._transport.write_eof()
        self.read_on()

    def _close(self) -> None:
        if self._transport is not None:
            self._closing = True
            self._mark_unsent()
            self._transport.close()

    def _mark_unsent(self) -> None:
        if self._transport is not None:
            self._unsent, self._since = self._transport.get_write_buffer_size(), self._server.loop.time()


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: int
    code: str
    message: str

    def body(self) -> bytes:
        kind = {503: Kind.UNAVAILABLE, 500: Kind.INTERNAL}.get(self.status, Kind.INVALID)
        return openai_error(PrsmError(self.message, kind=kind, code=self.code))


def _malformed(why: str) -> _Refusal:
    return _Refusal(400, "bad_http", f"This is not a request in HTTP/1.1: {why}.")


def _head_too_large(limits: Limits) -> _Refusal:
    return _Refusal(
        431,
        "headers_too_large",
        f"The request's headers are more than {limits.max_headers} or larger than {limits.max_head_bytes} bytes.",
    )


def _check(exchange: Exchange) -> str | None:
    """What of a request's head llhttp lets pass and RFC 9112 does not; notes what it expects."""
    if exchange.version not in ("1.1", "1.0"):
        return f"HTTP/{exchange.version} is not spoken here"
    hosts = codings = 0
    for name, value in exchange.headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding":
            codings += 1
            if codings > 1 or value.lower() != b"chunked" or exchange.version == "1.0":
                return "the only transfer coding is chunked, once, and since HTTP/1.1"
        elif name == b"expect" and value.lower() == b"100-continue":
            exchange.expects = exchange.version == "1.1"
    if hosts > 1 or (not hosts and exchange.version == "1.1"):
        return "it must have exactly one Host header"
    return None
