"""One HTTP request and its response, as a handler meets them: head, body as it comes, answer whole or in pieces.

It frames what is sent (RFC 9112) and says whether the connection may carry another request; it parses nothing and owns
no socket. A handler answers exactly once; one that does not is answered for by the connection.
"""

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol
from urllib.parse import unquote

Headers = list[tuple[str, str]]

_NO_BODY = frozenset({204, 304})
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class BodyBroken(Exception):
    """A request's body will not be complete; the text says why, ``cut`` whether its sender just stopped."""

    def __init__(self, why: str, *, cut: bool) -> None:
        super().__init__(why)
        self.cut = cut


class Carrier(Protocol):
    """What an exchange needs of its connection."""

    congested: bool

    def write(self, data: bytes) -> None:
        """Send; dropped when the client has gone."""
        ...

    async def drained(self) -> None:
        """Return once the client has read enough, or gone."""
        ...

    def read_on(self) -> None:
        """Let more of the body come."""
        ...

    def may_stay(self) -> bool:
        """Whether the connection may carry another request after this one."""
        ...

    def client_left(self) -> bool:
        """Whether the client has closed its side."""
        ...

    def addresses(self) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
        """The client's and the server's address."""
        ...


class Exchange:
    """One request. ``complete`` says that its whole body is here, ``buffered`` how many bytes wait to be taken."""

    __slots__ = (
        "_body", "_chunked", "_on_leave", "_waiter", "broken", "carrier", "complete", "ended", "expects", "headers",
        "keep_alive", "method", "path", "query", "started", "status", "version",
    )  # fmt: skip

    def __init__(self, carrier: Carrier, method: str, target: str, version: str) -> None:
        self.carrier = carrier
        self.method = method
        self.path, self.query = split_target(target)
        self.version = version
        self.headers: list[tuple[bytes, bytes]] = []
        self.keep_alive = True
        self.expects = self.complete = self.started = self.ended = False
        self.status = 0
        self.broken: BodyBroken | None = None
        self._chunked = False
        self._body: bytes | bytearray = b""
        self._waiter: asyncio.Future[None] | None = None
        self._on_leave: Callable[[], object] | None = None

    # The request

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""
        for given, value in self.headers:
            if given == name:
                return value
        return None

    @property
    def buffered(self) -> int:
        return len(self._body)

    def take(self) -> bytes:
        """The body bytes that have come and were not taken yet."""
        body, self._body = self._body, b""
        return bytes(body)

    async def more(self) -> None:
        """Wait until more of the body is here or it is complete. Raises BodyBroken."""
        if self.expects and not self.started:
            self.expects = False
            self.carrier.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.broken is None and not self.complete:
            self.carrier.read_on()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self.broken is not None:
            raise self.broken

    @property
    def wanted(self) -> bool:
        """Whether a handler waits for more of the body."""
        return self._waiter is not None

    def watch(self, on_leave: Callable[[], object] | None) -> None:
        """Call ``on_leave`` once when the client goes before the response has ended; None: no more."""
        self._on_leave = on_leave
        if on_leave is not None and self.carrier.client_left():
            asyncio.get_running_loop().call_soon(self.left)

    # The response

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response."""
        bodiless = status in _NO_BODY
        head = self._head(status, headers, "" if bodiless else f"content-length: {len(body)}\r\n")
        self.carrier.write(head if bodiless or self.method == "HEAD" else head + body)
        self.ended = True

    def start(self, status: int, headers: Headers, length: int | None = None, first: bytes = b"") -> None:
        """Begin a response in pieces, of ``length`` bytes together where that is known; ``first`` goes out with it.

        Where it is not, an HTTP/1.0 client reads until the connection ends. A handler that sends less than it said must
        end without ``end``: then the connection is cut, and the client sees that it has not all.
        """
        self._chunked = length is None and self.version == "1.1"
        if length is None and not self._chunked:
            self.keep_alive = False
        framing = "transfer-encoding: chunked\r\n" if self._chunked else ""
        head = self._head(status, headers, framing if length is None else f"content-length: {length}\r\n")
        self.carrier.write(head + self._framed(first, b""))

    async def send(self, data: bytes) -> None:
        """Send a piece; returns when the client keeps up."""
        if data:
            self._write(self._framed(data, b""))
            if self.carrier.congested:
                await self.carrier.drained()

    def end(self, data: bytes = b"") -> None:
        """Send the last piece."""
        self._write(self._framed(data, b"0\r\n\r\n" if self._chunked else b""))
        self.ended = True

    # What the connection tells

    def feed(self, data: bytes) -> None:
        """More of the body."""
        if not self._body:
            self._body = data
        elif isinstance(self._body, bytearray):
            self._body += data
        else:
            # Not a list of parts: tiny chunks would cost many times their bytes.
            self._body = bytearray(self._body)
            self._body += data
        self._wake()

    def finish(self) -> None:
        """The body is complete."""
        self.complete = True
        self._wake()

    def break_off(self, error: BodyBroken) -> None:
        """The rest of the body will not come, and where the next request would begin is not known."""
        self.broken = error
        self.keep_alive = False
        self._wake()

    def left(self) -> None:
        """The client has gone."""
        on_leave, self._on_leave = self._on_leave, None
        if on_leave is not None and not self.ended:
            on_leave()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _write(self, framed: bytes) -> None:
        if framed:
            self.carrier.write(framed)

    def _framed(self, data: bytes, closing: bytes) -> bytes:
        """``data`` as it goes out, with the ``closing`` of all chunks behind it; nothing where no body may be sent."""
        if self.method == "HEAD":
            return b""
        if not self._chunked:
            return data
        return b"%x\r\n%b\r\n%b" % (len(data), data, closing) if data else closing

    def _head(self, status: int, headers: Headers, framing: str) -> bytes:
        if self.started:
            raise RuntimeError("the response had begun")
        # A body that is still to come is not waited for: what follows on this connection could not be told from it.
        self.keep_alive = self.keep_alive and self.complete and self.carrier.may_stay()
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
            raise ValueError("a response header has a line break in it")
        self.started, self.status = True, status
        self.headers = []  # an open stream has no use for them
        connection = ""
        if not self.keep_alive:
            connection = "connection: close\r\n"
        elif self.version == "1.0":
            connection = "connection: keep-alive\r\n"
        reason = _REASONS.get(status, "")
        head = f"HTTP/{self.version} {status} {reason}\r\ndate: {_date.now()}\r\n{lines}{framing}{connection}\r\n"
        return head.encode("latin-1", "replace")


def split_target(target: str) -> tuple[str, str]:
    """Path, percent-decoded, and query of a request target in any of its forms (RFC 9112, 3.2)."""
    if not target.startswith("/") and "://" in target:
        rest = target.partition("://")[2]
        slash = min((place for mark in "/?#" if (place := rest.find(mark)) >= 0), default=len(rest))
        target = rest[slash:]
        if not target.startswith("/"):
            target = "/" + target
    path, _, query = target.partition("#")[0].partition("?")
    return (unquote(path) if "%" in path else path), query


class _Date:
    """The Date header's value, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._shown = ""

    def now(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second, self._shown = second, formatdate(second, usegmt=True)
        return self._shown


_date = _Date()
