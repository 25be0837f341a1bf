"""One HTTP/1.1 connection to an upstream: bytes in, at most one exchange at a time, and its state.

It parses, counts and buffers; it opens nothing, has no task and no timer (the client's one sweeper asks it
``expire``). Whatever goes wrong becomes ``error``, an UpstreamError, and ends the connection.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from prsm.agents.seams import UpstreamError
from prsm.core.errors import Kind

Headers = list[tuple[bytes, bytes]]

_DRAIN_S = 2.0
_NO_BODY = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of an upstream client. Bytes are counted as they stand on the wire, chunk framing included.

    ``first_byte_s`` runs from the request to the first byte of the answer, ``idle_s`` between two reads, ``total_s``
    over the whole exchange; all are seen at the next sweep, so up to ``sweep_s`` late. ``keep_alive_s`` is how long
    an unused connection is kept. A stream holds ``high_water_bytes`` and one read before its socket is paused.
    """

    connect_s: float = 10.0
    first_byte_s: float = 120.0
    idle_s: float = 60.0
    total_s: float = 900.0
    keep_alive_s: float = 30.0
    sweep_s: float = 0.5
    max_head_bytes: int = 64 * 1024
    max_body_bytes: int = 64 * 1024 * 1024
    max_connections_per_origin: int = 16_384
    max_waiters_per_origin: int = 1_024
    max_origins: int = 1_024
    high_water_bytes: int = 16 * 1024


class Owner(Protocol):
    """What a connection needs of the pool that opened it."""

    limits: Limits
    clock: Callable[[], float]

    def connection_idle(self, connection: "Connection") -> None:
        """The exchange is over and the connection may carry another."""
        ...

    def connection_gone(self, connection: "Connection") -> None:
        """The connection carries nothing any more; may be told more than once."""
        ...


