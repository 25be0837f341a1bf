"""HTTP/1.1 to one origin, over sockets to addresses that were checked, with bodies read into the caller's buffer.

Nothing is followed, decompressed or taken from the environment, and nothing can last: every wait ends at the deadline,
when the sender idles or drips, or soon after the caller cancelled; every head and body has a cap. ``http.client`` reads
the messages; the limits stand below it, where bytes come out of the socket. (RFC 9110, RFC 9112.)
"""

import http.client
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import cast

from prsm import __version__
from prsm.core.errors import InvalidRequest
from prsm.data_layer.network.addresses import ForbiddenAddress, LookUp, Origin, PrivateHosts, resolve, system_look_up
from prsm.data_layer.network.classify import of_error
from prsm.data_layer.network.http_connection import PIECE_BYTES, Connection, HttpLimits, connect
from prsm.data_layer.seams import Fault, Pace, StorageFault

_MAX_ADDRESSES_TRIED = 4
_PASSED_OVER_BYTES = 8192
_PASSED_OVER_S = 0.1


class Unpaced:
    """The pace of what is too small to count; satisfies ``seams.Pace``."""

    def take(self, size_bytes: int) -> None:
        """Let it pass."""


UNPACED = Unpaced()


class Reply:
    """An answer whose body is still to be read; good inside ``HttpOrigin.exchange`` only."""

    def __init__(
        self,
        response: http.client.HTTPResponse,
        connection: Connection,
        endpoint: str,
        fault_of: Callable[[Exception], StorageFault],
    ) -> None:
        self._response = response
        self._connection = connection
        self._endpoint = endpoint
        self._fault_of = fault_of
        self._broken = False
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}

    @property
    def length(self) -> int | None:
        """How many bytes are still to come, where the sender said so."""
        return self._response.length

    @property
    def ended(self) -> bool:
        """Whether the whole body was read."""
        return self._response.isclosed() and not self._broken

    def read_piece(self, into: memoryview) -> int:
        """Read up to the room in ``into``; 0 at the end. Raises StorageFault when it ends before its length."""
        into = into[:PIECE_BYTES]
        # Chunks may be small: a quarter on top of the bytes is room for their frames.
        self._connection.allowance = len(into) + len(into) // 4 + 4096
        try:
            size = self._response.readinto(into)
            if size == 0 and self._response.length:
                raise http.client.IncompleteRead(b"", self._response.length)
        except (OSError, http.client.HTTPException) as error:
            self._broken = True
            raise self._fault_of(error) from error
        return size

    def read_into(self, into: memoryview) -> int:
        """Read the whole body; answers its size. Raises StorageFault (BAN) when it does not fit."""
        if (self.length or 0) > len(into):
            raise self._too_large(f"{self.length} bytes", len(into))
        filled = 0
        while filled < len(into) and (size := self.read_piece(into[filled:])):
            filled += size
        if not self.ended and self.read_piece(memoryview(bytearray(1))):
            raise self._too_large("more", len(into))
        return filled

    def read_text(self, max_bytes: int) -> str:
        """Read a short body as text."""
        room = bytearray(max_bytes)
        return room[: self.read_into(memoryview(room))].decode(errors="replace")

    def pass_over(self) -> None:
        """Read a short body that is there, or nearly, so that its connection can be used again."""
        if self.length is not None and self.length <= _PASSED_OVER_BYTES:
            self._connection.hurry(time.monotonic() + _PASSED_OVER_S)
            with suppress(StorageFault):
                self.read_into(memoryview(bytearray(self.length)))

    def _too_large(self, came: str, room: int) -> StorageFault:
        return StorageFault(
            f"{self._endpoint} sent {came} where at most {room} bytes belong.",
            fault=Fault.BAN,
            endpoint=self._endpoint,
            code="body_too_large",
        )


class HttpOrigin:
    """One service, with the connections to it that are kept open. Thread-safe.

    ``name`` is what people see of it. ``headers`` go with every request (credentials among them) and are never shown.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        name: str,
        private_hosts: PrivateHosts = frozenset(),
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        limits: HttpLimits | None = None,
        look_up: LookUp = system_look_up,
    ) -> None:
        self.origin = origin
        self.name = name
        self.limits = limits or HttpLimits()
        self._private_hosts = private_hosts
        self._tls = (tls or ssl.create_default_context()) if origin.scheme == "https" else None
        self._look_up = look_up
        self._head = _head_lines(
            {"Host": origin.authority, "User-Agent": f"prsm/{__version__}", "Accept-Encoding": "identity"}
            | dict(headers or {})
        )
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._live: set[Connection] = set()
        self._closed = False

    @contextmanager
    def exchange(
        self,
        method: str,
        target: str,
        *,
        asked: str,
        deadline_s: float,
        pace: Pace,
        headers: Mapping[str, str] | None = None,
        body: Sequence[bytes | memoryview] = (),
    ) -> Generator[Reply]:
        """Send a request for ``target`` (under the origin's path) and answer the reply, whatever its status.

        ``asked`` is what messages call it. ``deadline_s`` is of ``time.monotonic``; time spent in ``pace`` does not
        count. A kept connection that turns out to be dead is replaced unnoticed, so what is asked must be idempotent.
        Raises StorageFault.
        """
        pieces = [memoryview(piece).cast("B") for piece in body]
        head = self._request_head(method, target, headers or {}, sum(map(len, pieces)))
        try:
            connection, response = self._send(method, (head, pieces), deadline_s, pace)
        except (OSError, http.client.HTTPException, ForbiddenAddress) as error:
            raise self._fault(error, asked) from error
        reply = Reply(response, connection, self.name, lambda error: self._fault(error, asked))
        try:
            if reply.headers.get("content-encoding", "identity").lower() != "identity":
                raise StorageFault(
                    f"{self.name} compressed {asked} although it was told not to.",
                    fault=Fault.OTHER_REPLICA,
                    endpoint=self.name,
                )
            yield reply
        finally:
            # After an interim answer (1xx) the real one would be taken for that to the next request.
            keep = reply.ended and not response.will_close and response.status >= 200
            response.close()
            self._put_back(connection, keep=keep)

    def close(self) -> None:
        """End all connections; an exchange that runs fails soon after."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            self._live.difference_update(idle)
            busy = list(self._live)
        for connection in idle:
            connection.close()
        for connection in busy:
            connection.shut_down()

    def _send(
        self, method: str, request: tuple[bytes, list[memoryview]], deadline_s: float, pace: Pace
    ) -> tuple[Connection, http.client.HTTPResponse]:
        while True:
            connection = self._take_idle()
            reused = connection is not None
            connection = connection or self._connect(deadline_s)
            try:
                connection.begin(deadline_s, pace, self.limits)
                connection.send(*request)
                # It asks a socket for no more than makefile().
                response = http.client.HTTPResponse(cast("socket.socket", connection), method=method)
                response.begin()
                connection.in_head = False
            except BaseException as error:
                self._put_back(connection, keep=False)
                stale = reused and connection.received == 0 and isinstance(error, ConnectionError | ssl.SSLEOFError)
                if not stale:
                    raise
            else:
                return connection, response

    def _connect(self, deadline_s: float) -> Connection:
        until_s = min(deadline_s, time.monotonic() + self.limits.connect_s)
        origin = self.origin
        addresses = resolve(
            origin.host, origin.port, private_hosts=self._private_hosts, look_up=self._look_up, deadline_s=until_s
        )
        connection = Connection(connect(addresses[:_MAX_ADDRESSES_TRIED], until_s), self._tls, origin.host, until_s)
        with self._lock:
            self._live.add(connection)
            closed = self._closed
        if closed:
            self._put_back(connection, keep=False)
            raise ConnectionAbortedError
        return connection

    def _take_idle(self) -> Connection | None:
        self._let_go_old()
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_quiet():
                return connection
            self._put_back(connection, keep=False)

    def _let_go_old(self) -> None:
        """The last to come are used first, so those that are not needed any more grow old at the other end."""
        oldest_s = time.monotonic() - self.limits.keep_s
        with self._lock:
            old = list(itertools.takewhile(lambda connection: connection.idle_since_s < oldest_s, self._idle))
            del self._idle[: len(old)]
        for connection in old:
            self._put_back(connection, keep=False)

    def _put_back(self, connection: Connection, *, keep: bool) -> None:
        with self._lock:
            if keep and not self._closed and len(self._idle) < self.limits.idle_connections:
                connection.idle_since_s = time.monotonic()
                self._idle.append(connection)
                return
            self._live.discard(connection)
        connection.close()

    def _request_head(self, method: str, target: str, headers: Mapping[str, str], length: int) -> bytes:
        if not (target.isascii() and target.isprintable() and " " not in target):
            raise InvalidRequest("A request's target has a character that does not belong there.", param="target")
        lines = _head_lines(headers)
        if method in ("POST", "PUT"):
            lines += f"Content-Length: {length}\r\n".encode()
        return f"{method} {self.origin.path}{target} HTTP/1.1\r\n".encode() + self._head + lines + b"\r\n"

    def _fault(self, error: Exception, asked: str) -> StorageFault:
        if self._closed and isinstance(error, OSError):
            return StorageFault(f"{self.name} is no longer in use.", fault=Fault.OTHER_REPLICA, endpoint=self.name)
        return of_error(error, endpoint=self.name, asked=asked)


def _head_lines(headers: Mapping[str, str]) -> bytes:
    for name, value in headers.items():
        if not (name.isascii() and value.isascii() and value.isprintable()):
            raise InvalidRequest(f"The header {name[:80]!r} has a character that is not taken.", param="headers")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