class Connection(asyncio.Protocol):
    """A keep-alive connection. A ``whole`` exchange wakes its waiter once, at the end; others at each read."""

    __slots__ = (
        "_begun",
        "_buffered",
        "_chunked",
        "_deadline",
        "_discard",
        "_head_bytes",
        "_keep",
        "_parser",
        "_parts",
        "_paused",
        "_received",
        "_sized",
        "_waiter",
        "_whole",
        "busy",
        "complete",
        "counted",
        "error",
        "head_done",
        "headers",
        "heard_at",
        "origin",
        "owner",
        "served",
        "stale",
        "status",
        "transport",
    )

    def __init__(self, owner: Owner, origin: object) -> None:
        self.owner = owner
        self.origin = origin
        self.transport: asyncio.Transport | None = None
        self.counted = True
        self.served = 0
        self.busy = False
        self.heard_at = owner.clock()
        self.error: UpstreamError | None = None
        self.stale = False
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._reset(whole=True)

    # The exchange, as its caller drives it.

    def begin(self, message: list[bytes], *, whole: bool, deadline: float) -> None:
        """Send one request and take note of when its answer must be there."""
        self._reset(whole=whole)
        self.heard_at = self.owner.clock()
        self._deadline = deadline
        if self.transport is None or self.transport.is_closing():
            self.stale = self.served > 0
            self.error = _hung_up()
            return
        self.busy = True
        self.transport.writelines(message)

    async def progress(self) -> None:
        """Wait for the whole answer, or on a stream for its head or next read. Cancelled: the connection dies."""
        if self.error is None and not self.complete:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except BaseException:
                self.abort()
                raise
            finally:
                self._waiter = None

    def take(self) -> bytes:
        """The body bytes that came since the last call; reading goes on if it was paused."""
        parts = self._parts
        if not parts:
            return b""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._buffered = 0
        if self._paused and self.transport is not None:
            self._paused = False
            self.heard_at = self.owner.clock()
            self.transport.resume_reading()
        return data

    def release(self) -> None:
        """Hand the connection back after a complete answer; one that cannot be used again is closed."""
        self.busy = False
        self.served += 1
        self.headers = []
        if self._keep and self.error is None and self.transport is not None and not self.transport.is_closing():
            self.owner.connection_idle(self)
        else:
            self.abort()

    def drain(self) -> None:
        """Throw away what is left of the answer (its closing chunk, as a rule), then release; give up soon."""
        if self.complete or self.error is not None:
            self.release()
            return
        self._discard = True
        self._deadline = min(self._deadline, self.owner.clock() + _DRAIN_S)
        self.take()

    def abort(self) -> None:
        """Close now, without waiting for unsent bytes; whoever waits for the answer gets an error."""
        if self.busy and not self.complete and self.error is None:
            self.error = _aborted()
        self.busy = False
        self._wake()
        if self.transport is not None:
            self.transport.abort()
        self._forget()

    def expire(self, now: float) -> None:
        """End what has taken too long as of ``now``; called by the sweeper only."""
        limits = self.owner.limits
        if not self.busy:
            if now - self.heard_at > limits.keep_alive_s:
                self.abort()
        elif now > self._deadline:
            self._fail(_timeout("did not finish its answer in the time allowed"))
        elif not (self._paused or self.complete):
            allowed_s = limits.idle_s if self._received else limits.first_byte_s
            if now - self.heard_at > allowed_s:
                self._fail(_timeout(f"sent nothing for {allowed_s:g} s"))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if not self.counted:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self.busy or self.complete or self._parser is None:
            self._keep = False
            if not self.busy:
                self.abort()
            return
        self._received += len(data)
        self.heard_at = self.owner.clock()
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._keep = False
            if not self.complete:
                self._fail(self.error or _garbled(f"not HTTP/1.1: {error}"))
                return
        if self.complete:
            self._end()
        elif self._over_limit():
            self._fail(_too_large())
        elif self.head_done and not self._whole:
            if self._buffered > self.owner.limits.high_water_bytes and not self._paused and self.transport is not None:
                self._paused = True
                self.transport.pause_reading()
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy and not self.complete and self.error is None:
            if exc is None and self.head_done and not self._sized and not self._chunked:
                self.complete, self._keep = True, False
                self._end()
            else:
                self.stale = self.served > 0 and self._received == 0
                self.error = _cut_off() if self.head_done else _hung_up()
                self._wake()
        self._forget()

    # httptools callbacks

    def on_message_begin(self) -> None:
        if self._begun and self.complete:
            raise ValueError("bytes after the end of the answer")
        self._begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > self.owner.limits.max_head_bytes:
            self.error = _too_large()
            raise ValueError("too many header bytes")
        if self.head_done:
            return  # a trailer
        name = name.lower()
        self.headers.append((name, value))
        if name == b"content-length":
            self._sized = True
        elif name == b"transfer-encoding":
            self._chunked = value.lower().rstrip().endswith(b"chunked")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self.status = self._parser.get_status_code()
        if self.status < 200:
            return
        self.head_done = True
        self._sized = self._sized or self.status in _NO_BODY

    def on_body(self, body: bytes) -> None:
        if not self._discard:
            self._parts.append(body)
            self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self.status < 200:  # 100 Continue, 103 Early Hints: the answer is still to come
            self._reset(whole=self._whole, received=self._received)
            return
        assert self._parser is not None
        self.complete = True
        self._keep = self._parser.should_keep_alive()

    def _reset(self, *, whole: bool, received: int = 0) -> None:
        self.status = 0
        self.headers: Headers = []
        self.head_done = self.complete = False
        self._whole = whole
        self._begun = self._keep = self._sized = self._chunked = self._paused = self._discard = False
        self._parts: list[bytes] = []
        self._buffered = self._head_bytes = 0
        self._received = received

    def _over_limit(self) -> bool:
        limits = self.owner.limits
        if not self.head_done:
            return self._received > limits.max_head_bytes
        return self._received > limits.max_body_bytes

    def _end(self) -> None:
        if self._discard:
            self.release()
        else:
            self._wake()

    def _fail(self, error: UpstreamError) -> None:
        self.error = error
        self.abort()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _forget(self) -> None:
        if self.counted:
            self.counted = False
            self._parser = None  # it holds this connection's methods: without it no reference circle is left
            self.owner.connection_gone(self)


def _timeout(what: str) -> UpstreamError:
    return UpstreamError(f"The model provider {what}.", retryable=True, kind=Kind.TIMEOUT, code="upstream_timeout")


def _hung_up() -> UpstreamError:
    return UpstreamError(
        "The model provider closed the connection before it answered.", retryable=True, code="upstream_reset"
    )


def _aborted() -> UpstreamError:
    return UpstreamError("The call to the model provider was ended here.", retryable=True, code="upstream_aborted")


def _cut_off() -> UpstreamError:
    return UpstreamError(
        "The model provider closed the connection in the middle of its answer.",
        retryable=True,
        code="upstream_cut_off",
    )


def _garbled(why: str) -> UpstreamError:
    return UpstreamError(f"The model provider's answer is {why}.", retryable=False, code="upstream_bad_answer")


def _too_large() -> UpstreamError:
    return UpstreamError(
        "The model provider's answer is larger than this node accepts.", retryable=False, code="upstream_too_large"
    )
